"""Export of a network into a folder, and upload to the Hugging Face hub."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.errors import UserError, one_line_message
from etude.export import formats, model_card
from etude.export.graph import Graph, traced
from etude.export.model_card import about, config
from etude.export.parity_check import ParityCheck, agreement_text, cut_sounds, find_sounds, speed
from etude.files import os_errors, ownership
from etude.files.atomic import remove_folder, remove_if_empty, replace, write_text
from etude.files.safe_read import CONFIG_NAME
from etude.inference.model import Model
from etude.runs.folder import EXPORT, RunFolder, find_weights, run_of

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)
LACKING = "push= needs huggingface-hub, which is not installed: pip install 'etude[hub]'"


@dataclass
class ExportOptions:
    """Options of an export.

    Args:
        run: A run folder, or a checkpoint.
        formats: Of onnx, torch and safetensors.
        takes: What graphs take: waveform or frames.
        to: Folder of the files; None: in the run, or beside the checkpoint.
        check: Sounds for the parity check; empty: clips of its data.
        push: Its name on the hub; None does not upload.
        private: Whether a new repository is not public.
    """

    run: Path
    formats: list[str] = field(default_factory=lambda: ["onnx"])
    takes: str = "waveform"
    to: Path | None = None
    check: list[str] = field(default_factory=list)
    push: str | None = None
    private: bool = False


def export_network(wish: ExportOptions) -> list[Path]:
    """Export a network.

    Args:
        wish: The options.

    Returns:
        Paths of the files; the card last.

    Raises:
        UserError: There is no such run, something cannot be a graph, a file does not agree with the network, the
            folder cannot be written, or the hub does not take it. Only in the last case anything is left.
    """
    if not wish.run.exists():
        raise UserError(f"{wish.run}: there is no such run folder or checkpoint")
    if "onnx" in wish.formats:
        formats.installed()
    if wish.push:
        check_hub()
    checkpoint = find_weights(wish.run)
    run = _run(wish.run, checkpoint)
    to = wish.to or (wish.run if wish.run.is_dir() else wish.run.parent) / EXPORT
    names = [formats.FILES[name] for name in wish.formats]
    ownership.check_names(to, [*names, *([CONFIG_NAME] if "safetensors" in wish.formats else []), model_card.FILE])
    model = Model(checkpoint, "cpu", images=True)
    graphs: list[str] = [name for name in ("onnx", "torch") if name in wish.formats]
    graph = Graph(model.network, model.front, wish.takes if graphs else "frames")
    known = about(model, graph if graphs else None)
    found, whose = find_sounds(run, wish.check)
    sounds = cut_sounds(found, model.front, model.plan(), graph.least if graph.takes == "waveform" else 1)
    with _draft(to) as part:
        files = _graphs(graphs, model, graph, known, sounds, part) if graphs else []
        if "safetensors" in wish.formats:
            files.append(_weights(model, sounds, part))
        text = model_card.card(known, files, whose, *(_results(run) if run else (None, None)))
        write_text(part / model_card.FILE, text)
        written = [to / name for name in sorted(path.name for path in part.iterdir()) if name != model_card.FILE]
    written.append(to / model_card.FILE)
    if old := [name for name in formats.FILES.values() if (to / name).is_file() and to / name not in written]:
        log.warning("%s: %s of an earlier export stays there; the card does not know it", to, ", ".join(old))
    if wish.push:
        log.info("%s", push(wish.push, written, wish.private))
    return written


def push(name: str, files: Sequence[Path], private: bool = False) -> str:
    """Upload files to a repository of models, which is created where it is missing.

    Args:
        name: `user/name`.
        files: All in one folder.
        private: Whether a new repository is not public.

    Returns:
        Its address.

    Raises:
        UserError: The hub refuses it, or cannot be reached.
    """
    from huggingface_hub import HfApi

    hub = HfApi(library_name="etude")
    try:
        url = hub.create_repo(name, private=private, exist_ok=True)
        hub.upload_folder(
            repo_id=name, folder_path=files[0].parent, allow_patterns=[file.name for file in files],
            commit_message="Exported by Étude",
        )  # fmt: skip
    except Exception as error:  # the hub's errors, and those of whatever carries them
        reason = one_line_message(error, 300)
        raise UserError(f"push={name}: the hub did not take it ({reason}); what was exported is here") from error
    return str(url)


def check_hub() -> None:
    """Check that an upload is possible, before anything is made.

    Raises:
        UserError: The package or a token is not there.
    """
    if not find_spec("huggingface_hub"):
        raise UserError(LACKING)
    from huggingface_hub import get_token

    if not get_token():
        raise UserError("push=: there is no token of the Hugging Face hub; set HF_TOKEN, or run: hf auth login")


def _graphs(
    names: list[str], model: Model, graph: Graph, known: Mapping[str, Any], sounds: list[np.ndarray], part: Path
) -> list[model_card.ExportedFile]:
    """Write a graph in some formats, open each again and check it."""
    program, check, files = traced(graph), ParityCheck.of(model, sounds, graph.takes), []
    writers = {"onnx": (formats.onnx, "onnxruntime"), "torch": (formats.program, "torch.export")}
    longest = max(sounds, key=len)
    for name in names:  # ONNX first: torch's format changes the program
        write, engine = writers[name]
        path = part / formats.FILES[name]
        says = write(graph, program, known, path)
        agreement = agreement_text(path.name, check.differences(says, graph.ragged))
        theirs, ours = speed(model, graph, says, longest)
        files.append(model_card.ExportedFile(path.name, path.stat().st_size, agreement))
        seconds = len(longest) / model.front.rate
        log.info("%s: %.1f MB; largest differences: %s", path.name, files[-1].size / 1e6, agreement)
        log.info("%s: %.1f clips/s, the network itself %.1f, in batches of 8 of %.3g s", engine, theirs, ours, seconds)
    return files


def _weights(model: Model, sounds: list[np.ndarray], part: Path) -> model_card.ExportedFile:
    """Write the weights and their recipe, read them again and check them."""
    path = part / formats.FILES["safetensors"]
    formats.weights(model.network.state_dict(), config(model.network.recipe), path)
    again = Model(path, "cpu", images=True)

    def says(x: np.ndarray, lengths: np.ndarray) -> dict[str, np.ndarray]:
        import torch

        with torch.inference_mode():
            z, out = again.network(torch.from_numpy(x).half(), torch.from_numpy(lengths))
        said = again.network.task.predict(out)
        return {"embedding": z.numpy(), **{name: value.numpy() for name, value in said.items()}}

    agreement = agreement_text(path.name, ParityCheck.of(model, sounds, "frames").differences(says, ragged=True))
    log.info("%s: %.1f MB; largest differences: %s", path.name, path.stat().st_size / 1e6, agreement)
    return model_card.ExportedFile(path.name, path.stat().st_size, agreement)


def _run(path: Path, checkpoint: Path) -> RunFolder | None:
    """Return the run of a folder or of a checkpoint that lies in one; None for a checkpoint alone."""
    run = RunFolder(path if path.is_dir() else run_of(checkpoint))
    return run if run.record_path.is_file() else None


def _results(run: RunFolder) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Its record, and its metrics where it was measured."""
    return run.record, run.metrics if run.metrics_path.is_file() else None


@contextmanager
def _draft(to: Path) -> Iterator[Path]:
    """Yield a folder whose files are all moved into another at the end or, after any error, none of them."""
    try:
        ownership.open_folder(to)
        part = ownership.draft_folder(to, EXPORT)
    except OSError as error:
        raise os_errors.explain(error, to, os_errors.FOLDER_REMEDY, f"to={to}") or error from error
    try:
        yield part
        names = [path.name for path in part.iterdir()]
        for name in names:
            ownership.check(to / name)
        for name in names:
            ownership.mark_created(part / name)  # also those that exporters of other libraries wrote
            replace(part / name, to / name)
    except OSError as error:
        raise os_errors.explain(error, to, os_errors.FOLDER_REMEDY, f"to={to}") or error from error
    finally:
        for path in part.iterdir() if part.is_dir() else ():
            ownership.mark_created(path)
        remove_folder(part)
        remove_if_empty(to)
