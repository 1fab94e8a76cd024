"""Export of a network to a folder, and upload to the Hugging Face Hub."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from etude.audio.frontend import JointFrontEnd
from etude.errors import UserError, missing_path, one_line_message
from etude.export import model_card
from etude.export.graph import (
    FILES,
    AveragedGraph,
    Graph,
    check_onnx,
    unsupported_error,
    write_onnx,
    write_program,
)
from etude.export.parity_check import ParityCheck, check_differences, find_audio_files, load_clips, measure_speed
from etude.files import os_errors, ownership
from etude.files.atomic import remove_folder, remove_if_empty, replace, write_bytes, write_text
from etude.files.safe_read import CONFIG_NAME
from etude.inference.model import Model
from etude.runs.folder import EXPORT, RunFolder, find_weights, run_of
from etude.system.machine import without_garbage_collection
from etude.training.network import member_networks

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

log = logging.getLogger(__name__)
HUB_MISSING = "--push requires huggingface-hub, which is not installed: pip install 'etude[hub]'"


@dataclass
class ExportOptions:
    """Options of `etude export`.

    Args:
        run: A run folder, or a checkpoint.
        formats: Formats among onnx, torch and safetensors.
        input_name: Input of graphs, `waveform` or `frames`.
        out: Output folder; None for `export` in the run folder or beside the checkpoint.
        check: Audio files of the parity check. If empty, clips of the run's data are used.
        push: Repository on the Hugging Face Hub; None for no upload.
        private: Whether a new repository is private.
    """

    run: Path
    formats: list[str] = field(default_factory=lambda: ["onnx"])
    input_name: str = "waveform"
    out: Path | None = None
    check: list[str] = field(default_factory=list)
    push: str | None = None
    private: bool = False


def export_network(options: ExportOptions) -> list[Path]:
    """Export a network.

    Args:
        options: Options of the export.

    Returns:
        Paths of the files, the model card last.

    Raises:
        UserError: The run does not exist, the network cannot be exported, a file and the network have different
            outputs, the folder cannot be written to, or the upload fails. If the upload fails, the files are kept;
            after any other error, none is.
    """
    if not options.run.exists():
        raise UserError(missing_path(options.run, "run folder or checkpoint"))
    if "onnx" in options.formats:
        check_onnx()
    if options.push:
        check_hub()
    checkpoint = find_weights(options.run)
    run = _find_run(options.run, checkpoint)
    out = options.out or (options.run if options.run.is_dir() else options.run.parent) / EXPORT
    names = [FILES[name] for name in options.formats]
    ownership.check_names(out, [*names, *([CONFIG_NAME] if "safetensors" in options.formats else []), model_card.FILE])
    model = Model(checkpoint, "cpu", images=True)
    graph_formats: list[str] = [name for name in ("onnx", "torch") if name in options.formats]
    graph = build_graph(model, options.input_name) if graph_formats else None
    metadata = model_card.describe(model, graph)
    paths, check_clips = find_audio_files(run, options.check)
    min_samples = graph.min_length if graph is not None and graph.input_name == "waveform" else 1
    clips = load_clips(paths, model.front, model.plan(), min_samples)
    with _staging_folder(out) as staging:
        files = [] if graph is None else _export_graphs(graph_formats, model, graph, metadata, clips, staging)
        if "safetensors" in options.formats:
            files.append(_export_weights(model, clips, staging))
        results = _read_results(run) if run else (None, None)
        write_text(staging / model_card.FILE, model_card.render_card(metadata, files, check_clips, *results))
        written = [out / name for name in sorted(path.name for path in staging.iterdir()) if name != model_card.FILE]
    written.append(out / model_card.FILE)
    if old := [name for name in FILES.values() if (out / name).is_file() and out / name not in written]:
        log.warning("%s: %s is from an earlier export and is not described in the model card", out, ", ".join(old))
    if options.push:
        log.info("%s", push(options.push, written, options.private))
    return written


def build_graph(model: Model, input_name: str) -> Graph:
    """Return the graph of a network, or of the mean of several networks.

    Args:
        model: The network.
        input_name: Input of the graph, `waveform` or `frames`.

    Raises:
        UserError: The frames of an ensemble have several front ends, and the input is not the waveform.
    """
    if not isinstance(model.front, JointFrontEnd):
        return Graph(model.network, model.front, input_name)
    if input_name != "waveform":
        raise UserError("--input frames: the members of this ensemble have different frames; use --input waveform")
    graphs = [
        Graph(network, model.front.fronts[view])
        for network, view in zip(member_networks(model.network), model.network.recipe["views"], strict=True)
    ]
    rates = [model.front.fronts[view].rate for view in model.network.recipe["views"]]
    weights = {name: getattr(target, "weights", []) for name, target in model.network.task.targets.items()}
    return AveragedGraph(graphs, rates, weights)


def trace_graph(graph: Graph) -> torch.export.ExportedProgram:
    """Trace a graph for any number of clips of any length.

    Raises:
        UserError: torch is too old, or a module cannot be traced.
    """
    deferred = "prefer_deferred_runtime_asserts_over_guards"  # for conditions that hold but that torch cannot prove
    if deferred not in signature(torch.export.export).parameters:
        raise UserError(
            f"export: torch {torch.__version__} is too old to export a graph; update torch, or use --format safetensors"
        )
    batch, time = torch.export.Dim("batch"), torch.export.Dim("time", min=graph.min_length)
    shapes = ({0: batch, 1: time}, {0: batch})[: len(graph.inputs)]
    options: dict[str, Any] = {"strict": False, deferred: True}

    def trace() -> torch.export.ExportedProgram:
        with torch.no_grad():
            return torch.export.export(graph, graph.example(), dynamic_shapes=shapes, **options)

    try:
        program = trace()
    except Exception as error:  # torch raises many types for modules that it cannot trace
        raise unsupported_error(graph, failed_module(graph, trace), error, "a graph", "safetensors") from error
    for node in program.graph.nodes:  # stack traces contain paths of this machine
        node.meta.pop("stack_trace", None)
    return program


def failed_module(graph: nn.Module, trace: Callable[[], object]) -> str:
    """Trace a graph again with hooks, and return the name of the module that cannot be traced.

    This is the innermost module that is running when an error is raised, or that makes a dynamic size a constant. The
    hooks change the graph of some backbones, so they are not used for a graph that is exported.
    """
    running: list[str] = []  # innermost last
    constant: list[str] = []
    sizes: list[Any] = []  # dynamic sizes of the inputs of modules

    def check(name: str) -> None:
        ranges = [size.node.shape_env.bound_sympy(size.node.expr) for size in sizes]
        if not constant and any(bounds.lower == bounds.upper for bounds in ranges):
            constant.append(name)

    def enter(name: str, args: tuple[Any, ...]) -> None:
        check(running[-1] if running else "")
        shapes = [arg.shape for arg in args if isinstance(arg, torch.Tensor)]
        sizes.extend(size for shape in shapes for size in shape if isinstance(size, torch.SymInt))
        running.append(name)

    def leave(name: str) -> None:
        check(name)
        running.pop()

    hooks = []
    for name, module in graph.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda _, args, name=name: enter(name, args)))  # type: ignore[misc]
        hooks.append(module.register_forward_hook(lambda *_, name=name: leave(name)))  # type: ignore[misc]
    try:
        trace()
    except Exception:
        return running[-1] if running else (constant or [""])[0]
    finally:
        for hook in hooks:
            hook.remove()
    return ""


def write_weights(state: Mapping[str, Tensor], config: Mapping[str, Any], path: Path) -> None:
    """Write a state dict as safetensors, and config.json beside it.

    Args:
        state: Tensors by name.
        config: Plain values of config.json.
        path: Path of the safetensors file.
    """
    from safetensors.torch import save

    # the format does not support shared tensors, so they are copied
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    write_bytes(path, save(tensors, metadata={"format": "pt"}))
    text = json.dumps(config, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(path.with_name(CONFIG_NAME), text)


def push(name: str, files: Sequence[Path], private: bool = False) -> str:
    """Upload files to a model repository, which is created if it does not exist.

    Args:
        name: Name of the repository, `user/name`.
        files: Files in one folder.
        private: Whether a new repository is private.

    Returns:
        URL of the repository.

    Raises:
        UserError: The upload is refused, or the Hub cannot be reached.
    """
    from huggingface_hub import HfApi

    hub = HfApi(library_name="etude")
    try:
        url = hub.create_repo(name, private=private, exist_ok=True)
        hub.upload_folder(
            repo_id=name, folder_path=files[0].parent, allow_patterns=[file.name for file in files],
            commit_message="Exported by Étude",
        )  # fmt: skip
    except Exception as error:  # errors of the Hub, and of the HTTP libraries below it
        reason = one_line_message(error, 300)
        raise UserError(
            f"--push {name}: the upload failed ({reason}); the exported files are in {files[0].parent}"
        ) from error
    return str(url)


def check_hub() -> None:
    """Check that an upload is possible, before the export.

    Raises:
        UserError: huggingface-hub is not installed, or there is no token.
    """
    if not find_spec("huggingface_hub"):
        raise UserError(HUB_MISSING)
    from huggingface_hub import get_token

    if not get_token():
        raise UserError("--push: no token for the Hugging Face Hub; set HF_TOKEN, or run: hf auth login")


def _export_graphs(
    names: list[str], model: Model, graph: Graph, metadata: Mapping[str, Any], clips: list[np.ndarray], folder: Path
) -> list[model_card.ExportedFile]:
    """Write a graph in some formats, open each file and check its outputs."""
    log.info("tracing the network; with the conversion, this takes minutes for a large network")
    with without_garbage_collection():
        program = trace_graph(graph)
    check, files = ParityCheck.from_model(model, clips, graph.input_name), []
    writers = {"onnx": (write_onnx, "onnxruntime"), "torch": (write_program, "torch.export")}
    longest = max(clips, key=len)
    for name in names:  # ONNX first, because write_program changes the program
        write, engine = writers[name]
        path = folder / FILES[name]
        log.info("%s: conversion, and check on %d clips", path.name, len(clips))
        with without_garbage_collection():
            predict = write(graph, program, metadata, path)
        differences = check_differences(path.name, check.differences(predict, graph.variable_length))
        file_speed, network_speed = measure_speed(model, graph, predict, longest)
        files.append(model_card.ExportedFile(path.name, path.stat().st_size, differences))
        log.info("%s: %.1f MB; largest differences: %s", path.name, files[-1].size / 1e6, differences)
        log.info(
            "%s: %.1f clips/s (original network: %.1f), in batches of 8 clips of %.3g s",
            engine, file_speed, network_speed, len(longest) / model.front.rate,
        )  # fmt: skip
    return files


def _export_weights(model: Model, clips: list[np.ndarray], folder: Path) -> model_card.ExportedFile:
    """Write the weights and the recipe, load them and check the outputs."""
    path = folder / FILES["safetensors"]
    write_weights(model.network.state_dict(), model_card.config_content(model.network.recipe), path)
    loaded = Model(path, "cpu", images=True)

    def predict(x: np.ndarray, lengths: np.ndarray) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            z, out = loaded.network(torch.from_numpy(x).half(), torch.from_numpy(lengths))
        predictions = loaded.network.task.predict(out)
        return {"embedding": z.numpy(), **{name: value.numpy() for name, value in predictions.items()}}

    check = ParityCheck.from_model(model, clips, "frames")
    differences = check_differences(path.name, check.differences(predict, variable_length=True))
    log.info("%s: %.1f MB; largest differences: %s", path.name, path.stat().st_size / 1e6, differences)
    return model_card.ExportedFile(path.name, path.stat().st_size, differences)


def _find_run(path: Path, checkpoint: Path) -> RunFolder | None:
    """Return the run folder of a path or of its checkpoint, or None if the checkpoint does not belong to a run."""
    run = RunFolder(path if path.is_dir() else run_of(checkpoint))
    return run if run.record_path.is_file() else None


def _read_results(run: RunFolder) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return the record of a run, and its metrics if it was evaluated."""
    return run.record, run.metrics if run.metrics_path.is_file() else None


@contextmanager
def _staging_folder(out: Path) -> Iterator[Path]:
    """Yield a folder whose files are moved to the output folder at the end, or deleted after an error."""
    try:
        ownership.open_folder(out)
        staging = ownership.draft_folder(out, EXPORT)
    except OSError as error:
        raise os_errors.explain(error, out, os_errors.FOLDER_REMEDY, f"--out {out}") or error from error
    try:
        yield staging
        names = [path.name for path in staging.iterdir()]
        for name in names:
            ownership.check(out / name)
        for name in names:
            ownership.mark_created(staging / name)  # other libraries wrote some of the files
            replace(staging / name, out / name)
    except OSError as error:
        raise os_errors.explain(error, out, os_errors.FOLDER_REMEDY, f"--out {out}") or error from error
    finally:
        for path in staging.iterdir() if staging.is_dir() else ():
            ownership.mark_created(path)
        remove_folder(staging)
        remove_if_empty(out)
