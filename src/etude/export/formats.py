"""The three formats: how each is written, and how it is opened again without what wrote it."""

from __future__ import annotations

import json
import logging
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.errors import UserError
from etude.files.atomic import write_bytes, write_text
from etude.files.safe_read import CONFIG_NAME

if TYPE_CHECKING:
    import torch

    from etude.export.graph import Graph


FILES = {"onnx": "model.onnx", "torch": "model.pt2", "safetensors": "model.safetensors"}
ABOUT, OPSET = "etude", 20  # the first with a Fourier transform whose axis is an input; onnxruntime 1.20 has 21
LACKING = "format=onnx needs onnx, onnxscript and onnxruntime, which are not installed: pip install 'etude[export]'"
Says = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]
"""Sound (B, N) or frames (B, T, F), and lengths (B,), to what a file says by name."""


def installed() -> None:
    """Ask for what ONNX needs.

    Raises:
        UserError: It is not there.
    """
    if not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))):
        raise UserError(LACKING)


def onnx(graph: Graph, program: torch.export.ExportedProgram, about: Mapping[str, Any], path: Path) -> Says:
    """Write a graph as ONNX, and open it in onnxruntime.

    Args:
        graph: The graph.
        program: The same, traced.
        about: Plain values that the file keeps, as JSON under `etude`.
        path: The file.
    """
    import torch

    with _quiet():
        made = torch.onnx.export(
            program, (), dynamo=True, verbose=False, opset_version=OPSET, input_names=graph.inputs,
            output_names=graph.outputs, custom_translation_table=lstm_translation(),
        )  # fmt: skip
    assert made is not None
    made.model.metadata_props[ABOUT] = json.dumps(about, ensure_ascii=False)
    made.model.producer_name = "etude"
    _name(made.model, graph)
    for node in made.model.graph:  # what was called where, with the paths of this machine
        node.metadata_props.clear()
    made.save(path, external_data=False)
    return open_onnx(path)


def _name(model: Any, graph: Graph) -> None:
    """Call the sizes that a batch may have by their names, in the place of torch's symbols."""
    said = model.graph.inputs[0].shape
    names = {str(said[0]): "batch", str(said[1]): "samples" if graph.takes == "waveform" else "frames"}
    for value in (*model.graph.inputs, *model.graph.outputs, *(one for node in model.graph for one in node.outputs)):
        for axis, size in enumerate(value.shape or ()):
            if str(size) in names:
                value.shape[axis] = names[str(size)]


def open_onnx(path: Path) -> Says:
    """A file of ONNX in onnxruntime, with as many threads as torch has."""
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs, names = [one.name for one in session.get_inputs()], [one.name for one in session.get_outputs()]
    return lambda *given: dict(zip(names, session.run(names, dict(zip(inputs, given, strict=False))), strict=True))


def program(graph: Graph, program: torch.export.ExportedProgram, about: Mapping[str, Any], path: Path) -> Says:
    """Write a graph as torch's program, and open it again; see `onnx`."""
    import torch

    restore_torch_lstm(program)
    program.example_inputs = None
    with _quiet():
        torch.export.save(program, path, extra_files={f"{ABOUT}.json": json.dumps(about, ensure_ascii=False)})
    return open_program(path)


def open_program(path: Path) -> Says:
    """A program of torch's."""
    import torch

    with _quiet():
        module = torch.export.load(path).module()
    inputs = sum(node.op == "placeholder" for node in module.graph.nodes)

    def says(*given: np.ndarray) -> dict[str, np.ndarray]:
        with torch.no_grad():
            found = module(*(torch.from_numpy(one) for one in given[:inputs]))
        return {name: value.numpy() for name, value in found.items()}

    return says


def weights(state: Mapping[str, torch.Tensor], config: Mapping[str, Any], path: Path) -> None:
    """Write tensors, and the recipe of their network beside them.

    Args:
        state: Tensors by name.
        config: Plain values.
        path: Where the tensors go.
    """
    from safetensors.torch import save

    # two names of one tensor, as of weights that are shared, are two tensors in this format
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    write_bytes(path, save(tensors, metadata={"format": "pt"}))
    text = json.dumps(config, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(path.with_name(CONFIG_NAME), text)


def restore_torch_lstm(program: torch.export.ExportedProgram) -> None:
    """Replace the operation `etude::lstm` by torch's own LSTM, in place, so that a program needs torch alone."""
    import torch

    graph = program.graph
    for node in list(graph.nodes):
        if node.target is not torch.ops.etude.lstm.default:
            continue
        x, h, c, *weights = node.args
        with graph.inserting_before(node):
            whole = graph.call_function(
                torch.ops.aten.lstm.input, (x, [h, c], weights, True, 1, 0.0, False, False, True)
            )
            states = graph.call_function(operator.getitem, (whole, 0))
        whole.meta = {**node.meta, "val": (node.meta["val"], h.meta["val"], c.meta["val"])}
        states.meta = dict(node.meta)
        node.replace_all_uses_with(states)
        graph.erase_node(node)
    graph.lint()
    program.graph_module.recompile()


def lstm_translation() -> dict[Any, Any]:
    """Return the translation of `etude::lstm` into ONNX, which orders gates otherwise and has time before the batch."""
    import onnxscript
    import torch

    op: Any = onnxscript.opset20  # whose types know tensors alone

    def ordered(weight: Any) -> Any:
        i, f, g, o = op.Split(weight, axis=0, num_outputs=4)
        return op.Concat(i, o, f, g, axis=0)

    def translated(x: Any, h: Any, c: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any) -> Any:
        bias = op.Concat(ordered(b_ih), ordered(b_hh), axis=0)
        weights = (op.Unsqueeze(value, [0]) for value in (ordered(w_ih), ordered(w_hh), bias))
        states, *_ = op.LSTM(op.Transpose(x, perm=[1, 0, 2]), *weights, hidden_size=w_hh.shape[1])
        return op.Transpose(op.Squeeze(states, [1]), perm=[1, 0, 2])

    return {torch.ops.etude.lstm.default: translated}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters say of their own inside."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx", "torch.export", "torch")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
