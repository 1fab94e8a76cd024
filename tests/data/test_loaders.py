"""Tests of the batches of a data module."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tests.data.packed_source import PackedSource

from etude.audio.log_mel import LogMelChroma
from etude.data.batches import Batch, Feature
from etude.data.datamodule import MusicData, build_datamodule
from etude.data.pack_writer import write_pack
from etude.data.packing import open_pack
from etude.data.splits import Split
from etude.errors import UserError


@pytest.fixture(scope="module")
def make_uneven_module(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., MusicData]:
    """Return a factory of data modules with unequal clip lengths and class sizes, and some missing labels."""
    rng = np.random.default_rng(0)
    genre = np.array(["a"] * 60 + ["b"] * 15 + ["c"] * 5 + [None] * 20, object)[rng.permutation(100)]
    frames = [rng.random((length, 3)) for length in rng.integers(20, 200, 100)]
    split = np.where(np.arange(100) % 5 == 4, "test", np.where(np.arange(100) % 5 == 3, "val", "train"))
    table = pd.DataFrame({"id": [f"c{i}" for i in range(100)], "group": None, "genre": genre, "split": split})
    written = write_pack(tmp_path_factory.mktemp("uneven") / "p", table, frames, {})
    source = PackedSource(written, {"genre": {"kind": "label", "classes": ["a", "b", "c", "d"], "note": ""}})

    def make(**options: Any) -> MusicData:
        feature = Feature("fused", front=LogMelChroma(n_mels=2, n_chroma=1, rate=1000, n_fft=64, hop_length=10))
        data = MusicData(source, feature, Split("official"), **options)  # type: ignore[arg-type]
        data.setup()
        return data

    return make


def test_balanced_sampling_draws_classes_equally_often(make_uneven_module: Callable[..., MusicData]) -> None:
    """Check the sampling frequency of classes, and of clips without a label, which is that of the average clip."""
    data = make_uneven_module(balanced_sampling="genre", crop=0.5, batch_size=16)
    y = data.y["genre"][data.rows("train")].numpy()
    sampler, drawn = data.train_dataloader().sampler, Counter[int]()
    for number in range(400):
        sampler.set_epoch(number)  # type: ignore[attr-defined]
        drawn.update(int(y[i]) for picks in sampler for i, _ in picks)  # type: ignore[misc]
    missing = (y < 0).mean()
    split = {label: count / drawn.total() for label, count in drawn.items()}
    assert split[-1] == pytest.approx(missing, abs=0.02)
    for label in range(3):
        assert split[label] == pytest.approx((1 - missing) / 3, abs=0.02)
    assert len(split) == 4  # a class without clips is not drawn


def test_balanced_sampling_applies_only_to_training(make_uneven_module: Callable[..., MusicData]) -> None:
    data = make_uneven_module(balanced_sampling="genre", crop=0.5)
    for split in ("val", "test"):
        evaluated = [row for batch in data.loader(split) for row in batch.row.tolist()]
        assert evaluated == data.rows(split).tolist()


def test_buckets_of_datamodule_reduce_padding_and_keep_each_clip(make_uneven_module: Callable[..., MusicData]) -> None:
    padded = {}
    for buckets in (False, True):
        data = make_uneven_module(crop=None, batch_size=6, eval_batch_size=6, buckets=buckets)
        for split, train in (("train", True), ("val", False), ("test", False)):
            batches = list(data.loader(split, train))
            assert sorted(row for batch in batches for row in batch.row.tolist()) == data.rows(split).tolist()
            padded[buckets, split] = sum(
                batch.x.shape[0] * batch.x.shape[1] - int(batch.lengths.sum()) for batch in batches
            )
            for batch in batches:
                for x, row, length in zip(batch.x, batch.row.tolist(), batch.lengths.tolist(), strict=True):
                    np.testing.assert_array_equal(x[:length], data.pack.clip(row))
    for split in ("train", "val", "test"):
        assert padded[True, split] < padded[False, split] / 2


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"buckets": True},
        {"balanced_sampling": "genre"},
        {"buckets": True, "balanced_sampling": "genre", "crop": None},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_number_of_workers_does_not_change_batches(
    make_uneven_module: Callable[..., MusicData], options: dict[str, Any]
) -> None:
    """Compare batches of worker processes with those of this process."""
    modules = [
        make_uneven_module(**{"crop": 0.5, "batch_size": 8, **options}, workers=workers) for workers in (0, 1, 2)
    ]
    without_workers, *with_workers = (list(data.train_dataloader()) for data in modules)
    assert len(without_workers) == 8
    for batches in with_workers:
        assert all(equal_batches(first, second) for first, second in zip(without_workers, batches, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_several_crops_are_evaluated_in_order(make_uneven_module: Callable[..., MusicData], workers: int) -> None:
    data = make_uneven_module(crop=0.5, eval_crops=3, eval_batch_size=7, workers=workers)
    rows = []
    for batch in data.test_dataloader()[1]:
        assert batch.crops == 3
        assert len(batch.x) == len(batch.lengths) == 3 * len(batch.row)
        for index, row in enumerate(batch.row.tolist()):
            complete = data.pack.clip(row)
            crop = min(50, len(complete))  # half a second at 100 frames
            first, last = batch.x[3 * index], batch.x[3 * index + 2]
            np.testing.assert_array_equal(first[:crop], complete[:crop])
            np.testing.assert_array_equal(last[:crop], complete[-crop:])
        rows += batch.row.tolist()
    assert rows == data.rows("test").tolist()
    assert next(iter(data.train_dataloader())).crops == 1


@pytest.fixture(scope="module")
def make_demo_module(config: Callable[..., dict[str, Any]]) -> Callable[..., MusicData]:
    """Return a factory of data modules of the demo after setup."""

    def make(*overrides: str) -> MusicData:
        data = build_datamodule(config("feature=chroma", *overrides))
        open_pack(data.source, data.feature.front, replace(data.pack_options, workers=1))
        data.setup()
        return data

    return make


def equal_batches(first: Batch, second: Batch) -> bool:
    pairs = [(first.x, second.x), (first.lengths, second.lengths), (first.row, second.row)]
    return all(torch.equal(a, b) for a, b in [*pairs, *((first.y[name], second.y[name]) for name in first.y)])


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_do_not_change_batches_of_demo(make_demo_module: Callable[..., MusicData]) -> None:
    loaders = [make_demo_module(f"data.workers={workers}").train_dataloader() for workers in (0, 2)]
    epochs = []
    for number in (0, 1):
        for loader in loaders:
            loader.sampler.set_epoch(number)
        without_workers, with_workers = (list(loader) for loader in loaders)
        assert len(without_workers) == len(with_workers) > 5
        assert all(equal_batches(first, second) for first, second in zip(without_workers, with_workers, strict=True))
        epochs.append(without_workers)
    assert not any(equal_batches(first, second) for first, second in zip(*epochs, strict=True))


@pytest.mark.parametrize("world", [1, 2])
def test_devices_evaluate_each_clip_of_demo_once(make_demo_module: Callable[..., MusicData], world: int) -> None:
    data = make_demo_module("data.eval_batch_size=5")
    for split, loader in (("val", 0), ("test", 1)):
        evaluated: Counter[int] = Counter()
        sizes = []
        for rank in range(world):
            data.rank, data.world = rank, world
            for batch in data.test_dataloader()[loader]:
                sizes.append(len(batch.row))
                evaluated.update(batch.row.tolist())
        assert evaluated == Counter(np.flatnonzero(data.splits == split).tolist())
        assert max(sizes) == 5  # clips of a device are limited, and so is its memory


def test_two_devices_train_on_batches_of_one_device(make_demo_module: Callable[..., MusicData]) -> None:
    data = make_demo_module()
    loaders = [data.train_dataloader()]
    for rank in range(2):
        data.rank, data.world = rank, 2
        loaders.append(data.train_dataloader())
    for complete, first, second in zip(*loaders, strict=True):
        rows = [*first.row.tolist(), *second.row.tolist()]
        assert sorted(rows) == sorted(complete.row.tolist())
        positions = [complete.row.tolist().index(row) for row in rows]
        assert torch.equal(torch.cat([first.x, second.x]), complete.x[positions])  # the crops are equal


def test_pack_is_read_from_configured_folder(make_demo_module: Callable[..., MusicData], packs: Path) -> None:
    assert make_demo_module().pack.folder.parent == packs


@pytest.mark.parametrize(
    ("options", "crops"),
    [
        ({"crop": 0.5}, 1),  # of clips of 1.1 s on average
        ({"crop": 0.1}, 6),  # half of their seconds
        ({"crop": 0.01}, 8),
        ({"crop": 3.0}, 1),
        ({"crop": None}, 1),
        ({"crop": 0.5, "crops_per_clip": 3}, 3),
        ({"crop": 0.1, "balanced_sampling": "genre"}, 6),
        ({"crop": 0.1, "buckets": True}, 6),
    ],
    ids=str,
)
def test_epoch_draws_half_of_music_by_default(
    make_uneven_module: Callable[..., MusicData], options: dict[str, Any], crops: int
) -> None:
    data = make_uneven_module(**{"crops_per_clip": "auto", **options})
    loader = data.train_dataloader()
    drawn = Counter(row for batch in loader for row in batch.row.tolist())
    assert data.crops_in_epoch() == crops
    assert drawn.total() == crops * 60
    assert len(loader) == -(-crops * 60 // 16)
    if "balanced_sampling" not in options:
        assert set(drawn.values()) == {crops}
    assert sum(len(batch.row) for batch in data.val_dataloader()) == 20


def test_buckets_do_not_put_crops_of_one_clip_into_one_batch(make_uneven_module: Callable[..., MusicData]) -> None:
    for crop in (0.1, 0.5):  # of clips of 0.2 to 2 s
        data = make_uneven_module(crop=crop, crops_per_clip=6, buckets=True)
        long = set(np.flatnonzero(data.pack.lengths > crop * 100).tolist())
        rows = [[row for row in batch.row.tolist() if row in long] for batch in data.train_dataloader()]
        assert sum(len(set(batch)) for batch in rows) > 0.8 * sum(map(len, rows))


def test_balanced_sampling_needs_a_labelled_training_clip(tmp_path: Path) -> None:
    split = ["train"] * 4 + ["val"] * 2 + ["test"] * 2
    table = pd.DataFrame(
        {"id": [*"abcdefgh"], "group": None, "genre": [None] * 4 + ["rock", "pop"] * 2, "split": split}
    )
    frames = [np.full((30, 3), i, float) for i in range(8)]
    specs = {"genre": {"kind": "label", "classes": ["pop", "rock"], "note": ""}}
    source = PackedSource(write_pack(tmp_path / "p", table, frames, {}), specs)
    front = LogMelChroma(n_mels=2, n_chroma=1, rate=1000, n_fft=64, hop_length=10)
    data = MusicData(source, Feature("fused", front=front), Split("official"), balanced_sampling="genre")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"^data\.balanced_sampling=genre: no training clip has a genre"):
        data.setup()
