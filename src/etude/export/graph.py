"""Exportable graph from waveform or frames to the outputs of a network."""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.audio.frontend import FrontEnd
from etude.audio.masks import valid
from etude.errors import UserError, one_line_message
from etude.tasks.targets import module_key

if TYPE_CHECKING:
    from etude.training.network import Network


EMBEDDING, LENGTHS, INPUTS = "embedding", "lengths", ("waveform", "frames")


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
        self.standardiser, self.backbone = network.standardiser, backbone.for_export()
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
        z = self.backbone(x, lengths)
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


def trace_graph(graph: Graph) -> torch.export.ExportedProgram:
    """Trace a graph for any number of clips of any length.

    Raises:
        UserError: torch is too old, or the backbone cannot be traced.
    """
    deferred = "prefer_deferred_runtime_asserts_over_guards"  # for conditions that hold but that torch cannot prove
    if deferred not in signature(torch.export.export).parameters:
        raise UserError(
            f"export: torch {torch.__version__} is too old to export a graph; update torch, or use --format safetensors"
        )
    batch, time = torch.export.Dim("batch"), torch.export.Dim("time", min=graph.min_length)
    shapes = ({0: batch, 1: time}, {0: batch})[: len(graph.inputs)]
    options: dict[str, Any] = {"strict": False, deferred: True}
    try:
        with torch.no_grad():
            program = torch.export.export(graph, graph.example(), dynamic_shapes=shapes, **options)
    except Exception as error:  # torch raises many types for backbones that it cannot trace
        kind, reason = type(graph.backbone).__name__, one_line_message(error, 300)
        raise UserError(
            f"export: backbone {kind} cannot be exported as a graph ({reason}); use --format safetensors"
        ) from error
    for node in program.graph.nodes:  # stack traces contain paths of this machine
        node.meta.pop("stack_trace", None)
    return program
