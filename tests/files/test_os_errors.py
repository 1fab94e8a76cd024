"""Errors of memory and of the file system become messages with path, reason and remedy, and no drafts remain."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from etude.cli.runner import guard_command
from etude.errors import RunError, UserError
from etude.files import os_errors
from etude.files.atomic import write_text
from etude.files.os_errors import memory_message

RUN = Path("outputs/run")


def raising(error: BaseException) -> Any:
    def work() -> int:
        raise error

    return work


def failing(number: int, path: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), *([path] if path else []))


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UserError("rate=0: must be positive"), 2, "rate=0: must be positive"),
        (RunError("the loss is not finite"), 1, "the loss is not finite"),
        (MemoryError(), 1, "out of memory"),
        (failing(errno.ENOSPC, "out/a.csv"), 1, "out/a.csv: the disk is full or a quota is exceeded"),
        (failing(errno.EDQUOT), 1, "the disk: the disk is full or a quota is exceeded"),
        (failing(errno.EROFS, "out/a.csv"), 2, "out/a.csv: cannot be written (Read-only file system); use --out"),
        (failing(errno.EACCES, "out/a.csv"), 2, "out/a.csv: cannot be written (Permission denied); use --out"),
        (failing(errno.EROFS, "out/.a.csv.7.part"), 2, "out: cannot be written (Read-only file system); use --out"),
        (failing(errno.EISDIR, "out/a.csv"), 2, "out/a.csv: cannot be used (Is a directory)"),
        (failing(errno.EIO, "out/a.csv"), 1, "out/a.csv: cannot be read or written"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_error_becomes_message_and_exit_status(
    error: BaseException, status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert guard_command(raising(error), "use --out") == status
    assert capsys.readouterr().err.startswith(message)


def test_unknown_error_is_raised() -> None:
    with pytest.raises(ValueError, match="a defect of the program"):
        guard_command(raising(ValueError("a defect of the program")))


def test_option_is_named_only_for_paths_below_it() -> None:
    inside = os_errors.explain(failing(errno.EROFS, "out/a.csv"), "out", "", "--out out")
    outside = os_errors.explain(failing(errno.EROFS, "other/a.csv"), "out", "", "--out out")
    assert str(inside) == "--out out: cannot be written (Read-only file system)"
    assert str(outside) == "other/a.csv: cannot be written (Read-only file system)"


def test_full_disk_error_has_the_path_and_no_draft_remains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:3])
        raise failing(errno.ENOSPC)

    write_text(tmp_path / "report.html", "before")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_text(tmp_path / "report.html", "after")
    assert caught.value.filename == str(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text() == "before"
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", ".etude-files"}


def allocator_error() -> Exception:
    """Return the error of torch's CPU allocator."""
    try:
        torch.empty(1 << 50, dtype=torch.uint8)
    except RuntimeError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError("CUDA out of memory."), allocator_error(), RuntimeError("std::bad_alloc")],
)
def test_memory_message_names_options_and_values(error: Exception, config: Callable[..., dict[str, Any]]) -> None:
    composed = config("backbone=ast", "data.batch_size=24", "trainer.accumulate_grad_batches=2", "data.crop=3.5")
    assert memory_message(error, composed, RUN, training=True) == (
        "out of memory in training; lower data.batch_size (now 24; if you halve it, set "
        "trainer.accumulate_grad_batches=4), data.crop (now 3.5), trainer.precision (now 32-true; bf16-mixed needs "
        "less on a GPU), or raise backbone.drop_time (now 0)"
    )
    assert memory_message(error, config("data.eval_crops=5", "data.eval_batch_size=8"), RUN, training=False) == (
        "out of memory in evaluation; lower data.eval_batch_size (now 8) or data.eval_crops (now 5: "
        "evaluate fewer crops)"
    )


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_memory_message_names_the_folder_of_a_full_disk(number: int) -> None:
    message = memory_message(OSError(number, "No space left", "elsewhere/last.ckpt"), {}, RUN, training=True)
    assert message == "elsewhere: the disk is full or a quota is exceeded (No space left); free some space"
    message = memory_message(OSError(number, "No space left"), {}, RUN, training=True)
    assert message is not None
    assert message.startswith("outputs/run: ")


@pytest.mark.parametrize("error", [RuntimeError("shapes do not fit"), OSError(errno.EACCES, "no"), ValueError("x")])
def test_other_errors_have_no_memory_message(error: Exception) -> None:
    assert memory_message(error, {}, RUN, training=True) is None
