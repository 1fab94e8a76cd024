"""Tests of the record of training clips, with planted overlaps between collections."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from etude.data.datamodule import build_datamodule
from etude.data.training_record import ClipKeys, TrainingRecord, stored_record
from etude.errors import UserError

N_SOUNDS, N_CLIPS = 400, 60


def random_collection(rng: np.random.Generator, id_space: str | None) -> pd.DataFrame:
    """Return clips of few sounds, ids and groups, so that two collections often have the same values."""
    sounds = rng.choice(N_SOUNDS, N_CLIPS, replace=False)
    groups = rng.choice(40, N_CLIPS)
    return pd.DataFrame({
        "id": [str(number) for number in rng.choice(200, N_CLIPS, replace=False)],
        "group": pd.Series([None if group < 8 else f"artist {group}" for group in groups], dtype=object),
        "sound_hash": [f"{sound:064x}" for sound in sounds],
        "id_space": id_space,
        "split": rng.choice(["train", "val", "test", "none"], N_CLIPS, p=[0.5, 0.2, 0.2, 0.1]),
    })  # fmt: skip


def keys_of(table: pd.DataFrame) -> ClipKeys:
    return ClipKeys.of_clips(table.drop(columns="id_space"), table["id_space"].iloc[0])


def test_every_planted_overlap_of_three_generations_is_found() -> None:
    """Compare the search with sets of the values themselves, over chains of three runs."""
    rng = np.random.default_rng(0)
    n_found = n_groups = n_lookalikes = 0
    for _ in range(40):
        spaces = [rng.choice(["fma", "gtzan", None]) for _ in range(4)]
        *trained, scored = (random_collection(rng, space) for space in spaces)
        record, facts = TrainingRecord(), {"train": set[Any](), "val": set[Any]()}
        for generation, table in enumerate(trained):
            own = TrainingRecord.of_run(keys_of(table), table["split"].to_numpy(), f"run {generation}", "random")
            plain = json.loads(json.dumps({"own": own.to_plain(), "earlier": record.to_plain()}))
            record = stored_record({"training_record": plain}, "run")  # as read from the checkpoint of the generation
            for split, values in facts.items():
                for row in table[table["split"] == split].itertuples():
                    values.add(row.sound_hash)
                    if row.id_space is not None:
                        values |= {(row.id_space, row.id), (row.id_space, row.group, "group")}
        overlap = record.find(keys_of(scored))
        rows = list(scored.itertuples())
        used = [row.sound_hash in facts["train"] or (row.id_space, row.id) in facts["train"] for row in rows]
        used_groups = {row.group for row, is_used in zip(rows, used, strict=True) if is_used and row.group}
        groups = [
            not is_used
            and row.group is not None
            and (row.group in used_groups or (row.id_space, row.group, "group") in facts["train"])
            for row, is_used in zip(rows, used, strict=True)
        ]
        validated = [row.sound_hash in facts["val"] or (row.id_space, row.id) in facts["val"] for row in rows]
        assert overlap.trained.tolist() == used
        assert overlap.same_group.tolist() == groups
        assert overlap.validated.tolist() == validated
        assert [run["name"] for run in record.runs] == ["run 0", "run 1", "run 2"]
        n_found, n_groups = n_found + sum(used), n_groups + sum(groups)
        all_ids = {clip for table in trained for clip in table["id"][table["split"] == "train"]}
        n_lookalikes += sum(row.id in all_ids and not is_used for row, is_used in zip(rows, used, strict=True))
    assert min(n_found, n_groups, n_lookalikes) > 100  # the comparison is not empty


def test_ids_and_groups_count_only_within_one_id_space() -> None:
    clips = pd.DataFrame({"id": ["12", "13"], "group": ["artist 1", "artist 2"], "sound_hash": ["a", "b"]})
    others = clips.assign(sound_hash=["c", "d"])
    for space, other, expected in (("fma", "fma", True), ("fma", "gtzan", False), (None, None, False)):
        keys = ClipKeys.of_clips(clips, space)
        record = TrainingRecord.of_run(keys, np.array(["train", "val"]), "run", "table")
        found = record.find(ClipKeys.of_clips(others, other))
        assert found.trained.tolist() == [expected, False]
        assert found.validated.tolist() == [False, expected]
    nameless = ClipKeys.of_clips(clips.assign(sound_hash=None), None)
    record = TrainingRecord.of_run(nameless, np.array(["train", "train"]), "run", "table")
    assert not len(record.train)
    assert not record.find(nameless).trained.any()  # missing keys are not equal to each other


@pytest.mark.parametrize(
    "damage",
    [
        {"train": "not base64!"},
        {"train": "AAAA"},
        {"val": 3},
        {"runs": [{"name": "a"}]},
        {"runs": None},
        {"unknown": None},
    ],
)
def test_damaged_record_is_refused(damage: dict[str, Any]) -> None:
    plain = TrainingRecord().to_plain()
    with pytest.raises(UserError, match="run: the record of its training clips is damaged"):
        stored_record({"training_record": {"own": plain | damage, "earlier": plain}}, "run")
    with pytest.raises(UserError, match="is damaged"):
        stored_record({"training_record": "text"}, "run")


def test_record_of_large_archive_is_compact() -> None:
    keys = ClipKeys.of_clips(
        pd.DataFrame({
            "id": [str(i) for i in range(10_000)],
            "group": [f"artist {i // 10}" for i in range(10_000)],
            "sound_hash": [f"{i:064x}" for i in range(10_000)],
        }),
        "fma",
    )  # fmt: skip
    record = TrainingRecord.of_run(keys, np.full(10_000, "train"), "run", "fma")
    assert len(record.train) == 21_000  # sounds, ids and 1,000 groups, all different
    assert len(json.dumps(record.to_plain())) < 30 * 10_000  # 3 MB for 100,000 clips


def test_sound_hash_does_not_depend_on_front_end(config: Any) -> None:
    """Compare the packs of two front ends: equal hashes of sounds, and different frames."""
    tables = []
    for overrides in ([], ["feature.front.n_mels=40"]):
        data = build_datamodule(config(*overrides))
        tables.append(data.open_pack().index)
    assert tables[0]["sound_hash"].tolist() == tables[1]["sound_hash"].tolist()
    assert tables[0]["sound_hash"].nunique() == len(tables[0])
    assert not set(tables[0]["content"]) & set(tables[1]["content"])
    path = Path(data.source.table["path"][0])
    assert tables[0]["sound_hash"][0] == hashlib.sha256(path.read_bytes()).hexdigest()
