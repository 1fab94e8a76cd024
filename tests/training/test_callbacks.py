"""Tests of the callbacks that stop training at non-finite values and that estimate its duration."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from etude.errors import RunError
from etude.training.callbacks import NonFiniteLossGuard, TrainingDuration


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


@pytest.mark.parametrize(
    ("step_seconds", "message"),
    [(1.0, "training: about 3 min 13 s without validation, 10 epochs"), (0.25, None)],
    ids=["more than a minute", "less"],
)
def test_duration_of_a_long_training_is_logged_once(
    step_seconds: float, message: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """200 steps, of which the first takes 9 s. The log has the time of the others when 5 s of them have passed."""
    now = 9.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    module: Any = SimpleNamespace(automatic_optimization=True)
    state = SimpleNamespace(
        is_global_zero=True, global_step=0, max_epochs=10, estimated_stepping_batches=200, accumulate_grad_batches=1
    )
    callback: Any = TrainingDuration()
    with caplog.at_level("INFO"):
        for step in range(200):
            state.global_step = step + 1
            callback.on_train_batch_end(state, module, None, None, step)
            now += step_seconds
    assert caplog.messages == ([message] if message else [])
