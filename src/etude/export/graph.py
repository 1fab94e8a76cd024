"""Graph from waveform to outputs, with LSTMs that can be traced.

So the whole layer is one operation of ours while a graph is made; a file has ONNX's LSTM in its place, or torch's, and
whoever loads it knows nothing of this.
"""

from __future__ import annotations

import operator
from copy import deepcopy
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.audio import frontend_modules
from etude.audio.frontend import FrontEnd
from etude.backbones.base import valid
from etude.errors import UserError
from etude.tasks.targets import module_key

if TYPE_CHECKING:
    from etude.training.learner import Learner


@torch.library.custom_op("etude::lstm", mutates_args=())
def lstm(x: Tensor, h: Tensor, c: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    """States (B, T, H) of an LSTM at every frame of (B, T, C), from first states (1, B, H), with weights as torch's."""
    return torch.lstm(x, (h, c), (w_ih, w_hh, b_ih, b_hh), True, 1, 0.0, False, False, True)[0]


@lstm.register_fake
def _(x: Tensor, h: Tensor, c: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1], w_hh.shape[1])


class Recurrent(nn.Module):
    """An LSTM of one layer and one direction by that operation.

    Args:
        layer: The LSTM.

    Raises:
        UserError: It has more than that, or no biases.
    """

    def __init__(self, layer: nn.LSTM) -> None:
        super().__init__()
        if layer.num_layers > 1 or layer.bidirectional or layer.proj_size or not (layer.bias and layer.batch_first):
            raise UserError("export: an LSTM must be one of batch_first=True, with one layer, one direction and biases")
        self.hidden = layer.hidden_size
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        self.weights = nn.ParameterList(getattr(layer, name) for name in names)
        self.train(layer.training)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Frames (B, T, C) to states (B, T, H)."""
        h, c = (x.new_zeros(1, x.shape[0], self.hidden) for _ in "hc")  # oneDNN writes into both
        return torch.ops.etude.lstm(x, h, c, *self.weights), None


def replaced(module: nn.Module) -> nn.Module:
    """A module all of whose LSTMs, at any depth, are that operation; changed in place."""
    if isinstance(module, nn.LSTM):
        return Recurrent(module)
    for name, part in module.named_children():
        setattr(module, name, replaced(part))
    return module


def restore(program: torch.export.ExportedProgram) -> None:
    """Put torch's own LSTM in the place of the operation, in place, so that a program needs torch alone."""
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


def to_onnx() -> dict[Any, Any]:
    """How ONNX says it: its gates stand in another order, and its time comes before the batch."""
    import onnxscript

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
        self.ears = frontend_modules.frontend_module_of(front, (first, last)) if takes == "waveform" else None
        self.ragged, self.least = backbone.ragged, 1
        if not self.ragged:  # enough for so many frames, whether or not they begin before the clip does
            self.least = backbone.least if self.ears is None else backbone.least * front.hop_length + front.n_fft
        self.room = backbone.least if self.ragged else 0
        self.standardiser, self.backbone = network.standardiser, replaced(deepcopy(backbone))
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
        kind, reason = type(graph.backbone).__name__, " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(
            f"export: the backbone {kind} cannot be made a graph ({reason}); format=safetensors needs none"
        ) from error
    for node in program.graph.nodes:  # lines of source, with the paths of this machine
        node.meta.pop("stack_trace", None)
    return program
