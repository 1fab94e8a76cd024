"""Tests of error messages for exhausted memory and full disks."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from etude.training.memory_errors import memory_message

RUN = Path("outputs/run")


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
def test_message_names_options_with_their_values(error: Exception, config: Callable[..., dict[str, Any]]) -> None:
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
def test_message_names_the_folder_of_a_full_disk(number: int) -> None:
    message = memory_message(OSError(number, "No space left", "elsewhere/last.ckpt"), {}, RUN, training=True)
    assert message == "elsewhere: the disk is full or a quota is exceeded (No space left); free some space"
    message = memory_message(OSError(number, "No space left"), {}, RUN, training=True)
    assert message is not None
    assert message.startswith("outputs/run: ")


@pytest.mark.parametrize("error", [RuntimeError("shapes do not fit"), OSError(errno.EACCES, "no"), ValueError("x")])
def test_other_errors_have_no_message(error: Exception) -> None:
    assert memory_message(error, {}, RUN, training=True) is None
