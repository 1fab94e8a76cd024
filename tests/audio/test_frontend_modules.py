"""The front end of a graph is the front end: frames of a batch against those of each clip alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from etude.audio.decode import decode
from etude.audio.frontend import FrontEnd, ImageFront
from etude.audio.kaldi import ASTFront, EfficientATFront
from etude.audio.log_mel import LogMelChroma
from etude.audio.masks import valid
from etude.errors import UserError

FRONTS: list[tuple[FrontEnd, tuple[int, int]]] = [
    (LogMelChroma(), (0, 140)),
    (
        LogMelChroma(rate=16000, n_fft=1000, hop_length=333, n_mels=40, fmin=50, fmax=7000, ref="one", top_db=30),
        (0, 40),
    ),
    (LogMelChroma(tuning=0.2, n_chroma=24), (128, 152)),
    (LogMelChroma(chroma="cqt", tuning=None), (0, 128)),  # neither is in the view
    (ASTFront(), (0, 128)),
    (EfficientATFront(), (0, 128)),
]


@dataclass(frozen=True)
class Mine(LogMelChroma):
    """Of somebody who derives from ours, and may do anything."""


@pytest.mark.parametrize(("front", "columns"), FRONTS, ids=[type(front).__name__ for front, _ in FRONTS])
def test_frames_of_a_batch_are_those_of_each_clip(front: FrontEnd, columns: tuple[int, int], clips: list[Path]) -> None:
    seconds = (10, 4, 0.3, 0.02, 1 / front.rate)
    sounds = [decode(path, front.rate)[: max(1, int(n * front.rate))] for path, n in zip(clips, seconds, strict=False)]
    sounds[1] = 1e-4 * sounds[1]  # each is measured against itself
    hears, lengths = front.as_module(columns), torch.tensor([len(sound) for sound in sounds])
    x = torch.stack([F.pad(torch.from_numpy(one), (0, len(sounds[0]) - len(one) + hears.room)) for one in sounds])
    assert x.shape[1] == lengths[0] + hears.room and not x[~valid(lengths, x.shape[1])].any()
    frames, counts = hears(x, lengths)
    for sound, found, count in zip(sounds, frames, counts.tolist(), strict=True):
        whole = not isinstance(front, LogMelChroma) or front.bins == columns[1]
        true = front.frames(sound)[:, slice(*columns)] if whole else _mel(front, sound)
        assert count == len(true)
        np.testing.assert_allclose(found[:count], true, atol=2e-3)


@pytest.mark.parametrize(
    ("front", "said"),
    [
        (LogMelChroma(sync="beat"), "beat-synchronous frames"),
        (LogMelChroma(chroma="cqt"), "constant-Q chroma"),
        (LogMelChroma(tuning=None), "a tuning that is estimated for each clip"),
        (ImageFront(), "the front end ImageFront"),
        (Mine(), "the front end Mine"),
    ],
    ids=str,
)
def test_what_no_graph_can_do_is_refused(front: FrontEnd, said: str) -> None:
    with pytest.raises(UserError, match=f"^{said}.* cannot be part of a graph .* input=frames$"):
        front.as_module((0, front.bins))


def _mel(front: LogMelChroma, sound: np.ndarray) -> np.ndarray:
    """Mel bands of a front end, whose chroma takes a while."""
    return replace(front, chroma="stft", tuning=0.0).frames(sound)[:, : front.n_mels]
