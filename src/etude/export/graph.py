"""Graph from waveform to outputs."""

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
    from etude.training.learner import Learner


EMBEDDING, LENGTHS, INPUTS = "embedding", "lengths", ("waveform", "frames")


class Graph(nn.Module):
    """A network from its input to what it says.

    Args:
        network: The network, in evaluation mode; it is not changed.
        front: Its front end.
        takes: `waveform`, or `frames`, which somebody else makes.

    Attributes:
        takes: The same.
        inputs: Names of what goes in; without `lengths` where the clips of a batch have to be of one length.
        outputs: Names of what comes out: `embedding`, then the targets.
        least: Samples or frames that a clip has to have; of a shorter one the graph says NaN.

    Raises:
        UserError: The front end cannot be part of it, or a target has the name of something else in it.
    """

    def __init__(self, network: Learner, front: FrontEnd, takes: str = "waveform") -> None:
        super().__init__()
        backbone, self.takes, self.bins = network.backbone, takes, int(network.recipe["bins"])
        first, last = network.recipe["columns"]
        self.ears = front.as_module((first, last)) if takes == "waveform" else None
        self.ragged, self.least = backbone.variable_length, 1
        if not self.ragged:  # enough for so many frames, whether or not they begin before the clip does
            self.least = (
                backbone.min_frames if self.ears is None else backbone.min_frames * front.hop_length + front.n_fft
            )
        self.room = backbone.min_frames if self.ragged else 0
        self.standardiser, self.backbone = network.standardiser, backbone.for_export()
        self.heads, self.targets = network.task.heads, network.task.targets
        self.inputs = [takes, LENGTHS] if self.ragged else [takes]
        self.outputs = [EMBEDDING, *self.targets]
        if taken := set(self.targets) & {EMBEDDING, *self.inputs}:
            raise UserError(f"export: a target cannot be called {min(taken)}, which is a name of the graph's own")
        self.eval()

    def forward(self, sound: Tensor, lengths: Tensor | None = None) -> dict[str, Tensor]:
        """Judge a batch.

        Args:
            sound: Samples (B, N), float32, at the front end's rate; or frames (B, T, F) of the view. What stands at or
                after a clip's length has no influence.
            lengths: Samples, or frames, of each clip (B,), int64; none says that all are there.

        Returns:
            `embedding` (B, D); by target, probabilities (B, K) of a label or values (B,) of a scalar.
        """
        if lengths is None:
            lengths = torch.full((sound.shape[0],), sound.shape[1], dtype=torch.int64, device=sound.device)
        size = lengths
        there = valid(lengths, sound.shape[1])
        x = torch.where(there if self.ears is not None else there[..., None], sound, 0.0)
        if self.ears is not None:
            x, lengths = self.ears(F.pad(x, (0, self.ears.room)) if self.ragged else x, lengths)
        # packs have frames as float16, and so have evaluation and predictions
        x = F.pad(self.standardiser(x.half(), lengths), (0, 0, 0, self.room))
        z = self.backbone(x, lengths)
        said = {name: target.predict(self.heads[module_key(name)](z)) for name, target in self.targets.items()}
        found = {EMBEDDING: z.float(), **said}
        if self.ragged:
            return found
        short = size < self.least
        return {k: torch.where(short[:, None] if v.ndim > 1 else short, torch.nan, v) for k, v in found.items()}

    def example(self) -> tuple[Tensor, ...]:
        """A batch that it takes, of no particular size."""
        front = self.ears
        count = self.least + (97 if front is None else front.n_fft + 97 * front.hop)
        shape = (3, count) if front is not None else (3, count, self.bins)
        sound = torch.linspace(-1, 1, 3 * count * (1 if front is not None else self.bins)).reshape(shape)
        return (sound, torch.tensor([count, count // 2, 1])) if self.ragged else (sound,)


def traced(graph: Graph) -> torch.export.ExportedProgram:
    """A graph as torch's program, for any number of clips of any length.

    Raises:
        UserError: The backbone cannot be one; the sentence says why.
    """
    deferred = "prefer_deferred_runtime_asserts_over_guards"  # what holds for every length and cannot be proven
    if deferred not in signature(torch.export.export).parameters:
        raise UserError(f"export: graphs need a newer torch than {torch.__version__}; format=safetensors needs none")
    batch, time = torch.export.Dim("batch"), torch.export.Dim("time", min=graph.least)
    shapes = ({0: batch, 1: time}, {0: batch})[: len(graph.inputs)]
    options: dict[str, Any] = {"strict": False, deferred: True}
    try:
        with torch.no_grad():
            program = torch.export.export(graph, graph.example(), dynamic_shapes=shapes, **options)
    except Exception as error:  # whatever a backbone of somebody's does, torch has its own word for it
        kind, reason = type(graph.backbone).__name__, one_line_message(error, 300)
        raise UserError(
            f"export: the backbone {kind} cannot be made a graph ({reason}); format=safetensors needs none"
        ) from error
    for node in program.graph.nodes:  # lines of source, with the paths of this machine
        node.meta.pop("stack_trace", None)
    return program
