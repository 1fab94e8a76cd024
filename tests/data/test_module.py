"""The data module measures the training part alone, and shows of a frame what the view says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from etude.audio.spectral import FrontEnd
from etude.build import data as build
from etude.data.collection import Collection
from etude.data.feature import Feature
from etude.data.module import MusicData
from etude.data.prepare import prepare
from etude.data.sources.demo import collection
from etude.data.splits import Split
from etude.errors import DataError

VIEWS = {"mel": slice(0, 128), "chroma": slice(128, 140), "fused": slice(0, 140)}


@pytest.fixture(scope="module", params=VIEWS)
def data(config: Callable[..., dict[str, Any]], request: pytest.FixtureRequest) -> MusicData:
    """The demo, seen through each view."""
    made = build(config(f"feature={request.param}"))
    prepare(made.source, made.feature.front, made.packs, workers=1)
    made.setup()
    return made


def test_mean_and_deviation_are_numpys_over_the_training_part(data: MusicData) -> None:
    columns = VIEWS[data.feature.view]
    frames = np.concatenate([data.pack.clip(row)[:, columns] for row in np.flatnonzero(data.parts == "train")])
    frames = frames.astype(np.float64)
    assert data.mean.dtype == data.std.dtype == torch.float32
    np.testing.assert_allclose(data.mean, frames.mean(0), rtol=1e-6)
    np.testing.assert_allclose(data.std, frames.std(0), rtol=1e-6)


def test_a_view_is_its_columns(data: MusicData) -> None:
    columns = VIEWS[data.feature.view]
    assert data.feature.bins == columns.stop - columns.start
    batch = next(iter(data.val_dataloader()))
    for x, length, row in zip(batch.x, batch.lengths.tolist(), batch.row.tolist(), strict=True):
        np.testing.assert_array_equal(x[:length], data.pack.clip(row)[:, columns])


def test_all_views_share_one_pack(data: MusicData, config: Callable[..., dict[str, Any]]) -> None:
    others = [build(config(f"feature={view}")) for view in VIEWS]
    folders = {prepare(other.source, other.feature.front, other.packs, workers=1).folder for other in others}
    assert folders == {data.pack.folder}


def test_training_sees_five_seconds_and_evaluation_whole_clips(data: MusicData) -> None:
    batch = next(iter(data.train_dataloader()))
    assert batch.lengths.tolist() == [215] * 16  # 5 s at 22050 / 512 frames a second
    assert {batch.lengths[0].item() for batch in data.val_dataloader()} == {431}


def test_no_part_has_a_clip_of_another(data: MusicData) -> None:
    seen = {
        part: {row for batch in data.loader(part) for row in batch.row.tolist()} for part in ("train", "val", "test")
    }
    assert sorted(row for rows in seen.values() for row in rows) == list(range(196))
    assert {row for batch in data.train_dataloader() for row in batch.row.tolist()} == seen["train"]


def test_an_unknown_part_is_refused(data: MusicData) -> None:
    with pytest.raises(DataError, match="a part is one of train, val, test, got 'dev'"):
        data.loader("dev")


@pytest.fixture
def holes(tmp_path: Path) -> MusicData:
    """Six clips of the demo, some without a label, some without a value."""
    whole = collection()
    table = whole.table.groupby("genre").head(2).reset_index(drop=True)
    table = table.assign(id=list("abcdef"), split=["train", "train", "val", "val", "test", "test"])
    table.loc[[1, 4], "genre"] = None
    table.loc[[0, 4], "energy"] = np.nan
    source = replace(whole, name="holes", table=table).check()
    prepare(source, FrontEnd(), tmp_path, workers=1)
    split = Split("official", allow_shared_groups=True)
    return MusicData(source, Feature("chroma"), split, eval_batch_size=2, packs=str(tmp_path))


def test_what_is_missing_is_minus_one_or_nan(holes: MusicData) -> None:
    holes.setup()
    table, classes = holes.source.table, ["electronic", "metal", "orchestral"]
    assert holes.y["genre"].dtype == torch.int64
    assert holes.y["genre"].tolist() == [
        -1 if row in (1, 4) else classes.index(table["genre"][row]) for row in range(6)
    ]
    assert holes.y["energy"].dtype == torch.float32
    np.testing.assert_allclose(holes.y["energy"], table["energy"], rtol=1e-6)
    (batch,) = holes.loader("test")
    assert batch.y["genre"].tolist() == holes.y["genre"][4:].tolist()


def test_a_bin_that_never_changes_can_be_divided_by(holes: MusicData) -> None:
    holes.setup()
    holes.pack.frames = np.full_like(holes.pack.frames, 0.5)
    mean, std = holes._statistics()
    np.testing.assert_allclose(mean, 0.5)
    assert (std > 0).all()


def test_a_collection_with_a_fault_is_refused_in_one_sentence() -> None:
    source: Collection = collection()
    faults = {
        "no column energy": source.table.drop(columns="energy"),
        "is empty": source.table[:0],
        "occurs more than once": source.table.assign(id="a"),
        "genre = 'polka', which the target does not allow": source.table.assign(genre="polka"),
        "energy = 1.5, which the target does not allow": source.table.assign(energy=1.5),
    }
    for said, table in faults.items():
        with pytest.raises(DataError, match=f"^demo: .*{said}"):
            replace(source, table=table).check()
