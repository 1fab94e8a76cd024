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
from etude.evaluation.score_summary import count_trained_clips, describe_earlier_training
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


def test_clips_of_leave_out_do_not_hide_an_accepted_overlap(config: Compose, data: MusicData, tmp_path: Path) -> None:
    """Leave out the clips of one run, and accept fewer test clips on which another run trained the weights."""
    groups, in_test = data.pack.index["group"].to_numpy(), data.splits == "test"
    names = sorted(set(groups[in_test]), key=lambda name: int((groups == name).sum()))
    first, last = (np.flatnonzero(groups == name) for name in (names[0], names[-1]))
    trained, other = without_training(data), without_training(data)
    trained[first[:1]], other[last] = "train", "train"
    source = save_checkpoint(tmp_path / "source.ckpt", data, trained, TrainingRecord())
    left_out = save_checkpoint(tmp_path / "left_out.ckpt", data, other, TrainingRecord())
    composed = config(
        "transfer=full", f"transfer.init_from={source}", "transfer.overlap=allow", f"data.leave_out={left_out}"
    )
    arm = build_datamodule(composed)
    arm.setup()
    result = check_earlier_training(composed, arm, read_earlier_training(composed))
    assert result["splits"]["test"]["left_out"] == len(last) > len(first)
    record = {"earlier_training": result, "data": describe_data(arm, result)}
    assert count_trained_clips(record, "test") == len(first)
    assert not record["data"]["disjoint"]
    sentences = describe_earlier_training(record)
    assert sentences[0].startswith(f"The initial weights were trained on 1 of the {(arm.splits == 'test').sum()} test")
    assert "had been used to train left_out on" in sentences[1] and "source" not in sentences[1]


def test_leave_out_makes_no_statement_on_initial_weights(config: Compose, tmp_path: Path) -> None:
    """Leave out single clips of groups that the splits share, for a network that starts from random weights."""
    composed = config("data.split.kind=random", "data.split.allow_shared_groups=true")
    data = build_datamodule(composed)
    data.setup()
    splits = plant(data, "test", 2)
    splits[np.flatnonzero(data.splits == "test")[2:5]] = "val"
    data.leave_out = str(save_checkpoint(tmp_path / "source.ckpt", data, splits, TrainingRecord()))
    result = check_earlier_training(composed, data, TrainingRecord())
    record = {"earlier_training": result, "data": describe_data(data, result)}
    assert count_trained_clips(record, "test") == count_trained_clips(record, "val") == 0
    (sentence,) = describe_earlier_training(record)
    assert sentence.startswith("2 test clips were left out")


def test_validated_clips_are_counted_among_the_remaining_ones(config: Compose, data: MusicData, tmp_path: Path) -> None:
    splits = plant(data, "test", 1)
    rows = np.flatnonzero(data.splits == "test")
    splits[rows[1:]] = "val"  # clips of the first group are left out with the first clip
    source = save_checkpoint(tmp_path / "source.ckpt", data, splits, TrainingRecord())
    composed = config("transfer=full", f"transfer.init_from={source}", "transfer.overlap=drop")
    result = check_earlier_training(composed, data, read_earlier_training(composed))
    assert result["splits"]["test"]["validated"] == (data.splits == "test").sum() < len(rows) - 1


def test_groups_of_clips_of_another_collection_are_not_called_disjoint(
    config: Compose, data: MusicData, tmp_path: Path
) -> None:
    """An earlier run on clips that this collection does not contain may have used the artists of its test clips."""
    keys = data.clip_keys
    keys.sound[0] += 1  # as if the first clip of the earlier run were not in this collection
    source = tmp_path / "source.ckpt"
    own = TrainingRecord.of_run(keys, np.array(["train"] + ["none"] * (len(keys.sound) - 1)), "source", "other")
    plain = {"own": own.to_plain(), "earlier": TrainingRecord().to_plain()}
    torch.save({"etude": {"training_record": plain}, "state_dict": {}}, source)
    composed = config("transfer=full", f"transfer.init_from={source}")
    result = check_earlier_training(composed, data, read_earlier_training(composed))
    description = describe_data(data, result)
    assert not result["groups_checked"] and description["disjoint"] is None
    sentences = describe_earlier_training({"earlier_training": result, "data": description})
    assert "Scored clips may share groups with them." in sentences[-1]


def test_run_with_changed_training_clips_is_not_resumed(config: Compose, data: MusicData, tmp_path: Path) -> None:
    """After a change of the table, clips of the first epochs could be test clips of the resumed run."""
    run = RunFolder(tmp_path / "run")
    run.checkpoints_path.mkdir(parents=True)
    save_checkpoint(run.last_path, data, data.splits, TrainingRecord())
    assert training_record(config(), data, TrainingRecord(), run)["own"]["train"]
    data.splits = np.where(data.splits == "val", "test", np.where(data.splits == "test", "val", data.splits))
    with pytest.raises(UserError, match=r"resume=.*training or validation clips of demo have changed"):
        training_record(config(), data, TrainingRecord(), run)


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
    checkpoint = {"backbone": {"weights": "pretrained", "model": "m-a-p/MERT-v1-95M"}}
    assert read_earlier_training(checkpoint).unknown == ("backbone.model=MERT-v1-95M",)
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
