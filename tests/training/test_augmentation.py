"""Tests of masks, random gain and mixup."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from etude.tasks.heads import Linear, Task
from etude.tasks.loss_weighting import WeightedSum
from etude.tasks.targets import Label, Scalar
from etude.training.augmentation import Augment, Mixture

LENGTHS = torch.tensor([100, 37, 1, 64])
BINS = 24
DECIBEL = torch.linspace(0, 0.2, BINS)
NO_MASK = {"time_masks": 0, "frequency_masks": 0}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def hidden(augment: Augment, lengths: Tensor = LENGTHS) -> Tensor:
    """Return the mask (B, T, F), bool, of the frames that are hidden in a batch of ones with ones as padding."""
    out, same, mixture = augment(torch.ones(len(lengths), 100, BINS), lengths, DECIBEL)
    assert torch.equal(same, lengths) and mixture is None
    assert {*out.unique().tolist()} <= {0.0, 1.0}
    return out == 0


def intervals(mask: Tensor) -> list[tuple[int, int]]:
    """Return start and end index of every interval of True in (N,)."""
    edges = torch.diff(mask.int(), prepend=torch.zeros(1, dtype=torch.int), append=torch.zeros(1, dtype=torch.int))
    return list(zip((edges == 1).nonzero()[:, 0].tolist(), (edges == -1).nonzero()[:, 0].tolist(), strict=True))


def test_unmasked_frames_are_unchanged() -> None:
    x = torch.randn(4, 100, BINS)
    out = Augment()(x, LENGTHS, DECIBEL)[0]
    unmasked = out != 0
    assert 0.3 < unmasked.float().mean() < 0.95
    assert torch.equal(out[unmasked], x[unmasked])


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_time_mask_is_inside_the_clip_and_at_most_its_width(share: float) -> None:
    augment = Augment(time_masks=1, time_width=share, frequency_masks=0)
    for _ in range(200):
        for clip, length in zip(hidden(augment), LENGTHS.tolist(), strict=True):
            assert (clip == clip[:, :1]).all()  # all bins of a frame are masked together
            for start, stop in intervals(clip[:, 0]):
                assert stop <= length
                assert stop - start <= share * length


@pytest.mark.parametrize("share", [0.1, 0.2])
def test_frequency_mask_covers_all_frames_and_is_at_most_its_width(share: float) -> None:
    augment = Augment(time_masks=0, frequency_masks=1, frequency_width=share)
    for _ in range(200):
        for clip in hidden(augment):
            assert (clip == clip[:1]).all()
            for start, stop in intervals(clip[0]):
                assert stop - start <= share * BINS


def test_each_clip_has_its_own_masks() -> None:
    augment = Augment(time_masks=3, time_width=0.1, frequency_masks=0)
    lengths = torch.full((500,), 100)
    counts = [len(intervals(clip[:, 0])) for clip in hidden(augment, lengths)]
    assert max(counts) == 3  # fewer if masks touch or have no width
    assert len({tuple(intervals(clip[:, 0])) for clip in hidden(augment, lengths)}) > 400


def test_masks_cover_every_frame_and_bin() -> None:
    frequency = hidden(Augment(0, 1, 0.2, 1, 0.2), torch.full((2000,), 100)).float().mean(0)
    assert frequency.min() > 0
    middle = frequency[30:70, 8:16].mean().item()
    assert middle == pytest.approx(0.2, abs=0.05)  # each mask hides a tenth on average


@pytest.mark.parametrize("augment", [Augment(0, 0, 0.5, 0, 0.5), Augment(0, 2, 0.0, 2, 0.0)])
def test_zero_masks_or_zero_width_change_nothing(augment: Augment) -> None:
    assert not hidden(augment).any()


def test_masks_depend_on_the_seed() -> None:
    masks = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        masks.append(hidden(Augment()))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_gain_shifts_bins_and_keeps_padding() -> None:
    x = torch.randn(400, 50, BINS)
    lengths = torch.randint(1, 51, (400,))
    moved = Augment(gain=6.0, **NO_MASK)(x, lengths, DECIBEL)[0] - x
    level = moved[:, 0, -1] / DECIBEL[-1]
    for change, gain, length in zip(moved, level, lengths.tolist(), strict=True):
        torch.testing.assert_close(change[:length], (gain * DECIBEL).expand(length, -1), atol=1e-5, rtol=0)
        assert not change[length:].any()
    assert level.abs().max() <= 6.001
    assert level.min() < -5 and level.max() > 5


def test_mixture_combines_two_clips_and_has_the_longer_length() -> None:
    x = torch.randn(4, 100, BINS) * (torch.arange(100)[None] < LENGTHS[:, None])[..., None]
    mixed, lengths, mixture = Augment(mixup=1.0, **NO_MASK)(x, LENGTHS, DECIBEL)
    assert mixture is not None
    assert sorted(mixture.partner.tolist()) == [0, 1, 2, 3]
    assert mixture.share.min() >= 0.5 and mixture.share.max() <= 1
    for index in range(4):
        partner, share = int(mixture.partner[index]), float(mixture.share[index])
        torch.testing.assert_close(mixed[index], share * x[index] + (1 - share) * x[partner])
        assert lengths[index] == max(LENGTHS[index], LENGTHS[partner])


def test_mixture_loss_equals_loss_of_mixed_targets() -> None:
    """Compare with cross-entropy of soft labels, and with the gradient of the squared error of a mixed value."""
    label, scalar = Label("genre", {"classes": ["a", "b", "c"]}), Scalar("valence", {"low": 0.0, "high": 1.0})
    task = Task([label, scalar], Linear, WeightedSum, 8)
    z = torch.randn(6, 8)
    y = {"genre": torch.tensor([0, 1, 2, 2, 1, 0]), "valence": torch.rand(6)}
    mixture = Mixture(torch.tensor([3, 2, 5, 1, 0, 4]), 0.5 + 0.5 * torch.rand(6))
    out = task(z)
    _, each = task.loss(mixture.spread(out, mixed=True), mixture.spread(y), mixture.weight)
    share = mixture.share[:, None]
    hot = torch.nn.functional.one_hot(y["genre"], 3).float()
    soft = share * hot + (1 - share) * hot[mixture.partner]
    torch.testing.assert_close(each["genre"], torch.nn.functional.cross_entropy(out["genre"], soft))
    value = mixture.share * y["valence"] + (1 - mixture.share) * y["valence"][mixture.partner]
    mean = ((out["valence"][:, 0] + 0.5 - value) ** 2).mean()
    actual, expected = (
        torch.autograd.grad(loss, out["valence"], retain_graph=True)[0] for loss in (each["valence"], mean)
    )
    torch.testing.assert_close(actual, expected)


def test_missing_label_does_not_affect_the_partner() -> None:
    task = Task([Label("genre", {"classes": ["a", "b"]})], Linear, WeightedSum, 8)
    out = task(torch.randn(2, 8))
    mixture = Mixture(torch.tensor([1, 0]), torch.tensor([0.7, 0.7]))
    y = {"genre": torch.tensor([1, -1])}
    _, each = task.loss(mixture.spread(out, mixed=True), mixture.spread(y), mixture.weight)
    losses = torch.nn.functional.cross_entropy(out["genre"], torch.tensor([1, 1]), reduction="none")
    torch.testing.assert_close(each["genre"], 0.7 * losses[0] + 0.3 * losses[1])


def test_invalid_options_raise() -> None:
    with pytest.raises(ValueError, match=r"augment\.mixup must be at least 0, got -1"):
        Augment(mixup=-1)
    with pytest.raises(ValueError, match=r"augment\.time_width must be in \[0, 1\], got 1\.5"):
        Augment(time_width=1.5)
