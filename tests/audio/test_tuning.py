"""The estimate of a recording's tuning is librosa's, from a spectrum that librosa need not compute again."""

from __future__ import annotations

from pathlib import Path

import librosa
import numpy as np
import pytest

from etude.audio.decode import decode
from etude.audio.frontend import spectrum
from etude.audio.log_mel import LogMelChroma, estimate
from etude.data.sources.demo import HOME

CLIPS = sorted((HOME / "clips").glob("*/*.ogg"))[::14]
SETTINGS = [(22050, 2048, 12), (16000, 1024, 12), (44100, 4096, 24), (48000, 2000, 36), (8000, 2048, 12)]


def librosas(audio: np.ndarray, n_fft: int) -> np.ndarray:
    return (np.abs(librosa.stft(audio, n_fft=n_fft, hop_length=512)) ** 2).T


def twin(power: np.ndarray, rate: int, n_chroma: int) -> float:
    return librosa.estimate_tuning(S=power.T, sr=rate, n_fft=2 * (power.shape[1] - 1), bins_per_octave=n_chroma)


def ours(audio: np.ndarray, rate: int, n_fft: int, n_chroma: int) -> float:
    return estimate(spectrum(audio, LogMelChroma(rate, n_fft)).numpy(), rate, n_chroma)


@pytest.mark.parametrize("path", CLIPS, ids=lambda path: path.stem)
def test_the_estimate_is_librosas(path: Path) -> None:
    audio = decode(path, 22050)
    assert ours(audio, *SETTINGS[0]) == twin(librosas(audio, 2048), 22050, 12)


def test_the_clips_are_not_all_in_tune() -> None:
    """Or the test above says nothing."""
    assert len({ours(decode(path, 22050), *SETTINGS[0]) for path in CLIPS}) > 5


@pytest.mark.parametrize(("rate", "n_fft", "n_chroma"), SETTINGS)
def test_the_estimate_is_librosas_with_other_settings(rate: int, n_fft: int, n_chroma: int) -> None:
    for path in CLIPS[::6]:
        audio = decode(path, rate)
        assert ours(audio, rate, n_fft, n_chroma) == twin(librosas(audio, n_fft), rate, n_chroma)


@pytest.mark.parametrize("deviation", [-0.45, -0.2, 0.0, 0.1, 0.3])
def test_a_chord_that_is_out_of_tune_says_by_how_much(deviation: float) -> None:
    """By the definition of a semitone, without librosa."""
    time = np.arange(22050 * 2) / 22050
    pitches = 440.0 * 2 ** ((np.array([0, 4, 7, 12]) + deviation) / 12)
    audio = np.sin(2 * np.pi * pitches[:, None] * time).sum(0).astype(np.float32) / 4
    assert ours(audio, 22050, 4096, 12) == pytest.approx(deviation, abs=0.031)  # bins are 5.4 Hz wide


@pytest.mark.filterwarnings("ignore:Trying to estimate tuning from empty")
@pytest.mark.parametrize("kind", ["silence", "noise", "low hum", "a click", "100 samples"])
def test_sounds_without_a_pitch_have_librosas_estimate_too(kind: str) -> None:
    """Of the same spectrum: which bins of noise are peaks is a matter of its last digits."""
    rng = np.random.default_rng(0)
    audio = {
        "silence": np.zeros(22050),
        "noise": rng.standard_normal(22050),
        "low hum": np.sin(2 * np.pi * 50 * np.arange(22050) / 22050),
        "a click": np.eye(1, 22050, 11000)[0],
        "100 samples": rng.standard_normal(100),
    }[kind].astype(np.float32)
    power = spectrum(audio, LogMelChroma()).numpy()
    expected = twin(power, 22050, 12)
    assert estimate(power, 22050) == expected
    if kind == "silence":
        assert expected == 0.0
