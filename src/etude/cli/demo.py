"""Command `etude demo`, which serves a web page to try a trained network or a pretrained backbone."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Annotated

import typer

from etude.cli.arguments import Backbone, Device, RunOnly, greater_than_zero, split_arguments
from etude.cli.runner import CommandResult, ParsedCommand
from etude.errors import UserError, missing_path

EXAMPLES = """
Examples:
  etude demo outputs/<run>        page of a run, at http://127.0.0.1:7860
  etude demo best.ckpt            page of a checkpoint alone, without similar clips
  etude demo --backbone musicnn   tags of a pretrained classifier, without a run
"""
GRADIO_MISSING = "The page needs gradio, which is not installed: pip install 'etude[page]'"


def demo(
    arguments: RunOnly = None,
    backbone: Backbone = None,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Address or name of the server. The default is reached only from this machine. Browsers must use the "
            "same name.",
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, metavar="N", help="Port of the server.", show_default="the first free one from 7860"
        ),
    ] = None,
    limit: Annotated[
        float,
        typer.Option(callback=greater_than_zero, metavar="MB", help="Size limit of an audio file."),
    ] = 50.0,
    seconds: Annotated[
        float,
        typer.Option(callback=greater_than_zero, metavar="SECONDS", help="Duration limit of an audio file."),
    ] = 600.0,
    device: Annotated[Device, typer.Option(help="Device of the network.")] = "auto",
    browser: Annotated[bool, typer.Option(help="Open a browser, or only print the address.")] = True,
) -> ParsedCommand:
    """Serve a web page on which audio files can be uploaded or recorded and predicted with a trained network.

    With --backbone NAME, the predictions are the tags of the backbone's own pretrained classifier, without a run.

    The page uses no external network and rejects requests from other web pages. Up to 32 uploaded files, with a total
    size of up to 8 times --limit, are stored on this machine for half an hour or until Ctrl-C ends the page. Requires
    gradio: pip install 'etude[page]'.
    """
    given = split_arguments("demo", arguments, backbone, inputs=False)

    def work() -> CommandResult:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        if given.run is not None and not given.run.exists():
            raise UserError(missing_path(given.run, "run folder or checkpoint"))
        if not _gradio_installed():
            raise UserError(GRADIO_MISSING)
        from etude.demo.server import DemoOptions, serve  # heavy: torch

        serve(DemoOptions(given.source(), host, port, limit, seconds, device, browser))
        return CommandResult()

    return ParsedCommand(work)


def _gradio_installed() -> bool:
    try:
        return find_spec("gradio") is not None
    except ValueError:  # a module in sys.modules has no spec
        return False
