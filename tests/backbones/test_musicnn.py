"""Tests of musicnn, whose stages equal those of the authors' TensorFlow graph on embedded clips."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from etude.audio.decode import decode
from etude.audio.frontend_modules import MaskedBatchNorm
from etude.audio.log_mel import MusicnnFront
from etude.backbones.musicnn import EMBEDDINGS, PATCH, Musicnn
from etude.data.sources.demo import HOME
from etude.embeddings.cache import forward_from_split, forward_to_split
from etude.errors import UserError

REFERENCE = np.load(Path(__file__).with_name("musicnn_reference.npz"))
CLIPS = [str(clip) for clip in REFERENCE["clips"]]
LENGTHS = torch.tensor([700, 1, 3 * PATCH, 186, 400])  # several patches, a short clip, and complete patches only
SIZES = {"penultimate": 200, "mean_pool": 753, "max_pool": 753, "mean_max_pool": 1506}


def pretrained(weights: str, embedding: str = "penultimate") -> Musicnn:
    net = Musicnn(96, weights, embedding)
    net.initialise()
    return net.eval()


def patches_of(clip: str) -> Tensor:
    """Return the first two patches of an embedded clip (2, 187, 96)."""
    frames = MusicnnFront().frames(decode(HOME / "clips" / clip, 16000))[: 2 * PATCH]
    return torch.from_numpy(frames).reshape(2, PATCH, 96)


@pytest.fixture(scope="module", params=["msd", "mtt"])
def net(request: pytest.FixtureRequest) -> Musicnn:
    return pretrained(request.param)


@pytest.fixture(scope="module")
def batch() -> Tensor:
    """Return frames (B, T, 96) of clips with `LENGTHS` frames, with noise as padding."""
    return 3 * torch.rand((len(LENGTHS), int(LENGTHS.max()), 96), generator=torch.Generator().manual_seed(0))


def test_frames_equal_the_reference() -> None:
    np.testing.assert_allclose(patches_of(CLIPS[0])[:1], REFERENCE["patches"], atol=1e-4)


@pytest.mark.parametrize("clip", range(len(CLIPS)), ids=CLIPS)
def test_stages_equal_the_reference(net: Musicnn, clip: int) -> None:
    """Compare the means over time of all convolutions, the maxima, the dense layer and the tags of each patch."""
    expected = {key: REFERENCE[f"{net.weights}.{clip}.{key}"] for key in ("mean_pool", "penultimate", "tags")}
    x, lengths = patches_of(CLIPS[clip]), torch.full((2,), PATCH)
    with torch.no_grad():
        _, *states = [values for values, _ in net.hidden_states(x, lengths)]
        tags = net.tag_probabilities(x, lengths)
        maxima = torch.stack([pretrained(net.weights, "max_pool")(patch[None], lengths[:1])[0] for patch in x])
    timbral, temporal = states[0][..., :408], states[0][..., 408:]
    columns = np.split(expected["mean_pool"], [408, 561, 625, 689], axis=1)
    for stage, column in zip((timbral, temporal, *states[1:4]), columns, strict=True):
        np.testing.assert_allclose(stage.mean(1), column, atol=1e-4)
    np.testing.assert_allclose(states[4][:, 0], expected["penultimate"], atol=1e-4)
    np.testing.assert_allclose(tags, expected["tags"], atol=1e-4)
    # maxima are up to 125, and float32 rounds both networks: the reference differs from float64 by up to 1.3e-4
    np.testing.assert_allclose(maxima, REFERENCE[f"{net.weights}.{clip}.max_pool"], atol=1e-4, rtol=2e-5)


@pytest.mark.parametrize("embedding", ["penultimate", "mean_pool"])
def test_embedding_is_the_mean_over_patches(embedding: str) -> None:
    net, x = pretrained("msd", embedding), patches_of(CLIPS[1]).reshape(1, 2 * PATCH, 96)
    with torch.no_grad():
        z, tags = net(x, torch.tensor([2 * PATCH])), net.tag_probabilities(x, torch.tensor([2 * PATCH]))
    np.testing.assert_allclose(z[0], REFERENCE[f"msd.1.{embedding}"].mean(0), atol=1e-4)
    np.testing.assert_allclose(tags[0], REFERENCE["msd.1.tags"].mean(0), atol=1e-4)


def test_tags_have_the_names_of_the_authors() -> None:
    msd, mtt = Musicnn(96, "msd").tag_names, Musicnn(96, "mtt").tag_names
    assert len(set(msd)) == len(set(mtt)) == 50
    assert (msd[0], msd[-1], mtt[0], mtt[-1]) == ("rock", "happy", "guitar", "choral")
    assert list(Musicnn(96).tag_names) == []


@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_each_clip_of_a_batch_has_the_embedding_of_its_complete_patches(embedding: str, batch: Tensor) -> None:
    net = pretrained("msd", embedding)
    assert net.dim == SIZES[embedding]
    with torch.no_grad():
        z = net(batch, LENGTHS)
        for clip, n, embedded in zip(batch, LENGTHS.tolist(), z, strict=True):
            patches = clip[: max(1, n // PATCH) * PATCH].split(PATCH) if n >= PATCH else [clip[:n]]
            separate = [net(patch[None], torch.tensor([len(patch)]))[0] for patch in patches]
            torch.testing.assert_close(embedded, torch.stack(separate).mean(0), atol=1e-4, rtol=1e-5)


def test_padding_of_several_patches_does_not_change_embedding_and_tags(net: Musicnn, batch: Tensor) -> None:
    other = nn.functional.pad(batch, (0, 0, 0, 500))
    for clip, n in zip(other, LENGTHS.tolist(), strict=True):
        clip[n:] = 1e3
    with torch.no_grad():
        torch.testing.assert_close(net(other, LENGTHS), net(batch, LENGTHS), atol=2e-5, rtol=1e-5)
        results = [net.tag_probabilities(x, LENGTHS) for x in (other, batch)]
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("embedding", ["penultimate", "max_pool"])
def test_split_of_clips_with_several_patches_does_not_change_embedding(embedding: str, batch: Tensor) -> None:
    net = pretrained("msd", embedding)
    with torch.no_grad():
        expected = net(batch, LENGTHS)
        for index in (0, 1, 3, net.steps):
            values, counts = zip(
                *(forward_to_split(net, index, x[None, :n]) for x, n in zip(batch, LENGTHS, strict=True)), strict=True
            )
            z = forward_from_split(net, index, values, torch.tensor(counts))
            torch.testing.assert_close(z, expected, atol=2e-5, rtol=2e-5)


def test_processing_of_all_patches_does_not_change_embedding(net: Musicnn, batch: Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(net.for_export()(batch, LENGTHS), net(batch, LENGTHS), atol=2e-5, rtol=1e-5)


def test_hidden_states_have_the_sizes_and_lengths_of_the_layers(batch: Tensor) -> None:
    net = Musicnn(96).eval()
    with torch.no_grad():
        states = net.hidden_states(batch, LENGTHS)
    assert [values.shape for values, _ in states] == [
        (5, 3 * PATCH, size) for size in (96, 561, 64, 64, 64)
    ] + [(5, 3, 200)]  # fmt: skip
    frames = [3 * PATCH, 1, 3 * PATCH, 186, 2 * PATCH]
    assert [counts.tolist() for _, counts in states] == [*[frames] * 5, [3, 1, 3, 1, 2]]
    assert len(net.layers()) == len(states) - 1
    assert len(Musicnn(96, embedding="mean_pool").hidden_states(batch, LENGTHS)) == 5


def test_training_statistics_exclude_padding(batch: Tensor) -> None:
    """Compare the running statistics with those of a batch of the same patches without padding."""
    torch.manual_seed(0)
    padded = Musicnn(96, embedding="mean_pool").train()
    net = deepcopy(padded)
    padded(batch, torch.tensor([3 * PATCH, 2 * PATCH, 3 * PATCH, PATCH, 2 * PATCH]))
    patches = [batch[i, p * PATCH : (p + 1) * PATCH] for i, n in enumerate((3, 2, 3, 1, 2)) for p in range(n)]
    net(torch.stack(patches), torch.full((11,), PATCH))
    for (name, ours), plain in zip(padded.named_modules(), net.modules(), strict=True):
        if isinstance(ours, MaskedBatchNorm) and isinstance(plain, MaskedBatchNorm):
            torch.testing.assert_close(ours.running_mean, plain.running_mean, msg=lambda m, name=name: f"{name}: {m}")
            torch.testing.assert_close(ours.running_var, plain.running_var, msg=lambda m, name=name: f"{name}: {m}")


def test_weights_are_not_part_of_checkpoints_beyond_the_backbone(net: Musicnn) -> None:
    with torch.no_grad():
        net.tag_probabilities(torch.rand(1, 10, 96), torch.tensor([10]))
    assert not [key for key in net.state_dict() if key.startswith("tags")]
    assert set(net.state_dict()) == set(Musicnn(96).state_dict())
    assert {key.partition(".")[0] for key in pretrained("msd", "max_pool").state_dict()} == {"front", "middle"}


def test_file_with_the_same_names_is_loaded(tmp_path: Path, net: Musicnn, batch: Tensor) -> None:
    save_file(net.state_dict(), tmp_path / "own.safetensors")
    own = Musicnn(96, str(tmp_path / "own.safetensors"))
    own.initialise()
    with torch.no_grad():
        torch.testing.assert_close(own.eval()(batch, LENGTHS), net(batch, LENGTHS), atol=0, rtol=0)
    assert list(own.tag_names) == []
    with pytest.raises(UserError, match=r"own\.safetensors: the file has no classifier of musicnn"):
        own.tag_probabilities(batch, LENGTHS)


def test_other_values_raise(tmp_path: Path, config: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match=r"backbone\.embedding must be one of penultimate, mean_pool, .* got 'mean'"):
        Musicnn(96, embedding="mean")
    with pytest.raises(UserError, match=r"weights=fma: there is no such weights file; set msd, mtt or a file"):
        Musicnn(96, "fma").initialise()
    with pytest.raises(UserError, match=r"weights=msd: the file does not fit a musicnn with 128 bins; use feature=mus"):
        Musicnn(128, "msd").initialise()
    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"other\.safetensors: the file does not fit"):
        Musicnn(96, str(tmp_path / "other.safetensors")).initialise()
    with pytest.raises(UserError, match="random weights have no classifier; set msd, mtt or a file"):
        Musicnn(96).tag_probabilities(torch.rand(1, 10, 96), torch.tensor([10]))
    assert config("backbone=musicnn")["feature"]["front"]["_target_"] == Musicnn.required_front_end
