"""Tests of trainers built from configs, with their callbacks, loggers and plugins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from etude.errors import UserError
from etude.system import machine
from etude.tasks.loss_weighting import PCGrad, RandomWeighting
from etude.training.build import build_trainer, check_strategy
from etude.training.checkpointing import AtomicCheckpointIO

Compose = Callable[..., dict[str, Any]]


@pytest.mark.parametrize(
    ("choice", "monitor"),
    [("default", None), ("ema", None), ("best_epoch", "val/score"), ("no_early_stopping", "val/score")],
)
def test_checkpoints_and_curves_are_written_to_the_run_folder(
    choice: str, monitor: str | None, config: Compose, tmp_path: Path
) -> None:
    from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

    trainer = build_trainer(config("trainer=cpu", f"callbacks={choice}"), tmp_path / "run")
    checkpoint, last = [callback for callback in trainer.callbacks if isinstance(callback, ModelCheckpoint)]
    assert trainer.checkpoint_callback is checkpoint  # its best checkpoint is evaluated
    assert (checkpoint.monitor, last.monitor) == (monitor, None)
    stopping = [callback for callback in trainer.callbacks if isinstance(callback, EarlyStopping)]
    assert [callback.monitor for callback in stopping] == ([monitor] if choice == "best_epoch" else [])
    assert checkpoint.dirpath == str(tmp_path / "run" / "checkpoints")
    assert [logger.path for logger in trainer.loggers] == [tmp_path / "run" / "curves.csv"]
    assert not (tmp_path / "run").exists()


def test_history_keeps_all_epochs_and_the_best_and_last_checkpoint(config: Compose, tmp_path: Path) -> None:
    from pytorch_lightning.callbacks import ModelCheckpoint

    trainer = build_trainer(config("trainer=cpu", "callbacks=history"), tmp_path / "run")
    checkpoints = [callback for callback in trainer.callbacks if isinstance(callback, ModelCheckpoint)]
    assert trainer.checkpoint_callback is checkpoints[0]  # the best checkpoint is still evaluated
    assert len({callback.state_key for callback in checkpoints}) == 3
    (history,) = (callback for callback in checkpoints if callback.save_top_k == -1)
    folder = tmp_path / "run" / "checkpoints" / "history"
    assert [Path(history.format_checkpoint_name({"epoch": k})) for k in (0, 12)] == [
        folder / "epoch=000.ckpt",
        folder / "epoch=012.ckpt",
    ]


def test_callbacks_and_loggers_can_be_disabled(config: Compose, tmp_path: Path) -> None:
    trainer = build_trainer(
        config("trainer=cpu", "callbacks=best_epoch", "callbacks.early_stopping=null", "logger.csv=null"), tmp_path
    )
    assert trainer.loggers == []
    assert "EarlyStopping" not in {type(callback).__name__ for callback in trainer.callbacks}


# requirements of the machine


def test_pcgrad_with_sharded_weights_is_refused(config: Compose) -> None:
    sharded = config("trainer=fsdp", "task=multitask", "weighting=pcgrad")
    pcgrad, random = PCGrad(["genre", "energy"]), RandomWeighting(["genre", "energy"])
    with pytest.raises(UserError, match="weighting=pcgrad: needs the whole gradient on each device"):
        check_strategy(sharded, pcgrad)
    check_strategy(sharded, random)
    check_strategy(config("trainer=cpu", "task=multitask", "weighting=pcgrad"), pcgrad)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_checkpoint_callbacks_lightning_adds_none(
    config: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = build_trainer(config("trainer=cpu", "callbacks.checkpoint=null", "callbacks.last=null"), tmp_path)
    assert not trainer.checkpoint_callbacks
    assert "no checkpoint is kept" in caplog.text


def test_invalid_trainer_values_raise_user_error(config: Compose, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^trainer: "):
        build_trainer(config("trainer=cpu", "trainer.precision=8"), tmp_path)


@pytest.mark.parametrize(
    ("precision", "supported", "warnings"), [("bf16-mixed", False, 1), ("bf16-mixed", True, 0), ("32-true", False, 0)]
)
def test_slow_bfloat16_logs_a_warning(
    precision: str,
    supported: bool,
    warnings: int,
    config: Compose,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(machine, "has_bfloat16", lambda: supported)
    build_trainer(config("trainer=cpu", f"trainer.precision={precision}"), tmp_path)
    assert caplog.text.count("no instructions for bfloat16") == warnings


def test_missing_gpu_raises_user_error(config: Compose, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^trainer: .*gpu"):
        build_trainer(config("trainer=fsdp"), tmp_path)


def test_plugins_of_a_config_are_added(config: Compose, tmp_path: Path) -> None:
    plugin = {"_target_": "lightning_fabric.plugins.environments.LightningEnvironment"}
    trainer = build_trainer(config("trainer=cpu") | {"trainer": config()["trainer"] | {"plugins": [plugin]}}, tmp_path)
    assert isinstance(trainer.strategy.checkpoint_io, AtomicCheckpointIO)


@pytest.mark.parametrize("resume", [False, True])
def test_existing_checkpoint_outside_of_the_run_is_not_replaced(resume: bool, tmp_path: Path, config: Compose) -> None:
    existing = tmp_path / "elsewhere" / "best.ckpt"
    existing.parent.mkdir()
    existing.write_text("checkpoint of another run")
    composed = config("trainer=cpu", f"+callbacks.checkpoint.dirpath={existing.parent}")
    if resume:  # a stored folder is not used
        trainer: Any = build_trainer(composed, tmp_path / "run", resume=True)
        dirpaths = {callback.dirpath for callback in trainer.checkpoint_callbacks}
        assert dirpaths == {str(tmp_path / "run" / "checkpoints")}
        return
    with pytest.raises(UserError, match=r"best\.ckpt: exists, and this run would replace it"):
        build_trainer(composed, tmp_path / "run")
