"""Linear probes: linear models that are fitted to convergence to the embeddings of a frozen backbone.

A run with `optim=linear_probe` has one epoch without gradients. Its steps collect the embeddings of the complete
clips. After the last one, the first process fits a model for each target, and all processes copy its weights into their
linear heads. Everything else is the same as in other runs.

The penalty is chosen on inner folds that keep groups together. Validation clips select nothing, so they join the
training clips by default. Their predictions are then those of the inner folds, which are fitted without the clip.

The penalty and the class weights of labels are chosen by log-loss, which is less noisy than macro-F1 for few clips. The
penalty of scalars is chosen by the squared error.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from etude.data.batches import Batch
from etude.errors import UserError
from etude.evaluation.bootstrap import encode_groups
from etude.evaluation.formatting import format_number
from etude.evaluation.linear_candidates import MIN_PROBABILITY, Candidate, linear_weights
from etude.evaluation.linear_models import LinearFit, end_of_grid, fit_linear_model
from etude.tasks.heads import Linear
from etude.tasks.targets import Target, module_key
from etude.training.callbacks import list_clips, stop_training
from etude.training.learner import Learner
from etude.training.optimiser import LinearProbe

log = logging.getLogger(__name__)
SCORES = {"label": "log_loss", "scalar": "mse"}
ABSENT = math.log(MIN_PROBABILITY)
"""Output of a class without training clips. The outputs of the other classes have the sum 0."""


@dataclass(frozen=True)
class ProbeFit:
    """Fitted probe of one target.

    Args:
        weight: Weights of the head (K, D), float32.
        bias: Biases of the head (K,), float32.
        rows: Sorted rows of the validation clips that joined the training clips (n,), int64.
        out: Outputs of the inner folds for these clips (n, K), float32.
        record: Description of the choice, plain values.
    """

    weight: Tensor
    bias: Tensor
    rows: Tensor
    out: Tensor
    record: dict[str, Any]


def fit_probe(
    probe: LinearProbe, target: Target, z: np.ndarray, y: Tensor, rows: Tensor, joined: np.ndarray, groups: list[Any]
) -> ProbeFit:
    """Fit the probe of one target.

    Args:
        probe: Grid of penalties.
        target: The target.
        z: Embeddings (n, D).
        y: True values (n,). Clips with a missing value are not used.
        rows: Rows of the clips (n,), sorted.
        joined: Mask of the validation clips that joined the training clips (n,), bool.
        groups: Group of each clip.

    Raises:
        UserError: Validation clips cannot join the training clips, because there are no inner folds, or none that keep
            the groups together by which the splits are disjoint.
    """
    labelled = target.has_label(y).numpy()
    is_label = target.kind == "label"
    values = [target.classes[i] for i in y[labelled].tolist()] if is_label else y[labelled].double().tolist()
    fitted_groups = [group for group, has_value in zip(groups, labelled, strict=True) if has_value]
    fit = fit_linear_model(
        z[labelled],
        values,
        target.kind,
        fitted_groups,
        max_seconds=math.inf,
        candidates=probe.candidates(target.kind),
        score=SCORES[target.kind],
        folds=probe.folds,
    )
    mask = joined[labelled]
    _check_joined(target.name, fit, mask, fitted_groups)
    weight, bias, out = (
        _label_outputs(target, fit, z.shape[1]) if is_label else _scalar_outputs(target, fit, z.shape[1])
    )
    return ProbeFit(
        torch.tensor(weight, dtype=torch.float32),
        torch.tensor(bias, dtype=torch.float32),
        rows[torch.from_numpy(labelled)][torch.from_numpy(mask)],
        torch.tensor(out[mask], dtype=torch.float32),
        describe_fit(probe, target, fit, int(mask.sum())),
    )


def _check_joined(name: str, fit: LinearFit, joined: np.ndarray, groups: list[Any]) -> None:
    """Check that the inner folds predict the validation clips without clips of their groups, as the splits do.

    Args:
        name: Name of the target.
        fit: The fit.
        joined: Mask of the validation clips among its clips (n,), bool.
        groups: Group of each clip.

    Raises:
        UserError: There are no inner folds, or they separate groups that the splits keep together.
    """
    if fit.chosen is None or not joined.any():
        return
    remedy = "set optim.join_validation=false"
    if fit.out_of_fold is None:
        raise UserError(
            f"optim.join_validation: the {fit.n_clips} clips with a {name} are too few for inner folds, or only one of "
            f"them has a second class, and the validation clips cannot be predicted without inner folds; {remedy}"
        )
    codes = encode_groups(groups)
    known = codes.max() + 1 < len(codes)
    if known and not fit.n_groups and not set(codes[joined]) & set(codes[~joined]):
        raise UserError(
            f"optim.join_validation: no inner folds keep the {codes.max() + 1} groups of the clips with a {name} "
            f"together, so the predictions of the validation clips would be fitted to clips of their groups; {remedy}"
        )


def _label_outputs(target: Target, fit: LinearFit, dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return weights (K, D) and biases (K,) of the head of a label, and the outputs out of fold (n, K)."""
    classes = [list(target.classes).index(name) for name in fit.estimator.classes_]  # type: ignore[attr-defined]
    weight, bias = np.zeros((target.size, dim)), np.full(target.size, ABSENT)
    out = np.full((fit.n_clips, target.size), ABSENT)
    if fit.chosen is None:
        bias[classes], out[:, classes] = 0.0, 0.0
        return weight, bias, out
    weight[classes], bias[classes] = linear_weights(fit.estimator)
    if fit.out_of_fold is not None:
        out[:, classes] = np.log(np.maximum(fit.out_of_fold, MIN_PROBABILITY))
    return weight, bias, out


def _scalar_outputs(target: Target, fit: LinearFit, dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return weights (1, D) and biases (1,) of the head of a scalar, and the outputs out of fold (n, 1).

    The output of the head is a position in the range of the target, from -0.5 to 0.5.
    """
    span = target.high - target.low
    if fit.chosen is None:
        weight, bias = np.zeros((1, dim)), fit.predict(np.zeros((1, dim))).reshape(1)
        values = np.repeat(bias, fit.n_clips)
    else:
        weight, bias = linear_weights(fit.estimator)
        values = np.full(fit.n_clips, np.nan) if fit.out_of_fold is None else fit.out_of_fold
    return weight / span, (bias - target.low) / span - 0.5, ((values - target.low) / span - 0.5)[:, None]


def describe_fit(probe: LinearProbe, target: Target, fit: LinearFit, n_joined: int) -> dict[str, Any]:
    """Return the description of a fit for the record of the run.

    Args:
        probe: Grid of penalties.
        target: The target.
        fit: The fit.
        n_joined: Number of validation clips among its clips.

    Returns:
        `name` of the model, `score` (name of the inner score), `inner_score`, `penalty`, `class_weight`, `candidates`
        with their `penalty`, `class_weight` and `inner_score`, numbers of `clips`, of `validation_clips` among them, of
        inner `folds` and of `groups`, `seconds`, and `at_end`, the end of the grid at which the penalty was chosen.
    """
    record: dict[str, Any] = {"name": fit.name, "score": SCORES[target.kind], "inner_score": fit.score}
    record |= {"penalty": fit.penalty, "class_weight": None, "candidates": [], "at_end": None}
    record |= {"clips": fit.n_clips, "validation_clips": n_joined, "folds": fit.n_folds, "groups": fit.n_groups}
    record |= {"seconds": round(fit.seconds, 2)}
    candidates = probe.candidates(target.kind)
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


class ProbeLearner(Learner):
    """Learner whose heads are fitted by linear models instead of gradients. For arguments see `Learner`.

    It is never in training mode.

    Attributes:
        probes: Fitted probe of each target; empty before the fit.

    Raises:
        UserError: A head is not linear, or normalises the embedding.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.automatic_optimization = False
        if isinstance(self.optimiser, LinearProbe):
            self.fitted_splits = self.optimiser.fitted_splits
        self.probes: dict[str, ProbeFit] = {}
        for head in self.task.heads.values():
            linear_layer(head)

    @property
    def joined_rows(self) -> np.ndarray:
        """Rows of the validation clips that have predictions of the inner folds (n,)."""
        return np.unique(np.concatenate([np.empty(0, np.int64), *(fit.rows.numpy() for fit in self.probes.values())]))

    def train(self, mode: bool = True) -> ProbeLearner:
        """Set the evaluation mode, in which all layers are deterministic."""
        super().train(False)
        return self

    def configure_optimizers(self) -> Any:
        """Return an optimiser without effect. Its one step marks the fit, so that Lightning saves a checkpoint."""
        return torch.optim.SGD(self.task.heads.parameters(), lr=0.0)

    def on_train_start(self) -> None:
        """Save a checkpoint before the first batch, so that a run that is killed before the fit can be resumed."""
        super().on_train_start()
        for callback in self.trainer.checkpoint_callbacks if self.trainer.global_step == 0 else []:
            if getattr(callback, "filename", None) == "last":
                path = Path(callback.dirpath) / f"{callback.filename}{callback.FILE_EXTENSION}"  # type: ignore[attr-defined]
                self.trainer.save_checkpoint(path)

    def training_step(self, batch: Batch, index: int) -> None:  # type: ignore[override]
        """Collect the embeddings of a batch of complete clips, and fit the heads after the last batch."""
        self._collect(batch)
        if self.trainer.is_last_batch:
            self.fit_heads(self._gather())
            self.optimizers().step()  # type: ignore[union-attr, call-arg]

    def on_train_epoch_end(self) -> None:
        """Log nothing, because there is no learning rate."""

    def fit_heads(self, table: dict[str, Tensor]) -> None:
        """Fit the probes in the first process, and set the weights of the heads in all processes.

        Args:
            table: Table as returned by `PredictionCollector.compute`, equal in all processes.

        Raises:
            RunError: An embedding is not finite, or there are no inner folds for the validation clips.
        """
        probe: Any = self.optimiser
        data = self.trainer.datamodule.data  # type: ignore[attr-defined]
        rows, z = table["row"], table["z"].numpy()
        index = data.pack.index
        if (invalid := ~np.isfinite(z).all(1)).any():
            ids = index["id"].iloc[rows[torch.from_numpy(invalid)].tolist()].astype(str).tolist()
            stop_training(
                self.trainer,
                f"the embeddings of the clips {list_clips(ids)} are not finite; check these clips and the backbone's "
                "weights, or set trainer.precision=32-true",
            )
        fits, message = {}, ""
        if self.trainer.is_global_zero:
            joined = data.splits[rows.numpy()] == "val"
            groups = index["group"].iloc[rows.tolist()].tolist()
            try:
                for name, target in self.task.targets.items():
                    fits[name] = fit_probe(probe, target, z, table[f"y.{name}"], rows, joined, groups)
                    log_fit(name, fits[name].record)
            except UserError as error:
                message = str(error)
        fits, message = self.trainer.strategy.broadcast((fits, message))
        if message:
            stop_training(self.trainer, message)
        self.probes = fits
        with torch.no_grad():
            for name, fit in fits.items():
                layer = linear_layer(self.task.heads[module_key(name)])
                layer.weight.copy_(fit.weight)
                layer.bias.copy_(fit.bias)

    def collected_table(self) -> dict[str, Tensor]:
        """Return the collected rows, with the outputs of the inner folds for validation clips that were fitted."""
        table = super().collected_table()
        for name, fit in self.probes.items():
            mask = torch.isin(table["row"], fit.rows)
            table[f"out.{name}"][mask] = fit.out[torch.searchsorted(fit.rows, table["row"][mask])]
        return table

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the outputs of the inner folds and the descriptions of the fits to a checkpoint."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["linear_probe"] = {name: dict(vars(fit)) for name, fit in self.probes.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the outputs of the inner folds and the descriptions of the fits."""
        super().on_load_checkpoint(checkpoint)
        stored: Mapping[str, Any] = checkpoint.get("linear_probe") or {}
        self.probes = {name: ProbeFit(**values) for name, values in stored.items()}


def linear_layer(head: nn.Module) -> nn.Linear:
    """Return the linear layer of a head.

    Raises:
        UserError: The head is not linear, or normalises the embedding.
    """
    if not isinstance(head, Linear) or head.norm is not None or not isinstance(layer := head.layers[-1], nn.Linear):
        raise UserError("optim=linear_probe: fits linear heads; use head=linear and head.norm=false")
    return layer


def log_fit(name: str, record: Mapping[str, Any]) -> None:
    """Log the chosen model of a target, and a warning if its penalty is at an end of the grid."""
    penalty = ", ".join(f"{key}={value:g}" for key, value in record["penalty"].items())
    weights = f", {record['class_weight']} class weights" if record["class_weight"] else ""
    inner = ""
    if record["inner_score"] is not None:
        title = "log-loss" if record["score"] == "log_loss" else "squared error"
        inner = f"; {title} {format_number(-record['inner_score'], 3)} in {record['folds']} inner folds"
        inner += f" of {record['groups']} groups" if record["groups"] else ""
    clips = f"{record['clips']} clips" + (f", {n} of them validation" if (n := record["validation_clips"]) else "")
    chosen = "".join([record["name"], f", {penalty}" if penalty else "", weights, inner])
    log.info("linear probe of %s: %s (%s, %.1f s)", name, chosen, clips, record["seconds"])
    if record["at_end"]:
        key = next(iter(record["penalty"]))
        log.warning(
            "linear probe of %s: %s is the %s penalty of the grid; extend optim.%s",
            name,
            penalty,
            record["at_end"],
            key,
        )
