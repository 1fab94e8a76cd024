"""Filters are librosa's, to the last bit."""

from __future__ import annotations

import warnings
from typing import Any

import librosa
import numpy as np
import pytest
from librosa import filters

from etude.audio.filterbanks import chroma_filters, mel_filters, mel_frequencies


@pytest.mark.parametrize(
    "given",
    [
        {"rate": 22050, "n_fft": 2048},
        {"rate": 16000, "n_fft": 1024, "n_mels": 64, "fmin": 50.0, "fmax": 7000.0},
        {"rate": 44100, "n_fft": 4096, "n_mels": 96},
        {"rate": 48000, "n_fft": 2000, "n_mels": 40, "fmin": 1300.0},
        {"rate": 8000, "n_fft": 512, "n_mels": 300, "fmax": 900.0},  # some bands lie between two bins
    ],
)
def test_mel_bands(given: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rest = {key: value for key, value in given.items() if key != "rate"}
        np.testing.assert_array_equal(mel_filters(**given), filters.mel(sr=given["rate"], **rest))


@pytest.mark.parametrize(("rate", "n_fft"), [(22050, 2048), (44100, 4096), (16000, 1025)])
@pytest.mark.parametrize(("classes", "tuning"), [(12, 0.0), (12, -0.37), (24, 0.21), (7, 0.5)])
def test_pitch_classes(rate: int, n_fft: int, classes: int, tuning: float) -> None:
    theirs = filters.chroma(sr=rate, n_fft=n_fft, n_chroma=classes, tuning=tuning)
    np.testing.assert_array_equal(chroma_filters(rate, n_fft, classes, tuning), theirs)


def test_frequencies_of_bands() -> None:
    for count, fmin, fmax in ((130, 0.0, 11025.0), (42, 20.0, 800.0), (9, 2000.0, 7000.0)):
        theirs = librosa.mel_frequencies(count, fmin=fmin, fmax=fmax)
        np.testing.assert_array_equal(mel_frequencies(count, fmin, fmax), theirs)
