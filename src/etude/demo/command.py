"""The command that opens a page to try a trained network: `etude demo outputs/<run>`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from etude import settings
from etude.door import door
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
LACKING = "The page needs gradio, which is not installed: pip install 'etude[page]'"
SETTINGS: settings.Settings = {
    "host": ("host", str),
    "port": ("port", settings.whole(1, 65535)),
    "limit": ("limit", settings.positive),
    "seconds": ("seconds", settings.positive),
    "device": ("device", str),
    "browser": ("browser", settings.truth),
}
FIRST, LAST = 7860, 7959  # ports that are tried


@dataclass
class Wish:
    """What is to be served.

    Args:
        run: A run folder, or a checkpoint.
        host: Where the page can be reached from.
        port: Its port; none: the first that is free.
        limit: The largest sound, in MB.
        seconds: The longest sound, in s.
        device: Where the network is.
        browser: Whether one is opened.
    """

    run: Path
    host: str = "127.0.0.1"
    port: int | None = None
    limit: float = 50.0
    seconds: float = 600.0
    device: str = "auto"
    browser: bool = True


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
            raise UserError(LACKING)
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        from etude.demo.serve import serve  # heavy, and only now needed

        serve(wish)
        return []

    return door(argv, HELP, work)


def installed() -> bool:
    """Whether gradio is there."""
    try:
        return find_spec("gradio") is not None
    except ValueError:  # an empty module in its place
        return False


def parse(words: Sequence[str]) -> Wish:
    """What the words of the command say.

    Raises:
        UserError: A word is none of these, or says something else than it may.
    """
    names, said = settings.read(words, SETTINGS, "is no run, and")
    if len(names) != 1:
        raise UserError(f"demo takes one run folder or checkpoint, got {', '.join(names) or 'none'}")
    wish = Wish(settings.path(names[0]), **said)
    if not wish.run.exists():
        raise UserError(f"{wish.run}: there is no such run folder or checkpoint")
    return wish
