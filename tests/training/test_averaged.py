"""Tests of the averaged network of several members."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.inference.conftest import EVALUATION, build_recipe

from etude.errors import UserError
from etude.export.export import ExportOptions, export_network
from etude.export.graph import open_onnx
from etude.inference.model import Model
from etude.inference.windows import Window
from etude.runs.folder import find_weights
from etude.training.averaged import averaged_recipe
from etude.training.build import load_learner
from etude.training.network import Network, build_network, member_networks
from etude.training.transfer import Transfer

Compose = Callable[..., dict[str, Any]]
MUSICNN = ("backbone=musicnn", "backbone.weights=null")
MEL = ("backbone=lstm", "backbone.hidden=8")


def averaged_network(recipes: list[dict[str, Any]], weights: dict[str, list[float]] | None = None) -> Network:
    """Return an averaged network with random weights in evaluation mode."""
    torch.manual_seed(0)
    network = build_network(averaged_recipe(recipes, weights))
    for name, value in network.state_dict().items():
        if name.endswith("standardiser.mean") and name.startswith("backbone"):
            value.fill_(-20.0)
        elif name.endswith("standardiser.std") and name.startswith("backbone"):
            value.fill_(10.0)
    return network.eval()


@pytest.fixture(scope="module")
def recipes(config: Compose) -> list[dict[str, Any]]:
    """Return the recipes of a network on mel frames at 22 kHz, and of musicnn at 16 kHz."""
    return [
        build_recipe(config, EVALUATION, *MEL),
        build_recipe(config, EVALUATION | {"frames": 626, "longest": 626}, *MUSICNN),
    ]


@pytest.fixture(scope="module")
def checkpoint(recipes: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checkpoint of an averaged network on two front ends, with weights for one target."""
    network = averaged_network(recipes, {"genre": [0.25, 0.75]})
    path = tmp_path_factory.mktemp("averaged") / "best.ckpt"
    torch.save({"state_dict": network.state_dict(), "etude": network.recipe, "epoch": 0}, path)
    return path


def test_network_is_weighted_mean_of_members(checkpoint: Path, clips: list[Path]) -> None:
    """Each member receives its own frames, and probabilities and values are averaged, not outputs."""
    from etude.audio.decode import decode

    model = Model(checkpoint, "cpu")
    samples = decode(clips[0], model.front.rate)
    frames = model.front.view(samples, (0, model.front.bins)).astype(np.float16)
    ((z, out),) = model.predict([Window(0.0, 0.0, [frames])])
    values = model.columns.split_by_target(model.values(out))
    unpacked = model.front.unpack(torch.from_numpy(frames)[None].float())  # type: ignore[attr-defined]
    with torch.inference_mode():
        own = [network(x, n) for network, (x, n) in zip(member_networks(model.network), unpacked, strict=True)]
        means = [network.task.predict(o) for network, (_, o) in zip(member_networks(model.network), own, strict=True)]
    np.testing.assert_allclose(z, torch.cat([embedding for embedding, _ in own], 1)[0], rtol=1e-5)
    np.testing.assert_allclose(values["genre"], (0.25 * means[0]["genre"] + 0.75 * means[1]["genre"])[0], rtol=1e-5)
    np.testing.assert_allclose(values["energy"], (means[0]["energy"] + means[1]["energy"]) / 2, rtol=1e-5)


@pytest.mark.full
def test_onnx_graph_equals_mean(checkpoint: Path, clips: list[Path], tmp_path: Path) -> None:
    """One graph from the waveform equals the mean of the members, for clips of different lengths."""
    from etude.export.parity_check import ParityCheck, load_clips

    export_network(ExportOptions(checkpoint, ["onnx", "safetensors"], out=tmp_path / "export"))
    model = Model(checkpoint, "cpu")
    check = ParityCheck.from_model(model, load_clips(clips, model.front, model.plan(), 1))
    differences = check.differences(open_onnx(tmp_path / "export" / "model.onnx"), variable_length=True)
    assert max(differences.values()) < 1e-4
    assert Model(find_weights(tmp_path / "export"), "cpu").network.recipe["weights"] == {"genre": [0.25, 0.75]}
    with pytest.raises(UserError, match="use --input waveform"):
        export_network(ExportOptions(checkpoint, ["onnx"], "frames", tmp_path / "other"))


def test_padding_has_no_influence(checkpoint: Path) -> None:
    """A short clip has the same outputs alone and beside a longer clip."""
    model = Model(checkpoint, "cpu")
    rng = np.random.default_rng(0)
    clips = [rng.normal(size=n).astype(np.float32) / 8 for n in (100_000, 60_001)]
    windows = [Window(0.0, 0.0, [model.front.view(clip, (0, model.front.bins)).astype(np.float16)]) for clip in clips]
    together, alone = model._predict(windows)[1], model._predict(windows[1:])[0]
    np.testing.assert_allclose(together[0], alone[0], rtol=1e-4, atol=1e-5)


def test_ensemble_is_loaded_but_not_copied_into_another_network(checkpoint: Path, config: Compose) -> None:
    """Python can load the network, and transfer refuses it."""
    learner = load_learner(checkpoint)
    assert len(learner.recipe["members"]) == 2
    network = build_network(build_recipe(config, EVALUATION, *MEL))
    with pytest.raises(UserError, match="is an ensemble; name the run of one of its members"):
        Transfer(init_from=str(checkpoint)).apply(network.backbone, network.standardiser)


def test_members_with_different_crops_are_refused(recipes: list[dict[str, Any]]) -> None:
    """Crops of packed frames, and different numbers of crops, are refused."""
    cropped = recipes[0] | {"evaluation": EVALUATION | {"crops": 3, "crop": 100}}
    with pytest.raises(UserError, match=r"members with one data\.eval_crops"):
        averaged_recipe([recipes[0], cropped])
    with pytest.raises(UserError, match=r"needs data\.eval_crops=null"):
        averaged_recipe([cropped, recipes[1]])
