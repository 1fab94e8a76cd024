"""Exportable graph of a network, and the formats ONNX, torch.export and safetensors."""

from __future__ import annotations

import json
import logging
import operator
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.audio.frontend import FrontEnd
from etude.audio.frontend_modules import Resampler, valid
from etude.errors import UserError, one_line_message
from etude.tasks.targets import module_key

if TYPE_CHECKING:
    from etude.training.network import Network


EMBEDDING, LENGTHS, INPUTS = "embedding", "lengths", ("waveform", "frames")
FILES = {"onnx": "model.onnx", "torch": "model.pt2", "safetensors": "model.safetensors"}
METADATA_KEY = "etude"
OPSET = 20  # the first in which the axis of a DFT is an input; onnxruntime 1.20 supports up to 21
ONNX_MISSING = (
    "--format onnx requires onnx, onnxscript and onnxruntime, which are not installed: pip install 'etude[export]'"
)
PredictFunction = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]
"""Function that computes outputs by name from samples (B, N) or frames (B, T, F), and lengths (B,)."""


class Graph(nn.Module):
    """Network as a module that `torch.export` can trace.

    Args:
        network: Network in evaluation mode. It is not changed.
        front: Front end of the network.
        input_name: `waveform`, or `frames` if the front end is not part of the graph.

    Attributes:
        input_name: Same as the argument.
        inputs: Names of the inputs. `lengths` is missing if all clips of a batch must have the same length.
        outputs: Names of the outputs: `embedding`, then the targets.
        variable_length: Whether clips of different lengths can share a batch.
        min_length: Minimum number of samples or frames of a clip. The outputs of a shorter clip are NaN.

    Raises:
        UserError: The front end cannot be part of a graph, or a target has the name of an input or of the embedding.
    """

    def __init__(self, network: Network, front: FrontEnd, input_name: str = "waveform") -> None:
        super().__init__()
        backbone, self.input_name, self.bins = network.backbone, input_name, int(network.recipe["bins"])
        first, last = network.recipe["columns"]
        self.front_end = front.as_module((first, last)) if input_name == "waveform" else None
        self.variable_length, self.min_length = backbone.variable_length, 1
        if not self.variable_length:
            self.min_length = backbone.min_frames
            if self.front_end is not None:  # enough samples for frames with and without centring
                self.min_length = backbone.min_frames * front.hop_length + front.n_fft
        self.padding_frames = backbone.min_frames if self.variable_length else 0
        self.standardiser, self.backbone, self.readout = network.standardiser, backbone.for_export(), network.readout
        self.heads, self.targets = network.task.heads, network.task.targets
        self.inputs = [input_name, LENGTHS] if self.variable_length else [input_name]
        self.outputs = [EMBEDDING, *self.targets]
        if reserved := set(self.targets) & {EMBEDDING, *self.inputs}:
            raise UserError(f"export: a target has the reserved name {min(reserved)}; rename the target")
        self.eval()

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> dict[str, Tensor]:
        """Compute the outputs of a batch.

        Args:
            x: Samples (B, N), float32, at the sampling rate of the front end, or frames (B, T, F) with only the columns
                that the network uses. Values at or after a clip's length have no influence.
            lengths: Number of samples or frames of each clip (B,), int64; None if no clip is padded.

        Returns:
            `embedding` (B, D); for each target, probabilities (B, K) of a label or values (B,) of a scalar.
        """
        if lengths is None:
            lengths = torch.full((x.shape[0],), x.shape[1], dtype=torch.int64, device=x.device)
        input_lengths = lengths
        mask = valid(lengths, x.shape[1])
        x = torch.where(mask if self.front_end is not None else mask[..., None], x, 0.0)
        if self.front_end is not None:
            x, lengths = self.front_end(F.pad(x, (0, self.front_end.room)) if self.variable_length else x, lengths)
        # packs contain float16 frames, which evaluation and predictions use
        x = F.pad(self.standardiser(x.half(), lengths), (0, 0, 0, self.padding_frames))
        z = self.readout(self.backbone, x, lengths)
        predictions = {name: target.predict(self.heads[module_key(name)](z)) for name, target in self.targets.items()}
        outputs = {EMBEDDING: z.float(), **predictions}
        if self.variable_length:
            return outputs
        short = input_lengths < self.min_length
        return {
            name: torch.where(short[:, None] if value.ndim > 1 else short, torch.nan, value)
            for name, value in outputs.items()
        }

    def example(self) -> tuple[Tensor, ...]:
        """Return an example batch for tracing."""
        front = self.front_end
        count = self.min_length + (97 if front is None else front.n_fft + 97 * front.hop)
        shape = (3, count) if front is not None else (3, count, self.bins)
        x = torch.linspace(-1, 1, 3 * count * (1 if front is not None else self.bins)).reshape(shape)
        return (x, torch.tensor([count, count // 2, 1])) if self.variable_length else (x,)


class AveragedGraph(Graph):
    """Mean of the graphs of the members of an ensemble. Its input is the waveform at the highest sample rate.

    Args:
        graphs: Graph of each member, from its own waveform.
        rates: Sample rate of each member, in Hz.
        weights: Weight of each member, by target.
    """

    def __init__(self, graphs: Sequence[Graph], rates: Sequence[int], weights: Mapping[str, Sequence[float]]) -> None:
        nn.Module.__init__(self)
        rate = max(rates)
        self.graphs, self.weights = nn.ModuleList(graphs), {name: [*values] for name, values in weights.items()}
        self.resamplers = nn.ModuleList(Resampler(rate, own) if own < rate else nn.Identity() for own in rates)
        self.variable_length = all(graph.variable_length for graph in graphs)
        self.input_name, self.outputs, self.targets = graphs[0].input_name, graphs[0].outputs, graphs[0].targets
        self.inputs = [self.input_name, LENGTHS] if self.variable_length else [self.input_name]
        pairs = [(graph, rate / own) for graph, own in zip(graphs, rates, strict=True)]
        self.min_length = max(ceil(graph.min_length * ratio) for graph, ratio in pairs)
        self.room = max(ceil(2 * ratio) for _, ratio in pairs)
        self.example_length = max(ceil(graph.example()[0].shape[1] * ratio) for graph, ratio in pairs)
        self.eval()

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> dict[str, Tensor]:
        """Compute the outputs of a batch as in `Graph`: concatenated embeddings, and mean predictions."""
        outputs = []
        if self.variable_length:  # two samples remain at every rate, because shapes of one sample differ in the graph
            lengths = torch.full((x.shape[0],), x.shape[1], dtype=torch.int64) if lengths is None else lengths
            x = F.pad(torch.where(valid(lengths, x.shape[1]), x, 0.0), (0, self.room))
        for graph, resampler in zip(self.graphs, self.resamplers, strict=True):
            own_lengths = lengths
            if isinstance(resampler, Resampler) and lengths is not None:
                own_lengths = resampler.count(lengths)
            outputs.append(graph(resampler(x), own_lengths))
        means = {}
        for name, weights in self.weights.items():
            means[name] = torch.stack([w * own[name] for w, own in zip(weights, outputs, strict=True)]).sum(0)
        return {EMBEDDING: torch.cat([own[EMBEDDING] for own in outputs], dim=1), **means}

    def example(self) -> tuple[Tensor, ...]:
        """Return an example batch for tracing."""
        x = torch.linspace(-1, 1, 3 * self.example_length).reshape(3, self.example_length)
        lengths = torch.tensor([self.example_length, self.example_length // 2, 1])
        return (x, lengths) if self.variable_length else (x,)


def unsupported_error(graph: nn.Module, name: str, error: BaseException, kind: str, other: str) -> UserError:
    """Return the error that a module cannot be exported.

    Args:
        graph: The graph.
        name: Name of the module; empty if it is unknown.
        error: Error of torch.
        kind: Requested kind of file.
        other: Format that may be possible.
    """
    module = f"{name} ({type(graph.get_submodule(name)).__name__})" if name else "the network"
    return UserError(
        f"export: {module} cannot be exported as {kind} ({one_line_message(error, 300)}); use --format {other}"
    )


def _module_of_node(program: torch.export.ExportedProgram, reason: str) -> str:
    """Return the name of the module of the node that an error of the translation names, or an empty text.

    The translation replaces some operations by others, whose names are similar.
    """
    names = re.findall(r"node %(\w+?)(?:_\d+)?\b", reason)
    stacks = [node.meta.get("nn_module_stack") for node in program.graph.nodes if names and names[0] in node.name]
    return [*stacks[0].values()][-1][0] if stacks and stacks[0] else ""


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

    Raises:
        UserError: An operation cannot be translated.
    """
    try:
        with _quiet():
            exported = torch.onnx.export(
                program, (), dynamo=True, verbose=False, opset_version=OPSET, input_names=graph.inputs,
                output_names=graph.outputs, custom_translation_table=lstm_translation(),
            )  # fmt: skip
    except torch.onnx.OnnxExporterError as error:
        reason = error.__cause__ or error  # the cause names the node
        raise unsupported_error(graph, _module_of_node(program, str(reason)), reason, "ONNX", "torch") from error
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
    restore_torch_lstm(program)
    program.example_inputs = None
    with _quiet():
        torch.export.save(program, path, extra_files={f"{METADATA_KEY}.json": json.dumps(metadata, ensure_ascii=False)})
    return open_program(path)


def open_program(path: Path) -> PredictFunction:
    """Open a torch.export program."""
    with _quiet():
        module = torch.export.load(path).module()
    n_inputs = sum(node.op == "placeholder" for node in module.graph.nodes)

    def predict(*arrays: np.ndarray) -> dict[str, np.ndarray]:
        with torch.no_grad():
            outputs = module(*(torch.from_numpy(array) for array in arrays[:n_inputs]))
        return {name: value.numpy() for name, value in outputs.items()}

    return predict


def restore_torch_lstm(program: torch.export.ExportedProgram) -> None:
    """Replace the operation `etude::lstm` by the LSTM of torch in place, so that a program requires only torch."""
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
