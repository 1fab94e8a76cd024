"""Tests of the description of groups and splits in the record of a run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pandas as pd
import pytest

from etude.data.datamodule import MusicData
from etude.data.splits import Split, class_counts
from etude.evaluation.score_summary import describe_copies
from etude.experiment.provenance import count_skipped, describe_data, describe_targets

CLIPS = 12
GENRES = {"genre": {"kind": "label", "classes": ["x", "y"], "note": ""}}


def describe(split: Split, **columns: Any) -> dict[str, Any]:
    """Return the description of twelve clips, and check the numbers of training clips."""
    table = pd.DataFrame({"id": [f"c{i}" for i in range(CLIPS)], "genre": ["x", "y"] * 6, "frames": 10, **columns})
    plan = split.plan(table, ["genre"])
    front = SimpleNamespace(sync="none", frames_per_second=1.0)
    source = SimpleNamespace(name="n", title="t", card="", note="", extra={})
    data = SimpleNamespace(
        pack=SimpleNamespace(index=table, manifest={"sha256": "h"}, packs=[]),
        source=source,
        feature=SimpleNamespace(front=front),
        targets=GENRES,
        assignment=plan,
        splits=plan.splits,
        class_counts=class_counts(table, plan.splits, GENRES),
        fitted_splits=("train",),
    )
    trained = describe_targets(cast(MusicData, data), {"genre": {}})["genre"]["train_classes"]
    assert trained == table["genre"][plan.splits == "train"].value_counts().reindex(["x", "y"], fill_value=0).to_dict()
    return describe_data(cast(MusicData, data))


@pytest.mark.parametrize(
    ("group", "known", "grouped", "groups", "disjoint"),
    [
        ([None] * CLIPS, "none", 0, None, None),
        ([f"g{i // 2}" for i in range(CLIPS)], "all", CLIPS, 6, True),
        ([f"g{i // 2}" for i in range(10)] + [None, None], "some", 10, 5, None),
    ],
)
def test_unknown_groups_are_not_disjoint(
    group: list[str | None], known: str, grouped: int, groups: int | None, disjoint: bool | None
) -> None:
    data = describe(Split(), group=group)
    names = ("groups_known", "grouped", "groups", "disjoint")
    assert [data[name] for name in names] == [known, grouped, groups, disjoint]
    assert data["shared_groups"] == 0 and data["split_kind"] == "grouped" and data["fold"] is None
    assert all((size["groups"] is None) == (known == "none") for size in data["splits"].values())
    assert sum(size["clips"] for size in data["splits"].values()) == CLIPS


def test_official_folds_and_crossing_groups_are_recorded() -> None:
    folds = ["1", "2", "3", ""] * 3
    data = describe(Split(fold=2), group=[f"g{i // 4}" for i in range(CLIPS)], fold=folds)
    assert (data["split_kind"], data["split_column"], data["fold"], data["folds"]) == ("official", "fold", 2, 3)
    assert data["fold_names"] == [1, 2, 3]
    assert data["disjoint"] is False and data["shared_groups"] == 3
    assert data["unused"] == {"empty cell in column fold": 3}


def test_audio_in_training_and_test_is_named() -> None:
    """Copies under other ids and artists, which data.split.duplicates=allow accepts."""
    groups, splits = [f"g{i}" for i in range(CLIPS)], ["train"] * 6 + ["val"] * 3 + ["test"] * 3
    copied = [f"h{i}" for i in range(CLIPS - 2)] + ["h0", "h7"]  # of a training and of a validation clip
    data = describe(Split(duplicates="allow", column="cv"), group=groups, cv=splits, content=copied)
    assert data["copies"] == {"val": 0, "test": 1} and data["disjoint"] is False
    (sentence,) = describe_copies({"data": data})
    assert sentence.startswith("1 of the 3 test clips have the same audio as training clips")
    data = describe(Split(column="cv"), group=groups, cv=splits, content=[f"h{i}" for i in range(CLIPS)])
    assert data["disjoint"] is True and describe_copies({"data": data}) == []


def test_artists_beside_other_groups_are_named() -> None:
    """Albums are groups that do not cross splits, but one artist has an album in training and one in test."""
    groups, splits = [f"album {i}" for i in range(CLIPS)], ["train"] * 6 + ["val"] * 3 + ["test"] * 3
    artists = [f"artist {i}" for i in range(CLIPS - 2)] + ["artist 0", None]
    data = describe(Split(column="cv"), group=groups, cv=splits, artist=artists)
    assert data["known_artists"] == {"val": 0, "test": 1}
    (sentence,) = describe_copies({"data": data})
    assert sentence == "1 of the 3 test clips are by artists of training clips, so the test scores can be optimistic."


def test_skipped_clips_are_counted_by_reason(tmp_path: Path) -> None:
    """The details of single files do not separate reasons, and rare reasons are counted together."""
    reasons = ["cannot be decoded: no header", "cannot be decoded: no frames", *(f"reason {i}" for i in range(6))]
    rows = [f"clip{i},{reason}" for i, reason in enumerate(reasons)]
    (tmp_path / "skipped.csv").write_text("\n".join(["id,reason", *rows]))
    counts = count_skipped(SimpleNamespace(packs=[SimpleNamespace(folder=tmp_path)]))
    assert counts == {"cannot be decoded": 2, **{f"reason {i}": 1 for i in range(4)}, "other reasons": 2}
    (tmp_path / "skipped.csv").write_text("damaged")
    assert count_skipped(SimpleNamespace(folder=tmp_path)) == {}
