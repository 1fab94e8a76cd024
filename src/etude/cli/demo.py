"""The command that opens a page to try a trained network: `etude demo outputs/<run>`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from etude.cli import options
from etude.cli.runner import run_command
from etude.demo.server import GRADIO_MISSING, DemoOptions, installed
from etude.errors import UserError

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
SETTINGS: options.Settings = {
    "host": ("host", str),
    "port": ("port", options.whole(1, 65535)),
    "limit": ("limit", options.positive),
    "seconds": ("seconds", options.positive),
    "device": ("device", str),
    "browser": ("browser", options.truth),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the page until it is ended.

    Args:
        argv: A run folder or a checkpoint, and settings.

    Returns:
        0 when Ctrl-C ends the page; 2 when the command has to be mended; 130 when interrupted before the page is there.

    Raises:
        SystemExit: With status 143 after SIGTERM or SIGHUP.
    """

    def work(words: list[str]) -> list[Path]:
        wish = parse(words)
        if not installed():
            raise UserError(GRADIO_MISSING)
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        from etude.demo.server import serve  # heavy, and only now needed

        serve(wish)
        return []

    return run_command(argv, HELP, work)


def parse(words: Sequence[str]) -> DemoOptions:
    """What the words of the command say.

    Raises:
        UserError: A word is none of these, or says something else than it may.
    """
    names, said = options.read(words, SETTINGS, "is no run, and")
    if len(names) != 1:
        raise UserError(f"demo takes one run folder or checkpoint, got {', '.join(names) or 'none'}")
    wish = DemoOptions(options.path(names[0]), **said)
    if not wish.run.exists():
        raise UserError(f"{wish.run}: there is no such run folder or checkpoint")
    return wish
