"""Leaderboard of a sweep: the encoders and read-outs of its linear probes, ranked for each target.

Each row is tested against the best, with Holm's correction for the number of these tests. The best is known only after
the test, so the question is not whether two given rows differ, but which rows can still be the best (multiple
comparisons with the best, Hsu 1984, Annals of Statistics 12(3)). In simulations, the truly best row was ruled out in
less than 3 % of the cases (`tests/reports/comparison/test_leaderboard.py`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from etude.errors import UserError
from etude.evaluation.means import mean_over_scalars
from etude.evaluation.measure import repeated_scores, replace_non_finite
from etude.evaluation.paired_tests import (
    LEVEL,
    Pair,
    ScoredRun,
    ScoredTarget,
    compare_pairs,
    holm_correction,
    scored_run,
)
from etude.reports.comparison.axes import axis_value, differing_axes
from etude.reports.comparison.compare import runs_scored_on_training_clips
from etude.reports.comparison.runs import ComparedRun, mapping_or_empty, nested_value, scored_targets
from etude.reports.comparison.table import REPEAT_AXES
from etude.reports.comparison.text import Comparison

SPLIT, BASELINE, FEATURES = "test", "statistics", "mel, chroma statistics"
LAYERS = {"None": "own embedding", "last": "last layer", "middle": "middle layer", "all": "all layers"}
POOLINGS = {"mean_std": "mean + sd", "mean_max": "mean + max"}
INNER = {"label": "inner log-loss", "scalar": "inner MSE"}


@dataclass(frozen=True)
class Entry:
    """Row of a leaderboard.

    Args:
        encoder: Name of the encoder.
        readout: Description of the read-out.
        folder: Folder of the pooled result or the run; of the baseline, of a run that contains its predictions.
        score: Test score with its 95 % interval.
        is_baseline: Whether this is the baseline on mel and chroma statistics.
        difference: This score minus the best score with its paired interval, or None for the best row.
        p: Corrected p value of the difference, or None if it was not tested.
        is_ruled_out: Whether the score is significantly below the best, so that the row is hardly the best one.
        inner: Mean inner loss over the folds, or None without linear probes.
        embedding: Size of the embedding.
        parameters: Number of parameters of the network.
        seconds: Median duration of a run, and the longest, which embeds the clips unless they are stored.
    """

    encoder: str
    readout: str
    folder: Path
    score: dict[str, float | None]
    is_baseline: bool = False
    difference: dict[str, float | None] | None = None
    p: float | None = None
    is_ruled_out: bool = False
    inner: float | None = None
    embedding: int | None = None
    parameters: int | None = None
    seconds: tuple[float, float] | None = None

    @property
    def title(self) -> str:
        """Encoder and read-out."""
        return f"{self.encoder}, {self.readout}"


@dataclass(frozen=True)
class Leaderboard:
    """Ranking for one target.

    Args:
        target: Name of the target, or the title of the mean over scalars.
        metric: Compared metric.
        results: Entry of the test split in metrics.json of one run, which contains the numbers of clips and groups.
        entries: Rows, best first.
        inner_name: Name of the inner loss.
        chosen: Row with the smallest inner loss, or None.
        choice: Test score of the rows that the inner scores choose in each fold, or None.
        choices: Number of folds in which the inner scores choose a row, by its title.
    """

    target: str
    metric: str
    results: dict[str, Any]
    entries: list[Entry]
    inner_name: str
    chosen: Entry | None = None
    choice: dict[str, float | None] | None = None
    choices: dict[str, int] = field(default_factory=dict)


def build_leaderboards(comparison: Comparison) -> tuple[list[Leaderboard], list[str]]:
    """Rank the finished runs of a comparison for each target and for the mean over scalars.

    Args:
        comparison: Comparison of the runs of a sweep, with pooled folds.

    Returns:
        The leaderboards, and remarks about runs that are left out.

    Raises:
        UserError: No run is finished.
    """
    finished = [run for run in comparison.runs if run.status == "finished"]
    labels = entry_labels(finished)
    titles = {folder: ", ".join(label) for folder, label in labels.items()}
    remarks = [
        f"{comparison.names.get(run.folder, run.name)}: {run.remark}"
        for run in comparison.selected
        if run.status != "finished"
    ]
    optimistic = runs_scored_on_training_clips(finished, titles, SPLIT)
    remarks += optimistic.values()
    runs = [run for run in finished if run.folder not in optimistic]
    if not runs:
        raise UserError("no run of the sweep is finished, so there is no leaderboard")
    boards = []
    for scored in scored_targets(runs, titles, SPLIT):
        by_title = {titles[run.folder]: run for run in runs}
        sizes = Counter(member.clips for member in scored.runs)
        if not sizes:
            remarks += scored.remarks
            continue
        clips = max(sizes, key=lambda key: (sizes[key], next(len(m.table) for m in scored.runs if m.clips == key)))
        members = {member.title: member for member in scored.runs if member.clips == clips}
        for member in scored.runs:
            if member.title not in members:
                run = by_title[member.title]
                folds = f" ({run.fold})" if run.pooled else f" (fold {run.fold})" if run.fold else ""
                reason = f"left out of {scored.name}, because it was scored on other clips than the other rows"
                remarks.append(f"{member.title}{folds}: {reason}.")
        used = [by_title[title] for title in members]
        boards.append(_rank(scored.name, used, list(members.values()), labels, comparison.selected))
        remarks += scored.remarks
    return boards, list(dict.fromkeys(remarks))


def entry_labels(runs: Sequence[ComparedRun]) -> dict[Path, tuple[str, str]]:
    """Return encoder and read-out of each run, by folder. Other settings that differ are added to the read-out."""
    labels = {run.folder: (_encoder_label(run), _readout_label(run)) for run in runs}
    by_label: dict[tuple[str, str], list[ComparedRun]] = defaultdict(list)
    for run in runs:
        by_label[labels[run.folder]].append(run)
    for (encoder, readout), same in by_label.items():
        axes = [axis for axis in REPEAT_AXES if len({axis_value(run, axis) for run in same}) > 1]
        axes = [*axes, *differing_axes(same)] or ["run"] if len(same) > 1 else []
        for run in same:
            values = [run.folder.name if axis == "run" else f"{axis}={axis_value(run, axis)}" for axis in axes]
            labels[run.folder] = encoder, ", ".join([readout, *values])
    return labels


def _encoder_label(run: ComparedRun) -> str:
    """Return the name of the encoder in the sweep, or the backbone and its weights."""
    name = nested_value(run.config, "choices", "encoder")
    return str(name) if name else f"{axis_value(run, 'backbone')} {axis_value(run, 'pretrained')}"


def _readout_label(run: ComparedRun) -> str:
    layers, pooling = (nested_value(run.config, "readout", key) for key in ("layers", "pooling"))
    numbers = ", ".join(map(str, layers)) if isinstance(layers, list) else ""
    text = f"layer{'s' * (',' in numbers)} {numbers}" if numbers else LAYERS.get(str(layers), str(layers))
    weighted = ", weighted" if nested_value(run.config, "readout", "combine") == "weighted" else ""
    return text + (f", {POOLINGS[pooling]}" if pooling in POOLINGS else "") + weighted


def _rank(
    name: str,
    runs: Sequence[ComparedRun],
    members: list[ScoredRun],
    labels: Mapping[Path, tuple[str, str]],
    selected: Sequence[ComparedRun],
) -> Leaderboard:
    """Return the ranking for one target."""
    target = members[0].target
    metric = target["primary"]
    folds = {run.folder: _folds_of(run, selected) for run in runs}
    names = list(target.get("targets", [name]))
    losses = {run.folder: [_inner_loss(fold, names) for fold in folds[run.folder]] for run in runs}
    entries = []
    for run, member in zip(runs, members, strict=True):
        known = [loss for loss in losses[run.folder] if loss is not None]
        seconds = [fold.seconds for fold in folds[run.folder] if fold.seconds is not None]
        model = mapping_or_empty(run.record.get("model"))
        entries.append(Entry(
            *labels[run.folder], run.folder, member.target["splits"][SPLIT]["scores"][metric],
            inner=fmean(known) if known and len(known) == len(losses[run.folder]) else None,
            embedding=model.get("dim"), parameters=model.get("parameters"),
            seconds=(median(seconds), max(seconds)) if seconds else None,
        ))  # fmt: skip
    baselines = _baselines(name, names, runs, members, labels)
    entries += [entry for entry, _ in baselines]
    members = [*members, *(member for _, member in baselines)]
    entries.sort(key=lambda entry: -np.inf if entry.score["value"] is None else entry.score["value"], reverse=True)
    board = Leaderboard(
        name, metric, target["splits"][SPLIT], _test_best(name, entries, members), INNER[target["kind"]]
    )
    entries = board.entries
    ranked = sorted((entry for entry in entries if entry.inner is not None), key=lambda entry: entry.inner or 0.0)
    if not ranked:
        return board
    complete = {run.folder: run for run in runs if None not in losses[run.folder]}
    by_fold: dict[Any, Path] = {}
    for number, fold in enumerate(folds[ranked[0].folder]):
        by_fold[fold.data.get("fold")] = min(complete, key=lambda folder: losses[folder][number] or 0.0)
    choices = Counter(", ".join(labels[folder]) for folder in by_fold.values())
    chosen = {fold: complete[folder] for fold, folder in by_fold.items()}
    return replace(board, chosen=ranked[0], choice=_score_choice(name, target, chosen), choices=dict(choices))


def _folds_of(run: ComparedRun, selected: Sequence[ComparedRun]) -> list[ComparedRun]:
    """Return the runs of the folds of a pooled result in the order of the folds, or the run itself."""
    if not run.pooled:
        return [run]
    sweep, names = run.folder.parent.parent, run.data.get("pooled_from") or []
    folds = {fold.folder.name: fold for fold in selected if fold.folder.parent == sweep}
    return [folds[name] for name in names if name in folds]


def _inner_loss(run: ComparedRun, names: Sequence[str]) -> float | None:
    """Return the inner loss of a linear probe, or None for other runs.

    The loss of several scalars is the mean of their squared errors, each in units of the range of its target.
    """
    probes = mapping_or_empty(nested_value(run.record, "model", "linear_probe"))
    scores = [nested_value(probes, name, "inner_score") for name in names]
    if None in scores:
        return None
    spans = [run.metrics[name]["high"] - run.metrics[name]["low"] if len(names) > 1 else 1.0 for name in names]
    return fmean(-score / span**2 for score, span in zip(scores, spans, strict=True))


def _baselines(
    name: str,
    names: list[str],
    runs: Sequence[ComparedRun],
    members: Sequence[ScoredRun],
    labels: Mapping[Path, tuple[str, str]],
) -> list[tuple[Entry, ScoredRun]]:
    """Return the baseline of the runs as a row. Baselines with other predictions have rows of their own."""
    columns = [f"{target}.{kind}" for target in sorted(names) for kind in ("true", f"baseline.{BASELINE}")]
    renamed = {f"{target}.baseline.{BASELINE}": f"{target}.pred" for target in names}
    found: dict[str, tuple[Entry, ScoredRun]] = {}
    for run, member in zip(runs, members, strict=True):
        result = member.target["splits"][SPLIT]["baselines"].get(BASELINE)
        if result is None:
            continue
        table = run.files.read_columns(["id", "group", "split", *columns]).rename(columns=renamed)
        readout = FEATURES if not found else f"{FEATURES} ({', '.join(labels[run.folder])})"
        score = result["scores"][member.target["primary"]]
        entry = Entry("baseline", readout, run.folder, score, is_baseline=True)
        scored = scored_run(entry.title, name, member.target, table, SPLIT)
        predictions = scored.table.to_csv(index=False)
        found.setdefault(predictions, (entry, scored))
    return list(found.values())


def _test_best(name: str, entries: list[Entry], members: Sequence[ScoredRun]) -> list[Entry]:
    """Return the rows with the paired tests of their differences from the first row."""
    by_title = {member.title: member for member in members}
    best, *others = entries
    pairs: list[Pair | None] = []
    for entry in others:  # two at a time, because the p values are corrected for these pairs and not for all pairs
        tested, _ = compare_pairs([ScoredTarget(name, [by_title[entry.title], by_title[best.title]])])
        pairs.append(next(iter(tested), None))
    corrected = holm_correction([None if pair is None else pair.p for pair in pairs])
    tested_entries = [
        entry
        if pair is None
        else replace(entry, difference=pair.difference, p=p, is_ruled_out=p is not None and p < LEVEL)
        for entry, pair, p in zip(others, pairs, corrected, strict=True)
    ]
    return [best, *tested_entries]


def _score_choice(name: str, target: Mapping[str, Any], chosen: Mapping[Any, ComparedRun]) -> dict[str, float | None]:
    """Return the test score of predictions that come from another run in each fold.

    Args:
        name: Name of the target.
        target: Entry of the target or of the mean in metrics.json.
        chosen: Pooled result or run of each fold.
    """
    import pandas as pd

    parts = []
    for fold, run in chosen.items():
        table = run.files.predictions
        parts.append(table[table["fold"] == fold] if "fold" in table else table)
    table = pd.concat(parts, ignore_index=True)
    run = next(iter(chosen.values()))
    if names := target.get("targets"):
        specs = {scalar: run.metrics[scalar] for scalar in names}
        scores = replace_non_finite(mean_over_scalars(table, specs, (SPLIT,)))["splits"][SPLIT]["scores"]
    else:
        scores = repeated_scores([table], name, dict(target))["scores"]
    return {key: scores[target["primary"]][key] for key in ("value", "low", "high")}
