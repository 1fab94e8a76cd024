"""Command `etude demo`: a page in the browser to try a trained network."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from etude.cli.runner import run_command
from etude.config import options
from etude.errors import UserError

if TYPE_CHECKING:
    from etude.demo.server import DemoOptions

HELP = """demo: a page in the browser to try a trained network: drop or record a sound, and see what it hears.

  python scripts/demo.py outputs/<run>         the page of a run, at http://127.0.0.1:7860
  python scripts/demo.py best.ckpt             a checkpoint alone is enough; then no clips are compared

  host=<address or name>           127.0.0.1, which this machine alone can reach; browsers may use this name only
  port=<number>                    the first free one from 7860 on
  limit=<MB>  seconds=<seconds>    the largest and the longest sound that is taken; 50 and 600
  device=auto | cpu | cuda         where the network is; auto
  browser=false                    only says the address, and opens no browser

Nothing is asked of any network. Of the sounds that were dropped on the page, at most 32 and at most 8 times limit= are
kept on this machine, for half an hour or until the page ends: Ctrl-C. Requests of other pages are refused.
It needs gradio: pip install 'etude[page]'."""
GRADIO_MISSING = "The page needs gradio, which is not installed: pip install 'etude[page]'"
OPTIONS: options.Options = {
    "host": ("host", str),
    "port": ("port", options.integer(1, 65535)),
    "limit": ("limit", options.positive),
    "seconds": ("seconds", options.positive),
    "device": ("device", str),
    "browser": ("browser", options.boolean),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the page until it is ended.

    Args:
        argv: A run folder or a checkpoint, and options.

    Returns:
        0 if Ctrl-C ends the page; 2 if the command has to be corrected; 130 if interrupted before the page is open.

    Raises:
        SystemExit: With status 143 after SIGTERM or SIGHUP.
    """

    def work(words: list[str]) -> list[Path]:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        wish = parse(words)
        if not _gradio_installed():
            raise UserError(GRADIO_MISSING)
        from etude.demo.server import serve  # heavy: torch

        serve(wish)
        return []

    return run_command(argv, HELP, work)


def parse(words: Sequence[str]) -> DemoOptions:
    """Return the options that the words of the command give.

    Raises:
        UserError: A word is unknown, or has a wrong value.
    """
    names, values = options.read_options(words, OPTIONS, "is no run, and")
    if len(names) != 1:
        raise UserError(f"demo takes one run folder or checkpoint, got {', '.join(names) or 'none'}")
    run = options.path(names[0])
    if not run.exists():
        raise UserError(f"{run}: there is no such run folder or checkpoint")
    from etude.demo.server import DemoOptions  # heavy: torch

    return DemoOptions(run, **values)


def _gradio_installed() -> bool:
    try:
        return find_spec("gradio") is not None
    except ValueError:  # an empty module in its place
        return False
