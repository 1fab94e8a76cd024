"""Tests of the callback that stops training at non-finite weights and losses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from etude.errors import RunError
from etude.training.callbacks import NonFiniteLossGuard


def trainer(module: Any, **metrics: float) -> Any:
    """Return a stub of Lightning's Trainer with the attributes that the callback uses."""
    module.optimiser = SimpleNamespace(lr=1e30)
    module.device = torch.device("cpu")
    return SimpleNamespace(
        world_size=1, is_global_zero=True, global_step=7, current_epoch=1, precision="32-true", sanity_checking=False,
        lightning_module=module, callback_metrics={key: torch.tensor(value) for key, value in metrics.items()},
    )  # fmt: skip


def test_non_finite_weights_end_training() -> None:
    module: Any = nn.Linear(2, 2)
    NonFiniteLossGuard().on_train_epoch_end(trainer(module), module)
    nn.init.constant_(module.bias, float("nan"))
    with pytest.raises(RunError, match=r"diverged at step 7 \(epoch 2\): .*\(bias\); lower optim.lr \(now 1e\+30\)"):
        NonFiniteLossGuard().on_train_epoch_end(trainer(module), module)


def test_non_finite_validation_loss_ends_training() -> None:
    module: Any = nn.Linear(2, 2)
    NonFiniteLossGuard().on_validation_end(trainer(module, **{"val/loss": 1.0}), module)
    NonFiniteLossGuard().on_validation_end(trainer(module), module)
    with pytest.raises(RunError, match=r"diverged at step 7 .*the validation loss is not finite"):
        NonFiniteLossGuard().on_validation_end(trainer(module, **{"val/loss": float("inf")}), module)
