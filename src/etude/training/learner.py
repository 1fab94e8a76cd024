"""The LightningModule of all experiments.

A metric of a whole part is not the mean of its batches' metrics (Spearman's rho over batches of 8 reads as .6 where .53
is true), so batches and devices only add rows here. A clip that several devices saw is kept once.
"""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torchmetrics import Metric

from etude.audio.masks import valid
from etude.backbones.base import Backbone
from etude.data.batches import Batch
from etude.embeddings.cache import EmbeddingCache
from etude.evaluation.metrics import PRIMARY, classification, regression
from etude.tasks.task import Task
from etude.training.checkpointing import random_state, restore_random_state
from etude.training.optimiser import Optimiser
from etude.training.transfer import Transfer, depths, levels


class Collected(Metric):
    """Rows of outputs, gathered over batches and devices.

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
        """Add a batch: row numbers (B,), embeddings (B, D), outputs (B, K) and true values (B,) by target."""
        columns = [row, z.float(), *(out[k[4:]].float() for k in self.keys if k.startswith("out.")),
                   *(y[k[2:]] for k in self.keys if k.startswith("y."))]  # fmt: skip
        for i, column in enumerate(columns):
            getattr(self, f"column{i}").append(column.detach())

    def compute(self) -> dict[str, Tensor]:
        """All rows in the order of the table, on the CPU: `row`, `z`, `out.<target>`, `y.<target>`."""
        table = {}
        for i, key in enumerate(self.keys):
            column = getattr(self, f"column{i}")
            table[key] = (torch.cat(column) if isinstance(column, list) else column).cpu()
        rows, inverse = table["row"].unique(return_inverse=True)
        first = torch.full((len(rows),), len(inverse)).scatter_reduce(0, inverse, torch.arange(len(inverse)), "amin")
        return {key: column[first] for key, column in table.items()}


class Standardiser(nn.Module):
    """Each bin to mean 0 and deviation 1 over the training part; then padding, and only then, becomes 0.

    Args:
        mean: Mean of each bin (F,).
        std: Standard deviation of each bin (F,).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.clone())
        self.register_buffer("std", std.clone())

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Raw frames (B, T, F) and valid frames (B,) to standardised frames (B, T, F), float32."""
        return (x.float() - self.mean) / self.std * valid(lengths, x.shape[1])[..., None]


class Learner(LightningModule):
    """Standardiser, backbone and task, and how they are trained and judged.

    Args:
        standardiser: Statistics of the training part.
        backbone: Frames to embedding.
        task: Embedding to outputs, losses and predictions.
        optimiser: Makes the optimiser and its schedule.
        augment: Applied to standardised training frames; none leaves them.
        recipe: Plain values kept in every checkpoint, from which the network can be built again.
        decibel: What one dB more adds to each bin of raw frames (F,), for the augmentation; none says 1.
        transfer: Learning rate of each backbone layer and epoch; None trains all layers alike.
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
    ) -> None:
        super().__init__()
        self.register_buffer("decibel", torch.ones_like(standardiser.mean) if decibel is None else decibel, False)
        self.standardiser, self.backbone, self.task, self.augment = standardiser, backbone, task, augment
        self.optimiser, self.recipe = optimiser or Optimiser(), recipe or {}
        self.collected = Collected(list(task.targets))
        self.tables: dict[int, dict[str, Tensor]] = {}
        self.transfer = transfer
        self.cache: EmbeddingCache | None = None
        self.random: dict[str, Any] | None = None
        self.axes = {name: p.ndim for name, p in self.named_parameters()}  # a shard of a matrix is a vector
        self.losses: Tensor | None = None  # of the last step: the balanced one and each target's (1 + K,)

    def train(self, mode: bool = True) -> Learner:
        """As in torch; layers that do not learn now stay in evaluation, so that their batch norms do not drift."""
        super().train(mode)
        if mode and self.transfer is not None:
            depth_of = levels(self.backbone)
            for depth, layer in zip(depth_of, self.backbone.layers(), strict=True):
                if not self.transfer.multiplier(depth, depth_of[-1] + 1, self.current_epoch):
                    layer.eval()
        return self

    def on_train_epoch_start(self) -> None:
        """Wake the layers that learn from this epoch on."""
        if self.transfer is not None:
            self.train()

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Raw frames (B, T, F) and lengths (B,) to the embedding (B, D) and outputs (B, K) by target."""
        z = self.backbone(self.standardiser(x, lengths), lengths)
        return z, self.task(z)

    def use_cache(self, cache: EmbeddingCache | None) -> None:
        """Set the cache from which frozen layers are read; None runs all layers for every batch and frees the disk."""
        self.cache = cache

    def embed(self, x: Tensor, lengths: Tensor, row: Tensor) -> Tensor:
        """Standardised frames (B, T, F) of clips, known by `row`, to embeddings (B, D), past layers that ran before."""
        return self.backbone(x, lengths) if self.cache is None else self.cache.embed(x, lengths, row)

    def without_noise(self) -> None:
        """Switch off every dropout, for learning a few clips by heart."""
        for module in self.modules():
            for probability in ("p", "drop_prob"):  # torch's dropouts and timm's DropPath
                if isinstance(getattr(module, probability, None), float):
                    setattr(module, probability, 0.0)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Loss of a batch of crops."""
        x, lengths, mixture = self.standardiser(batch.x, batch.lengths), batch.lengths, None
        if self.augment is not None:
            x, lengths, mixture = self.augment(x, lengths, self.decibel / self.standardiser.std)
        out, y, weight = self.task(self.embed(x, lengths, batch.row)), batch.y, None
        if mixture is not None:
            out, y, weight = mixture.spread(out, mixed=True), mixture.spread(y), mixture.weight
        counts = self.task.count_labels(y, weight)
        loss, each = self.task.loss(out, y, weight, counts)
        self.losses = torch.stack([loss, *each.values()]).detach()
        objective = self.task.weighting.objective(loss, each, self.backbone, self.task.heads)
        logs: dict[str, Any] = {"train/loss": loss.detach()}
        mean: dict[str, Any] = {"on_step": False, "on_epoch": True, "sync_dist": True}  # over the epoch and all devices
        if len(each) > 1:
            logs |= {f"train/{name}/weight": weight for name, weight in self.task.weighting.weights.items()}
            for name, count in counts.items():  # a mean over the clips that have the target
                self.log(f"train/{name}/loss", each[name].detach(), batch_size=count, **mean)  # type: ignore[arg-type]
        self.log_dict(logs, batch_size=len(batch.row), **mean)
        return objective

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Let the weighting look at the gradients of the whole step."""
        self.task.weighting.before_step()

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """As Lightning does; where the weights lie in shards, by the norm over all of them."""
        sharded = getattr(self.trainer.model, "clip_grad_norm_", None)
        if sharded is None:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            sharded(gradient_clip_val)

    def validation_step(self, batch: Batch, index: int) -> None:
        """Add a batch of whole clips to what is measured at the end."""
        self._collect(batch)

    def on_validation_epoch_end(self) -> None:
        """Losses and scores of the whole validation part."""
        self.log_dict(self.judge(self._gather()), rank_zero_only=False, sync_dist=False)

    def on_train_epoch_end(self) -> None:
        """Log the learning rate that the epoch ended with; of several groups of weights that of each."""
        groups = self.trainer.optimizers[0].param_groups
        self.log("lr", groups[0]["lr"])  # what learns fastest
        # weights that are decayed and those that are not come in twos of one rate
        for place, group in enumerate([group for group in groups if group["weight_decay"]][1:], 1):
            self.log(f"lr/{place}", group["lr"])

    def test_step(self, batch: Batch, index: int, dataloader_idx: int = 0) -> None:
        """Add a batch of whole clips to the table of predictions."""
        if index == 0 and dataloader_idx > 0:
            self.tables[dataloader_idx - 1] = self._gather()
        self._collect(batch)

    def on_test_epoch_end(self) -> None:
        """Keep the last table; `tables` then holds one for each data loader."""
        self.tables[len(self.tables)] = self._gather()

    def judge(self, table: dict[str, Tensor]) -> dict[str, float]:
        """Scores of a whole part.

        Args:
            table: What `Collected.compute` returns.

        Returns:
            `val/loss`, each target's loss and its leading score, and `val/score`, the mean of the leading scores.
        """
        y = {name: table[f"y.{name}"] for name in self.task.targets}
        out = {name: table[f"out.{name}"] for name in self.task.targets}
        with torch.no_grad():  # on this device, because a weighting may have parameters
            here = [{name: value.to(self.device) for name, value in side.items()} for side in (out, y)]
            loss, each = self.task.loss(here[0], here[1])
        logs, leading = {"val/loss": float(loss)}, []
        for name, target in self.task.targets.items():
            score = leading_score(target.kind, target.predict(out[name]), y[name], target.has_label(y[name]))
            logs |= {f"val/{name}/loss": float(each[name]), f"val/{name}/{PRIMARY[target.kind]}": score}
            leading.append(score)
        return {**logs, "val/score": sum(leading) / len(leading)}

    def configure_optimizers(self) -> Any:
        """Optimiser and schedule over all steps of the run."""
        steps, epochs = int(self.trainer.estimated_stepping_batches), self.trainer.max_epochs or 1
        if self.transfer is None:
            return self.optimiser.configure(self, steps)
        table, depth = self.transfer, depths(self.backbone)
        layers = levels(self.backbone)[-1] + 1

        def multiplier(name: str, done: float) -> float:
            if not name.startswith("backbone."):
                return 1.0
            return table.multiplier(depth[name.removeprefix("backbone.")], layers, int(done * epochs + 1e-6))

        return self.optimiser.configure(self, steps, multiplier)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the recipe beside the weights, and where the random numbers are."""
        checkpoint["etude"] = self.recipe
        checkpoint["random"] = random_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep where the random numbers were, for a training that goes on."""
        self.random = checkpoint.get("random")

    def on_train_start(self) -> None:
        """Go on with the random numbers where the checkpoint was written, so that an interruption changes nothing."""
        if self.random is not None:
            restore_random_state(self.random)
            self.random = None

    def _collect(self, batch: Batch) -> None:
        z = self.embed(self.standardiser(batch.x, batch.lengths), batch.lengths, batch.row)
        out = self.task(z)
        if batch.crops > 1:  # what several crops of a clip say, on average
            z, out = (
                z.unflatten(0, (-1, batch.crops)).mean(1),
                {name: value.unflatten(0, (-1, batch.crops)).mean(1) for name, value in out.items()},
            )
        self.collected.update(batch.row, z, out, {name: batch.y[name] for name in self.task.targets})

    def _gather(self) -> dict[str, Tensor]:
        table = self.collected.compute()
        self.collected.reset()
        rows = table["row"].numel()  # torchmetrics squeezes a table of one row
        return {
            key: v.reshape(rows, -1) if key == "z" or key.startswith("out.") else v.reshape(rows)
            for key, v in table.items()
        }


def leading_score(kind: str, predicted: Tensor, y: Tensor, known: Tensor) -> float:
    """Macro-F1 of a label, Spearman's rho of a scalar; 0 where there is nothing to rank or fewer than two clips.

    Args:
        kind: `label` or `scalar`.
        predicted: Probabilities (B, K) or values (B,).
        y: True values (B,).
        known: Which of them are there (B,).
    """
    import numpy as np

    true, said = y[known].numpy(), predicted[known].numpy()
    if len(true) < 2:
        return 0.0
    one = np.ones((1, len(true)))
    label = kind == "label"
    scores = classification(true, said.argmax(1), said.shape[1], one) if label else regression(true, said, one)
    return float(np.nan_to_num(scores[PRIMARY[kind]][0]))
