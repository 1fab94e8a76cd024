"""Tests of the data module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pytorch_lightning import Trainer
from tests.data.packed_source import PackedSource

from etude.audio.log_mel import LogMelChroma
from etude.data.batches import Feature
from etude.data.collection import Collection, label_target, merge_classes, scalar_target
from etude.data.datamodule import MusicData, build_datamodule
from etude.data.pack import Pack
from etude.data.pack_writer import write_pack
from etude.data.packing import open_pack
from etude.data.partition import UNUSED
from etude.data.sources.demo import collection
from etude.data.splits import Split
from etude.errors import DataError
from etude.training.build import LightningData, build_learner

VIEWS = {"mel": slice(0, 128), "chroma": slice(128, 140), "fused": slice(0, 140)}
Compose = Callable[..., dict[str, Any]]


def open_pack_in_one_process(datamodule: MusicData) -> Pack:
    """Open the pack of a data module with one process, which is fastest for few clips."""
    return open_pack(datamodule.source, datamodule.feature.front, replace(datamodule.pack_options, workers=1))


@pytest.fixture(scope="module", params=VIEWS)
def demo_data(config: Compose, request: pytest.FixtureRequest) -> MusicData:
    """Return the data module of the demo for each view."""
    datamodule = build_datamodule(config(f"feature={request.param}"))
    open_pack_in_one_process(datamodule)
    datamodule.setup()
    return datamodule


def test_statistics_match_numpy_over_training_split(demo_data: MusicData) -> None:
    columns = VIEWS[demo_data.feature.view]
    frames = np.concatenate(
        [demo_data.pack.clip(row)[:, columns] for row in np.flatnonzero(demo_data.splits == "train")]
    )
    frames = frames.astype(np.float64)
    assert demo_data.mean.dtype == demo_data.std.dtype == torch.float32
    np.testing.assert_allclose(demo_data.mean, frames.mean(0), rtol=1e-6)
    np.testing.assert_allclose(demo_data.std, frames.std(0), rtol=1e-6)


def test_view_selects_columns(demo_data: MusicData) -> None:
    columns = VIEWS[demo_data.feature.view]
    assert demo_data.feature.bins == columns.stop - columns.start
    batch = next(iter(demo_data.val_dataloader()))
    for x, length, row in zip(batch.x, batch.lengths.tolist(), batch.row.tolist(), strict=True):
        np.testing.assert_array_equal(x[:length], demo_data.pack.clip(row)[:, columns])


def test_all_views_share_one_pack(demo_data: MusicData, config: Compose) -> None:
    others = [build_datamodule(config(f"feature={view}")) for view in VIEWS]
    folders = {open_pack_in_one_process(other).folder for other in others}
    assert folders == {demo_data.pack.folder}


def test_training_uses_crops_and_evaluation_complete_clips(demo_data: MusicData) -> None:
    batch = next(iter(demo_data.train_dataloader()))
    assert batch.lengths.tolist() == [215] * 16  # 5 s at 22050 / 512 frames a second
    assert {batch.lengths[0].item() for batch in demo_data.val_dataloader()} == {431}


def test_splits_are_disjoint(demo_data: MusicData) -> None:
    rows_by_split = {
        split_name: {row for batch in demo_data.loader(split_name) for row in batch.row.tolist()}
        for split_name in ("train", "val", "test")
    }
    assert sorted(row for rows in rows_by_split.values() for row in rows) == list(range(196))
    assert {row for batch in demo_data.train_dataloader() for row in batch.row.tolist()} == rows_by_split["train"]


def test_unknown_split_is_refused(demo_data: MusicData) -> None:
    with pytest.raises(DataError, match="split must be one of train, val, test, got 'dev'"):
        demo_data.loader("dev")


@pytest.fixture
def partly_labelled(tmp_path: Path) -> MusicData:
    """Return a data module of nine clips of the demo with missing labels and values."""
    demo = collection()
    table = demo.table.groupby("genre").head(3).reset_index(drop=True)
    table = table.assign(id=list("abcdefghi"), split=["train", "val", "test"] * 3)
    table.loc[[1, 5], "genre"] = None
    table.loc[[0, 5], "energy"] = np.nan
    source = replace(demo, name="holes", table=table).check()
    split = Split("official", allow_shared_groups=True)
    datamodule = MusicData(source, Feature("chroma"), split, eval_batch_size=3, packs=str(tmp_path))
    open_pack_in_one_process(datamodule)
    return datamodule


def test_missing_values_are_minus_one_or_nan(partly_labelled: MusicData) -> None:
    partly_labelled.setup()
    table, classes = partly_labelled.source.table, ["electronic", "metal", "orchestral"]
    assert partly_labelled.y["genre"].dtype == torch.int64
    assert partly_labelled.y["genre"].tolist() == [
        -1 if row in (1, 5) else classes.index(table["genre"][row]) for row in range(9)
    ]
    assert partly_labelled.y["energy"].dtype == torch.float32
    np.testing.assert_allclose(partly_labelled.y["energy"], table["energy"], rtol=1e-6)
    (batch,) = partly_labelled.loader("test")
    assert batch.y["genre"].tolist() == partly_labelled.y["genre"][2::3].tolist()


def test_constant_bin_has_positive_deviation(partly_labelled: MusicData) -> None:
    partly_labelled.setup()
    partly_labelled.pack.frames = np.full_like(partly_labelled.pack.frames, 0.5)
    mean, std = partly_labelled._statistics()
    np.testing.assert_allclose(mean, 0.5)
    assert (std > 0).all()


def test_invalid_collection_is_refused_with_one_line() -> None:
    source: Collection = collection()
    with_single_clip = source.table.assign(genre=["single", *source.table["genre"].tolist()[1:]])
    invalid_collections: dict[str, Collection] = {
        "no column energy": replace(source, table=source.table.drop(columns="energy")),
        "is empty": replace(source, table=source.table[:0]),
        "occurs more than once": replace(source, table=source.table.assign(id="a")),
        "genre = 'polka', which is outside the classes": replace(source, table=source.table.assign(genre="polka")),
        "energy = 1.5, which is outside the range": replace(source, table=source.table.assign(energy=1.5)),
        r"genre 'single' has a single clip \(.*\), which cannot be in both training and test": replace(
            source, table=with_single_clip, targets={"genre": label_target([*source.table["genre"], "single"])}
        ),
    }
    for message, invalid in invalid_collections.items():
        with pytest.raises(DataError, match=f"^demo: .*{message}"):
            invalid.check()


@pytest.mark.parametrize("name", ["start", "frames", "content", "row", "member"])
def test_target_with_reserved_name_is_refused_or_kept(name: str, tmp_path: Path) -> None:
    """Use columns that packs have too, such as `start`, which must not replace the start of a clip in the pack."""
    demo = collection()
    table = demo.table.groupby("genre").head(2).assign(**{name: np.linspace(0, 1, 6)})
    try:
        source = replace(demo, name="mine", table=table, targets={name: scalar_target()}).check()
    except DataError as error:
        assert name in str(error)
        return
    datamodule = MusicData(source, Feature(), Split("random", allow_shared_groups=True), packs=str(tmp_path))
    open_pack_in_one_process(datamodule)
    datamodule.setup()
    np.testing.assert_allclose(datamodule.y[name], np.linspace(0, 1, 6), atol=1e-6)


def test_classes_are_merged_and_others_become_missing() -> None:
    column = pd.Series(["rock", "punk", "jazz", None, "talk"])
    merged = merge_classes(column, {"loud": ["rock", "punk"], "quiet": "jazz"})
    assert merged.tolist()[:3] == ["loud", "loud", "quiet"]
    assert merged[3:].isna().all()
    assert merge_classes(column, None) is column
    with pytest.raises(DataError, match="'rock' is merged into both 'a' and 'b'"):
        merge_classes(column, {"a": ["rock"], "b": ["rock", "jazz"]})
    with pytest.raises(DataError, match="the data has no clips of soft; its classes are jazz, punk, rock, talk"):
        merge_classes(column, {"loud": ["rock"], "soft": ["ambient"]})


# a source with an existing pack


FRONT = LogMelChroma(rate=1000, n_fft=64, hop_length=10, n_mels=2, n_chroma=1)  # 100 frames a second
GENRE = {"genre": {"kind": "label", "classes": ["a", "b"], "note": ""}}


@pytest.fixture(scope="module")
def packed_source(tmp_path_factory: pytest.TempPathFactory) -> PackedSource:
    """Return a source of thirty clips of 150 to 440 frames, of which the last two are copies of the first."""
    rng = np.random.default_rng(0)
    frames = [rng.random((150 + 10 * i, 3)) for i in range(28)]
    table = pd.DataFrame({"id": range(30), "group": None, "genre": ["a", "b"] * 15})
    return PackedSource(
        write_pack(tmp_path_factory.mktemp("packed") / "p", table, [*frames, frames[0], frames[0]], {}), GENRE
    )


def make_module(packed_source: PackedSource, sync: str = "none", **options: Any) -> MusicData:
    split = options.pop("split", Split("random", duplicates="allow"))
    datamodule = MusicData(packed_source, Feature("fused", sync, FRONT), split, **options)  # type: ignore[arg-type]
    datamodule.setup()
    return datamodule


@pytest.mark.parametrize(
    ("crop", "sync", "frames"),
    [
        (1.2, "none", 120),
        (0.7, "none", 70),
        (0.001, "none", 1),
        (16, "beat", 16),
        ({"seconds": 1.5, "beats": 8}, "none", 150),
        ({"seconds": 1.5, "beats": 8}, "beat", 8),
    ],
)
def test_crop_length_is_in_seconds_or_beats(packed_source: PackedSource, crop: Any, sync: str, frames: int) -> None:
    batch = next(iter(make_module(packed_source, sync, crop=crop).train_dataloader()))
    assert batch.lengths.tolist() == [frames] * 16
    assert batch.x.shape == (16, frames, 3)


@pytest.mark.parametrize("crop", [None, {"seconds": None, "beats": None}])
def test_training_without_crop_uses_complete_clips(packed_source: PackedSource, crop: Any) -> None:
    datamodule = make_module(packed_source, crop=crop)
    for batch in datamodule.train_dataloader():
        assert batch.lengths.tolist() == datamodule.pack.lengths[batch.row].tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "data.batch_size must be greater than 0, got 0"),
        ({"eval_batch_size": -1}, "data.eval_batch_size must be greater than 0, got -1"),
        ({"crop": -1.0}, "data.crop must be greater than 0, got -1"),
        ({"crop": 0.0}, "data.crop must be greater than 0, got 0"),
        ({"crop": {"seconds": 0, "beats": 8}}, "data.crop must be greater than 0, got 0"),
        ({"crop": {"second": 5}}, "data.crop"),
        ({"crops_per_clip": 0}, "data.crops_per_clip must be auto or a whole number from 1, got 0"),
        ({"crops_per_clip": "all"}, "data.crops_per_clip must be auto or a whole number from 1, got 'all'"),
        ({"eval_crops": 0}, "data.eval_crops must be greater than 0, got 0"),
        ({"eval_crops": 3, "crop": None}, "data.eval_crops needs data.crop, the length of each crop"),
        ({"crops_per_clip": 3, "crop": None}, "data.crops_per_clip needs data.crop, the length of each crop"),
        ({"balanced_sampling": "mood"}, "data.balanced_sampling must name a label of this data, got 'mood'"),
    ],
    ids=str,
)
def test_invalid_option_is_refused_by_name(packed_source: PackedSource, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        make_module(packed_source, **options)


def test_scalar_cannot_be_balanced(packed_source: PackedSource) -> None:
    with pytest.raises(ValueError, match=r"data\.balanced_sampling must name a label of this data, got 'energy'"):
        make_module(replace(packed_source, targets={**GENRE, "energy": scalar_target()}), balanced_sampling="energy")


def test_dropped_duplicate_is_in_no_split(packed_source: PackedSource) -> None:
    datamodule = make_module(packed_source, split=Split("random", duplicates="drop"))
    assert np.flatnonzero(datamodule.splits == UNUSED).tolist() == [28, 29]
    rows = [
        row
        for split_name in ("train", "val", "test")
        for batch in datamodule.loader(split_name)
        for row in batch.row.tolist()
    ]
    assert sorted(rows) == list(range(28))
    with pytest.raises(DataError, match=r"the same audio has two ids \(2 duplicates\) .*: 0 = 28, 0 = 29; drop"):
        make_module(packed_source, split=Split("random"))


# mean prediction over several crops of a clip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("eval_crops", [1, 3])
def test_prediction_of_clip_is_mean_over_crops(config: Compose, eval_crops: int, tmp_path: Path) -> None:
    """Compare a trainer with the network applied to each crop."""
    composed = config("feature=chroma", "backbone=lstm", "task=joint", f"data.eval_crops={eval_crops}", "data.crop=4")
    datamodule = build_datamodule(composed)
    open_pack_in_one_process(datamodule)
    datamodule.setup()
    learner = build_learner(composed, datamodule).eval()
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.test(learner, datamodule=LightningData(datamodule), verbose=False)
    for number, split_name in enumerate(("val", "test")):
        table, rows = learner.tables[number], datamodule.rows(split_name)
        assert table["row"].tolist() == rows.tolist()
        for index, row in enumerate(rows.tolist()):
            clip = torch.from_numpy(np.array(datamodule.pack.clip(row)[:, datamodule.feature.columns]))
            last_start = len(clip) - datamodule.crop
            middle = (last_start + 1) // 2
            starts = [middle] if eval_crops == 1 else [0, middle, last_start]
            with torch.no_grad():
                outputs = [
                    learner(clip[None, start : start + datamodule.crop], torch.tensor([datamodule.crop]))
                    for start in starts
                ]
            torch.testing.assert_close(
                table["z"][index], torch.cat([z for z, _ in outputs]).mean(0), atol=1e-5, rtol=1e-4
            )
            for name in learner.task.targets:
                mean = torch.cat([out[name] for _, out in outputs]).mean(0)
                torch.testing.assert_close(table[f"out.{name}"][index], mean, atol=1e-5, rtol=1e-4)
        for name, values in datamodule.y.items():
            torch.testing.assert_close(table[f"y.{name}"], values[rows])
