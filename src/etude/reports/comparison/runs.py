"""Readers of runs for a comparison.

A run with metrics.json is finished. The status of any other run is derived from the end of its train.log, because a run
logs an error or an interruption as its last message. A killed run logs nothing and cannot be distinguished from an
active run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

from etude.evaluation.formatting import capitalise_first, describe_left_out, format_count, printable, register_metrics
from etude.evaluation.means import MEAN, mean_name
from etude.evaluation.measure import METRICS_VERSION
from etude.evaluation.paired_tests import ScoredRun, ScoredTarget, scored_run
from etude.reports.comparison.table import Labels
from etude.runs.folder import RunFolder
from etude.runs.readers import CHANGED, is_unchanged, read_mapping

LOG_END = 8192  # number of bytes that are read from the end of a log
LOG_LINE = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (\w+) ([\w.]+): (.*)$")
TRIALS_WITHOUT_SCORES = ("overfit", "find_lr")  # trial runs that do not write predictions
RECORD_KEYS = ("name", "seed", "model", "data", "targets")
"""Keys of a current record.json. Records of older versions may lack some of them."""


@dataclass(frozen=True)
class ComparedRun:
    """Run of a comparison, as read from its folder.

    Args:
        files: Run folder.
        status: finished, failed, interrupted, unfinished, or unreadable.
        remark: Message for the reader without the name of the run, or "".
        record: Content of record.json. Empty if it is missing.
        config: Content of config.yaml. Empty if it is missing.
        metrics: Targets of metrics.json. Empty unless the run is finished.
        mean: Means of metrics.json over the scalar targets. Empty for fewer than two scalars.
    """

    files: RunFolder
    status: str
    remark: str = ""
    record: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    mean: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Path of the run folder."""
        return self.files.path

    @property
    def name(self) -> str:
        """Name of the run from its record or config, or the name of its folder, with printable characters only."""
        return printable(self.record.get("name") or self.config.get("name") or self.folder.resolve().name)

    @property
    def data(self) -> dict[str, Any]:
        """Data and split of the record."""
        return mapping_or_empty(self.record.get("data"))

    @property
    def pooled(self) -> bool:
        """Whether this is the pooled result of several folds."""
        return bool(self.data.get("pooled"))

    @property
    def fold(self) -> str | None:
        """Fold as text, such as "0" or "3 of 5 folds", or None without cross-validation."""
        if self.pooled:
            return f"{len(self.data['pooled'])} of {self.data.get('folds')} folds"
        fold = self.data.get("fold")
        return None if fold is None else str(fold)

    @property
    def scored_on(self) -> str:
        """Hashes of data and split, with "?" for an unknown hash. Runs with comparable scores have equal values."""
        return f"{self.data.get('labels') or self.data.get('hash') or '?'}/{self.data.get('split_hash') or '?'}"

    def scored_clips(self, split: str) -> str:
        """Hashes of data and scored clips. Pooled folds score the same clips, however these are assigned to folds."""
        clips = self.data.get("test_clips") if split == "test" else None
        return f"{self.scored_on.rpartition('/')[0]}/{clips}" if clips else self.scored_on

    @property
    def source(self) -> str:
        """Run of the initial weights, or "". A sweep adds the seed to its name (`<run>_seed1`), which is removed."""
        components = PurePath(str(nested_value(self.config, "transfer", "init_from") or "")).parts
        suffix = f"_seed{self.config.get('seed')}"
        return str(PurePath(*(component.removesuffix(suffix) for component in components))) if components else ""

    @property
    def shares_groups(self) -> bool:
        """Whether known groups, such as artists, are in both training and test. The scores are then optimistic."""
        return self.data.get("disjoint") is False and self.data.get("groups_known") != "none"

    @property
    def seconds(self) -> float | None:
        """Duration of the run in seconds."""
        return mapping_or_empty(self.record.get("seconds")).get("total")


def read_compared_run(folder: Path) -> ComparedRun:
    """Read a run folder. Damaged files result in a status and a remark, not in an error."""
    files = RunFolder(folder)
    faults: list[str] = []
    record = _read_or_report(files.record_path, faults)
    config = _read_or_report(files.config_path, faults)
    if not files.metrics_path.is_file():
        status, remark = _status_from_log(files)
        trial = mapping_or_empty(config.get("choices")).get("debug")
        if trial in TRIALS_WITHOUT_SCORES and status == "unfinished":
            return ComparedRun(files, status, f"a trial run (debug={trial}), which has no scores.", record, config)
        return ComparedRun(files, status, " ".join([remark, *faults]), record, config)
    fault_count = len(faults)
    metrics = _read_or_report(files.metrics_path, faults)
    targets = {name: target for name, target in mapping_or_empty(metrics.get("targets")).items() if _is_usable(target)}
    if len(faults) == fault_count and not targets:
        faults.append(f"{files.metrics_path.name} contains no target with scores.")
    if not targets:
        return ComparedRun(files, "unreadable", " ".join(faults), record, config)
    register_metrics(targets)
    if left_out := describe_left_out(targets):
        faults.append(f"{printable(capitalise_first(left_out))}.")
    if (metrics.get("version") or 1) < METRICS_VERSION:
        faults.append(
            "Its intervals are from an older version and too narrow for few groups; rebuild them: etude report."
        )
    if record.get("trial"):
        faults.append(f"a trial run (debug={record['trial']}), whose scores are not meaningful.")
    if missing := [key for key in RECORD_KEYS if key not in record]:
        faults.append(f"{files.record_path.name} has no {', '.join(missing)}; an older version may have written it.")
    mean = metrics[MEAN] if _is_usable(metrics.get(MEAN)) and metrics[MEAN].get("targets") else {}
    if not mean and sum(target["kind"] == "scalar" for target in targets.values()) > 1:
        faults.append("Its scores have no mean over the scalars, because they are from an older version: etude report.")
    run = ComparedRun(files, "finished", " ".join(faults), record, config, targets, mean)
    if "?" in run.scored_on:
        faults.append("The data and split of its scores are unknown, so no run is marked as the best on its targets.")
        run = replace(run, remark=" ".join(faults))
    return run


def scored_targets(
    runs: Sequence[ComparedRun], names: Mapping[Path, str], split: str = "test", means: Mapping[Path, str] | None = None
) -> Iterator[ScoredTarget]:
    """Yield each target, and the mean over scalars, with the predictions of all runs that have it, for paired tests.

    Args:
        runs: Runs. Unfinished runs have no targets.
        names: Titles of the runs by folder.
        split: test or val.
        means: Titles of the means by folder. None means those of `mean_titles`.
    """
    means = mean_titles(runs) if means is None else means
    entries = {run.folder: run.metrics | ({means[run.folder]: run.mean} if run.mean else {}) for run in runs}
    for name in dict.fromkeys(name for of_run in entries.values() for name in of_run):
        scored: list[ScoredRun] = []
        remarks: list[str] = []
        for run in (run for run in runs if name in entries[run.folder]):
            title, target = names[run.folder], entries[run.folder][name]
            try:
                columns = [f"{value}.{kind}" for value in target.get("targets", [name]) for kind in ("true", "pred")]
                if any(node.get("on") == "scores" for node in mapping_or_empty(target.get("metrics")).values()):
                    columns += [f"{name}.score.{value}" for value in target["classes"]]
                table = run.files.read_columns(["id", "group", *columns, "split"])
                scored.append(scored_run(title, name, target, table, split))
            except (OSError, ValueError, KeyError, TypeError) as error:
                path = run.files.predictions_path
                remarks.append(f"{title}: {path.name} cannot be used for paired tests: {_first_line(error)}.")
        yield ScoredTarget(name, scored, remarks)


def run_titles(runs: Sequence[ComparedRun], with_common_fold: bool = True) -> dict[Path, str]:
    """Return a unique title of each run, by folder. The title is name and fold, or the folder if names are equal.

    Args:
        runs: Runs in any state.
        with_common_fold: Whether the titles contain the fold if it is the same for all runs.
    """
    plain = {run.folder: run.name + _fold_suffix(run) for run in runs}
    repeated = {name for name in plain.values() if list(plain.values()).count(name) > 1}
    folders = {run.folder: printable(run.folder.resolve().name) + _fold_suffix(run) for run in runs}
    named = {folder: folders[folder] if name in repeated else name for folder, name in plain.items()}
    still_repeated = {name for name in named.values() if list(named.values()).count(name) > 1}
    common = "" if with_common_fold else common_fold(runs)
    return {
        folder: printable(folder) if name in still_repeated else name.removesuffix(common)
        for folder, name in named.items()
    }


def common_fold(runs: Sequence[ComparedRun]) -> str:
    """Return the fold as the end of a title, such as ", 3 of 3 folds", if it is the same for all runs, else ""."""
    suffixes = {_fold_suffix(run) for run in runs}
    return suffixes.pop() if len(suffixes) == 1 else ""


def training_settings(run: ComparedRun) -> dict[str, tuple[str, Labels]]:
    """Return settings that can explain a difference between runs although no axis of a table shows them.

    Returns:
        Value of each setting as text, and the axes that show this setting. `data.split` includes `data.split.seed`.
    """
    data, config = run.data, run.config
    crop = nested_value(config, "data", "crop")
    if isinstance(crop, dict):
        beats = nested_value(config, "feature", "sync") == "beat"
        crop = f"{crop.get('beats')} beats" if beats else f"{crop.get('seconds')} s"
    stopping = nested_value(config, "callbacks", "early_stopping")
    patience = nested_value(stopping, "patience") or (config.get("patience") if stopping else "no early stopping")
    is_probe, several = optimiser_name(run) == "linear_probe", f"one of each {'fold' if run.pooled else 'member'}"
    epochs, rate = (nested_value(config, *key) for key in (("trainer", "max_epochs"), ("optim", "lr")))
    fitted = ("train", "val") if nested_value(config, "optim", "join_validation") else ("train",)
    n_clips = [nested_value(data, "splits", split, "clips") for split in fitted]
    collection = " ".join(str(value)[:12] for value in (data.get("name"), data.get("labels")) if value)
    values: dict[str, tuple[Any, Labels]] = {
        "data.batch_size": (nested_value(config, "data", "batch_size"), ()),
        "trainer.accumulate_grad_batches": (nested_value(config, "trainer", "accumulate_grad_batches"), ()),
        "data.crop": (crop or "whole clips", ()),
        "data.crops_per_clip": ((nested_value(config, "data", "crops_per_clip") if crop else None) or 1, ()),
        "data.eval_crops": (nested_value(config, "data", "eval_crops") or "whole clips", ()),
        "trainer.max_epochs": ("linear probe" if is_probe else epochs, ("optim",)),
        "patience": ("linear probe" if is_probe else patience, ("callbacks.early_stopping", "optim")),
        "optim.lr": ("linear probe" if is_probe else rate, ("optim",)),
        "penalty": (describe_penalties(run) or (several if is_probe else "no linear probe"), ("optim",)),
        "data": (collection, ()),
        "hash of the audio or frames": (str(data.get("hash") or "")[:8], ("data", "feature")),
        "hash of the split": (str(data.get("split_hash") or "")[:8], ("data", "fold", "data.split")),
        "training clips": (sum(n_clips) if None not in n_clips else None, ("data", "fold", "data.split")),
    }
    return {
        name: ("unknown" if value in (None, "") else printable(value), (name, *axes))
        for name, (value, axes) in values.items()
    }


def describe_penalties(run: ComparedRun) -> str:
    """Return the chosen penalty of each linear probe of a run, such as `C=0.01 balanced`, or ""."""
    probes = mapping_or_empty(nested_value(run.record, "model", "linear_probe"))
    texts = {}
    for name, probe in probes.items():
        penalty = [f"{key}={value:g}" for key, value in mapping_or_empty(nested_value(probe, "penalty")).items()]
        texts[name] = " ".join([*penalty, *([str(weight)] if (weight := nested_value(probe, "class_weight")) else [])])
    return ", ".join(text if len(texts) == 1 else f"{name}: {text}" for name, text in texts.items())


def optimiser_name(run: ComparedRun) -> str | None:
    """Return the optimiser of a run, or `linear_probe`. None if it is unknown."""
    target = str(nested_value(run.config, "optim", "_target_") or "")
    return "linear_probe" if target.endswith(".LinearProbe") else nested_value(run.config, "optim", "kind")


def mean_titles(runs: Sequence[ComparedRun]) -> dict[Path, str]:
    """Return the title of the mean over scalars of each run that has one, by folder.

    The title is `mean`. Means over different targets are not comparable, so their titles contain the targets.
    """
    means = {run.folder: run.mean["targets"] for run in runs if run.mean}
    equal = len({tuple(sorted(targets)) for targets in means.values()}) < 2
    name = mean_name({target: None for run in runs for target in run.metrics})
    return {folder: name if equal else f"{name} of {', '.join(sorted(targets))}" for folder, targets in means.items()}


def nested_value(mapping: Any, *keys: str) -> Any:
    """Return a value of nested mappings, or None if a key is missing."""
    for key in keys:
        mapping = mapping.get(key) if isinstance(mapping, dict) else None
    return mapping


def mapping_or_empty(value: Any) -> dict[str, Any]:
    """Return the value if it is a mapping, else an empty mapping."""
    return value if isinstance(value, dict) else {}


def _fold_suffix(run: ComparedRun) -> str:
    return "" if run.fold is None else f", {run.fold}" if run.pooled else f", fold {run.fold}"


def _read_or_report(path: Path, faults: list[str]) -> dict[str, Any]:
    """Return the content of a JSON or YAML file, or an empty mapping if it is missing or damaged.

    A damaged file is reported in `faults`. The structure is not checked, so that files of older versions can be
    compared by the values in them.
    """
    if not path.is_file():
        return {}
    try:
        value = read_mapping(path)
    except ValueError:
        faults.append(f"{path.name} cannot be read.")
        return {}
    if path.suffix == ".json" and not is_unchanged(value):
        faults.append(f"{path.name} {CHANGED}.")
        return {}
    return value


def _first_line(error: Exception) -> str:
    """Return the first line of an error message, truncated to 160 characters."""
    return printable(str(error).splitlines()[0])[:160].rstrip(" .") if str(error) else type(error).__name__


def _is_usable(target: Any) -> bool:
    """Return whether a target of metrics.json has the structure that all tables require."""
    return (
        isinstance(target, dict)
        and target.get("kind") in ("label", "scalar")
        and isinstance(target.get("splits"), dict)
        and all(isinstance(s, dict) and isinstance(s.get("scores"), dict) for s in target["splits"].values())
    )


def _status_from_log(files: RunFolder) -> tuple[str, str]:
    """Return status and remark of a run without metrics.json from the end of its log."""
    matches = [LOG_LINE.match(line) for line in files.read_log_end(LOG_END)]
    last = next((match for match in reversed(matches) if match), None)
    if last and last[1] in ("ERROR", "CRITICAL"):
        return "failed", f"failed: {printable(last[3]).rstrip('.')}."
    if last and last[3].startswith(("interrupted", "terminated by SIG")):
        return "interrupted", "interrupted before its end."
    if last:
        return "unfinished", f"unfinished; the last log message is: {printable(last[3])[:160].rstrip('.')}."
    return "unfinished", "unfinished, without log messages."


def hide_trials(runs: Sequence[ComparedRun], shown: bool) -> tuple[list[ComparedRun], list[str]]:
    """Return the runs without trial runs, whose scores have no meaning, and a remark about hidden ones.

    Args:
        runs: Runs in any state.
        shown: Whether trial runs are shown too. They are always shown if there are no other runs.
    """
    trials = [run for run in runs if run.record.get("trial")]
    if shown or not trials or len(trials) == len(runs):
        return list(runs), []
    verb = "is" if len(trials) == 1 else "are"
    remark = f"{format_count(len(trials), 'trial run')} (debug=...) {verb} hidden; --trials shows them."
    return [run for run in runs if run not in trials], [remark]
