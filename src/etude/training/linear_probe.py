"""Linear probes: linear models that are fitted to convergence to the embeddings of a frozen backbone.

A run with `optim=linear_probe` has one epoch without gradients. Its steps collect the embeddings of complete clips. The
first process then fits a model for each target, and all processes copy its weights into their linear heads.

The penalty is chosen on inner folds that keep groups together, of labels by log-loss, which is less noisy than macro-F1
for few clips, and of scalars by the squared error. Validation clips select nothing, so they join the training clips by
default. Their predictions are then those of the inner folds, which are fitted without the clip.
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

from etude.audio.frontend_modules import MaskedBatchNorm
from etude.data.batches import Batch
from etude.errors import UserError
from etude.evaluation.bootstrap import encode_groups
from etude.evaluation.linear_candidates import MIN_PROBABILITY, linear_weights, without_nearly_constant
from etude.evaluation.linear_models import LinearFit, fit_linear_model
from etude.tasks.heads import Linear
from etude.tasks.targets import Target, module_key
from etude.training.callbacks import list_clips, stop_training
from etude.training.learner import Learner
from etude.training.optimiser import PROBE_SCORES, LinearProbe, log_fit

log = logging.getLogger(__name__)
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
        z: Embeddings (n, D). Values that hardly vary have no weight.
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
        without_nearly_constant(z[labelled]),
        values,
        target.kind,
        fitted_groups,
        max_seconds=math.inf,
        candidates=probe.candidates(target.kind),
        score=PROBE_SCORES[target.kind],
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
        probe.describe(target, fit, int(mask.sum())),
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
    if fit.n_separated and not set(codes[joined]) & set(codes[~joined]):
        raise UserError(
            f"optim.join_validation: no inner folds keep the {fit.n_separated} groups of the clips with a {name} "
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
            self.probes = fit_heads(self, self._gather(), self.optimiser)  # type: ignore[arg-type]
            self.optimizers().step()  # type: ignore[union-attr, call-arg]

    def on_train_epoch_end(self) -> None:
        """Log nothing, because there is no learning rate."""

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


def fit_heads(learner: Learner, table: dict[str, Tensor], probe: LinearProbe) -> dict[str, ProbeFit]:
    """Fit the probes in the first process, and set the weights of the heads in all processes.

    Args:
        learner: Learner with linear heads.
        table: Table as returned by `PredictionCollector.compute`, equal in all processes.
        probe: Grid of penalties.

    Returns:
        The fitted probe of each target.

    Raises:
        RunError: An embedding is not finite, or there are no inner folds for the validation clips.
    """
    data = learner.trainer.datamodule.data  # type: ignore[attr-defined]
    rows, z = table["row"], table["z"].numpy()
    index = data.pack.index
    if (invalid := ~np.isfinite(z).all(1)).any():
        ids = index["id"].iloc[rows[torch.from_numpy(invalid)].tolist()].astype(str).tolist()
        stop_training(
            learner.trainer,
            f"the embeddings of the clips {list_clips(ids)} are not finite; check these clips and the backbone's "
            "weights, or set trainer.precision=32-true",
        )
    fits, message = {}, ""
    if learner.trainer.is_global_zero:
        joined = data.splits[rows.numpy()] == "val"
        groups = index["group"].iloc[rows.tolist()].tolist()
        try:
            for name, target in learner.task.targets.items():
                fits[name] = fit_probe(probe, target, z, table[f"y.{name}"], rows, joined, groups)
                log_fit(name, fits[name].record, "optim." if isinstance(learner, ProbeLearner) else "")
        except UserError as error:
            message = str(error)
    fits, message = learner.trainer.strategy.broadcast((fits, message))
    if message:
        stop_training(learner.trainer, message)
    with torch.no_grad():
        for name, fit in fits.items():
            layer = linear_layer(learner.task.heads[module_key(name)])
            layer.weight.copy_(fit.weight)
            layer.bias.copy_(fit.bias)
    return fits


class ProbeStartLearner(Learner):
    """Learner whose heads are linear probes before the first step of gradient descent. For arguments see `Learner`.

    The probes are fitted to the embeddings of the complete training clips by the initial backbone. Random heads would
    change its pretrained layers before they are useful themselves.

    Source: Kumar et al., 2022, "Fine-tuning can distort pretrained features and underperform out-of-distribution".

    Attributes:
        initial_heads: Description of the fit of each target; empty before the fit.

    Raises:
        UserError: A head is not linear or normalises the embedding, or a target has bounded outputs.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial_heads: dict[str, dict[str, Any]] = {}
        option = "transfer.head_init=linear_probe"
        for name, target in self.task.targets.items():
            linear_layer(self.task.heads[module_key(name)], option)
            if getattr(target, "bounded", False):
                raise UserError(f"{option}: sets linear outputs; set task.targets.{name}.bounded=false")

    def train(self, mode: bool = True) -> ProbeStartLearner:
        """Set the training mode. Batch norms keep the statistics to which the heads were fitted."""
        super().train(mode)
        for module in self.backbone.modules():
            if isinstance(module, MaskedBatchNorm | nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def on_train_start(self) -> None:
        """Fit the heads, unless the training is resumed."""
        super().on_train_start()
        if self.trainer.global_step:
            return
        self.eval()
        with torch.no_grad(), self.trainer.precision_plugin.forward_context():
            for batch in self.trainer.datamodule.data.loader("train"):  # type: ignore[attr-defined]
                batch = self.trainer.precision_plugin.convert_input(batch)
                self._collect(self.trainer.strategy.batch_to_device(batch))
        fits = fit_heads(self, self._gather(), LinearProbe(join_validation=False))
        self.initial_heads = {name: fit.record for name, fit in fits.items()}
        self.train()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the descriptions of the initial heads to a checkpoint."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["initial_heads"] = self.initial_heads

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore these descriptions."""
        super().on_load_checkpoint(checkpoint)
        self.initial_heads = checkpoint.get("initial_heads") or {}


def linear_layer(head: nn.Module, option: str = "optim=linear_probe") -> nn.Linear:
    """Return the linear layer of a head.

    Args:
        head: The head.
        option: Option that requires it, for the message.

    Raises:
        UserError: The head is not linear, or normalises the embedding.
    """
    if not isinstance(head, Linear) or head.norm is not None or not isinstance(layer := head.layers[-1], nn.Linear):
        raise UserError(f"{option}: fits linear heads; use head=linear and head.norm=false")
    return layer
