"""Networks of all heads, read-outs and experiments can be exported, and the files have equal outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.inference.conftest import EVALUATION, build_recipe
from torch import Tensor, nn

from etude.backbones import efficientat
from etude.config.compose import conf_dir
from etude.config.instantiate import make
from etude.errors import UserError
from etude.export.export import trace_graph
from etude.export.graph import Graph, write_onnx
from etude.training.build import build_from_recipe
from etude.training.learner import Learner

Config = Callable[..., dict[str, Any]]
CNN = ["backbone=cnn", "backbone.channels=[4,8,8]"]
LSTM = ["backbone=lstm", "backbone.hidden=8"]
AST = ["backbone=ast", "backbone.depth=2", "backbone.fstride=16", "backbone.tstride=16"]
EXPERIMENTS = sorted(
    path.relative_to(conf_dir() / "experiment").with_suffix("").as_posix()
    for path in (conf_dir() / "experiment").rglob("*.yaml")
    if path.parent.name != "base"
)
FULL = pytest.mark.full
CASES = [
    pytest.param(
        [*CNN, "head.norm=true", "readout.layers=[0,2,-1]", "readout.pooling=mean_std"], id="norm, mean_std", marks=FULL
    ),
    pytest.param([*AST, "readout.layers=all", "readout.pooling=mean_max", "readout.combine=weighted"], id="weighted"),
    pytest.param(["experiment=small"], id="small", marks=FULL),
    pytest.param(["backbone=timm", "readout.layers=[1,-1]", "readout.pooling=mean_std"], id="timm", marks=FULL),
    pytest.param([*CNN, "head=mlp"], id="mlp", marks=FULL),
    pytest.param([*CNN, "head.norm=true", "head.dropout=0.5"], id="linear", marks=FULL),
    pytest.param([*LSTM, "backbone.bidirectional=true", "readout.layers=all"], id="lstm, all", marks=FULL),
    pytest.param([*LSTM, "readout.layers=[1,2]", "readout.combine=weighted"], id="lstm, weighted", marks=FULL),
    pytest.param([*CNN, "readout.layers=all", "readout.pooling=mean_max"], id="cnn, all", marks=FULL),
    pytest.param([*AST, "readout.layers=last"], id="ast, last", marks=FULL),
    pytest.param(["backbone=convnet", "readout.layers=all"], id="convnet, all", marks=FULL),
    pytest.param(
        ["backbone=efficientat", "readout.layers=all", "readout.pooling=mean_std"], id="efficientat, all", marks=FULL
    ),
]


def network_of(config: Config, *overrides: str) -> Learner:
    """Return an untrained network in evaluation mode, with three targets and without standardisation."""
    torch.manual_seed(0)
    network = build_from_recipe(build_recipe(config, EVALUATION, *overrides)).eval()
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2.0)
            elif name.endswith(("running_mean", "readout.weights")):
                value += torch.randn_like(value)
    return network


def graph_of(network: Learner) -> Graph:
    """Return the graph of a network from frames."""
    return Graph(network, make(network.recipe["front"]), "frames")


def check_outputs(network: Learner, path: Path) -> None:
    """Export a network, and compare the outputs for a batch of another size than the example of the graph."""
    graph = graph_of(network)
    predict = write_onnx(graph, trace_graph(graph), {}, path)
    x = torch.randn(4, 200, network.recipe["bins"]).half().float()
    lengths = torch.tensor([200, 1, 150, 57] if graph.variable_length else [200] * 4)
    with torch.no_grad():
        z, out = network(x, lengths)
    expected = {"embedding": z, **network.task.predict(out)}
    outputs = predict(x.numpy(), lengths.numpy())
    assert list(outputs) == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(outputs[name], value, atol=1e-4, rtol=1e-3, err_msg=name)
    assert z.std(0).max() > 1e-3


@pytest.mark.parametrize("overrides", CASES)
def test_outputs_of_exported_network_are_equal(
    config: Config, overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(efficientat, "LAYERS", efficientat.LAYERS[:4])  # the translation of all takes half a minute
    check_outputs(network_of(config, *overrides), tmp_path / "model.onnx")


@pytest.mark.full
def test_network_of_every_experiment_can_be_exported(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Export one network of each structure. All blocks of a network are equal, so two of them are exported."""
    monkeypatch.setattr(efficientat, "LAYERS", efficientat.LAYERS[:4])
    exported: set[str] = set()
    for name in EXPERIMENTS:
        shorter = {"AST": "backbone.depth=2", "LSTM": "backbone.hidden=8"}
        kind = config(f"experiment={name}")["backbone"]["_target_"].rpartition(".")[2]
        network = network_of(config, f"experiment={name}", *([shorter[kind]] if kind in shorter else []))
        structure = str(network)  # all modules with their sizes
        if structure not in exported:
            check_outputs(network, tmp_path / f"{len(exported)}.onnx")
        exported.add(structure)
    assert len(exported) > 3


class Unsupported(nn.Module):
    """Part of a head with an operation that a graph or ONNX does not support."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, z: Tensor) -> Tensor:
        if self.kind == "size":
            return z / len(z)  # a size as a number of Python
        if self.kind == "value":
            return z if float(z.sum()) > 0 else -z
        return torch.special.bessel_j0(z)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("size", r"cannot be exported as a graph \(.*batch.*\); use --format safetensors$"),
        ("value", r"cannot be exported as a graph \(.+\); use --format safetensors$"),
        ("operation", r"cannot be exported as ONNX \(.*bessel_j0.*\); use --format torch$"),
    ],
)
def test_error_names_the_module_that_cannot_be_exported(
    config: Config, kind: str, message: str, tmp_path: Path
) -> None:
    network = network_of(config, *CNN)
    network.task.heads["energy"].layers[0] = Unsupported(kind)
    graph = graph_of(network)
    with pytest.raises(UserError, match=rf"^export: heads\.energy\.layers\.0 \(Unsupported\) {message}"):
        write_onnx(graph, trace_graph(graph), {}, tmp_path / "model.onnx")
    assert not any(tmp_path.iterdir())
