"""A bank in groups is the product with all of its filters."""

from __future__ import annotations

import warnings
from typing import Any

import librosa
import numpy as np
import pytest
import torch
from librosa import filters

from etude.audio.filterbanks import GROUP, FilterBank, chroma_filters, mel_filters, mel_frequencies


@pytest.mark.parametrize("count", [1, GROUP, 40, 128, 600])  # of 600 some lie between two bins, and take nothing
def test_groups_of_filters_take_what_all_of_them_take(count: int) -> None:
    mel = filters.mel(sr=22050, n_fft=1024, n_mels=count, fmin=40.0)
    assert bool((~mel.any(1)).any()) == (count == 600)
    both = np.concatenate([mel, filters.chroma(sr=22050, n_fft=1024)])
    power = torch.from_numpy(np.random.default_rng(0).random((70, 513), np.float32))
    bank = FilterBank(both)
    whole = torch.full((70, bank.width + 3), torch.nan)
    made = bank.apply(power, whole[:, 2:-1])
    np.testing.assert_allclose(made.numpy(), power.double().numpy() @ both.T.astype(np.float64), rtol=2e-6, atol=1e-7)
    assert made.data_ptr() == whole[:, 2:].data_ptr()
    assert whole[:, :2].isnan().all() and whole[:, -1].isnan().all()


def test_a_bank_that_takes_nothing_gives_nothing() -> None:
    assert torch.equal(FilterBank(np.zeros((20, 9))).apply(torch.ones(4, 9), torch.ones(4, 20)), torch.zeros(4, 20))


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
