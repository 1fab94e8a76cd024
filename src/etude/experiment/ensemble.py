"""Ensembles, which average the predictions of several runs in a run folder of their own."""

from __future__ import annotations

import copy
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import yaml

from etude.config.stored import common_values
from etude.data.training_record import TrainingRecord, stored_record
from etude.embeddings.encoders import weights_hash
from etude.errors import UserError, missing_path
from etude.evaluation.predictions import average_predictions, find_worst_errors, fit_average_weights
from etude.experiment import start
from etude.experiment.earlier_training import find_trained
from etude.experiment.provenance import describe_environment
from etude.files import ownership
from etude.files.atomic import remove_created, replacing, write_text
from etude.files.safe_read import read_checkpoint
from etude.reports.comparison.pooling import (
    averaged_record,
    copy_worst_errors,
    join_distinct,
)
from etude.reports.run_report import write_report
from etude.runs import folder as run_folder
from etude.runs.folder import ENSEMBLE, RunFolder, find_runs
from etude.training.averaged import averaged_key, averaged_recipe
from etude.training.network import build_network

if TYPE_CHECKING:
    import pandas as pd


log = logging.getLogger(__name__)
MOST_LISTED = 5  # clips in a message


@dataclass(frozen=True)
class EnsembleOptions:
    """Options of an ensemble.

    Args:
        runs: Run folders, or folders of sweeps.
        out: Folder of the ensemble. None selects `ensemble` in the folder of a sweep.
        fit_weights: Whether the members have weights, which are fitted to the predictions of inner folds.
    """

    runs: Sequence[Path]
    out: Path | None = None
    fit_weights: bool = False


@dataclass(frozen=True)
class MemberRun:
    """Finished run that is a member of an ensemble.

    Args:
        files: Run folder.
        stored: Content of its checkpoint.
    """

    files: RunFolder
    stored: dict[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        """Path of the run folder, for messages."""
        return str(self.files.path)

    @property
    def recipe(self) -> dict[str, Any]:
        """Recipe of the network."""
        recipe: dict[str, Any] = self.stored["etude"]
        return recipe

    @property
    def data(self) -> dict[str, Any]:
        """Data and split of the record."""
        return dict(self.files.record.get("data") or {})

    @property
    def earlier_training(self) -> dict[str, Any]:
        """Earlier training of the record, without the overlap with clips that the run does not score here."""
        earlier = copy.deepcopy(self.files.record.get("earlier_training") or {})
        for row in earlier.get("splits", {}).values():
            row["trained"] = row["left_out"]
            row["same_group"] = row["same_group"] if self.data.get("shared_groups") else 0
        return earlier

    @cached_property
    def scored(self) -> pd.DataFrame:
        """Predictions for the clips on which the network was never trained."""
        table = self.files.predictions
        return table[~find_trained(self.files, self.recipe)]


def make_ensemble(options: EnsembleOptions) -> Path:
    """Average runs, and write the run folder of the ensemble.

    A clip is scored by the members that were never trained on it.

    Args:
        options: Runs and folder of the ensemble.

    Returns:
        The folder.

    Raises:
        UserError: The runs cannot be averaged, or the folder cannot be written.
    """
    began, start_time = time.monotonic(), datetime.now().astimezone()
    paths, out = select_runs(options)
    members = [_read_member(path) for path in paths]
    check_members(members)
    targets = members[0].files.record["targets"]
    tables = [member.scored for member in members]
    check_scored(members, tables)
    weights = fit_average_weights(tables, targets) if options.fit_weights else None
    table = average_predictions(tables, targets, weights)
    recipe = averaged_recipe([member.recipe for member in members], weights)
    recipe["training_record"] = _merge_records(members)
    start.lock_folder(out, resume=False)
    try:
        start.open_log(out)
        log.info("averaging %d runs: %s", len(members), ", ".join(member.name for member in members))
        run = RunFolder(out)
        _write_checkpoint(run, recipe, members)
        config = ensemble_config(members, recipe, out.resolve().name)
        write_text(run.config_path, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
        run_folder.write_split(run, _split_table(members, table))
        run_folder.write_predictions(run, table)
        records = [member.files.record for member in members]
        record = averaged_record(records, [member.earlier_training for member in members], tables, table)
        record["ensemble"]["members"] = [
            {"name": member.files.record.get("name") or "", "folder": os.path.relpath(member.name)}
            for member in members
        ]
        record["ensemble"] |= {"weights": weights} if weights else {}
        record |= describe_environment() | {"name": config["name"], "started": start_time.isoformat(timespec="seconds")}
        record["seconds"]["total"] = round(record["seconds"].get("total", 0) + time.monotonic() - began, 1)
        run_folder.write_record(run, record)
        errors = [find_worst_errors(table, name, target["kind"])["rows"] for name, target in targets.items()]
        copy_worst_errors([member.files for member in members], run, {str(row[0]) for rows in errors for row in rows})
        run_folder.write_metrics(run)
        write_report(run)
    except BaseException:
        start.close(out)
        remove_created(out)
        raise
    start.close(out)
    return out


def select_runs(options: EnsembleOptions) -> tuple[list[Path], Path]:
    """Return the run folders of the members, and the folder of the ensemble.

    Pooled results and ensembles in the folder of a sweep are left out.

    Raises:
        UserError: A path is missing, or contains no runs; there are fewer than two runs; or the folder is unknown.
    """
    selected: list[Path] = []
    for path in options.runs:
        if not path.is_dir():
            raise UserError(missing_path(path, "run folder"))
        found = find_runs(path)
        if not found:
            raise UserError(f"{path}: contains no runs")
        is_run = found == [path]
        selected += [run for run in found if is_run or not _is_derived(RunFolder(run))]
    if len(selected) < 2:
        raise UserError(f"{options.runs[0]}: an ensemble needs at least two runs; name further runs")
    if options.out is None and len(options.runs) > 1:
        raise UserError("--out: is needed to average single runs; name the folder of the ensemble")
    return selected, options.out or options.runs[0] / ENSEMBLE


def _is_derived(run: RunFolder) -> bool:
    """Return whether a folder has predictions of other runs, pooled or averaged."""
    if not run.record_path.is_file():
        return False
    return bool(run.record.get("ensemble") or (run.record.get("data") or {}).get("pooled"))


def _read_member(path: Path) -> MemberRun:
    """Read the run folder of a member.

    Raises:
        UserError: The run is not finished, has no network, or is an ensemble.
    """
    run = RunFolder(path)
    if not run.is_finished:
        raise UserError(f"{path}: is not finished; finish the run, or leave it out by naming the other runs")
    if run.record.get("trial"):
        raise UserError(f"{path}: is a trial run (debug={run.record['trial']}), which cannot be averaged")
    stored = read_checkpoint(run.checkpoint)
    if stored["etude"].get("members"):
        raise UserError(f"{path}: is an ensemble; name its members instead")
    if not {"front", "columns", "targets"} <= set(stored["etude"]):
        raise UserError(f"{run.checkpoint}: is from an older version and cannot be averaged; train the run again")
    return MemberRun(run, stored)


def check_members(members: Sequence[MemberRun]) -> None:
    """Check that runs differ from each other, and have the same targets and data.

    Raises:
        UserError: They cannot be averaged.
    """
    first, seen = members[0], dict[str, str]()
    for member in members:
        path, weights = str(member.files.path.resolve()), weights_hash(member.stored["state_dict"])
        if path in seen:
            raise UserError(f"{member.name}: is given twice; name each run once")
        if weights in seen:
            raise UserError(f"{member.name}: has the same weights as {seen[weights]}; name each run once")
        seen |= {path: member.name, weights: member.name}
    for member in members[1:]:
        if different := _different_targets(first.files.record["targets"], member.files.record["targets"]):
            raise UserError(f"{member.name}: {different} than in {first.name}; average runs with equal targets")
        if _content(member) != _content(first) or not _equal_sounds(first, member):
            text = f"{member.name}: its data differ from those of {first.name}"
            raise UserError(f"{text}; average runs on one version of a collection")


def _different_targets(first: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Return how the targets of a run differ from those of the first, or an empty string."""
    if set(first) != set(other):
        return f"its targets are {', '.join(other)} and other"
    for name, target in first.items():
        for key in ("kind", "classes", "low", "high"):
            if target.get(key) != other[name].get(key):
                return f"{name} has another {'list of classes' if key == 'classes' else key}"
    return ""


def _content(member: MemberRun) -> tuple[Any, ...]:
    """Return the name of the collection of a run, and the hash of its ids, groups and labels."""
    return tuple(member.data.get(key) for key in ("name", "labels", "clips"))


def _equal_sounds(first: MemberRun, other: MemberRun) -> bool:
    """Return whether the clips of two runs have equal sounds, if their frames or their splits are equal."""
    if first.recipe["front"] == other.recipe["front"]:
        return bool(first.data.get("hash") == other.data.get("hash"))
    if first.data.get("split_hash") != other.data.get("split_hash"):
        return True
    records = [stored_record(member.recipe, member.name, ("own",)) for member in (first, other)]
    keys = [set(record.train.tolist()) | set(record.val.tolist()) for record in records]
    return keys[0] <= keys[1] or keys[1] <= keys[0]  # the groups of validation clips are recorded if they are fitted


def check_scored(members: Sequence[MemberRun], tables: Sequence[pd.DataFrame]) -> None:
    """Check that each clip in the test split of a member can be scored by a member.

    Raises:
        UserError: All members that tested a clip were trained on it.
    """
    tested = [set(member.files.predictions.query("split == 'test'")["id"]) for member in members]
    scored = [set(table["id"][table["split"] == "test"]) for table in tables]
    if missing := sorted(map(str, set.union(*tested) - set.union(*scored))):
        listed = ", ".join([*missing[:MOST_LISTED], *(["..."] if len(missing) > MOST_LISTED else [])])
        text = f"{len(missing)} test clips cannot be scored, because all members were trained on them: {listed}"
        raise UserError(f"{members[0].name}: {text}; add a run that was not")


def _merge_records(members: Sequence[MemberRun]) -> dict[str, Any]:
    """Return the union of the training records of the members, as plain values."""
    merged = {}
    for part in ("own", "earlier"):
        record = TrainingRecord()
        for member in members:
            record = record.merged(stored_record(member.recipe, member.name, (part,)))
        merged[part] = record.to_plain()
    return merged


def _write_checkpoint(run: RunFolder, recipe: dict[str, Any], members: Sequence[MemberRun]) -> None:
    """Write the checkpoint of the averaged network with the weights of all members."""
    import torch

    network = build_network(recipe)
    state = network.state_dict()
    for i, member in enumerate(members):
        for name, value in member.stored["state_dict"].items():
            if (key := averaged_key(name, i)) in state:
                state[key] = value
    network.load_state_dict(state)
    content = {"state_dict": network.state_dict(), "etude": recipe, "epoch": -1}
    ownership.subfolder(run.checkpoints_path)
    with replacing(run.best_path, sync=True) as draft, draft.open("wb") as file:
        torch.save(content, file)


def ensemble_config(members: Sequence[MemberRun], recipe: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the config of the ensemble, the common values of its members.

    Data and seed are those of the first member, and the feature has the front end of the ensemble.
    """
    configs = [member.files.config for member in members]
    config, first = common_values(configs), configs[0]
    config |= {key: first[key] for key in ("data", "seed") if key in first}
    choices = [mapping.get("choices") or {} for mapping in configs]
    joined = {key: join_distinct([choice.get(key) for choice in choices]) or None for key in choices[0]}
    config |= {"name": name, "choices": joined}
    weights = [PurePath(str(mapping["backbone"]["weights"])).name
               for mapping in configs if (mapping.get("backbone") or {}).get("weights")]  # fmt: skip
    config["backbone"] = {**(config.get("backbone") or {}), "weights": join_distinct(weights) or None}
    if recipe.get("views"):
        config["feature"] = {"_target_": "etude.data.batches.Feature", "front": dict(recipe["front"])}
    return config


def _split_table(members: Sequence[MemberRun], table: pd.DataFrame) -> pd.DataFrame:
    """Return the split of each clip. A clip is in training if no member scores it."""
    import pandas as pd

    splits = [member.files.split for member in members]
    by_id = {clip: "train" if any(split.get(clip) == "train" for split in splits) else value
             for clip, value in splits[0].items()}  # fmt: skip
    by_id |= dict.fromkeys(table["id"][table["split"] == "val"], "val")
    by_id |= dict.fromkeys(table["id"][table["split"] == "test"], "test")
    return pd.DataFrame({"id": [*by_id], "split": [*by_id.values()]})
