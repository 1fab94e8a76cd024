"""Command `etude prepare`, which creates the pack of a collection without training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from etude.cli.arguments import Json, Workers, complete_override, expand_path
from etude.cli.runner import CommandResult, ParsedCommand

ADVICE = "; repeat the command to resume"
EXAMPLES = """
Examples:
  etude prepare data=folder data.source.path=music           a folder per class
  etude prepare data=table data.source.table=clips.csv data.source.audio=wavs
  etude prepare data=demo feature.sync=beat --workers 2      any overrides of train for data and feature

\b
The overrides are the overrides of train:
  data=<collection>                              etude train --help lists the collections
  data.source.<option>=...                       etude train data=<collection> --cfg job -p data.source lists them
  feature=<view> feature/front=<front end>       frames
  data.packs=<folder>                            folder of the packs
"""
Overrides = Annotated[
    list[str],
    typer.Argument(
        metavar="OVERRIDE",
        help="Overrides for data and feature, as in train.",
        autocompletion=complete_override,
    ),
]
Retry = Annotated[bool, typer.Option("--retry", help="Try skipped clips again.")]
ConfigDir = Annotated[
    Path | None,
    typer.Option(
        parser=expand_path, metavar="FOLDER", help="Folder of additional options of config groups, as in train."
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(metavar="local|ADDRESS", help="Prepare with Ray, on this machine or a cluster (etude[ray])."),
]


def prepare(
    overrides: Overrides,
    workers: Workers = None,
    retry: Retry = False,
    ray: Ray = None,
    config_dir: ConfigDir = None,
    verify: Annotated[bool, typer.Option("--verify", help="Compare the pack with its checksums.")] = False,
    json: Json = False,
) -> ParsedCommand:
    """Create the pack of a collection, which contains the frames of all its clips, without training.

    Clips that cannot be decoded are skipped and listed. If no clip is left, or too many are skipped, the exit status
    is 2. To resume an interrupted preparation, repeat the command.
    """

    def work() -> CommandResult:
        from etude.data.from_overrides import PrepareOptions, prepare_pack  # heavy: hydra

        return CommandResult(values=prepare_pack(PrepareOptions(overrides, workers, retry, ray, verify, config_dir)))

    return ParsedCommand(work, json, "name another folder with data.packs=<folder>", ADVICE)
