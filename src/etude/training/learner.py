"""LightningModule of all experiments.

A metric of a split is not the mean of its batches' metrics. For example, the mean of Spearman's rho over batches of 8
clips is .6, but rho of the split is .53. Therefore batches and devices only add rows to a table. A clip that several
devices processed is kept once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from etude.backbones.base import Backbone, layer_indices, parameter_layer_index
from etude.data.batches import Batch
from etude.embeddings.cache import EmbeddingCache
from etude.embeddings.readouts import Readout
from etude.evaluation.metrics import PRIMARY, classification, regression
from etude.tasks.heads import Task
from etude.training.checkpointing import random_state, restore_random_state
from etude.training.lightning import LightningModule, Metric
from etude.training.network import Network, Standardiser
from etude.training.optimiser import Optimiser
from etude.training.transfer import Transfer


class PredictionCollector(Metric):
    """Metric that collects rows of outputs over batches and devices.

    Args:
        names: Names of the targets.
    """

    full_state_update = False

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.keys = ["row", "z", *(f"out.{name}" for name in names), *(f"y.{name}" for name in names)]
        for i in range(len(self.keys)):
            self.add_state(f"column{i}", default=[], dist_reduce_fx="cat")

    def update(self, row: Tensor, z: Tensor, out: dict[str, Tensor], y: dict[str, Tensor]) -> None:
        """Add a batch.

        Args:
            row: Rows of the clips (B,).
            z: Embeddings (B, D).
            out: Outputs (B, K) by target.
            y: True values (B,) by target.
        """
        columns = [row, z.float(), *(out[k[4:]].float() for k in self.keys if k.startswith("out.")),
                   *(y[k[2:]] for k in self.keys if k.startswith("y."))]  # fmt: skip
        for i, column in enumerate(columns):
            getattr(self, f"column{i}").append(column.detach())

    def compute(self) -> dict[str, Tensor]:
        """Return all rows in table order, on the CPU, with keys `row`, `z`, `out.<target>` and `y.<target>`."""
        table = {}
        for i, key in enumerate(self.keys):
            column = getattr(self, f"column{i}")
            table[key] = (torch.cat(column) if isinstance(column, list) else column).cpu()
        rows, inverse = table["row"].unique(return_inverse=True)
        first = torch.full((len(rows),), len(inverse)).scatter_reduce(0, inverse, torch.arange(len(inverse)), "amin")
        return {key: column[first] for key, column in table.items()}


class Learner(Network, LightningModule):
    """Network with its training and evaluation.

    Args:
        standardiser: Statistics of the training split.
        backbone: Network that computes an embedding from frames.
        task: Module that computes outputs, losses and predictions from an embedding.
        optimiser: Factory of the optimiser and its schedule.
        augment: Augmentation of standardised training frames; None disables it.
        recipe: Plain values from which the network can be rebuilt. They are stored in every checkpoint.
        decibel: Change of each bin of raw frames per dB of gain (F,), for the augmentation. None means 1.
        transfer: Learning rate of each backbone layer and epoch. None trains all layers at one rate.
        readout: Read-out of the backbone; None for the backbone's own embedding.
    """

    decibel: Tensor

    def __init__(
        self,
        standardiser: Standardiser,
        backbone: Backbone,
        task: Task,
        optimiser: Optimiser | None = None,
        augment: nn.Module | None = None,
        recipe: dict[str, Any] | None = None,
        decibel: Tensor | None = None,
        transfer: Transfer | None = None,
        readout: Readout | None = None,
    ) -> None:
        super().__init__(standardiser, backbone, task, recipe, readout)
        self.register_buffer("decibel", torch.ones_like(standardiser.mean) if decibel is None else decibel, False)
        self.augment, self.optimiser = augment, optimiser or Optimiser()
        self.collected = PredictionCollector(list(task.targets))
        self.tables: dict[int, dict[str, Tensor]] = {}
        self.transfer = transfer
        self.cache: EmbeddingCache | None = None
        self.random: dict[str, Any] | None = None
        self.axes = {name: p.ndim for name, p in self.named_parameters()}  # a shard of a matrix is a vector
        self.fitted_splits: Sequence[str] | None = None  # of complete clips; None trains on random crops
        self.losses: Tensor | None = None  # of the last step: the weighted loss and each target's loss (1 + K,)

    def train(self, mode: bool = True) -> Learner:
        """Set the training mode. Layers that are frozen in this epoch stay in evaluation mode.

        Otherwise the running statistics of their batch norms would change.
        """
        super().train(mode)
        if mode and self.transfer is not None:
            indices = layer_indices(self.backbone)
            for index, layer in zip(indices, self.backbone.layers(), strict=True):
                if not self.transfer.multiplier(index, indices[-1] + 1, self.current_epoch):
                    layer.eval()
        return self

    def on_train_epoch_start(self) -> None:
        """Set layers that are unfrozen in this epoch to training mode."""
        if self.transfer is not None:
            self.train()

    def use_cache(self, cache: EmbeddingCache | None) -> None:
        """Set the cache of frozen-layer outputs. None runs all layers on every batch and frees the disk space."""
        if self.cache is not None:
            self.cache.close()
        self.cache = cache

    def embed(self, x: Tensor, lengths: Tensor, row: Tensor) -> Tensor:
        """Compute embeddings, with the outputs of frozen layers from the cache if there is one.

        Args:
            x: Standardised frames (B, T, F).
            lengths: Valid frames (B,).
            row: Rows of the clips, which are the keys of the cache (B,).

        Returns:
            Embeddings (B, D).
        """
        return self.readout(self.backbone, x, lengths) if self.cache is None else self.cache.embed(x, lengths, row)

    def disable_dropout(self) -> None:
        """Disable every dropout, for overfitting a few clips."""
        for module in self.modules():
            for probability in ("p", "drop_prob"):  # torch's dropouts and timm's DropPath
                if isinstance(getattr(module, probability, None), float):
                    setattr(module, probability, 0.0)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Compute the loss of a batch of crops."""
        x, lengths, mixture = self.standardiser(batch.x, batch.lengths), batch.lengths, None
        if self.augment is not None:
            x, lengths, mixture = self.augment(x, lengths, self.decibel / self.standardiser.std)
        out, y, weight = self.task(self.embed(x, lengths, batch.row)), batch.y, None
        if mixture is not None:
            out, y, weight = mixture.spread(out, mixed=True), mixture.spread(y), mixture.weight
        counts = self.task.count_labels(y, weight)
        loss, each = self.task.loss(out, y, weight, counts)
        self.losses = torch.stack([loss, *each.values()]).detach()
        shared = nn.ModuleList([self.backbone, self.readout])
        objective = self.task.weighting.objective(loss, each, shared, self.task.heads)
        logs: dict[str, Any] = {"train/loss": loss.detach()}
        mean: dict[str, Any] = {"on_step": False, "on_epoch": True, "sync_dist": True}  # over the epoch and all devices
        if len(each) > 1:
            logs |= {f"train/{name}/weight": weight for name, weight in self.task.weighting.weights.items()}
            for name, count in counts.items():  # a mean over the clips that have the target
                self.log(f"train/{name}/loss", each[name].detach(), batch_size=count, **mean)  # type: ignore[arg-type]
        self.log_dict(logs, batch_size=len(batch.row), **mean)
        return objective

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Pass the accumulated gradients of the step to the weighting."""
        self.task.weighting.before_step()

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip gradients as in Lightning. For sharded weights the norm is computed over all shards."""
        sharded = getattr(self.trainer.model, "clip_grad_norm_", None)
        if sharded is None:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            sharded(gradient_clip_val)

    def validation_step(self, batch: Batch, index: int) -> None:
        """Collect the outputs of a batch of complete clips."""
        self._collect(batch)

    def on_validation_epoch_end(self) -> None:
        """Log losses and scores of the validation split."""
        self.log_dict(self.compute_scores(self._gather()), rank_zero_only=False, sync_dist=False)

    def on_train_epoch_end(self) -> None:
        """Log the final learning rate of the epoch, for each parameter group if there are several."""
        groups = self.trainer.optimizers[0].param_groups
        self.log("lr", groups[0]["lr"])  # the highest rate
        # groups with and without weight decay come in pairs of equal rate
        for index, group in enumerate([group for group in groups if group["weight_decay"]][1:], 1):
            self.log(f"lr/{index}", group["lr"])

    def test_step(self, batch: Batch, index: int, dataloader_idx: int = 0) -> None:
        """Add a batch of complete clips to the table of predictions."""
        if index == 0 and dataloader_idx > 0:
            self.tables[dataloader_idx - 1] = self._gather()
        self._collect(batch)

    def on_test_epoch_end(self) -> None:
        """Store the last table. `tables` then has one table per data loader."""
        self.tables[len(self.tables)] = self._gather()

    def compute_scores(self, table: dict[str, Tensor]) -> dict[str, float]:
        """Compute losses and scores of a split.

        Args:
            table: Table as returned by `PredictionCollector.compute`.

        Returns:
            `val/loss`, each target's loss and primary score, and `val/score`, the mean of the primary scores.
        """
        y = {name: table[f"y.{name}"] for name in self.task.targets}
        out = {name: table[f"out.{name}"] for name in self.task.targets}
        with torch.no_grad():  # on this device, because a weighting may have parameters
            outputs, targets = ({name: value.to(self.device) for name, value in side.items()} for side in (out, y))
            loss, each = self.task.loss(outputs, targets)
        logs, primary = {"val/loss": float(loss)}, []
        for name, target in self.task.targets.items():
            score = primary_score(target.kind, target.predict(out[name]), y[name], target.has_label(y[name]))
            logs |= {f"val/{name}/loss": float(each[name]), f"val/{name}/{PRIMARY[target.kind]}": score}
            primary.append(score)
        return {**logs, "val/score": sum(primary) / len(primary)}

    def configure_optimizers(self) -> Any:
        """Return the optimiser and its schedule over all steps of the run."""
        steps, epochs = int(self.trainer.estimated_stepping_batches), self.trainer.max_epochs or 1
        if self.transfer is None:
            return self.optimiser.configure(self, steps)
        transfer, layer_of = self.transfer, parameter_layer_index(self.backbone)
        layers = layer_indices(self.backbone)[-1] + 1

        def multiplier(name: str, progress: float) -> float:
            if not name.startswith("backbone."):
                return 1.0
            return transfer.multiplier(layer_of[name.removeprefix("backbone.")], layers, int(progress * epochs + 1e-6))

        return self.optimiser.configure(self, steps, multiplier)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the recipe and the state of the random number generators to a checkpoint."""
        checkpoint["etude"] = self.recipe
        checkpoint["random"] = random_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the state of the random number generators for a training that is resumed."""
        self.random = checkpoint.get("random")

    def on_train_start(self) -> None:
        """Restore the random number generators, so that an interruption does not change the results."""
        if self.random is not None:
            restore_random_state(self.random)
            self.random = None

    def _collect(self, batch: Batch) -> None:
        z = self.embed(self.standardiser(batch.x, batch.lengths), batch.lengths, batch.row)
        out = self.task(z)
        if batch.crops > 1:  # the mean over the crops of a clip
            z, out = (
                z.unflatten(0, (-1, batch.crops)).mean(1),
                {name: value.unflatten(0, (-1, batch.crops)).mean(1) for name, value in out.items()},
            )
        self.collected.update(batch.row, z, out, {name: batch.y[name] for name in self.task.targets})

    def _gather(self) -> dict[str, Tensor]:
        """Return the rows that were collected, and forget them."""
        table = self.collected_table()
        self.collected.reset()
        return table

    def collected_table(self) -> dict[str, Tensor]:
        """Return the rows that were collected in the current epoch of an evaluation, as in `PredictionCollector`."""
        table = self.collected.compute()
        rows = table["row"].numel()  # torchmetrics squeezes a table of one row
        return {
            key: v.reshape(rows, -1) if key == "z" or key.startswith("out.") else v.reshape(rows)
            for key, v in table.items()
        }


def primary_score(kind: str, predicted: Tensor, y: Tensor, has_label: Tensor) -> float:
    """Return macro-F1 of a label or Spearman's rho of a scalar. Undefined scores are 0.

    Args:
        kind: `label` or `scalar`.
        predicted: Probabilities (B, K) or values (B,).
        y: True values (B,).
        has_label: Mask of clips that have a true value (B,), bool.

    Returns:
        The score, which is 0 for fewer than two clips or constant values.
    """
    import numpy as np

    true, pred = y[has_label].numpy(), predicted[has_label].numpy()
    if len(true) < 2:
        return 0.0
    weights = np.ones((1, len(true)))
    if kind == "label":
        scores = classification(true, pred.argmax(1), pred.shape[1], weights)
    else:
        scores = regression(true, pred, weights)
    return float(np.nan_to_num(scores[PRIMARY[kind]][0]))
