"""A bank in groups is the product with all of its filters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from librosa import filters

from etude.audio.filterbanks import GROUP, FilterBank


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
