"""LSTMs in graphs of any length: torch's own tracing writes one step for each frame of its example.

So the whole layer is one operation of ours while a graph is made; a file has ONNX's LSTM in its place, or torch's, and
whoever loads it knows nothing of this.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, nn

from etude.errors import UserError


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
