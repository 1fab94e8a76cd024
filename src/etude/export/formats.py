"""Writers and readers of the formats ONNX, torch.export and safetensors."""

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
METADATA_KEY = "etude"
OPSET = 20  # the first in which the axis of a DFT is an input; onnxruntime 1.20 supports up to 21
ONNX_MISSING = (
    "--format onnx requires onnx, onnxscript and onnxruntime, which are not installed: pip install 'etude[export]'"
)
PredictFunction = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]
"""Function that computes outputs by name from samples (B, N) or frames (B, T, F), and lengths (B,)."""


def check_onnx() -> None:
    """Check that the packages for ONNX are installed.

    Raises:
        UserError: A package is not installed.
    """
    if not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))):
        raise UserError(ONNX_MISSING)


def write_onnx(
    graph: Graph, program: torch.export.ExportedProgram, metadata: Mapping[str, Any], path: Path
) -> PredictFunction:
    """Write a graph as ONNX, and open the file in onnxruntime.

    Args:
        graph: The graph.
        program: The traced graph.
        metadata: Plain values, stored in the file as JSON under `etude`.
        path: Path of the file.
    """
    import torch

    with _quiet():
        exported = torch.onnx.export(
            program, (), dynamo=True, verbose=False, opset_version=OPSET, input_names=graph.inputs,
            output_names=graph.outputs, custom_translation_table=lstm_translation(),
        )  # fmt: skip
    assert exported is not None
    exported.model.metadata_props[METADATA_KEY] = json.dumps(metadata, ensure_ascii=False)
    exported.model.producer_name = "etude"
    _name_dimensions(exported.model, graph)
    for node in exported.model.graph:  # metadata of nodes contain stack traces with paths of this machine
        node.metadata_props.clear()
    exported.save(path, external_data=False)
    return open_onnx(path)


def _name_dimensions(model: Any, graph: Graph) -> None:
    """Replace the symbols of torch for dynamic dimensions by readable names."""
    shape = model.graph.inputs[0].shape
    names = {str(shape[0]): "batch", str(shape[1]): "samples" if graph.input_name == "waveform" else "frames"}
    intermediate = (value for node in model.graph for value in node.outputs)
    for value in (*model.graph.inputs, *model.graph.outputs, *intermediate):
        for axis, size in enumerate(value.shape or ()):
            if str(size) in names:
                value.shape[axis] = names[str(size)]


def open_onnx(path: Path) -> PredictFunction:
    """Open an ONNX file in onnxruntime, with as many threads as torch uses."""
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs, outputs = [node.name for node in session.get_inputs()], [node.name for node in session.get_outputs()]

    def predict(*arrays: np.ndarray) -> dict[str, np.ndarray]:
        feed = dict(zip(inputs, arrays, strict=False))  # a graph without lengths takes only the first array
        return dict(zip(outputs, session.run(outputs, feed), strict=True))

    return predict


def write_program(
    graph: Graph, program: torch.export.ExportedProgram, metadata: Mapping[str, Any], path: Path
) -> PredictFunction:
    """Write a graph as a torch.export program, and open the file.

    Arguments and result are the same as in `write_onnx`.
    """
    import torch

    restore_torch_lstm(program)
    program.example_inputs = None
    with _quiet():
        torch.export.save(program, path, extra_files={f"{METADATA_KEY}.json": json.dumps(metadata, ensure_ascii=False)})
    return open_program(path)


def open_program(path: Path) -> PredictFunction:
    """Open a torch.export program."""
    import torch

    with _quiet():
        module = torch.export.load(path).module()
    n_inputs = sum(node.op == "placeholder" for node in module.graph.nodes)

    def predict(*arrays: np.ndarray) -> dict[str, np.ndarray]:
        with torch.no_grad():
            outputs = module(*(torch.from_numpy(array) for array in arrays[:n_inputs]))
        return {name: value.numpy() for name, value in outputs.items()}

    return predict


def write_weights(state: Mapping[str, torch.Tensor], config: Mapping[str, Any], path: Path) -> None:
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


def restore_torch_lstm(program: torch.export.ExportedProgram) -> None:
    """Replace the operation `etude::lstm` by the LSTM of torch in place, so that a program requires only torch."""
    import torch

    graph = program.graph
    for node in list(graph.nodes):
        if node.target is not torch.ops.etude.lstm.default:
            continue
        x, h, c, *weights = node.args
        with graph.inserting_before(node):
            lstm = graph.call_function(
                torch.ops.aten.lstm.input, (x, [h, c], weights, True, 1, 0.0, False, False, True)
            )
            states = graph.call_function(operator.getitem, (lstm, 0))
        lstm.meta = {**node.meta, "val": (node.meta["val"], h.meta["val"], c.meta["val"])}
        states.meta = dict(node.meta)
        node.replace_all_uses_with(states)
        graph.erase_node(node)
    graph.lint()
    program.graph_module.recompile()


def lstm_translation() -> dict[Any, Any]:
    """Return the translation of `etude::lstm` into ONNX, with reordered gates and time as the first axis."""
    import onnxscript
    import torch

    op: Any = onnxscript.opset20  # its annotations accept only tensors

    def reorder_gates(weight: Any) -> Any:
        i, f, g, o = op.Split(weight, axis=0, num_outputs=4)
        return op.Concat(i, o, f, g, axis=0)

    def translate(x: Any, h: Any, c: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any) -> Any:
        bias = op.Concat(reorder_gates(b_ih), reorder_gates(b_hh), axis=0)
        weights = (op.Unsqueeze(value, [0]) for value in (reorder_gates(w_ih), reorder_gates(w_hh), bias))
        states, *_ = op.LSTM(op.Transpose(x, perm=[1, 0, 2]), *weights, hidden_size=w_hh.shape[1])
        return op.Transpose(op.Squeeze(states, [1]), perm=[1, 0, 2])

    return {torch.ops.etude.lstm.default: translate}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence loggers and warnings of the exporters."""
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
