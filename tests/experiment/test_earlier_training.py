"""Tests of scored clips on which the initial weights were trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from etude.data.datamodule import MusicData, build_datamodule
from etude.data.training_record import TrainingRecord
from etude.errors import DataError, UserError
from etude.evaluation.score_summary import describe_earlier_training
from etude.experiment.earlier_training import check_earlier_training, read_earlier_training, training_record
from etude.experiment.provenance import describe_data
from etude.export.model_card import config_content
from etude.files.atomic import write_text
from etude.runs.folder import RunFolder

Compose = Callable[..., dict[str, Any]]


@pytest.fixture
def data(config: Compose) -> MusicData:
    """Return the demo data with its default split."""
    result = build_datamodule(config())
    result.setup()
    return result


def save_checkpoint(path: Path, data: MusicData, splits: np.ndarray, earlier: TrainingRecord) -> Path:
    """Write a checkpoint of a run that was trained on the clips of a split."""
    original, data.splits = data.splits, splits
    record = training_record({"name": path.stem}, data, earlier)
    data.splits = original
    torch.save({"etude": {"training_record": record}, "state_dict": {}}, path)
    return path


def without_training(data: MusicData) -> np.ndarray:
    return np.full(len(data.splits), "none", dtype="<U5")


def plant(data: MusicData, split: str, count: int) -> np.ndarray:
    """Return splits of an earlier run with some clips of a split of this run as training clips."""
    splits = without_training(data)
    splits[np.flatnonzero(data.splits == split)[:count]] = "train"
    return splits


def test_run_scored_on_clips_of_its_source_is_refused(config: Compose, data: MusicData, tmp_path: Path) -> None:
    """Plant test clips in the grandparent of a run, of which only the parent's checkpoint is left."""
    grandparent = save_checkpoint(tmp_path / "grandparent.ckpt", data, plant(data, "test", 3), TrainingRecord())
    earlier = read_earlier_training(config("transfer=full", f"transfer.init_from={grandparent}"))
    parent = save_checkpoint(tmp_path / "parent.ckpt", data, data.splits, earlier)
    grandparent.unlink()
    composed = config("transfer=full", f"transfer.init_from={parent}")
    earlier = read_earlier_training(composed)
    assert [run["name"] for run in earlier.runs] == ["grandparent", "parent"]
    ids = data.pack.index["id"][np.flatnonzero(data.splits == "test")[:3]]
    with pytest.raises(
        UserError, match=r"transfer\.init_from: \d+ of 52 test clips .* transfer\.overlap=drop"
    ) as error:
        check_earlier_training(composed, data, earlier)
    assert all(clip in str(error.value) for clip in ids)


def test_clips_that_were_only_training_clips_are_accepted(config: Compose, data: MusicData, tmp_path: Path) -> None:
    source = save_checkpoint(tmp_path / "source.ckpt", data, data.splits, TrainingRecord())
    composed = config("transfer=full", f"transfer.init_from={source}")
    result = check_earlier_training(composed, data, read_earlier_training(composed))
    assert {split: row["trained"] + row["same_group"] for split, row in result["splits"].items()} == {
        "test": 0,
        "val": 0,
    }
    assert result["splits"]["val"]["validated"] == (data.splits == "val").sum()
    description = describe_data(data, result)
    assert description["disjoint"]
    sentences = " ".join(describe_earlier_training({"earlier_training": result, "data": description}))
    assert "No scored clip was in the earlier training of the weights (source on 116 clips of demo)" in sentences
    assert "28 validation clips had been in the validation split" in sentences


def test_groups_of_training_clips_count_unless_splits_share_groups(
    config: Compose, data: MusicData, tmp_path: Path
) -> None:
    source = save_checkpoint(tmp_path / "source.ckpt", data, plant(data, "test", 1), TrainingRecord())
    composed = config("transfer=full", f"transfer.init_from={source}", "transfer.overlap=allow")
    earlier = read_earlier_training(composed)
    first = data.pack.index["group"][np.flatnonzero(data.splits == "test")[0]]
    size = int((data.pack.index["group"] == first).sum())
    result = check_earlier_training(composed, data, earlier)
    assert result["splits"]["test"] == {"trained": 1, "same_group": size - 1, "validated": 0, "left_out": 0}
    assert not describe_data(data, result)["disjoint"]
    dropped = check_earlier_training(composed | {"transfer": {"overlap": "drop"}}, data, earlier)
    assert dropped["splits"]["test"]["left_out"] == size
    assert describe_data(data, dropped)["disjoint"]

    clipwise = build_datamodule(config("data.split.kind=random", "data.split.allow_shared_groups=true"))
    clipwise.setup()
    planted = save_checkpoint(tmp_path / "planted.ckpt", clipwise, plant(clipwise, "test", 1), TrainingRecord())
    earlier = read_earlier_training(config("transfer=full", f"transfer.init_from={planted}"))
    dropped = check_earlier_training(composed | {"transfer": {"overlap": "drop"}}, clipwise, earlier)
    assert dropped["splits"]["test"]["left_out"] == 1


def test_both_arms_of_a_comparison_are_scored_on_the_same_clips(
    config: Compose, data: MusicData, tmp_path: Path
) -> None:
    """Compare a transfer with transfer.overlap=drop and a run from random weights with data.leave_out."""
    splits = without_training(data)
    groups = data.pack.index["group"].to_numpy()
    splits[groups == groups[data.splits == "test"][0]] = "train"
    source = save_checkpoint(tmp_path / "source.ckpt", data, splits, TrainingRecord())
    results = []
    for overrides in (["transfer=full", f"transfer.init_from={source}", "transfer.overlap=drop"],
                      [f"data.leave_out={source}"]):  # fmt: skip
        composed = config(*overrides)
        arm = build_datamodule(composed)
        arm.setup()
        result = check_earlier_training(composed, arm, read_earlier_training(composed))
        results.append(arm.splits)
        assert result["splits"]["test"]["left_out"] == len(arm.assignment.left_out) == (splits == "train").sum()
        assert set(arm.assignment.left_out.values()) == {"used to train source"}
        sentences = describe_earlier_training({"earlier_training": result, "data": describe_data(arm, result)})
        assert "left out, because they or their groups had been used to train source on" in sentences[0]
    np.testing.assert_array_equal(*results)
    assert set(results[0][splits == "train"]) == {"none"}
    np.testing.assert_array_equal(results[0][splits != "train"], data.splits[splits != "train"])
    everything = save_checkpoint(tmp_path / "all.ckpt", data, np.full(len(splits), "train"), TrainingRecord())
    data.leave_out = str(everything)
    with pytest.raises(DataError, match="no clips are left for val and test"):
        check_earlier_training(config(), data, TrainingRecord())


def test_record_survives_resuming_and_export(config: Compose, data: MusicData, tmp_path: Path) -> None:
    source = save_checkpoint(tmp_path / "source.ckpt", data, plant(data, "test", 3), TrainingRecord())
    earlier = read_earlier_training(config("transfer=full", f"transfer.init_from={source}"))
    run = RunFolder(tmp_path / "run")
    run.checkpoints_path.mkdir(parents=True)
    save_checkpoint(run.last_path, data, data.splits, earlier)
    source.unlink()
    resumed = read_earlier_training(config("transfer=full", f"transfer.init_from={source}"), run)
    np.testing.assert_array_equal(resumed.train, earlier.train)
    assert resumed.runs == earlier.runs

    recipe = {"config": {}, **torch.load(run.last_path, weights_only=True)["etude"]}
    export = tmp_path / "export"
    export.mkdir()
    write_text(export / "config.json", json.dumps(config_content(recipe)))
    save_file({"x": torch.zeros(1)}, export / "model.safetensors")
    exported = read_earlier_training(config("transfer=full", f"transfer.init_from={export}"))
    assert [row["name"] for row in exported.runs] == ["source", "last"]
    assert exported.find(data.clip_keys).trained[data.splits != "val"].sum() == (data.splits == "train").sum() + 3


def test_unknown_training_is_stated(config: Compose, data: MusicData, tmp_path: Path) -> None:
    torch.save({"etude": {}, "state_dict": {}}, tmp_path / "old.ckpt")
    composed = config("transfer=full", f"transfer.init_from={tmp_path / 'old.ckpt'}", "backbone.weights=imagenet",
                      "backbone=ast")  # fmt: skip
    earlier = read_earlier_training(composed)
    result = check_earlier_training(composed, data, earlier)
    (sentence,) = describe_earlier_training({"earlier_training": result, "data": describe_data(data, result)})
    assert "backbone.weights=imagenet" in sentence
    assert "old.ckpt, from a version that did not record training clips" in sentence
    assert (
        describe_earlier_training({"earlier_training": check_earlier_training(config(), data, TrainingRecord())}) == []
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["transfer=full", "transfer.init_from=nowhere"], "transfer.init_from: nowhere: there is no such folder"),
        (["transfer=full", "transfer.init_from=FOLDER"], "transfer.init_from: .* is neither a run folder"),
    ],
)
def test_missing_source_is_refused_before_data_is_read(
    config: Compose, tmp_path: Path, overrides: list[str], message: str
) -> None:
    composed = config(*(override.replace("FOLDER", str(tmp_path)) for override in overrides))
    with pytest.raises(UserError, match=message):
        read_earlier_training(composed)
