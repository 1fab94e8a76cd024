"""Check of the scored clips against the clips on which the initial weights were trained."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from etude.backbones.vit_checkpoints import UNTRAINED
from etude.config.instantiate import stored_config
from etude.config.stored import weights_override
from etude.data.datamodule import MusicData, build_datamodule
from etude.data.splits import group_codes
from etude.data.training_record import ClipKeys, TrainingRecord, stored_record
from etude.errors import UserError
from etude.evaluation.score_summary import SPLIT_NAMES
from etude.files.safe_read import read_checkpoint
from etude.runs.folder import RunFolder, find_weights

log = logging.getLogger(__name__)
MOST_LISTED = 20  # clips in a message


def read_earlier_training(config: Mapping[str, Any], run: RunFolder | None = None) -> TrainingRecord:
    """Return the record of all training of the initial weights.

    Args:
        config: The resolved config.
        run: The run's folder if it is resumed. The record is then read from its last checkpoint, because the source
            run may be gone.

    Raises:
        UserError: A source cannot be read.
    """
    if run is not None:
        recipe = read_checkpoint(run.last_path)["etude"]
        if "training_record" in recipe:
            return stored_record(recipe, str(run.last_path), ("earlier",))
        name = "the initial weights, whose record an earlier version did not write"
        return TrainingRecord(unknown=(name,) if config.get("transfer") else ())
    record = TrainingRecord()
    backbone = config.get("backbone") or {}
    override = weights_override(backbone)
    if override and backbone["weights"] != UNTRAINED:
        record = TrainingRecord(unknown=(override,))
    source = (config.get("transfer") or {}).get("init_from")
    return record if source is None else record.merged(read_record(Path(source), "transfer.init_from"))


def check_earlier_training(config: Mapping[str, Any], data: MusicData, earlier: TrainingRecord) -> dict[str, Any]:
    """Refuse, leave out or count scored clips on which the initial weights were trained.

    Groups count like clips, unless the run's own splits have groups in common.

    Args:
        config: The resolved config.
        data: Data of the run after `setup`. Clips that are left out are removed from its splits.
        earlier: Record of all training of the initial weights.

    Returns:
        Numbers for the record of the run: `runs` and `unknown` as in the training record, `overlap`, whether the
        groups of all earlier training clips are known (`groups_checked`), and for each scored split the numbers of
        clips that are `trained` or `same_group`, of these the number that is `left_out`, and of the remaining clips
        those that are `validated`. `left_out_of` has the runs of `data.leave_out`. Empty without earlier training.

    Raises:
        UserError: The config does not allow an overlap, except for a trial run (`debug=...`), or no clips are left.
    """
    mode = (config.get("transfer") or {}).get("overlap", "refuse")
    if mode == "refuse" and (config.get("choices") or {}).get("debug"):
        mode = "allow"  # the sample of debug=fast is split anew, and the scores of a trial run have no meaning
    result: dict[str, Any] = {}
    if data.leave_out:
        result = _check_overlap(data, read_record(Path(data.leave_out), "data.leave_out"), "drop", "data.leave_out")
        result |= {"runs": [], "unknown": [], "groups_checked": True, "left_out_of": result["runs"]}
        for numbers in result["splits"].values():  # the initial weights are not from these runs
            numbers |= {"trained": numbers["left_out"], "same_group": 0, "validated": 0}
    if earlier:
        before = result.get("splits", {})
        result |= _check_overlap(data, earlier, mode, "transfer.init_from")
        for split, numbers in before.items():
            for key, count in numbers.items():
                result["splits"][split][key] += count
    return result


def training_record(
    config: Mapping[str, Any], data: MusicData, earlier: TrainingRecord, run: RunFolder | None = None
) -> dict[str, Any]:
    """Return the records of the clips of this run (`own`) and of `earlier` runs as plain values, for checkpoints.

    Args:
        config: The resolved config.
        data: Data of the run after `setup`.
        earlier: Record of all training of the initial weights.
        run: The run's folder if it is resumed.

    Raises:
        UserError: A resumed run was trained or validated on other clips before, such as after a change of its table.
            These clips could now be test clips.
    """
    joins = (config.get("optim") or {}).get(
        "join_validation", False
    )  # a linear probe is fitted to validation clips too
    splits = np.where(data.splits == "val", "train", data.splits) if joins else data.splits
    own = TrainingRecord.of_run(data.clip_keys, splits, str(config["name"]), data.source.name)
    stored = read_checkpoint(run.last_path)["etude"].get("training_record") if run is not None else None
    if run is not None and stored:
        before = TrainingRecord.from_plain(stored["own"], run.last_path.name)
        if not (np.array_equal(before.train, own.train) and np.array_equal(before.val, own.val)):
            raise UserError(
                f"resume={run.path}: the training or validation clips of {data.source.name} have changed since the run "
                "was interrupted; restore the table or files, or start a new run"
            )
    return {"own": own.to_plain(), "earlier": earlier.to_plain()}


def find_trained(run: RunFolder, recipe: Mapping[str, Any]) -> np.ndarray:
    """Return a mask of the predictions of a finished run (N,), bool, for clips on which its network was trained.

    The training record of the checkpoint is compared with the clips of the pack. If the pack cannot be read, only the
    overlap that the record of the run counts is known.

    Args:
        run: Folder of the run.
        recipe: Recipe of its network.

    Raises:
        UserError: The record of the run counts an overlap, and the clips cannot be read.
    """
    record, table = run.record, run.predictions
    splits, ids = run.split, table["id"].astype(str)
    trained = np.array([splits.get(clip) == "train" for clip in ids], dtype=bool)
    numbers = (record.get("earlier_training") or {}).get("splits", {}).values()
    counted = any(row["trained"] + row["same_group"] > row["left_out"] for row in numbers)
    logger = logging.getLogger("etude.data")
    level = logger.level
    logger.setLevel(logging.WARNING)  # the targets of the same table were logged by each run
    try:
        data = build_datamodule(stored_config(run.config_path))
        options = data.pack_options
        data.pack_options = replace(options, read_only=options.read_only or not counted)
        index = data.open_pack().index
    except UserError:
        if counted:
            raise
        log.warning("%s: its clips cannot be read, so they are not compared with its training record", run.path)
        return trained
    finally:
        logger.setLevel(level)
    described = record.get("data") or {}
    keys = ClipKeys.of_clips(index, getattr(data.source, "id_space", None))
    earlier = stored_record(recipe, str(run.path), ("earlier",)).find(keys)
    rows = earlier.trained if described.get("shared_groups") else earlier.trained | earlier.same_group
    trained = trained | ids.isin(index["id"][rows].astype(str)).to_numpy()
    if any((described.get("copies") or {}).values()):  # the config allows copies of training clips
        return trained
    own = stored_record(recipe, str(run.path), ("own",)).find(keys).trained
    fitted = ids.isin(index["id"][own].astype(str)).to_numpy()
    if "out_of_fold" in table:  # predictions of validation clips by inner folds, which are fitted without them
        fitted = fitted & ~table["out_of_fold"].fillna(False).to_numpy(dtype=bool)
    return trained | fitted


def read_record(path: Path, key: str) -> TrainingRecord:
    """Return the record of all training of a run or a checkpoint.

    Args:
        path: A run folder, a checkpoint or an exported network.
        key: Config key of the path, for messages.

    Raises:
        UserError: There are no weights, or they cannot be read.
    """
    try:
        weights = find_weights(path)
    except UserError as error:
        raise UserError(f"{key}: {error}") from error
    return stored_record(read_checkpoint(weights)["etude"], str(path))


def _check_overlap(data: MusicData, earlier: TrainingRecord, mode: str, key: str) -> dict[str, Any]:
    """Refuse, leave out or count the scored clips of an earlier training. See `check_earlier_training`."""
    overlap, index = earlier.find(data.clip_keys), data.pack.index
    groups = group_codes(index)
    own_groups = set(groups[data.splits == "train"].tolist())
    scored = {split: data.splits == split for split in ("test", "val")}
    shared = any(own_groups & set(groups[rows].tolist()) for rows in scored.values())
    unfit = overlap.trained if shared else overlap.trained | overlap.same_group
    splits = {
        split: {
            "trained": int((overlap.trained & rows).sum()),
            "same_group": int((overlap.same_group & rows).sum()),
            "validated": int((overlap.validated & rows & ~(unfit & (mode == "drop"))).sum()),
            "left_out": int((unfit & rows).sum()) if mode == "drop" else 0,
        }
        for split, rows in scored.items()
    }
    unfit &= scored["test"] | scored["val"]
    runs = ", ".join(dict.fromkeys(run["name"] for run in earlier.runs))
    if unfit.any():
        counts = " and ".join(
            f"{(unfit & rows).sum()} of {rows.sum()} {SPLIT_NAMES[split]} clips"
            for split, rows in scored.items()
            if (unfit & rows).any()
        )
        if overlap.same_group[unfit].any():
            counts += f" ({overlap.same_group[unfit].sum()} only by other clips of their groups)"
        ids = list(map(str, index["id"][unfit]))
        more = f" and {len(ids) - MOST_LISTED} more" if len(ids) > MOST_LISTED else ""
        listed = ", ".join(ids[:MOST_LISTED]) + more
        if mode == "refuse":
            raise UserError(
                f"{key}: {counts} were used to train {runs}: {listed}; use the same data.split as that run, leave them "
                "out with transfer.overlap=drop, or accept optimistic scores with transfer.overlap=allow"
            )
        log.warning("%s: %s were used to train %s: %s", key, counts, runs, listed)
    if mode == "drop" and unfit.any():
        data.drop_clips(unfit, f"used to train {runs}")
        log.warning("%s: these clips are left out; split.csv lists all of them", key)
    if earlier.unknown:
        log.warning(
            "the training clips of %s are not recorded, so it cannot be checked whether they are in the test split",
            ", ".join(earlier.unknown),
        )
    return {
        "overlap": mode,
        "runs": list(earlier.runs),
        "unknown": list(earlier.unknown),
        "groups_checked": overlap.complete and not earlier.unknown,
        "splits": splits,
    }
