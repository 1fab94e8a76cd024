"""Tests of averaged weights (callbacks=ema) in a resumed run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from etude.training.build import build_trainer


class Network(LightningModule):
    """A small network with batch statistics, which are averaged as well."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        return self.layers(batch[0]).square().mean()

    def validation_step(self, batch: list[torch.Tensor], index: int) -> None:
        self.log("val/loss", self.layers(batch[0]).square().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 0.1)


class Stop(Callback):
    """Callback that ends training in the middle of an epoch."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == (2, 3):
            raise ZeroDivisionError


@pytest.mark.parametrize("accumulated", [1, 2])
def test_resumed_run_has_the_same_average(
    accumulated: int, config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    composed = config(
        "trainer=cpu",
        "callbacks=ema",
        "trainer.max_epochs=4",
        "logger.csv=null",
        "callbacks.finite=null",
        f"trainer.accumulate_grad_batches={accumulated}",
        "callbacks.progress=null",
        "+trainer.enable_progress_bar=false",
    )
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(1))
    loader = DataLoader(TensorDataset(x), 8)

    def fit(folder: str, stopped: bool = False, checkpoint: Path | None = None) -> dict[str, Any]:
        trainer = build_trainer(composed, tmp_path / folder)
        if stopped:
            trainer.callbacks.append(Stop())  # type: ignore[attr-defined]
        path = str(checkpoint) if checkpoint else None
        trainer.fit(Network(), loader, loader, ckpt_path=path, weights_only=True)
        return torch.load(tmp_path / folder / "checkpoints" / "last.ckpt", weights_only=True)

    uninterrupted = fit("uninterrupted")
    with pytest.raises(ZeroDivisionError):
        fit("resumed", stopped=True)
    resumed = fit("resumed", checkpoint=tmp_path / "resumed" / "checkpoints" / "last.ckpt")
    assert uninterrupted["global_step"] == resumed["global_step"]
    for key in ("state_dict", "current_model_state", "averaging_state"):
        for name, value in uninterrupted[key].items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(resumed[key][name])), f"{key} {name}"
    assert any(
        not torch.equal(uninterrupted["state_dict"][name], value)
        for name, value in uninterrupted["current_model_state"].items()
    )
