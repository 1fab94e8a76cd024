"""A graph says what the network says: every backbone of conf/backbone is held to it from the day it is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from etude.audio.decode import decode
from etude.backbones import efficientat
from etude.config.compose import conf_dir
from etude.export import formats
from etude.export.graph import Graph, traced
from etude.export.parity_check import ParityCheck, batch
from etude.inference.model import Model

NAMES = sorted(path.stem for path in (conf_dir() / "backbone").glob("*.yaml"))
SMALL = {  # what the command's own tests export is an LSTM of one direction
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
PLACES = ["backbone=ast", *SMALL["ast"], "backbone.weights=imagenet", "backbone.span=64", "backbone.pool=mean"]
CASES = {name: [f"backbone={name}", *SMALL.get(name, [])] for name in NAMES} | {"ast, places from a table": PLACES}


@dataclass
class Case:
    """A network, its graph, both files of it opened again, and clips that it was tried on."""

    model: Model
    graph: Graph
    says: dict[str, formats.Says]
    trial: ParityCheck


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(
    request: pytest.FixtureRequest,
    stored: Callable[..., Path],
    clips: list[Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Case:
    with pytest.MonkeyPatch.context() as patch:  # its first blocks; the whole takes half a minute to translate
        patch.setattr(efficientat, "LAYERS", efficientat.LAYERS[:4])
        model = Model(stored(*CASES[request.param]))
    graph = Graph(model.network, model.front)
    program, folder = traced(graph), tmp_path_factory.mktemp("graph")
    says = {
        "onnx": formats.onnx(graph, program, {}, folder / "a"),
        "torch": formats.program(graph, program, {}, folder / "b"),
    }
    seconds = (6, 2.5, 0.3, 0.001) if graph.ragged else (6, 4, 3.3)
    sounds = [
        decode(path, model.front.rate)[: round(n * model.front.rate)] for path, n in zip(clips, seconds, strict=False)
    ]
    return Case(model, graph, says, ParityCheck.of(model, sounds))


def test_files_say_what_the_network_says_of_clips_of_any_length(case: Case) -> None:
    for says in case.says.values():
        differences = case.trial.differences(says, case.graph.ragged)
        assert list(differences) == ["embedding", "genre", "valence", "energy"]
        assert max(differences.values()) < 1e-4, differences


def test_what_stands_behind_a_clip_changes_nothing(case: Case) -> None:
    if not case.graph.ragged:
        pytest.skip("its clips have one length")
    x, lengths = batch(case.trial.inputs)
    for says in case.says.values():
        plain = says(x, lengths)
        for row, n in zip(x, lengths, strict=True):
            row[n:] = np.nan
        longer = says(np.pad(x, [(0, 0), (0, 4321)], constant_values=np.inf), lengths)
        for name, value in plain.items():
            np.testing.assert_allclose(longer[name], value, atol=1e-5)


def test_clips_of_another_length_than_a_graph_can_have_are_not_judged(case: Case) -> None:
    if case.graph.ragged:
        pytest.skip("it takes any length")
    short = case.says["onnx"](np.ones((1, case.graph.least - 1), np.float32), np.array([1]))
    assert all(np.isnan(value).all() for value in short.values())


def test_what_is_said_tells_clips_apart(case: Case) -> None:
    z = np.stack([one["embedding"] for one in case.trial.outputs])
    assert np.ptp(z, axis=0).max() > 1e-2
    assert {one["genre"].shape for one in case.trial.outputs} == {(3,)}
    assert {one["energy"].shape for one in case.trial.outputs} == {()}


def test_frames_are_rounded_to_what_packs_hold(model: Model, tmp_path: Path) -> None:
    graph = Graph(model.network, model.front, "frames")
    says = formats.onnx(graph, traced(graph), {}, tmp_path / "m.onnx")
    x = torch.linspace(-79, 0, 40 * 128).reshape(1, 40, 128).half().float().numpy()
    lengths = np.array([40])
    plain = says(x, lengths)["embedding"]
    assert (says(x * (1 + 1e-4), lengths)["embedding"] == plain).all()  # less than half a step of float16
    assert (says(x * (1 + 1e-2), lengths)["embedding"] != plain).any()
