"""Pairs of runs that were scored on the very same clips, tested on them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.results import bootstrap, resampled
from etude.results.comparison.pair import Pair
from etude.results.comparison.run import Run, printable
from etude.results.comparison.statistics import LEVEL, holm, mcnemar, two_sided
from etude.results.measure import scorer, values
from etude.results.metrics import PRIMARY
from etude.results.text import plural

if TYPE_CHECKING:
    from pandas import DataFrame

MOST_RUNS = 30  # on the same clips; of more, so many resamples could show nothing after correction
MOST_RESAMPLES = 20_000
MOST_WEIGHTS = 2**26  # of clips, in memory at once


def pairs(
    runs: Sequence[Run], names: Mapping[Path, str], part: str = "test", metric: str = ""
) -> tuple[list[Pair], list[str]]:
    """Test all pairs of runs that were scored on the same clips, target by target.

    Args:
        runs: Runs; those that are not finished are in no pair.
        names: Their titles.
        part: test or val.
        metric: What is compared where a target has it; otherwise the metric that leads the target.

    Returns:
        The pairs, and remarks about what could not be tested.
    """
    found: list[Pair] = []
    remarks: list[str] = []
    hopeless: dict[str, list[str]] = defaultdict(list)
    for name in dict.fromkeys(name for run in runs for name in run.metrics):
        alike: dict[str, list[tuple[Run, DataFrame]]] = defaultdict(list)
        for run in (run for run in runs if name in run.metrics):
            try:
                table = _table(run, name, part)
                alike[_ground(run.metrics[name], table)].append((run, table))
            except (OSError, ValueError, KeyError, TypeError) as error:
                remarks.append(f"{names[run.folder]}: predictions.parquet cannot be tested: {_short(error)}.")
        for members in alike.values():
            tested, remark = _family(members, names, name, metric)
            found += tested
            if remark:
                hopeless[remark].append(name)
        lone = [names[members[0][0].folder] for members in alike.values() if len(members) == 1]
        if lone and len(alike) > 1:
            remarks.append(f"Scored on clips of {name} that no other run here was scored on: {', '.join(lone)}.")
    remarks += [f"{', '.join(targets)}: {remark}" for remark, targets in hopeless.items()]
    return found, list(dict.fromkeys(remarks))


def _table(run: Run, name: str, part: str) -> DataFrame:
    """id, group, true and pred of the clips of a part that have a label, in the order of their ids."""
    import pandas as pd

    columns = ["id", "group", f"{name}.true", f"{name}.pred"]
    table = pd.read_parquet(
        run.folder / "predictions.parquet", columns=[*columns, "split"], page_checksum_verification=True
    )
    return table[(table["split"] == part) & table[columns[2]].notna()][columns].sort_values("id", kind="stable")


def _ground(target: dict[str, Any], table: DataFrame) -> str:
    """What two tables have in common when they are of the same clips with the same truths."""
    known = [target["kind"], sorted(target.get("classes", [])), table.iloc[:, :3].to_csv(index=False, header=False)]
    return hashlib.sha256(repr(known).encode()).hexdigest()


def _family(
    members: list[tuple[Run, DataFrame]], names: Mapping[Path, str], name: str, metric: str
) -> tuple[list[Pair], str]:
    """All pairs of runs on the same clips, corrected for how many they are, and a remark where that shows nothing."""
    (run, table), count = members[0], len(members) * (len(members) - 1) // 2
    if not count or len(table) < 2:
        return [], ""
    if len(members) > MOST_RUNS:
        return [], f"{len(members)} runs on the same clips are too many to test each pair of them: compare fewer."
    target = run.metrics[name]
    label = target["kind"] == "label"
    groups = table["group"].astype(object).where(table["group"].notna(), None).tolist()
    resamples = min(max(bootstrap.RESAMPLES, 100 * count), MOST_RESAMPLES, max(1, MOST_WEIGHTS // len(table)))
    true = values(table, f"{name}.true", target)
    held = len(set(bootstrap.codes(groups).tolist()))
    drawn = bootstrap.weights(groups, resamples, strata=true if label else None)
    preds = [values(other, f"{name}.pred", target) for _, other in members]
    results = [resampled.scores(scorer(true, target), pred, drawn) for pred in preds]
    lead = metric if metric in results[0][0] else PRIMARY[target["kind"]]
    found, p, accurate = [], [], []
    for i, j in combinations(range(len(members)), 2):
        (point, spread), (other, other_spread) = results[i], results[j]
        scores = _known(point[lead][0]), _known(other[lead][0])
        gain = _known(point[lead][0] - other[lead][0])
        low, high = map(_known, bootstrap.difference(spread[lead], other_spread[lead]))
        p.append(None if gain is None else two_sided(gain, spread[lead] - other_spread[lead], held))
        only = mcnemar(preds[i] == true, preds[j] == true) if label else None
        accurate.append(only[2] if only else None)
        found.append(Pair(
            names[members[i][0].folder], names[members[j][0].folder], name, lead, scores,
            {"value": gain, "low": low, "high": high}, None, only[:2] if only else None, None,
            len(table), held, count,
        ))  # fmt: skip
    corrected = zip(found, holm(p), holm(accurate), strict=True)
    remark = ""
    if len(drawn) and 2 * count / (1 + len(drawn)) >= LEVEL:
        remark = (
            f"{plural(count, 'pair')} are too many for {len(drawn):,} resamples to show a difference: compare fewer."
        )
    return [replace(pair, p=one, mcnemar=two) for pair, one, two in corrected], remark


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _short(error: Exception) -> str:
    return printable(str(error).splitlines()[0])[:160].rstrip(" .") if str(error) else type(error).__name__
