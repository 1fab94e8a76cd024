"""Batches hold what the pack holds, in an order that neither workers nor devices change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from etude.build import data as build
from etude.data.batch import Batch, Clips, Order
from etude.data.module import MusicData
from etude.data.pack import Pack, write
from etude.data.prepare import prepare

LENGTHS = (9, 3, 14, 10, 1, 11)
CROP = 10


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """Frames that say where they are from: the clip in the first bin, the frame in the second."""
    clips = [np.stack([np.full(count, clip), np.arange(count)], 1) for clip, count in enumerate(LENGTHS)]
    return write(tmp_path_factory.mktemp("pack") / "places", pd.DataFrame({"id": range(len(LENGTHS))}), clips, {})


def clips(pack: Pack, crop: int | None, rows: Iterable[int] = range(len(LENGTHS))) -> Clips:
    y = {"genre": torch.arange(len(LENGTHS)) * 10, "energy": torch.arange(len(LENGTHS)) / 10}
    return Clips(pack, np.array(list(rows)), slice(0, 2), y, crop)


@pytest.mark.parametrize("where", [0.0, 0.25, 0.5, 0.75, 1 - 2**-53])
def test_a_crop_is_a_contiguous_part_of_its_clip(pack: Pack, where: float) -> None:
    batch = clips(pack, CROP)[[(i, where) for i in range(len(LENGTHS))]]
    assert batch.lengths.tolist() == [min(CROP, length) for length in LENGTHS]
    for i, (x, length) in enumerate(zip(batch.x, batch.lengths.tolist(), strict=True)):
        assert (x[:length, 0] == i).all()
        first = int(x[0, 1])
        assert 0 <= first <= LENGTHS[i] - length
        assert x[:length, 1].tolist() == list(range(first, first + length))
        assert (x[length:] == 0).all()


def test_crops_begin_anywhere_from_the_first_to_the_last_place(pack: Pack) -> None:
    wheres = np.linspace(0, 1, 1000, endpoint=False)
    starts = Counter(int(clips(pack, CROP)[[(2, float(where))]].x[0, 0, 1]) for where in wheres)
    assert starts == dict.fromkeys(range(5), 200)


def test_whole_clips_come_with_their_lengths_and_zeros_after(pack: Pack) -> None:
    batch = clips(pack, None)[[(i, 0.0) for i in (4, 2, 1)]]
    assert batch.x.shape == (3, 14, 2)
    assert batch.x.dtype == torch.float16
    assert batch.lengths.tolist() == [1, 14, 3]
    assert batch.lengths.dtype == torch.int64
    for x, row, length in zip(batch.x, (4, 2, 1), batch.lengths.tolist(), strict=True):
        np.testing.assert_array_equal(x[:length], pack.clip(row))
        assert (x[length:] == 0).all()


def test_a_place_in_the_part_is_a_row_of_the_table(pack: Pack) -> None:
    batch = clips(pack, None, rows=[5, 0, 3])[[(2, 0.0), (0, 0.0)]]
    assert batch.row.tolist() == [3, 5]
    assert batch.x[:, 0, 0].tolist() == [3, 5]
    assert batch.y["genre"].tolist() == [30, 50]
    assert batch.y["energy"].tolist() == pytest.approx([0.3, 0.5])


def epoch(number: int, **how: Any) -> list[list[tuple[int, float]]]:
    order = Order(how.pop("count", 23), how.pop("batch_size", 8), how.pop("shuffle", True), **how)
    order.set_epoch(number)
    batches = list(order)
    assert len(batches) == len(order)
    return batches


def test_an_epoch_is_drawn_from_seed_and_number_alone() -> None:
    assert epoch(3) == epoch(3)
    assert epoch(3) != epoch(4)
    assert epoch(3) != epoch(3, seed=1)
    places = [{i: where for batch in epoch(number) for i, where in batch} for number in (0, 1)]
    assert all(places[0][i] != places[1][i] for i in range(23))  # other crops, too


@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_has_every_clip_once(shuffle: bool) -> None:
    batches = epoch(0, shuffle=shuffle)
    assert [len(batch) for batch in batches] == [8, 8, 7]
    picked = [i for batch in batches for i, _ in batch]
    assert sorted(picked) == list(range(23))
    assert (picked == list(range(23))) is not shuffle
    assert all(0 <= where < 1 for batch in batches for _, where in batch)


@pytest.mark.parametrize("world", [2, 3, 5])
@pytest.mark.parametrize("count", [23, 24, 25])
def test_in_training_the_ranks_make_up_the_batches_of_one_device(world: int, count: int) -> None:
    whole = epoch(1, count=count, seed=7)
    ranks = [epoch(1, count=count, seed=7, rank=rank, world=world) for rank in range(world)]
    assert len({len(rank) for rank in ranks}) == 1  # or the others wait for ever
    for step, parts in enumerate(zip(*ranks, strict=True)):
        assert len({len(part) for part in parts}) == 1  # or the mean of their gradients is not that of the batch
        together = [pick for part in parts for pick in part]
        assert len(set(together)) == len(together)
        assert set(together) <= set(whole[step])
        assert len(whole[step]) - len(together) < world
    assert len(whole) - len(ranks[0]) <= (count % 8 < world)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("count", range(1, 18))
def test_evaluation_judges_each_clip_once_and_leaves_no_rank_waiting(world: int, count: int) -> None:
    ranks = [epoch(0, count=count, shuffle=False, rank=rank, world=world) for rank in range(world)]
    assert len({len(rank) for rank in ranks}) == 1
    for step, parts in enumerate(zip(*ranks, strict=True)):
        judged = Counter(i for part in parts for i, _ in part)
        assert set(judged) == set(range(8 * step, min(8 * step + 8, count)))
        assert all(parts)
        assert sum(judged.values()) == max(len(judged), world)  # a clip is judged twice only where a rank has none


@pytest.fixture(scope="module")
def music(config: Callable[..., dict[str, Any]]) -> Callable[..., MusicData]:
    """The demo, set up."""

    def make(*overrides: str) -> MusicData:
        data = build(config("feature=chroma", *overrides))
        prepare(data.source, data.feature.front, data.packs, workers=1)
        data.setup()
        return data

    return make


def same(one: Batch, other: Batch) -> bool:
    pairs = [(one.x, other.x), (one.lengths, other.lengths), (one.row, other.row)]
    return all(torch.equal(a, b) for a, b in [*pairs, *((one.y[name], other.y[name]) for name in one.y)])


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_change_no_batch(music: Callable[..., MusicData]) -> None:
    loaders = [music(f"data.workers={workers}").train_dataloader() for workers in (0, 2)]
    epochs = []
    for number in (0, 1):
        for loader in loaders:
            loader.sampler.set_epoch(number)
        alone, helped = (list(loader) for loader in loaders)
        assert len(alone) == len(helped) > 5
        assert all(same(one, other) for one, other in zip(alone, helped, strict=True))
        epochs.append(alone)
    assert not any(same(one, other) for one, other in zip(*epochs, strict=True))


@pytest.mark.parametrize("world", [1, 2])
def test_the_devices_judge_every_clip_of_the_demo_once(music: Callable[..., MusicData], world: int) -> None:
    data = music("data.eval_batch_size=5")
    for part, loader in (("val", 0), ("test", 1)):
        judged: Counter[int] = Counter()
        sizes = []
        for rank in range(world):
            data.trainer = SimpleNamespace(global_rank=rank, world_size=world)  # type: ignore[assignment]
            for batch in data.test_dataloader()[loader]:
                sizes.append(len(batch.row))
                judged.update(batch.row.tolist())
        assert judged == Counter(np.flatnonzero(data.parts == part).tolist())
        assert max(sizes) == 5  # clips of a device, whose memory does not grow with their number


def test_two_devices_train_on_the_batches_of_one(music: Callable[..., MusicData]) -> None:
    data = music()
    loaders = [data.train_dataloader()]
    for rank in range(2):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)  # type: ignore[assignment]
        loaders.append(data.train_dataloader())
    for whole, first, second in zip(*loaders, strict=True):
        rows = [*first.row.tolist(), *second.row.tolist()]
        assert sorted(rows) == sorted(whole.row.tolist())
        places = [whole.row.tolist().index(row) for row in rows]
        assert torch.equal(torch.cat([first.x, second.x]), whole.x[places])  # the same crops, too


def test_a_pack_is_read_from_where_it_is(music: Callable[..., MusicData], packs: Path) -> None:
    assert music().pack.folder.parent == packs
