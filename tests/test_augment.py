"""SpecAugment hides bands and stretches of each clip's own, no wider than it was told, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from etude.augment import SpecAugment

LENGTHS = torch.tensor([100, 37, 1, 64])
BINS = 24


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def hidden(augment: SpecAugment, lengths: Tensor = LENGTHS) -> Tensor:
    """What is hidden of a batch that is 1 everywhere, padding too: (B, T, F) bool."""
    out = augment(torch.ones(len(lengths), 100, BINS), lengths)
    assert {*out.unique().tolist()} <= {0.0, 1.0}
    return out == 0


def runs(line: Tensor) -> list[tuple[int, int]]:
    """First and last place of every stretch of True in (N,)."""
    edges = torch.diff(line.int(), prepend=torch.zeros(1, dtype=torch.int), append=torch.zeros(1, dtype=torch.int))
    return list(zip((edges == 1).nonzero()[:, 0].tolist(), (edges == -1).nonzero()[:, 0].tolist(), strict=True))


def test_what_is_not_hidden_is_as_it_was() -> None:
    x = torch.randn(4, 100, BINS)
    out = SpecAugment()(x, LENGTHS)
    kept = out != 0
    assert 0.3 < kept.float().mean() < 0.95
    assert torch.equal(out[kept], x[kept])


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_a_stretch_lies_within_its_clip_and_is_no_longer_than_its_share(share: float) -> None:
    augment = SpecAugment(time_masks=1, time_width=share, frequency_masks=0)
    for _ in range(200):
        for clip, length in zip(hidden(augment), LENGTHS.tolist(), strict=True):
            assert (clip == clip[:, :1]).all()  # all bins of a frame together
            for start, stop in runs(clip[:, 0]):
                assert stop <= length
                assert stop - start <= share * length


@pytest.mark.parametrize("share", [0.1, 0.2])
def test_a_band_runs_through_the_whole_clip_and_is_no_wider_than_its_share(share: float) -> None:
    augment = SpecAugment(time_masks=0, frequency_masks=1, frequency_width=share)
    for _ in range(200):
        for clip in hidden(augment):
            assert (clip == clip[:1]).all()
            for start, stop in runs(clip[0]):
                assert stop - start <= share * BINS


def test_there_are_as_many_masks_as_asked_for_and_each_clip_has_its_own() -> None:
    augment = SpecAugment(time_masks=3, time_width=0.1, frequency_masks=0)
    lengths = torch.full((500,), 100)
    counts = [len(runs(clip[:, 0])) for clip in hidden(augment, lengths)]
    assert max(counts) == 3  # fewer where they touch or where one has no width
    assert len({tuple(runs(clip[:, 0])) for clip in hidden(augment, lengths)}) > 400


def test_every_frame_and_every_bin_is_hidden_now_and_then() -> None:
    often = hidden(SpecAugment(1, 0.2, 1, 0.2), torch.full((2000,), 100)).float().mean(0)
    assert often.min() > 0
    middle = often[30:70, 8:16].mean().item()
    assert middle == pytest.approx(0.2, abs=0.05)  # each mask hides a tenth on average


@pytest.mark.parametrize("augment", [SpecAugment(0, 0.5, 0, 0.5), SpecAugment(2, 0.0, 2, 0.0)])
def test_no_mask_or_no_width_hides_nothing(augment: SpecAugment) -> None:
    assert not hidden(augment).any()


def test_a_seed_is_a_mask() -> None:
    masks = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        masks.append(hidden(SpecAugment()))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
