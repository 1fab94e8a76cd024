"""Tests of batches of crops and of complete clips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch

from etude.data.batches import Clips
from etude.data.pack import Pack
from etude.data.pack_writer import write_pack

LENGTHS = (9, 3, 14, 10, 1, 11)

CROP = 10


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """Return a pack whose frames contain the index of the clip in the first bin and of the frame in the second."""
    clips = [np.stack([np.full(count, clip), np.arange(count)], 1) for clip, count in enumerate(LENGTHS)]
    return write_pack(
        tmp_path_factory.mktemp("pack") / "positions", pd.DataFrame({"id": range(len(LENGTHS))}), clips, {}
    )


def clips(pack: Pack, crop: int | None, rows: Iterable[int] = range(len(LENGTHS)), crops: int | None = None) -> Clips:
    y = {"genre": torch.arange(len(LENGTHS)) * 10, "energy": torch.arange(len(LENGTHS)) / 10}
    return Clips(pack, np.array(list(rows)), slice(0, 2), y, crop, crops)


@pytest.mark.parametrize("position", [0.0, 0.25, 0.5, 0.75, 1 - 2**-53])
def test_crop_is_contiguous_excerpt_of_clip(pack: Pack, position: float) -> None:
    batch = clips(pack, CROP)[[(i, position) for i in range(len(LENGTHS))]]
    assert batch.lengths.tolist() == [min(CROP, length) for length in LENGTHS]
    for i, (x, length) in enumerate(zip(batch.x, batch.lengths.tolist(), strict=True)):
        assert (x[:length, 0] == i).all()
        first = int(x[0, 1])
        assert 0 <= first <= LENGTHS[i] - length
        assert x[:length, 1].tolist() == list(range(first, first + length))
        assert (x[length:] == 0).all()


def test_crop_starts_cover_all_positions(pack: Pack) -> None:
    positions = np.linspace(0, 1, 1000, endpoint=False)
    starts = Counter(int(clips(pack, CROP)[[(2, float(position))]].x[0, 0, 1]) for position in positions)
    assert starts == dict.fromkeys(range(5), 200)


def test_complete_clips_have_lengths_and_zero_padding(pack: Pack) -> None:
    batch = clips(pack, None)[[(i, 0.0) for i in (4, 2, 1)]]
    assert batch.x.shape == (3, 14, 2)
    assert batch.x.dtype == torch.float16
    assert batch.lengths.tolist() == [1, 14, 3]
    assert batch.lengths.dtype == torch.int64
    for x, row, length in zip(batch.x, (4, 2, 1), batch.lengths.tolist(), strict=True):
        np.testing.assert_array_equal(x[:length], pack.clip(row))
        assert (x[length:] == 0).all()


def test_index_in_split_maps_to_row_of_table(pack: Pack) -> None:
    batch = clips(pack, None, rows=[5, 0, 3])[[(2, 0.0), (0, 0.0)]]
    assert batch.row.tolist() == [3, 5]
    assert batch.x[:, 0, 0].tolist() == [3, 5]
    assert batch.y["genre"].tolist() == [30, 50]
    assert batch.y["energy"].tolist() == pytest.approx([0.3, 0.5])


@pytest.mark.parametrize("crop", [1, 4, 10, 13])
@pytest.mark.parametrize("crops", [2, 3, 4, 7])
def test_several_crops_are_evenly_spaced(pack: Pack, crop: int, crops: int) -> None:
    rows = [2, 4, 0]
    batch = clips(pack, crop, crops=crops)[[(row, 0.0) for row in rows]]
    assert batch.crops == crops
    assert batch.row.tolist() == rows
    assert batch.y["genre"].tolist() == [10 * row for row in rows]
    assert len(batch.x) == len(batch.lengths) == crops * len(rows)
    for index, row in enumerate(rows):
        selection = slice(index * crops, (index + 1) * crops)  # the crops of a clip are consecutive
        assert (batch.x[selection, 0, 0] == row).all()
        last_start = max(0, LENGTHS[row] - crop)
        starts = batch.x[selection, 0, 1].int().tolist()
        assert starts[0] == 0
        assert starts[-1] == last_start
        gaps = [after - before for before, after in pairwise(starts)]
        assert max(gaps) - min(gaps) <= 1
        assert batch.lengths[selection].tolist() == [min(crop, LENGTHS[row])] * crops
        for x, start, length in zip(batch.x[selection], starts, batch.lengths[selection].tolist(), strict=True):
            assert x[:length, 1].tolist() == list(range(start, start + length))
            assert (x[length:] == 0).all()


def test_single_crop_is_centred(pack: Pack) -> None:
    batch = clips(pack, 4, crops=1)[[(2, 0.9), (1, 0.9)]]
    assert batch.crops == 1
    assert batch.x[:, 0, 1].tolist() == [5, 0]
    assert batch.lengths.tolist() == [4, 3]
