"""Tests of filter banks, which equal those of librosa and Kaldi."""

from __future__ import annotations

import warnings
from typing import Any

import librosa
import numpy as np
import pytest
import torch
from librosa import filters

from etude.audio.filterbanks import GROUP, FilterBank, chroma_filters, mel_filters, mel_frequencies


@pytest.mark.parametrize("count", [1, GROUP, 40, 128, 600])  # some of 600 lie between two bins, and are zero
def test_groups_of_filters_equal_the_product_with_all_filters(count: int) -> None:
    mel = filters.mel(sr=22050, n_fft=1024, n_mels=count, fmin=40.0)
    assert bool((~mel.any(1)).any()) == (count == 600)
    both = np.concatenate([mel, filters.chroma(sr=22050, n_fft=1024)])
    power = torch.from_numpy(np.random.default_rng(0).random((70, 513), np.float32))
    bank = FilterBank(both)
    buffer = torch.full((70, bank.width + 3), torch.nan)
    result = bank.apply(power, buffer[:, 2:-1])
    np.testing.assert_allclose(result.numpy(), power.double().numpy() @ both.T.astype(np.float64), rtol=2e-6, atol=1e-7)
    assert result.data_ptr() == buffer[:, 2:].data_ptr()
    assert buffer[:, :2].isnan().all() and buffer[:, -1].isnan().all()


def test_zero_filters_give_zeros() -> None:
    assert torch.equal(FilterBank(np.zeros((20, 9))).apply(torch.ones(4, 9), torch.ones(4, 20)), torch.zeros(4, 20))


@pytest.mark.parametrize(
    "arguments",
    [
        {"rate": 22050, "n_fft": 2048},
        {"rate": 16000, "n_fft": 1024, "n_mels": 64, "fmin": 50.0, "fmax": 7000.0},
        {"rate": 44100, "n_fft": 4096, "n_mels": 96},
        {"rate": 48000, "n_fft": 2000, "n_mels": 40, "fmin": 1300.0},
        {"rate": 8000, "n_fft": 512, "n_mels": 300, "fmax": 900.0},  # some bands lie between two bins
    ],
)
def test_mel_filters_equal_librosa(arguments: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rest = {key: value for key, value in arguments.items() if key != "rate"}
        np.testing.assert_array_equal(mel_filters(**arguments), filters.mel(sr=arguments["rate"], **rest))


@pytest.mark.parametrize(("rate", "n_fft"), [(22050, 2048), (44100, 4096), (16000, 1025)])
@pytest.mark.parametrize(("classes", "tuning"), [(12, 0.0), (12, -0.37), (24, 0.21), (7, 0.5)])
def test_chroma_filters_equal_librosa(rate: int, n_fft: int, classes: int, tuning: float) -> None:
    expected = filters.chroma(sr=rate, n_fft=n_fft, n_chroma=classes, tuning=tuning)
    np.testing.assert_array_equal(chroma_filters(rate, n_fft, classes, tuning), expected)


@pytest.mark.parametrize("htk", [False, True])
def test_mel_frequencies_equal_librosa(htk: bool) -> None:
    for count, fmin, fmax in ((130, 0.0, 11025.0), (42, 20.0, 800.0), (9, 2000.0, 7000.0)):
        expected = librosa.mel_frequencies(count, fmin=fmin, fmax=fmax, htk=htk)
        np.testing.assert_array_equal(mel_frequencies(count, fmin, fmax, htk), expected)
