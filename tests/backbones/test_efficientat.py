"""Tests of EfficientAT, including equality with the authors' implementation."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from etude.backbones.efficientat import EfficientAT
from etude.data.datamodule import build_datamodule
from etude.errors import UserError
from etude.files.safe_read import read_tensors
from etude.training.build import build_learner, load_learner

WEIGHTS = Path(os.environ.get("ETUDE_WEIGHTS", "no-weights")) / "efficientat_mn04"


@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="ETUDE_WEIGHTS names no folder with efficientat_mn04")
def test_embeddings_and_probabilities_equal_the_reference() -> None:
    reference = np.load(WEIGHTS / "reference.npz")
    net = EfficientAT(128, weights=str(WEIGHTS / "mn04_as_mAP_432.pt"))
    net.initialise()
    x = torch.from_numpy(reference["logmel"].astype(np.float32)).transpose(1, 2)
    with torch.no_grad():
        z = net.eval()(x, torch.full((len(x),), x.shape[1]))
    np.testing.assert_allclose(z, reference["embedding"], atol=2e-3)  # the reference frames are stored as float16
    published = read_tensors(WEIGHTS / "mn04_as_mAP_432.pt")
    hidden, last = ((published[f"classifier.{i}.weight"], published[f"classifier.{i}.bias"]) for i in (2, 5))
    probabilities = F.linear(F.hardswish(F.linear(z, *hidden)), *last).sigmoid()  # of 527 classes of AudioSet
    np.testing.assert_allclose(probabilities, reference["probability"], atol=1e-3)


def published(net: EfficientAT, path: Path) -> Path:
    """Write the weights in the format of the authors' files, with transposed filters and a classifier."""
    transposed = {k: v.transpose(2, 3) if v.ndim == 4 else v for k, v in net.state_dict().items()}
    torch.save({**transposed, "classifier.5.weight": torch.zeros(527, 512)}, path)
    return path


@pytest.fixture
def trained(tmp_path: Path) -> tuple[EfficientAT, Path]:
    """Return a network with random weights, and its weights file."""
    torch.manual_seed(0)
    net = EfficientAT(128, width=0.25)
    with torch.no_grad():
        for value in net.state_dict().values():
            if value.is_floating_point():
                value += 0.02 * torch.rand_like(value)
    return net.eval(), published(net, tmp_path / "mn.pt")


def test_weights_are_loaded_only_by_initialise(trained: tuple[EfficientAT, Path]) -> None:
    net, path = trained
    other = EfficientAT(128, width=0.25, weights=str(path)).eval()
    assert other.skips_standardisation and not net.skips_standardisation
    x, lengths = torch.randn(2, 90, 128), torch.tensor([90, 33])
    with torch.no_grad():
        assert not torch.allclose(other(x, lengths), net(x, lengths))
        other.initialise()
        torch.testing.assert_close(other(x, lengths), net(x, lengths), atol=0, rtol=0)


def test_other_files_raise(trained: tuple[EfficientAT, Path], tmp_path: Path) -> None:
    _, path = trained
    with pytest.raises(
        UserError, match=r"mn\.pt: the file does not fit an EfficientAT of backbone\.width=0\.4; set the width"
    ):
        EfficientAT(128, width=0.4, weights=str(path)).initialise()
    with pytest.raises(UserError, match="there is no such weights file"):
        EfficientAT(128, weights=str(tmp_path / "none.pt")).initialise()
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(UserError, match=r"text\.pt: cannot be read as weights"):
        EfficientAT(128, weights=str(tmp_path / "text.pt")).initialise()


def data_without_clips(composed: dict[str, Any]) -> Any:
    """Return the data module of a config without reading any clips."""
    data = build_datamodule(composed)
    data.counts = data.evaluation = dict
    data.mean, data.std = torch.zeros(128), torch.ones(128)
    return data


def test_pretrained_weights_use_unstandardised_frames(
    trained: tuple[EfficientAT, Path], config: Callable[..., dict[str, Any]]
) -> None:
    net, path = trained
    composed = config("backbone=efficientat", "backbone.width=0.25", f"backbone.weights={path}")
    data = data_without_clips(composed)
    data.mean, data.std = torch.full((128,), 3.0), torch.full((128,), 2.0)
    learner = build_learner(composed, data)
    x, lengths = torch.randn(1, 70, 128), torch.tensor([70])
    with torch.no_grad():
        torch.testing.assert_close(learner.eval()(x, lengths)[0], net(x, lengths))
    learner = build_learner(config("backbone=efficientat", "backbone.width=0.25"), data)
    assert learner.standardiser.mean.unique().tolist() == [3.0]


def test_other_front_end_raises(trained: tuple[EfficientAT, Path], config: Callable[..., dict[str, Any]]) -> None:
    composed = config("backbone=efficientat", "feature=mel", "backbone.width=0.25", f"backbone.weights={trained[1]}")
    with pytest.raises(UserError, match=r"were trained on the frames of etude\.audio\.kaldi\.EfficientATFront"):
        build_learner(composed, data_without_clips(composed))


def test_checkpoint_loads_without_the_weights_file(
    trained: tuple[EfficientAT, Path], config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    composed = config("backbone=efficientat", "backbone.width=0.25", f"backbone.weights={trained[1]}")
    learner = build_learner(composed, data_without_clips(composed))
    torch.save({"etude": learner.recipe, "state_dict": learner.state_dict()}, tmp_path / "run.ckpt")
    trained[1].unlink()
    again = load_learner(tmp_path / "run.ckpt")
    x, lengths = torch.randn(1, 70, 128), torch.tensor([70])
    with torch.no_grad():
        torch.testing.assert_close(again(x, lengths)[0], learner.eval()(x, lengths)[0], atol=0, rtol=0)
