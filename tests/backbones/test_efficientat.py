"""Tests of EfficientAT, including equality with the authors' implementation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from etude.audio.decode import decode
from etude.audio.kaldi import EfficientATFront
from etude.backbones.base import find_weights_file
from etude.backbones.efficientat import EfficientAT
from etude.data.datamodule import build_datamodule
from etude.data.sources.demo import HOME
from etude.errors import UserError
from etude.files.safe_read import read_tensors
from etude.training.build import build_learner, load_learner

REFERENCE = np.load(Path(__file__).with_name("efficientat_reference.npz"))  # outputs of the authors' implementation


@pytest.fixture(scope="module")
def pretrained() -> EfficientAT:
    net = EfficientAT(128, weights="mn04_as")
    net.initialise()
    return net.eval()


@pytest.mark.parametrize("clip", range(len(REFERENCE["clips"])), ids=REFERENCE["clips"])
def test_embeddings_and_probabilities_equal_the_reference(pretrained: EfficientAT, clip: int) -> None:
    """Compute frames, embedding and probabilities of an embedded clip."""
    audio = decode(HOME / "clips" / str(REFERENCE["clips"][clip]), 32000)
    x = torch.from_numpy(EfficientATFront().frames(audio))[None]
    lengths = torch.tensor([x.shape[1]])
    with torch.no_grad():
        z, probabilities = pretrained(x, lengths)[0], pretrained.tag_probabilities(x, lengths)[0]
    np.testing.assert_allclose(z, REFERENCE["embedding"][clip], atol=1e-4)
    np.testing.assert_allclose(probabilities, REFERENCE["probability"][clip], atol=1e-5)


def test_classes_are_those_of_audioset(pretrained: EfficientAT) -> None:
    names = list(pretrained.tag_names)
    assert len(names) == len(set(names)) == 527
    assert names.index("Music") == 137 and names.index("Heavy metal") == 220 and names[526] == "Field recording"
    assert names[0:527:75] == [
        "Speech", "Bark", "Zither", "Psychedelic rock", "Vehicle", "Toothbrush", "Trickle, dribble", "Radio"
    ]  # fmt: skip
    metal = next(i for i, clip in enumerate(REFERENCE["clips"]) if clip.startswith("metal"))
    likely = [names[index] for index in np.argsort(REFERENCE["probability"][metal])[::-1][:5]]
    assert likely[0] == "Music" and "Heavy metal" in likely


def test_classifier_is_not_part_of_the_network(pretrained: EfficientAT) -> None:
    with torch.no_grad():
        pretrained.tag_probabilities(torch.rand(1, 70, 128), torch.tensor([70]))
    assert set(pretrained.state_dict()) == set(EfficientAT(128).state_dict())
    assert len(list(pretrained.parameters())) == sum(len(list(layer.parameters())) for layer in pretrained.layers())


def test_embedded_weights_of_another_width_raise() -> None:
    with pytest.raises(UserError, match=r"backbone\.width=1: backbone\.weights=mn04_as has width 0\.4; set backbone\."):
        EfficientAT(128, width=1.0, weights="mn04_as")


def test_published_file_with_the_classes_of_audioset_has_their_names(pretrained: EfficientAT, tmp_path: Path) -> None:
    tensors = read_tensors(find_weights_file("mn04_as", EfficientAT.embedded_weights))
    torch.save(tensors, tmp_path / "mn04_as_mAP_432.pt")
    net = EfficientAT(128, weights=str(tmp_path / "mn04_as_mAP_432.pt"))
    net.initialise()
    assert net.tag_names == pretrained.tag_names
    x, lengths = torch.rand(2, 70, 128), torch.tensor([70, 20])
    with torch.no_grad():
        torch.testing.assert_close(net.eval().tag_probabilities(x, lengths), pretrained.tag_probabilities(x, lengths))


def published(net: EfficientAT, path: Path) -> Path:
    """Write the weights in the format of the authors' files, with transposed filters and a classifier."""
    transposed = {k: v.transpose(2, 3) if v.ndim == 4 else v for k, v in net.state_dict().items()}
    torch.save({**transposed, "classifier.5.weight": torch.zeros(527, 512)}, path)  # without the other layers
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
    with pytest.raises(
        UserError, match=r"weights=mn05: there is no such weights file; set mn04_as, mn01_as, .* or a file"
    ):
        EfficientAT(128, weights="mn05").initialise()
    with pytest.raises(UserError, match="there is no such weights file"):
        EfficientAT(128, weights=str(tmp_path / "none.pt")).initialise()
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(UserError, match=r"text\.pt: cannot be read as weights"):
        EfficientAT(128, weights=str(tmp_path / "text.pt")).initialise()
    with pytest.raises(UserError, match=r"mn\.pt: the file has no classifier; set backbone\.weights=mn04_as"):
        EfficientAT(128, width=0.25, weights=str(path)).tag_probabilities(torch.rand(1, 9, 128), torch.tensor([9]))
    with pytest.raises(UserError, match=r"backbone\.weights=null: random weights have no classifier"):
        EfficientAT(128).tag_probabilities(torch.rand(1, 9, 128), torch.tensor([9]))


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
