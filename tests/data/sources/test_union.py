"""Tests of unions of collections."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from etude.audio.log_mel import LogMelChroma
from etude.data.batches import Feature
from etude.data.collection import Collection, label_target, scalar_target
from etude.data.datamodule import MusicData, build_datamodule
from etude.data.pack import Pack, PackOptions
from etude.data.pack_writer import write_pack
from etude.data.sources import pack as packs_of
from etude.data.sources import union
from etude.data.splits import Split
from etude.data.training_record import ClipKeys
from etude.errors import DataError

FRONT = LogMelChroma(n_mels=3, n_chroma=1)
FRAMES = {name: np.random.default_rng(i).random((5 + i, 4)).astype(np.float16) for i, name in enumerate("abcdefgh")}
GENRES = {"genre": label_target(["x", "y"])}
MOODS = {"energy": scalar_target(0, 1, "rated"), "mood": label_target(["calm", "wild"])}


def member(
    home: Path, name: str, ids: str, targets: dict[str, Any], id_space: str | None = None, **columns: Any
) -> packs_of.Packed:
    """Return a pack of clips whose frames are determined by their id."""
    table = pd.DataFrame({"id": list(ids), "group": None, **columns})
    description = {"name": name, "title": name.title(), "targets": targets, "card": f"# {name}", "note": f"{name}.",
            "extra": {"licences": {"CC0": len(ids), name: 1}}, "id_space": id_space}  # fmt: skip
    manifest = {"origin": {"front": FRONT.to_dict(), "collection": description}}
    write_pack(home / name, table, [FRAMES[clip] for clip in ids], manifest)
    return packs_of.collection(str(home / name))


@pytest.fixture
def genres(tmp_path: Path) -> packs_of.Packed:
    return member(tmp_path, "genres", "abcde", GENRES, genre=["x", "y", None, "x", "y"])


@pytest.fixture
def moods(tmp_path: Path) -> packs_of.Packed:
    """Return a pack that shares three clips with `genres`."""
    return member(
        tmp_path, "moods", "fdbeh", MOODS, energy=[0.1, 0.2, 0.3, np.nan, 0.5], mood=["calm", "wild"] * 2 + [None]
    )


def join_members(*members: packs_of.Packed, shared_ids: bool = False) -> tuple[union.Union, Any]:
    source = union.collection({packed.name: packed for packed in members}, shared_ids=shared_ids)
    return source, source.pack(FRONT, PackOptions())


def assert_frames(pack: Any, names: str) -> None:
    """Compare complete clips and crops with the written frames."""
    assert pack.lengths.tolist() == [len(FRAMES[name]) for name in names]
    for row, name in enumerate(names):
        np.testing.assert_array_equal(pack.clip(row), FRAMES[name])
        np.testing.assert_array_equal(pack.clip(row, 2, 2), FRAMES[name][2:4])
        np.testing.assert_array_equal(pack.clip(row, 3), FRAMES[name][3:])
        np.testing.assert_array_equal(pack.clip(row, 1, 1000), FRAMES[name][1:])


def test_ids_are_prefixed_and_labels_stay_missing(genres: packs_of.Packed, moods: packs_of.Packed) -> None:
    source, pack = join_members(genres, moods)
    assert pack.index["id"].tolist() == [
        *(f"genres/{name}" for name in "abcde"), *(f"moods/{name}" for name in "fdbeh")
    ]  # fmt: skip
    assert_frames(pack, "abcdefdbeh")
    assert source.targets == {**GENRES, **MOODS}
    assert pack.index["genre"].tolist()[:2] == ["x", "y"]
    assert pack.index["genre"][5:].isna().all()
    assert pack.index["energy"][:5].isna().all()
    assert pack.index["energy"][5:].tolist()[:3] == [0.1, 0.2, 0.3]


def test_shared_ids_merge_clips_with_labels_of_both(genres: packs_of.Packed, moods: packs_of.Packed) -> None:
    _, pack = join_members(genres, moods, shared_ids=True)
    assert pack.index["id"].tolist() == list("abcdefh")
    assert_frames(pack, "abcdefh")
    table = pack.index.set_index("id")
    assert table.loc["b", ["genre", "energy", "mood"]].tolist() == ["y", 0.3, "calm"]
    assert table.loc["d", ["genre", "energy", "mood"]].tolist() == ["x", 0.2, "wild"]
    assert table.loc["e", "mood"] == "wild"
    assert np.isnan(table.loc["e", "energy"])  # missing in the only member with this label
    assert table["mood"].isna().tolist() == [True, False, True, False, False, False, True]
    assert table["genre"].isna().tolist() == [False, False, True, False, False, True, True]


@pytest.mark.parametrize("order", [1, -1])
def test_order_of_members_does_not_change_shared_clips(
    order: int, genres: packs_of.Packed, moods: packs_of.Packed
) -> None:
    _, pack = join_members(*[genres, moods][::order], shared_ids=True)
    assert_frames(pack, "".join(pack.index["id"]))
    assert sorted(pack.index["id"]) == list("abcdefh")
    assert pack.index.set_index("id").loc["b", "energy"] == 0.3


def test_conflicting_labels_of_clip_are_refused_by_name(genres: packs_of.Packed, tmp_path: Path) -> None:
    second = member(tmp_path, "second", "fgb", GENRES, genre=["x", "x", "x"])
    with pytest.raises(DataError, match=r"^data=union: clip 'b' has two different values of genre"):
        join_members(genres, second, shared_ids=True)
    assert len(join_members(genres, second)[1].index) == 8  # separate clips without shared ids
    same = member(tmp_path, "same", "fgb", GENRES, genre=["x", "x", "y"])
    _, pack = join_members(genres, same, shared_ids=True)
    assert pack.index.set_index("id")["genre"].reindex(list("bfg")).tolist() == ["y", "x", "x"]


def test_test_clip_of_one_member_is_test_clip_of_union(tmp_path: Path) -> None:
    """Check that a test clip of one set of labels is not a training clip of the other."""
    first = member(tmp_path, "one", "abcdef", GENRES, genre=["x", "y"] * 3,
                 split=["train", "test", "train", "val", "val", "train"])  # fmt: skip
    second_member = member(tmp_path, "two", "fedcbg", {"energy": scalar_target()}, energy=np.arange(6) / 6,
                 split=["train", "train", "test", "val", "train", "val"])  # fmt: skip
    for members in ((first, second_member), (second_member, first)):
        source, pack = join_members(*members, shared_ids=True)
        splits = Split("official").assign(pack.index, list(source.targets))
        assert dict(zip(pack.index["id"], splits, strict=True)) == {
            "a": "train", "b": "test", "c": "val", "d": "test", "e": "val", "f": "train", "g": "val"
        }  # fmt: skip


def test_split_of_shared_clips_is_taken_from_either_member(tmp_path: Path, moods: packs_of.Packed) -> None:
    first = member(
        tmp_path,
        "one",
        "bdefh",
        GENRES,
        genre=["x", "y", "x", "y", "x"],
        split=["train", "test", "val"] + ["train"] * 2,
    )
    source, pack = join_members(first, moods, shared_ids=True)
    assert Split("official").assign(pack.index, list(source.targets)).tolist() == [
        "train",
        "test",
        "val",
        "train",
        "train",
    ]
    more = member(tmp_path, "more", "bg", {"energy": scalar_target()}, energy=[0.5, 0.5])
    source, pack = join_members(first, more, shared_ids=True)
    with pytest.raises(DataError, match="in the column split for every clip; 1 of 6 clips lack a value, such as g"):
        Split("official").assign(pack.index, list(source.targets))


def test_group_of_shared_clip_is_taken_from_either_member(tmp_path: Path) -> None:
    first = member(tmp_path, "one", "ab", GENRES, genre=["x", "y"])
    second_member = member(tmp_path, "two", "bc", {"energy": scalar_target()}, energy=[0.5, 0.5])
    for source, group in ((first, ["bach", None]), (second_member, ["holst", "holst"])):
        source.opened.index["group"] = group
    _, pack = join_members(first, second_member, shared_ids=True)
    assert pack.index["group"].tolist() == ["bach", "holst", "holst"]


def test_same_audio_in_two_members_is_refused(genres: packs_of.Packed, moods: packs_of.Packed) -> None:
    """Split a union with prefixed ids, in which the same audio could be in both training and test."""
    source, pack = join_members(genres, moods)
    with pytest.raises(DataError, match="genres/d = moods/d, genres/b = moods/b, genres/e = moods/e; drop"):
        Split("random").assign(pack.index, list(source.targets))


def test_specifications_are_merged(genres: packs_of.Packed, tmp_path: Path) -> None:
    targets = {"genre": label_target(["w", "x"], "a note"), "energy": scalar_target(-1, 2)}
    second = member(tmp_path, "second", "fgh", targets,
                   genre=["w", "x", "w"], energy=[-1, 0, 2])  # fmt: skip
    more = member(tmp_path, "more", "fgh", {"energy": scalar_target(0, 5)}, energy=[5, 0, 2])
    source, _ = join_members(genres, second, more)
    assert source.targets == {
        "genre": {"kind": "label", "classes": ["w", "x", "y"], "note": "a note"},
        "energy": {"kind": "scalar", "low": -1.0, "high": 5.0, "note": ""},
    }
    assert genres.targets == GENRES  # unchanged


def test_conflicting_kinds_of_target_are_refused(genres: packs_of.Packed, tmp_path: Path) -> None:
    second = member(tmp_path, "second", "fgh", {"genre": scalar_target()}, genre=[0.1, 0.2, 0.3])
    with pytest.raises(DataError, match=r"^data=union: genre is a scalar in second and a label in a previous"):
        join_members(genres, second)


def test_single_member_is_refused(genres: packs_of.Packed) -> None:
    for members in ({}, {"genres": genres}):
        with pytest.raises(DataError, match=r"needs two collections or more; .* data\.source\.packs=\[folder,folder\]"):
            union.collection(members)


def test_descriptions_of_members_are_joined(genres: packs_of.Packed, moods: packs_of.Packed) -> None:
    source, _ = join_members(genres, moods)
    assert (source.name, source.title) == ("genres+moods", "Genres + Moods")
    assert (source.card, source.note) == ("# genres\n\n# moods", "genres. moods.")
    assert source.extra == {"licences": {"CC0": 10, "genres": 1, "moods": 1}}


def test_hash_depends_on_frames_of_all_members(genres: packs_of.Packed, moods: packs_of.Packed, tmp_path: Path) -> None:
    second = member(tmp_path, "second", "fdbea", MOODS, energy=[0.1] * 5, mood=["calm"] * 5)
    hashes = [
        join_members(*pair)[1].manifest["sha256"] for pair in ((genres, moods), (moods, genres), (genres, second))
    ]
    assert len(set(hashes)) == 3
    assert hashes[0] == join_members(genres, moods)[1].manifest["sha256"]


def test_packs_with_equal_names_stay_separate(genres: packs_of.Packed, tmp_path: Path) -> None:
    others = [member(tmp_path / str(i), "genres", "fgh", GENRES, genre=["x", "y", "x"]) for i in range(2)]
    source = union.collection(packs=[str(first.opened.folder) for first in (genres, *others)])
    assert len(source.members) == 3
    pack = source.pack(FRONT, PackOptions())
    assert not pack.index["id"].duplicated().any()
    assert_frames(pack, "abcdefghfgh")


def test_member_with_other_front_end_is_refused(genres: packs_of.Packed, moods: packs_of.Packed) -> None:
    source = union.collection({"genres": genres, "moods": moods})
    with pytest.raises(DataError, match=r"was written with another front end; add feature\.front\.n_mels=3"):
        source.pack(LogMelChroma(n_chroma=1), PackOptions())


def test_collections_without_pack_are_prepared(genres: packs_of.Packed, tmp_path: Path) -> None:
    """Packs use the same front end and options."""
    read: list[str] = []

    def reader(path: Path, front: LogMelChroma, shortest: float) -> np.ndarray:
        read.append(path.name)
        return FRAMES[path.name]

    for name in "fgh":
        (tmp_path / name).write_text(name)
    table = pd.DataFrame({"id": list("fgh"), "path": [str(tmp_path / n) for n in "fgh"], "group": None, "energy": 0.5})
    fresh = Collection("fresh", "Fresh", table, {"energy": scalar_target()}, reader=reader)
    source = union.collection({"fresh": fresh, "genres": genres})
    for _ in range(2):
        assert_frames(source.pack(FRONT, PackOptions(tmp_path / "packs", workers=1)), "fghabcde")
    assert read == list("fgh")


def test_datamodule_marks_missing_labels_and_uses_all_frames(
    genres: packs_of.Packed, moods: packs_of.Packed, config: Callable[..., dict[str, Any]]
) -> None:
    """Compose overrides and check the batches."""
    folders = ",".join(f"'{packed.opened.folder}'" for packed in (genres, moods))
    datamodule = build_datamodule(
        config("data=union", f"data.source.packs=[{folders}]", "data.source.shared_ids=true", "feature=fused",
               "feature.front.n_mels=3", "feature.front.n_chroma=1", "data.split.kind=random", "data.eval_batch_size=7")
    )  # fmt: skip
    datamodule.setup()
    assert isinstance(datamodule, MusicData)
    names = datamodule.pack.index["id"].tolist()
    assert datamodule.y["genre"].tolist() == [0, 1, -1, 0, 1, -1, -1]
    expected = [np.nan, 0.3, np.nan, 0.2, np.nan, 0.1, 0.5]
    np.testing.assert_allclose(datamodule.y["energy"], expected, rtol=1e-6)
    train = np.concatenate([FRAMES[names[row]] for row in datamodule.rows("train")]).astype(np.float64)
    np.testing.assert_allclose(datamodule.mean, train.mean(0), rtol=1e-5)
    np.testing.assert_allclose(datamodule.std, train.std(0), rtol=1e-5)
    seen = []
    for split in ("train", "val", "test"):
        for batch in datamodule.loader(split):
            for x, length, row in zip(batch.x, batch.lengths.tolist(), batch.row.tolist(), strict=True):
                np.testing.assert_array_equal(x[:length], FRAMES[names[row]])
                seen.append(row)
            assert torch.equal(batch.y["genre"], datamodule.y["genre"][batch.row])
    assert sorted(seen) == list(range(7))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_do_not_change_batches_of_union(genres: packs_of.Packed, moods: packs_of.Packed) -> None:
    source = union.collection({"genres": genres, "moods": moods}, shared_ids=True)
    batches = []
    for workers in (0, 2):
        datamodule = MusicData(
            source, Feature("fused", front=FRONT), Split("random"), batch_size=2, crop=0.1, workers=workers
        )  # type: ignore[arg-type]
        datamodule.setup()
        batches.append(list(datamodule.train_dataloader()))
    assert len(batches[0]) == len(batches[1]) > 0
    for first, second in zip(*batches, strict=True):
        assert torch.equal(first.x, second.x)
        assert torch.equal(first.row, second.row)


def test_union_of_unions_is_read(genres: packs_of.Packed, moods: packs_of.Packed, tmp_path: Path) -> None:
    more = member(tmp_path, "more", "gc", {"energy": scalar_target()}, energy=[0.5, 0.6])
    inner = union.collection({"genres": genres, "moods": moods}, shared_ids=True)
    source = union.collection({"inner": inner, "more": more})  # type: ignore[dict-item]
    pack = source.pack(FRONT, PackOptions())
    assert_frames(pack, "abcdefhgc")


def test_clips_keep_the_ids_of_their_member(moods: packs_of.Packed, tmp_path: Path) -> None:
    """The prefixed ids of a union are not the ids of its members, by which other collections know the clips."""
    fma = member(tmp_path, "fma_genres", "gc", GENRES, "fma", genre=["x", "y"])
    more = member(tmp_path, "more", "a", {"tempo": scalar_target()}, tempo=[0.5])
    inner = union.collection({"genres": fma, "moods": moods})
    source = union.collection({"inner": inner, "more": more})  # type: ignore[dict-item]
    keys = ClipKeys.of_clips(source.pack(FRONT, PackOptions()).index, None)
    assert keys.id[:2].tolist() == ClipKeys.of_clips(fma.opened.index, "fma").id.tolist()
    assert not keys.id[2:].any()
    sounds = [ClipKeys.of_clips(packed.opened.index, None).sound for packed in (fma, moods, more)]
    assert keys.sound.tolist() == np.concatenate(sounds).tolist()


def test_members_are_not_modified(genres: packs_of.Packed, moods: packs_of.Packed) -> None:
    before = [packed.opened.index.copy() for packed in (genres, moods)]
    join_members(genres, moods, shared_ids=True)
    for packed, table in zip((genres, moods), before, strict=True):
        pd.testing.assert_frame_equal(packed.opened.index, table)
        assert isinstance(packed.opened, Pack)
    assert replace(genres).targets == GENRES
