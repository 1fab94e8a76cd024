"""Which of many runs are worth a map: the best of each backbone, and the worst, to see what they have learned."""

from __future__ import annotations

from collections.abc import Sequence

from etude.results.comparison.axes import value
from etude.results.comparison.run import Run
from etude.results.metrics import PRIMARY


def extremes(runs: Sequence[Run], target: str) -> list[Run]:
    """The best run of each backbone, the best of them first, and the worst of all runs, by the validation part.

    Args:
        runs: Runs in any state; those without a validation score of the target, and pooled ones, are left out.
        target: Name of a target.
    """
    scores = {run.folder: score for run in runs if not run.pooled and (score := _validated(run, target)) is not None}
    ranked = sorted((run for run in runs if run.folder in scores), key=lambda run: -scores[run.folder])
    best = {value(run, "backbone"): run for run in reversed(ranked)}  # the last to be entered stays
    chosen = [run for run in ranked if run in best.values()] + ranked[-1:]
    return list({run.folder: run for run in chosen}.values())


def _validated(run: Run, target: str) -> float | None:
    """The score that leads a target, on the validation part."""
    known = run.metrics.get(target, {})
    leading = known.get("primary") or PRIMARY.get(known.get("kind"), "")
    return known.get("splits", {}).get("val", {}).get("scores", {}).get(leading, {}).get("value")
