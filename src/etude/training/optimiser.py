"""Optimiser and learning-rate schedule, and the grid of linear probes, which have neither."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from etude.evaluation.formatting import format_number
from etude.evaluation.linear_candidates import FOLDS, Candidate
from etude.evaluation.linear_models import LinearFit, describe_end, end_of_grid, format_penalty, weakness
from etude.tasks.targets import Target

log = logging.getLogger(__name__)

PROBE_SCORES = {"label": "log_loss", "scalar": "mse"}  # inner scores, by kind of target
TOLERANCE = 1e-6  # gradient of the mean loss at which a fit ends; 1e-8 changes probabilities by less than 1e-4


@dataclass(frozen=True)
class Optimiser:
    """Factory of an optimiser and its learning-rate schedule.

    Args:
        kind: `adamw` (Loshchilov & Hutter, 2019) or `adam` (Kingma & Ba, 2015).
        lr: Highest learning rate.
        weight_decay: Weight decay of matrices and filters. Biases, norms and single vectors are not decayed.
        warmup: Fraction of all steps over which the rate increases from 0.
        schedule: `cosine`, which reaches 0 after the last step, or `none`.
    """

    kind: str = "adamw"
    lr: float = 5e-4
    weight_decay: float = 0.01
    warmup: float = 0.05
    schedule: str = "cosine"

    def __post_init__(self) -> None:
        for name, value, options in (
            ("kind", self.kind, ("adam", "adamw")),
            ("schedule", self.schedule, ("cosine", "none")),
        ):
            if value not in options:
                raise ValueError(f"optim.{name} must be one of {', '.join(options)}, got {value!r}")

    def configure(
        self, module: nn.Module, steps: int, multiplier: Callable[[str, float], float] | None = None
    ) -> dict[str, Any]:
        """Create the optimiser and the schedule.

        Args:
            module: Module to train. Only parameters that require a gradient are trained.
            steps: Total number of steps. The rate changes after each step, not after each epoch.
            multiplier: Function that returns the multiplier of a parameter's learning rate, given its name and the
                fraction of completed steps in [0, 1). None trains all parameters at one rate.

        Returns:
            Return value of Lightning's `configure_optimizers`.
        """
        import torch
        from torch.optim.lr_scheduler import LambdaLR

        factor = multiplier or (lambda name, progress: 1.0)
        # parameters share a group if they have equal rates at all steps and equal weight decay
        groups: dict[tuple[Any, ...], list[str]] = {}
        trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
        axes = getattr(module, "axes", {})  # number of axes of weights before sharding
        for name, p in trainable.items():
            decayed = axes.get(name, p.ndim) > 1 and "weight" in name.rpartition(".")[2]  # no tokens or positions
            factors = tuple(factor(name, step / steps) for step in range(0, steps, max(1, steps // 1000)))
            groups.setdefault((decayed, factors), []).append(name)
        # the group with the highest rate is first
        order = sorted(groups.items(), key=lambda group: (-group[0][1][0], not group[0][0]))
        optimiser_class = torch.optim.AdamW if self.kind == "adamw" else torch.optim.Adam
        optimiser = optimiser_class(
            [
                {"params": [trainable[name] for name in names], "weight_decay": self.weight_decay if decayed else 0.0}
                for (decayed, _), names in order
            ],
            lr=self.lr,
        )
        rates: list[Callable[[int], float]] = [
            lambda step, name=names[0]: self.factor(step, steps) * factor(name, min(step, steps - 1) / steps)  # type: ignore[misc]
            for _, names in order
        ]
        schedule = LambdaLR(optimiser, rates)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def factor(self, step: int, steps: int) -> float:
        """Return the rate at a step as a fraction of the highest rate, in [0, 1]."""
        warm = round(self.warmup * steps)
        if step < warm:
            return (step + 1) / (warm + 1)
        if self.schedule == "none":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, steps - warm))))


@dataclass(frozen=True)
class LinearProbe:
    """Grid of penalties of linear probes, the alternative to an optimiser.

    Args:
        join_validation: Whether validation clips join the training clips. Their predictions are then out of fold.
        C: Inverse penalties of the logistic regressions of labels, for standardised features.
        alpha: Penalties of the ridge regressions of scalars, for standardised features.
        class_weights: Weights of the classes of a label, among which one is chosen: null for equal weights of all
            clips, or `balanced`.
        folds: Number of inner folds.

    Raises:
        ValueError: A grid is empty, or has a value that is not allowed.
    """

    join_validation: bool = True
    C: Sequence[float] = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
    alpha: Sequence[float] = (1e6, 3e5, 1e5, 3e4, 1e4, 3e3, 1e3, 300.0, 100.0, 30.0, 10.0, 3.0, 1.0)
    class_weights: Sequence[str | None] = (None, "balanced")
    folds: int = FOLDS

    def __post_init__(self) -> None:
        for name, values in (("C", self.C), ("alpha", self.alpha)):
            is_list = isinstance(values, Sequence) and not isinstance(values, str) and len(values) > 0
            if not is_list or not all(type(value) in (int, float) and 0 < value < math.inf for value in values):
                raise ValueError(f"optim.{name} must be a list of numbers greater than 0, got {values!r}")
        weights, is_list = self.class_weights, isinstance(self.class_weights, Sequence)
        if isinstance(weights, str) or not is_list or not weights or any(w not in (None, "balanced") for w in weights):
            raise ValueError(f"optim.class_weights must be a list of null or balanced, got {weights!r}")
        if type(self.folds) is not int or self.folds < 2:
            raise ValueError(f"optim.folds must be a whole number from 2, got {self.folds!r}")
        if type(self.join_validation) is not bool:
            raise ValueError(f"optim.join_validation must be true or false, got {self.join_validation!r}")

    @property
    def fitted_splits(self) -> tuple[str, ...]:
        """Splits whose clips are fitted."""
        return ("train", "val") if self.join_validation else ("train",)

    def candidates(self, kind: str) -> list[Candidate]:
        """Return the models among which one is chosen, from the strongest penalty for each class weight."""
        if kind == "scalar":
            return [Candidate("ridge regression", {"alpha": float(a)}) for a in sorted(set(self.alpha), reverse=True)]
        return [
            Candidate("logistic regression", {"C": float(c)}, weight, TOLERANCE)
            for weight in dict.fromkeys(self.class_weights)
            for c in sorted(set(self.C))
        ]

    def describe(self, target: Target, fit: LinearFit, n_joined: int) -> dict[str, Any]:
        """Return the description of a fit for the record of the run.

        Args:
            target: The target.
            fit: The fit.
            n_joined: Number of validation clips among its clips.

        Returns:
            `name` of the model, `score` (name of the inner score), `inner_score`, `penalty`, `class_weight`,
            `candidates` with their `penalty`, `class_weight` and `inner_score`, numbers of `clips`, of
            `validation_clips` among them, of inner `folds`, of `groups` and of `separated_groups`, `constant_score`,
            `seconds`, and `at_end`, the end of the grid at which the penalty was chosen.
        """
        record: dict[str, Any] = {"name": fit.name, "score": PROBE_SCORES[target.kind], "inner_score": fit.score}
        record |= {"penalty": fit.penalty, "class_weight": None, "candidates": [], "at_end": None}
        record |= {"clips": fit.n_clips, "validation_clips": n_joined, "folds": fit.n_folds, "groups": fit.n_groups}
        record |= {"separated_groups": fit.n_separated, "constant_score": fit.constant_score}
        record |= {"seconds": round(fit.seconds, 2)}
        candidates = self.candidates(target.kind)
        if fit.scores:
            record["candidates"] = [
                {"penalty": candidate.penalty, "class_weight": _weight_name(target, candidate), "inner_score": score}
                for candidate, score in zip(candidates, fit.scores, strict=True)
            ]
        if fit.chosen is not None:
            record["class_weight"] = _weight_name(target, fit.chosen)
            record["at_end"] = end_of_grid(candidates, fit)
        return record


def _weight_name(target: Target, candidate: Candidate) -> str | None:
    """Return the name of the class weights of a candidate. A scalar has none."""
    return (candidate.class_weight or "equal") if target.kind == "label" else None


def log_fit(name: str, record: Mapping[str, Any], grid: str = "optim.") -> None:
    """Log the chosen model of a target, and a warning if its penalty is at an end of the grid or it may be useless.

    Args:
        name: Name of the target.
        record: Description of the fit.
        grid: Config group with the grid of penalties; "" for a grid that is not an option.
    """
    penalty = format_penalty(record)
    weights = f", {record['class_weight']} class weights" if record["class_weight"] else ""
    inner = ""
    if record["inner_score"] is not None:
        title = "log-loss" if record["score"] == "log_loss" else "squared error"
        inner = f"; {title} {format_number(-record['inner_score'], 3)} in {record['folds']} inner folds"
        inner += f" of {record['groups']} groups" if record["groups"] else ""
    clips = f"{record['clips']} clips" + (f", {n} of them validation" if (n := record["validation_clips"]) else "")
    chosen = "".join([record["name"], f", {penalty}" if penalty else "", weights, inner])
    log.info("linear probe of %s: %s (%s, %.1f s)", name, chosen, clips, record["seconds"])
    if text := weakness(name, record):
        log.warning("linear probe of %s: %s", name, text)
    if record["at_end"]:
        log.warning("linear probe of %s: %s", name, describe_end(record, grid))
