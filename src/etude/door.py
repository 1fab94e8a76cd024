"""What the commands that write a page have in common: help, one sentence for what is wrong, and an exit status."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from etude.errors import UserError

log = logging.getLogger(__name__)


def door(argv: Sequence[str] | None, help: str, work: Callable[[list[str]], Iterable[Path]]) -> int:
    """Run a command and print where its pages are.

    Args:
        argv: The words of the command; none takes those of the process.
        help: What is printed when it is asked for, or nothing is.
        work: Words to the pages that were written; raises UserError for what has to be mended.

    Returns:
        0; 2 when something has to be mended; 130 when interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or "-h" in words or "--help" in words:
        print(help)  # noqa: T201
        return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        pages = work(words)
    except KeyboardInterrupt:
        log.warning("interrupted")
        return 130
    except UserError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    try:
        for page in pages:
            print(page)  # noqa: T201
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read it has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
