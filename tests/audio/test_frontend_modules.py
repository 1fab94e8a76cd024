"""Tests of front-end modules, whose batched frames equal those of the front end for each clip."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from etude.audio.decode import decode
from etude.audio.frontend import FrontEnd, ImageFront
from etude.audio.frontend_modules import valid
from etude.audio.kaldi import ASTFront, EfficientATFront
from etude.audio.log_mel import LogMelChroma, MusicnnFront
from etude.errors import UserError

FRONTS: list[tuple[FrontEnd, tuple[int, int]]] = [
    (LogMelChroma(), (0, 140)),
    (
        LogMelChroma(rate=16000, n_fft=1000, hop_length=333, n_mels=40, fmin=50, fmax=7000, ref="one", top_db=30),
        (0, 40),
    ),
    (LogMelChroma(tuning=0.2, n_chroma=24), (128, 152)),
    (LogMelChroma(chroma="cqt", tuning=None), (0, 128)),  # the columns do not include chroma
    (ASTFront(), (0, 128)),
    (EfficientATFront(), (0, 128)),
    (MusicnnFront(), (0, 96)),
]


@dataclass(frozen=True)
class Derived(LogMelChroma):
    """User-defined subclass without a module."""


@pytest.mark.parametrize(("front", "columns"), FRONTS, ids=[type(front).__name__ for front, _ in FRONTS])
def test_batched_frames_equal_the_frames_of_each_clip(
    front: FrontEnd, columns: tuple[int, int], clips: list[Path]
) -> None:
    seconds = (10, 4, 0.3, 0.02, 1 / front.rate)
    samples = [decode(path, front.rate)[: max(1, int(n * front.rate))] for path, n in zip(clips, seconds, strict=False)]
    samples[1] = 1e-4 * samples[1]  # levels are relative to each clip
    module, lengths = front.as_module(columns), torch.tensor([len(audio) for audio in samples])
    x = torch.stack([F.pad(torch.from_numpy(s), (0, len(samples[0]) - len(s) + module.room)) for s in samples])
    assert x.shape[1] == lengths[0] + module.room and not x[~valid(lengths, x.shape[1])].any()
    frames, counts = module(x, lengths)
    for audio, computed, count in zip(samples, frames, counts.tolist(), strict=True):
        has_all_bins = not isinstance(front, LogMelChroma) or front.bins == columns[1]
        expected = front.frames(audio)[:, slice(*columns)] if has_all_bins else _mel_frames(front, audio)
        assert count == len(expected)
        np.testing.assert_allclose(computed[:count], expected, atol=2e-3)


@pytest.mark.parametrize(
    ("front", "message"),
    [
        (LogMelChroma(sync="beat"), "beat-synchronous frames"),
        (LogMelChroma(chroma="cqt"), "constant-Q chroma"),
        (LogMelChroma(tuning=None), "a tuning that is estimated for each clip"),
        (ImageFront(), "the front end ImageFront"),
        (Derived(), "the front end Derived"),
    ],
    ids=str,
)
def test_front_end_that_cannot_be_exported_raises(front: FrontEnd, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}.* cannot be part of a graph .* --input frames$"):
        front.as_module((0, front.bins))


def _mel_frames(front: LogMelChroma, audio: np.ndarray) -> np.ndarray:
    """Compute only the mel bands of a front end, because its chroma is slow."""
    return replace(front, chroma="stft", tuning=0.0).frames(audio)[:, : front.n_mels]
