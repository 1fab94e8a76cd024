"""Frames are librosa's, for every setting and for clips shorter than a window."""

from __future__ import annotations

import librosa
import numpy as np
import pytest

from etude.audio.decode import decode
from etude.audio.spectral import FrontEnd, frames
from etude.data.sources.demo import HOME

CLIPS = [sorted((HOME / "clips" / genre).iterdir())[0] for genre in ("electronic", "metal", "orchestral")]
FRONTS = [
    FrontEnd(rate=16000, n_fft=1024, hop_length=160, n_mels=64, fmin=50.0, fmax=7000.0),
    FrontEnd(rate=44100, n_fft=4096, hop_length=1024, n_mels=96, n_chroma=24, top_db=40.0),
    FrontEnd(n_fft=2000, hop_length=441, ref="one", tuning=0.3),
]


def twin(audio: np.ndarray, front: FrontEnd) -> np.ndarray:
    """The same frames (T, F) by librosa, in two passes."""
    shared = {"y": audio, "sr": front.rate, "n_fft": front.n_fft, "hop_length": front.hop_length}
    mel = librosa.feature.melspectrogram(**shared, n_mels=front.n_mels, fmin=front.fmin, fmax=front.fmax)
    decibels = librosa.power_to_db(mel, ref=np.max if front.ref == "max" else 1.0, top_db=front.top_db)
    chroma = librosa.feature.chroma_stft(**shared, n_chroma=front.n_chroma, tuning=front.tuning)
    return np.concatenate([decibels, chroma]).T


def assert_librosas(audio: np.ndarray, front: FrontEnd) -> None:
    made, expected = frames(audio, front), twin(audio, front)
    assert made.dtype == np.float32
    assert made.shape == expected.shape == (1 + len(audio) // front.hop_length, front.n_mels + front.n_chroma)
    np.testing.assert_allclose(made[:, : front.n_mels], expected[:, : front.n_mels], atol=1e-3, rtol=0)
    np.testing.assert_allclose(made[:, front.n_mels :], expected[:, front.n_mels :], atol=1e-5, rtol=0)


@pytest.mark.parametrize("path", CLIPS, ids=lambda path: path.parent.name)
def test_equals_librosa(path) -> None:
    assert_librosas(decode(path, 22050), FrontEnd())


@pytest.mark.parametrize("front", FRONTS, ids=lambda front: f"{front.rate}-{front.n_fft}-{front.ref}")
def test_equals_librosa_with_other_settings(front: FrontEnd) -> None:
    assert_librosas(decode(CLIPS[0], front.rate), front)


@pytest.mark.filterwarnings("ignore:n_fft=")
@pytest.mark.parametrize("count", [1, 2, 511, 512, 1025, 2047])
def test_equals_librosa_on_clips_shorter_than_a_window(count: int) -> None:
    assert_librosas(decode(CLIPS[2], 22050)[60_000:][:count], FrontEnd())


@pytest.mark.parametrize("count", [128 * 512 - 1, 128 * 512, 256 * 512 - 1])
def test_a_block_is_no_border(count: int) -> None:
    assert_librosas(decode(CLIPS[1], 22050)[:count], FrontEnd())


@pytest.mark.parametrize(("ref", "level"), [("max", 0.0), ("one", -100.0)])
def test_silence_is_finite(ref: str, level: float) -> None:
    made = frames(np.zeros(22050, np.float32), FrontEnd(ref=ref))
    np.testing.assert_array_equal(made[:, :128], level)
    np.testing.assert_array_equal(made[:, 128:], 0.0)


def test_mel_spans_the_dynamic_range_and_chroma_peaks_at_one() -> None:
    made = frames(decode(CLIPS[1], 22050), FrontEnd(top_db=30.0))
    mel, chroma = made[:, :128], made[:, 128:]
    assert mel.max() == 0.0
    assert mel.min() == -30.0
    assert chroma.min() >= 0.0
    np.testing.assert_array_equal(chroma.max(axis=1), 1.0)


def test_the_samples_are_left_as_they_were() -> None:
    audio = decode(CLIPS[0], 22050)[:4096]
    before = audio.copy()
    frames(audio, FrontEnd())
    np.testing.assert_array_equal(audio, before)


@pytest.mark.parametrize("shape", [(), (0,), (2, 22050), (22050, 1)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"audio must be \(N,\) with N > 0, got \("):
        frames(np.zeros(shape, np.float32), FrontEnd())


def test_an_unknown_reference_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ref.*median"):
        FrontEnd(ref="median")
