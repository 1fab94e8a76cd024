"""Outputs of exported graphs equal those of the network, for every backbone in conf/backbone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.backbone_names import WITHOUT_CHECKPOINT

from etude.audio.decode import decode
from etude.backbones import efficientat
from etude.export.export import trace_graph
from etude.export.graph import Graph, PredictFunction, write_onnx, write_program
from etude.export.parity_check import ParityCheck, batch
from etude.inference.model import Model

SMALL_OPTIONS = {  # test_export.py exports a unidirectional LSTM
    "ast": [
        "feature=audioset", "backbone.model=tiny", "backbone.depth=1", "backbone.fstride=16", "backbone.tstride=16",
    ],
    "cnn": ["backbone.channels=[4,8,8]"],
    "efficientat": ["feature=efficientat", "backbone.width=0.1"],
    "lstm": [
        "backbone.hidden=8", "backbone.bidirectional=true", "backbone.readout=attention", "backbone.packed=true",
        "feature=fused", "head=mlp",
    ],
}  # fmt: skip
LEARNED_POSITIONS = [
    "backbone=ast",
    *SMALL_OPTIONS["ast"],
    "backbone.weights=imagenet",
    "backbone.span=64",
    "backbone.pool=mean",
]
CASES = {name: [f"backbone={name}", *SMALL_OPTIONS.get(name, [])] for name in WITHOUT_CHECKPOINT} | {
    "ast, learned positions": LEARNED_POSITIONS
}
QUICK = ("lstm", "ast")  # the others are in the full suite


@dataclass
class Case:
    """Network, its graph, functions that run the exported files, and clips with expected outputs."""

    model: Model
    graph: Graph
    predict: dict[str, PredictFunction]
    check: ParityCheck


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[] if name in QUICK else pytest.mark.full) for name in CASES],
    ids=str,
)
def case(
    request: pytest.FixtureRequest,
    store_checkpoint: Callable[..., Path],
    clips: list[Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Case:
    with pytest.MonkeyPatch.context() as patch:  # the complete network takes half a minute to translate
        patch.setattr(efficientat, "LAYERS", efficientat.LAYERS[:4])
        model = Model(store_checkpoint(*CASES[request.param]))
    graph = Graph(model.network, model.front)
    program, folder = trace_graph(graph), tmp_path_factory.mktemp("graph")
    predict = {
        "onnx": write_onnx(graph, program, {}, folder / "a"),
        "torch": write_program(graph, program, {}, folder / "b"),
    }
    seconds = (6, 2.5, 0.3, 0.001) if graph.variable_length else (6, 4, 3.3)
    samples = [
        decode(path, model.front.rate)[: round(n * model.front.rate)] for path, n in zip(clips, seconds, strict=False)
    ]
    return Case(model, graph, predict, ParityCheck.from_model(model, samples))


def test_outputs_of_files_equal_those_of_network(case: Case) -> None:
    for predict in case.predict.values():
        differences = case.check.differences(predict, case.graph.variable_length)
        assert list(differences) == ["embedding", "genre", "valence", "energy"]
        assert max(differences.values()) < 1e-4, differences


def test_padding_does_not_change_outputs(case: Case) -> None:
    if not case.graph.variable_length:
        pytest.skip("all clips of a batch must have the same length")
    x, lengths = batch(case.check.inputs)
    for predict in case.predict.values():
        expected = predict(x, lengths)
        for row, n in zip(x, lengths, strict=True):
            row[n:] = np.nan
        padded = predict(np.pad(x, [(0, 0), (0, 4321)], constant_values=np.inf), lengths)
        for name, value in expected.items():
            np.testing.assert_allclose(padded[name], value, atol=1e-5)


def test_outputs_of_too_short_clip_are_nan(case: Case) -> None:
    if case.graph.variable_length:
        pytest.skip("clips can have any length")
    outputs = case.predict["onnx"](np.ones((1, case.graph.min_length - 1), np.float32), np.array([1]))
    assert all(np.isnan(value).all() for value in outputs.values())


def test_outputs_differ_between_clips(case: Case) -> None:
    z = np.stack([outputs["embedding"] for outputs in case.check.outputs])
    assert np.ptp(z, axis=0).max() > 1e-2
    assert {outputs["genre"].shape for outputs in case.check.outputs} == {(3,)}
    assert {outputs["energy"].shape for outputs in case.check.outputs} == {()}


def test_frames_are_rounded_to_float16_as_in_packs(model: Model, tmp_path: Path) -> None:
    graph = Graph(model.network, model.front, "frames")
    predict = write_onnx(graph, trace_graph(graph), {}, tmp_path / "m.onnx")
    x = torch.linspace(-79, 0, 40 * 128).reshape(1, 40, 128).half().float().numpy()
    lengths = np.array([40])
    expected = predict(x, lengths)["embedding"]
    assert (predict(x * (1 + 1e-4), lengths)["embedding"] == expected).all()  # less than half a step of float16
    assert (predict(x * (1 + 1e-2), lengths)["embedding"] != expected).any()
