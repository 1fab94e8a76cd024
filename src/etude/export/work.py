"""From the words of the command to a folder: files that were tried, their card, and the hub."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude import disk
from etude.api import weights
from etude.checkpoint import CONFIG
from etude.errors import UserError
from etude.export import card, formats, hub
from etude.export.about import about, config
from etude.export.check import Trial, judged, speed
from etude.export.clips import cut, paths
from etude.export.graph import Graph, traced
from etude.files import ownership
from etude.files.atomic import remove_folder, remove_if_empty, replace, write_text
from etude.prediction.model import Model

if TYPE_CHECKING:
    import numpy as np

    from etude.export.command import Wish
    from etude.loaded import Run

log = logging.getLogger(__name__)
FOLDER = "export"


def carry_out(wish: Wish) -> list[Path]:
    """Export what is wished for.

    Args:
        wish: What, as what, where to.

    Returns:
        Paths of what was written; the card last.

    Raises:
        UserError: There is no such run, something cannot be a graph, a file does not say what the network says, the
            folder cannot be written, or the hub does not take it. Only in the last case anything is left.
    """
    if not wish.run.exists():
        raise UserError(f"{wish.run}: there is no such run folder or checkpoint")
    if "onnx" in wish.formats:
        formats.installed()
    if wish.push:
        hub.ready()
    checkpoint = weights(wish.run)
    run = _run(wish.run, checkpoint)
    to = wish.to or (wish.run if wish.run.is_dir() else wish.run.parent) / FOLDER
    names = [formats.FILES[name] for name in wish.formats]
    ownership.check_names(to, [*names, *([CONFIG] if "safetensors" in wish.formats else []), card.FILE])
    model = Model(checkpoint, "cpu", images=True)
    graphs: list[str] = [name for name in ("onnx", "torch") if name in wish.formats]
    graph = Graph(model.network, model.front, wish.takes if graphs else "frames")
    known = about(model, graph if graphs else None)
    found, whose = paths(None if run is None else run.folder, wish.check)
    sounds = cut(found, model.front, model.plan(), graph.least if graph.takes == "waveform" else 1)
    with _draft(to) as part:
        files = _graphs(graphs, model, graph, known, sounds, part) if graphs else []
        if "safetensors" in wish.formats:
            files.append(_weights(model, sounds, part))
        text = card.card(known, files, whose, *(_results(run) if run else (None, None)))
        write_text(part / card.FILE, text)
        written = [to / name for name in sorted(path.name for path in part.iterdir()) if name != card.FILE]
    written.append(to / card.FILE)
    if old := [name for name in formats.FILES.values() if (to / name).is_file() and to / name not in written]:
        log.warning("%s: %s of an earlier export stays there; the card does not know it", to, ", ".join(old))
    if wish.push:
        log.info("%s", hub.push(wish.push, written, wish.private))
    return written


def _graphs(
    names: list[str], model: Model, graph: Graph, known: Mapping[str, Any], sounds: list[np.ndarray], part: Path
) -> list[card.File]:
    """Write a graph in some formats, open each again and try it."""
    program, trial, files = traced(graph), Trial.of(model, sounds, graph.takes), []
    writers = {"onnx": (formats.onnx, "onnxruntime"), "torch": (formats.program, "torch.export")}
    longest = max(sounds, key=len)
    for name in names:  # ONNX first: torch's format changes the program
        write, engine = writers[name]
        path = part / formats.FILES[name]
        says = write(graph, program, known, path)
        tried = judged(path.name, trial.differences(says, graph.ragged))
        theirs, ours = speed(model, graph, says, longest)
        files.append(card.File(path.name, path.stat().st_size, tried))
        seconds = len(longest) / model.front.rate
        log.info("%s: %.1f MB; largest differences: %s", path.name, files[-1].size / 1e6, tried)
        log.info("%s: %.1f clips/s, the network itself %.1f, in batches of 8 of %.3g s", engine, theirs, ours, seconds)
    return files


def _weights(model: Model, sounds: list[np.ndarray], part: Path) -> card.File:
    """Write the weights and their recipe, read them again and try them."""
    path = part / formats.FILES["safetensors"]
    formats.weights(model.network.state_dict(), config(model.network.recipe), path)
    again = Model(path, "cpu", images=True)

    def says(x: np.ndarray, lengths: np.ndarray) -> dict[str, np.ndarray]:
        import torch

        with torch.inference_mode():
            z, out = again.network(torch.from_numpy(x).half(), torch.from_numpy(lengths))
        said = again.network.task.predict(out)
        return {"embedding": z.numpy(), **{name: value.numpy() for name, value in said.items()}}

    tried = judged(path.name, Trial.of(model, sounds, "frames").differences(says, ragged=True))
    log.info("%s: %.1f MB; largest differences: %s", path.name, path.stat().st_size / 1e6, tried)
    return card.File(path.name, path.stat().st_size, tried)


def _run(path: Path, checkpoint: Path) -> Run | None:
    """The run of a folder or of a checkpoint that lies in one; none of a checkpoint alone."""
    from etude.loaded import Run

    folders = (path,) if path.is_dir() else (checkpoint.parent.parent,)
    return next((Run(folder) for folder in folders if (folder / "record.json").is_file()), None)


def _results(run: Run) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Its record, and its metrics where it was measured."""
    return run.record, run.metrics if (run.folder / "metrics.json").is_file() else None


@contextmanager
def _draft(to: Path) -> Iterator[Path]:
    """A folder whose files are all put into another at the end, or, whatever happens meanwhile, none of them."""
    try:
        ownership.open_folder(to)
        part = ownership.draft_folder(to, FOLDER)
    except OSError as error:
        raise disk.explain(error, to, disk.OTHER_FOLDER, f"to={to}") or error from error
    try:
        yield part
        names = [path.name for path in part.iterdir()]
        for name in names:
            ownership.check(to / name)
        for name in names:
            ownership.mark_created(part / name)  # also those that exporters of other libraries wrote
            replace(part / name, to / name)
    except OSError as error:
        raise disk.explain(error, to, disk.OTHER_FOLDER, f"to={to}") or error from error
    finally:
        for path in part.iterdir() if part.is_dir() else ():
            ownership.mark_created(path)
        remove_folder(part)
        remove_if_empty(to)
