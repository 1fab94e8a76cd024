"""Tests of the persistent store: several processes, damage, size limit, and files of others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.commands import cache

from etude.embeddings.encoders import EmbeddingStore, encoder_name
from etude.embeddings.store import DESCRIPTION, FOLDER, MAGIC, clear_stores, list_stores, trim

DAY = 86_400  # seconds
WRITER = """
import sys
from pathlib import Path
import numpy as np
from etude.embeddings.encoders import EmbeddingStore
first = int(sys.argv[2])
with EmbeddingStore(Path(sys.argv[1]), "net", {"weights": 1}) as store:
    for number in range(first, first + 50):
        store.put([f"{number:064x}"], [np.full(7, number, np.float32)])
    sys.stdin.read()
"""


def key(number: int) -> str:
    """Return a key of 64 hexadecimal digits."""
    return f"{number:064x}"


def open_store(root: Path, weights: int = 1, model: str = "net", **options: int) -> EmbeddingStore:
    return EmbeddingStore(root, model, {"weights": weights}, **options)


def shards(root: Path) -> list[Path]:
    return sorted(root.glob("*/*.bin"))


def test_arrays_of_any_shape_are_read_by_a_later_store(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in ((5,), (3, 4), (2, 3, 4), (0, 4), ())]
    with open_store(tmp_path) as store:
        store.put([key(i) for i in range(len(arrays))], arrays)
    with open_store(tmp_path) as store:
        *stored, missing = store.get([key(i) for i in range(len(arrays) + 1)])
        assert missing is None and len(store) == len(arrays)
    for array, value in zip(arrays, stored, strict=True):
        assert value is not None and value.dtype == np.float32
        np.testing.assert_array_equal(value, array)


def test_encoders_of_different_identity_share_no_values(tmp_path: Path) -> None:
    with open_store(tmp_path, weights=1) as first, open_store(tmp_path, weights=2) as second:
        first.put([key(0)], [np.ones(3)])
        assert second.get([key(0)]) == [None]


def test_several_processes_write_at_once(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(first)], stdin=subprocess.PIPE)
        for first in (0, 50, 100)
    ]
    with open_store(tmp_path) as store:
        store.put([key(1000)], [np.full(7, 1000)])
        for writer in writers:
            writer.communicate(b"")
            assert writer.returncode == 0
        numbers = [*range(150), 1000]
        for number, value in zip(numbers, store.get([*map(key, numbers)]), strict=True):
            assert value is not None and (value == number).all()
    assert len(shards(tmp_path)) <= 4


def test_incomplete_record_of_a_killed_process_is_skipped(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.put([key(0), key(1)], [np.zeros(3), np.ones(3)])
    (shard,) = shards(tmp_path)
    os.truncate(shard, shard.stat().st_size - 5)
    with open_store(tmp_path) as store:
        zeros, missing = store.get([key(0), key(1)])
        assert zeros is not None and missing is None
        store.put([key(1)], [np.ones(3)])
        assert store.get([key(1)])[0] is not None
    with open_store(tmp_path) as store:
        assert len(store) == 2 and store.get([key(1)])[0] is not None


@pytest.mark.parametrize("part", ["header", "value"])
def test_damaged_record_is_missing_and_written_again(tmp_path: Path, part: str) -> None:
    with open_store(tmp_path) as store:
        store.put([key(i) for i in range(3)], [np.full(4, i) for i in range(3)])
    (shard,) = shards(tmp_path)
    data = bytearray(shard.read_bytes())
    start = data.index(MAGIC, 1)  # the second record
    data[start + (10 if part == "header" else 70)] ^= 0xFF
    shard.write_bytes(data)
    with open_store(tmp_path) as store:
        first, damaged, last = store.get([key(i) for i in range(3)])
        assert first is not None and damaged is None and last is not None
        store.put([key(1)], [np.full(4, 1)])
    with open_store(tmp_path) as store:
        (value,) = store.get([key(1)])
        assert value is not None and (value == 1).all()


def test_least_recently_used_shards_are_removed_first(tmp_path: Path) -> None:
    for number, days in ((1, 1), (2, 3), (3, 2)):
        with open_store(tmp_path, weights=number, model=f"net{number}") as store:
            store.put([key(number)], [np.zeros(1000)])
        (shard,) = store.folder.glob("*.bin")
        os.utime(shard, (shard.stat().st_atime, shard.stat().st_mtime - days * DAY))
    assert trim(tmp_path, 9000) > 4000
    with open_store(tmp_path, weights=2, model="net2") as store:
        assert store.get([key(2)]) == [None]
    with open_store(tmp_path, weights=3, model="net3") as store:
        assert store.get([key(3)])[0] is not None  # which is a use
    assert trim(tmp_path, 5000) > 4000
    with open_store(tmp_path, weights=3, model="net3") as store:
        assert store.get([key(3)])[0] is not None


def test_closing_keeps_all_stores_within_the_limit(tmp_path: Path) -> None:
    for number in range(4):
        with open_store(tmp_path, weights=number, limit=10_000) as store:
            store.put([key(number)], [np.zeros(1000)])
        (shard,) = store.folder.glob("*.bin")
        os.utime(shard, (0, number))
    assert sum(path.stat().st_size for path in shards(tmp_path)) <= 10_000
    with open_store(tmp_path, weights=3) as store:
        assert store.get([key(3)])[0] is not None


def test_store_that_is_cleared_before_its_first_value_is_listed(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        assert clear_stores(tmp_path) and not store.folder.exists()
        store.put([key(0)], [np.zeros(3)])
        (summary,) = list_stores(tmp_path)
        assert (summary.model, summary.kind, summary.entries) == ("net", "embeddings", 1)


def test_store_with_a_damaged_description_is_listed_repaired_and_cleared(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.put([key(0)], [np.zeros(3)])
    for content in (b"", b"{}", b"[]", b"\xff"):
        (store.folder / DESCRIPTION).write_bytes(content)
        (summary,) = list_stores(tmp_path)
        assert (summary.model, summary.kind, summary.entries) == ("unknown", "embeddings", 1)
    with open_store(tmp_path) as store:
        assert store.get([key(0)])[0] is not None
    (summary,) = list_stores(tmp_path)
    assert summary.model == "net"
    (store.folder / DESCRIPTION).write_bytes(b"")
    assert clear_stores(tmp_path) and not list_stores(tmp_path)


def test_files_of_others_are_kept_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_store(tmp_path) as store:
        store.put([key(0)], [np.zeros(3)])
    (store.folder / "000001.bin").mkdir()
    assert not clear_stores(tmp_path) and list_stores(tmp_path)[0].entries == 0
    assert "1 of 2 files are in use or not of" in caplog.text


def test_shard_that_a_process_appends_to_is_not_removed(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.put([key(0)], [np.zeros(1000)])
        assert trim(tmp_path, 0) == 0
        assert clear_stores(tmp_path) == []
        assert store.get([key(0)])[0] is not None


def test_listing_describes_each_store(tmp_path: Path) -> None:
    for model, count in (("first", 2), ("second", 1)):
        with open_store(tmp_path, weights=count, model=model) as store:
            store.put([key(i) for i in range(count)], [np.zeros(5)] * count)
        os.utime(store.folder / "000000.bin", (0, 2e9 + count))
    summaries = list_stores(tmp_path)
    assert [(store.model, store.entries, store.kind) for store in summaries] == [
        ("first", 2, "embeddings"),
        ("second", 1, "embeddings"),
    ]
    assert sorted(store.size for store in summaries) == sorted(path.stat().st_size for path in shards(tmp_path))
    assert summaries[0].last_used == 2e9 + 2


def test_store_is_identified_by_the_encoder_and_not_by_its_name(tmp_path: Path) -> None:
    with open_store(tmp_path, model="musicnn") as store:
        store.put([key(0)], [np.ones(3)])
    with open_store(tmp_path, model="a run") as store:
        assert store.get([key(0)])[0] is not None
    assert [store.model for store in list_stores(tmp_path)] == ["musicnn"]


def test_command_lists_readouts_other_than_the_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readout = {"layers": "all", "pooling": "mean_std", "combine": "concat"}
    for value in (None, readout):
        with EmbeddingStore(tmp_path / FOLDER, "musicnn", {"readout": value}) as store:
            store.put([key(0)], [np.ones(3)])
    assert sorted(store.readout for store in list_stores(tmp_path / FOLDER)) == ["all_mean_std", "default"]
    assert cache([f"--packs={tmp_path}"]) == 0
    lines = capsys.readouterr().out.splitlines()[:2]
    assert sorted(line.partition(" 1 entries")[0].split() for line in lines) == [
        ["musicnn"],
        ["musicnn", "all_mean_std"],
    ]


def test_weights_of_one_backbone_are_listed_and_cleared_separately(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for weights in ("msd", "mtt"):
        name = encoder_name("musicnn", {"weights": weights})
        with EmbeddingStore(tmp_path / FOLDER, name, {"weights": weights}) as store:
            store.put([key(0)], [np.ones(3)])
    assert cache([f"--packs={tmp_path}"]) == 0
    lines = capsys.readouterr().out.splitlines()[:2]
    assert sorted(line.partition(" 1 entries")[0].strip() for line in lines) == ["musicnn msd", "musicnn mtt"]
    assert [store.model for store in clear_stores(tmp_path / FOLDER, "musicnn msd")] == ["musicnn msd"]
    assert [store.model for store in clear_stores(tmp_path / FOLDER, "musicnn")] == ["musicnn mtt"]


@pytest.mark.parametrize(
    ("settings", "source", "name"),
    [
        ({"weights": "/weights/mn10_as.pt"}, None, "net mn10_as.pt"),
        ({"weights": None}, None, "net"),
        ({"weights": "pretrained", "model": "m-a-p/MERT-v1-95M"}, None, "net MERT-v1-95M"),
        ({}, "outputs/first run", "net first run"),
        ({"weights": "msd"}, "outputs/first/checkpoints/best.ckpt", "net first"),
    ],
)
def test_encoder_has_the_name_of_its_weights(settings: dict[str, str | None], source: str | None, name: str) -> None:
    assert encoder_name("net", settings, source) == name


def test_clearing_removes_only_selected_stores_and_no_files_of_others(tmp_path: Path) -> None:
    folders = {}
    for weights, (model, days) in enumerate((("old", 10), ("new", 0), ("mixed", 10))):
        with open_store(tmp_path, weights=weights, model=model) as store:
            store.put([key(0)], [np.zeros(5)])
        folders[model] = store.folder
        for path in store.folder.iterdir():
            os.utime(path, (0, path.stat().st_mtime - days * DAY))
    foreign = folders["mixed"] / "000001.bin"
    foreign.write_bytes(b"notes of a user")
    os.utime(foreign, (0, 0))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "store.json").write_text('{"kind": "embeddings", "model": "old"}')
    assert [store.model for store in clear_stores(tmp_path, older_than=5)] == ["old"]
    assert not folders["old"].exists() and folders["new"].is_dir()
    assert foreign.read_bytes() == b"notes of a user"
    assert clear_stores(tmp_path, model="absent") == []
    assert [store.model for store in clear_stores(tmp_path, model="new")] == ["new"]
    assert (tmp_path / "own" / "store.json").is_file()
