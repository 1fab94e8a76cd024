"""Command `etude demo`, which serves a web page to try a trained network."""

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

HELP = """Usage: python scripts/demo.py RUN [OPTION=VALUE ...]

Serve a web page on which audio files can be uploaded or recorded and predicted with a trained network.
RUN is a run folder or a checkpoint.

Examples:
  python scripts/demo.py outputs/<run>   page of a run, at http://127.0.0.1:7860
  python scripts/demo.py best.ckpt       page of a checkpoint alone, without similar clips

Options:
  host=<address or name>   address of the server (default: 127.0.0.1, which only this machine can reach);
                           browsers must use the same name
  port=<number>            port (default: the first free one from 7860)
  limit=<MB>               size limit of an audio file (default: 50)
  seconds=<seconds>        duration limit of an audio file (default: 600)
  device=auto|cpu|cuda     device of the network (default: auto)
  browser=false            only print the address and do not open a browser

The page uses no external network and rejects requests from other web pages. Up to 32 uploaded files, with a total size
of up to 8 times limit=, are stored on this machine for half an hour or until Ctrl-C ends the page.
Requires gradio: pip install 'etude[page]'."""
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
        0 if Ctrl-C ends the page; 2 if the command must be corrected; 130 if interrupted before the page is open.

    Raises:
        SystemExit: With status 143 after SIGTERM or SIGHUP.
    """

    def serve_page(arguments: list[str]) -> list[Path]:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        demo_options = parse_demo_options(arguments)
        if not _gradio_installed():
            raise UserError(GRADIO_MISSING)
        from etude.demo.server import serve  # heavy: torch

        serve(demo_options)
        return []

    return run_command(argv, HELP, serve_page)


def parse_demo_options(arguments: Sequence[str]) -> DemoOptions:
    """Return the options of the command.

    Raises:
        UserError: An argument is unknown or has an invalid value.
    """
    names, values = options.read_options(arguments, OPTIONS, "is neither a run nor")
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
    except ValueError:  # a module in sys.modules has no spec
        return False
