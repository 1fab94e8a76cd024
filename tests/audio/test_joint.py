"""Tests of the joint front end of several networks, and of the resampling module of exported graphs."""

from __future__ import annotations

import numpy as np
import pytest
import soxr
import torch

from etude.audio.frontend import ImageFront, JointFrontEnd
from etude.audio.frontend_modules import Resampler
from etude.audio.kaldi import EfficientATFront
from etude.audio.log_mel import LogMelChroma, MusicnnFront
from etude.config.instantiate import make
from etude.errors import UserError

FRONT = JointFrontEnd(
    fronts=[MusicnnFront(), EfficientATFront(), LogMelChroma()], columns=[[0, 96], [0, 128], [3, 100]]
)


def test_unpacked_frames_equal_those_of_each_front_end() -> None:
    """Frames of clips of different lengths in one padded batch are equal to those of each front end alone."""
    rng = np.random.default_rng(0)
    clips = [rng.normal(size=n).astype(np.float32) / 8 for n in (96_000, 64_077)]
    packed = [FRONT.view(clip, (0, FRONT.bins)) for clip in clips]
    x = torch.zeros(2, max(map(len, packed)), FRONT.bins, dtype=torch.float16)
    for row, frames in zip(x, packed, strict=True):
        row[: len(frames)] = torch.from_numpy(frames)
    for front, columns, (frames, lengths) in zip(FRONT.fronts, FRONT.columns, FRONT.unpack(x.float()), strict=True):
        for i, clip in enumerate(clips):
            own = clip if front.rate == FRONT.rate else soxr.resample(clip, FRONT.rate, front.rate)
            expected = front.view(own, (columns[0], columns[1])).astype(np.float16).astype(np.float32)
            assert len(expected) == lengths[i]
            np.testing.assert_array_equal(frames[i, : lengths[i]].numpy(), expected)
            assert not frames[i, lengths[i] :].any()


def test_front_end_is_rebuilt_from_plain_values() -> None:
    """The values in a recipe give an equal front end with the rate of the fastest member."""
    assert make(FRONT.to_dict()) == FRONT
    assert (FRONT.rate, FRONT.hop_length) == (32_000, 320)
    assert FRONT.displayed() == FRONT.fronts[1]


def test_frames_that_cannot_be_combined_are_refused() -> None:
    """Images, and beat-synchronous frames at the highest rate, are refused."""
    with pytest.raises(UserError, match="a front end of images cannot be combined"):
        JointFrontEnd(fronts=[ImageFront(), MusicnnFront()], columns=[[0, 24], [0, 96]])
    with pytest.raises(UserError, match="beat-synchronous frames at 22050 Hz cannot be combined"):
        JointFrontEnd(fronts=[LogMelChroma(sync="beat"), MusicnnFront()], columns=[[0, 128], [0, 96]])


@pytest.mark.parametrize(("rate", "new_rate"), [(32_000, 16_000), (48_000, 32_000), (32_000, 22_050)])
def test_resampling_module_equals_soxr(rate: int, new_rate: int) -> None:
    """The samples equal those of soxr, except the first two, also for clips of different lengths in one batch."""
    module = Resampler(rate, new_rate)
    rng = np.random.default_rng(0)
    clips = [rng.normal(size=n).astype(np.float32) for n in (7777, 3001)]
    x = torch.zeros(2, 7777)
    for row, clip in zip(x, clips, strict=True):
        row[: len(clip)] = torch.from_numpy(clip)
    resampled, lengths = module(x).numpy(), module.count(torch.tensor([7777, 3001]))
    for i, clip in enumerate(clips):
        expected = soxr.resample(clip, rate, new_rate)
        assert len(expected) == lengths[i]
        np.testing.assert_allclose(resampled[i, 2 : lengths[i]], expected[2:], atol=1e-5)
