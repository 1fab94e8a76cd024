"""Tests of atomic checkpoint writing and of damaged checkpoints."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.demos.boring_classes import BoringModel

from etude.errors import UserError
from etude.files import atomic, ownership, safe_read
from etude.training.checkpointing import AtomicCheckpointIO, explain_restore_errors

WRITE_WITH_LIMITS = """
import resource, sys
from pathlib import Path
import torch
from etude.training.checkpointing import AtomicCheckpointIO
for limit in (0, 100, 20_000, 40_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        content = {"a": torch.ones(10_000), "b": torch.ones(3)}
        AtomicCheckpointIO([Path(sys.argv[1]).parent]).save_checkpoint(content, Path(sys.argv[1]))
    except OSError as error:
        print(error.errno, error.filename)
    print(sorted(path.name for path in Path(sys.argv[1]).parent.glob("[!.]*")))
"""


def test_written_checkpoint_is_read_again(tmp_path: Path) -> None:
    content = {"weights": torch.arange(5.0), "epoch": 3}
    AtomicCheckpointIO([tmp_path]).save_checkpoint(content, tmp_path / "new" / "last.ckpt")
    stored = AtomicCheckpointIO([tmp_path]).load_checkpoint(tmp_path / "new" / "last.ckpt", weights_only=True)
    assert torch.equal(stored["weights"], content["weights"])
    assert stored["epoch"] == 3
    assert [path.name for path in (tmp_path / "new").glob("[!.]*")] == ["last.ckpt"]


def test_full_disk_keeps_the_previous_checkpoint(tmp_path: Path) -> None:
    """Limit the file size to less than the 41,000 bytes of the checkpoint."""
    path = tmp_path / "last.ckpt"
    atomic.write_bytes(path, b"previous checkpoint")
    process = subprocess.run(
        [sys.executable, "-c", WRITE_WITH_LIMITS, str(path)], stdout=subprocess.PIPE, text=True, check=True
    )
    assert process.stdout.splitlines() == [f"{errno.EFBIG} {path}", "['last.ckpt']"] * 4
    assert path.read_bytes() == b"previous checkpoint"


def test_previous_checkpoint_is_kept_until_the_new_one_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, epochs = tmp_path / "last.ckpt", []
    AtomicCheckpointIO([tmp_path]).save_checkpoint({"epoch": 1}, path)

    def fsync(handle: int) -> None:
        epochs.append(torch.load(path, weights_only=True)["epoch"])

    monkeypatch.setattr(os, "fsync", fsync)
    AtomicCheckpointIO([tmp_path]).save_checkpoint({"epoch": 2}, path)
    assert epochs == [1, 2]  # fsync of the new file, and then of its folder after the rename


def test_ctrl_c_during_writing_raises_keyboard_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt torch's writer, which replaces the exception by an error about missing bytes."""
    path = tmp_path / "last.ckpt"
    atomic.write_bytes(path, b"previous checkpoint")

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.serialization, "_save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        AtomicCheckpointIO([tmp_path]).save_checkpoint({"a": torch.ones(3)}, path)
    monkeypatch.undo()
    monkeypatch.setattr(torch, "save", lambda *args: _raise_runtime_error())
    with pytest.raises(KeyboardInterrupt):
        AtomicCheckpointIO([tmp_path]).save_checkpoint({"a": torch.ones(3)}, path)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir() if file.name != ownership.LIST_NAME] == [
        ("last.ckpt", b"previous checkpoint")
    ]


def _raise_runtime_error() -> None:
    """Raise torch's error in the context of a KeyboardInterrupt."""
    try:
        raise KeyboardInterrupt
    finally:
        raise RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 217664 vs 217616")


@pytest.mark.parametrize("reader", ["storage", "checkpoint"])
def test_changed_byte_of_a_checkpoint_raises_user_error(reader: str, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO([tmp_path]).save_checkpoint({"etude": {}, "weights": torch.zeros(1000)}, path)
    read = AtomicCheckpointIO([tmp_path]).load_checkpoint if reader == "storage" else safe_read.read_checkpoint
    assert torch.equal(read(path)["weights"], torch.zeros(1000))
    data = bytearray(path.read_bytes())
    data[data.index(bytes(2000)) + 1000] = 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"last\.ckpt: is damaged, the checksum of .* is wrong"):
        read(path)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", "half"])
def test_damaged_checkpoint_of_a_resumed_run_raises_user_error(content: bytes | str, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO([tmp_path]).save_checkpoint({"weights": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000] if isinstance(content, str) else content)
    with pytest.raises(UserError, match=r"last\.ckpt: "):
        AtomicCheckpointIO([tmp_path]).load_checkpoint(path)


@pytest.mark.parametrize("change", [{"state_dict": {}}, {"loops": {"fit_loop": 5}}, {"callbacks": 5}])
def test_checkpoint_that_does_not_match_the_run_raises_user_error(change: dict[str, Any], tmp_path: Path) -> None:
    def trainer() -> Trainer:
        quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        quiet |= {"enable_checkpointing": False, "default_root_dir": tmp_path}
        return Trainer(
            max_epochs=1, limit_train_batches=1, plugins=[AtomicCheckpointIO([tmp_path])], accelerator="cpu", **quiet
        )

    path = tmp_path / "last.ckpt"
    first = trainer()
    first.fit(BoringModel(), torch.utils.data.DataLoader(torch.ones(2, 32)))
    first.save_checkpoint(path)
    torch.save(torch.load(path, weights_only=True) | change, path)
    with pytest.raises(UserError, match="checkpoint"), explain_restore_errors(tmp_path):
        trainer().fit(BoringModel(), torch.utils.data.DataLoader(torch.ones(2, 32)), ckpt_path=str(path))
    with pytest.raises(KeyError), explain_restore_errors(tmp_path):
        raise KeyError("from elsewhere")
