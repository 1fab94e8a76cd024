"""Command `etude embed`, which writes the embeddings of audio files and arrays."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from etude.cli.arguments import (
    Backbone,
    Device,
    Json,
    Packs,
    RunAndInputs,
    Workers,
    expand_path,
    greater_than_zero,
    split_arguments,
)
from etude.cli.runner import CommandResult, ParsedCommand
from etude.files import os_errors

EXAMPLES = """
Examples:
  etude embed outputs/<run> music/ --out embeddings.npz          by the network of a run
  etude embed best.ckpt list.csv --out embeddings.parquet        by a checkpoint alone
  etude embed --backbone musicnn music/ --out embeddings.npz     by a pretrained backbone, without a run
  etude embed --backbone efficientat backbone.weights=mn04_as music/ --out embeddings/
  etude embed outputs/<run> song.mp3 --per window --window 3 --out song.npz
"""
log = logging.getLogger(__name__)


def embed(
    out: Annotated[
        Path,
        typer.Option(
            parser=expand_path,
            metavar="FILE|FOLDER",
            help="Result: a .npz, .parquet or .npy file, or a folder with an .npy file for each audio file. A .json "
            "file describes the rows of .npy files.",
            show_default=False,
        ),
    ],
    arguments: RunAndInputs = None,
    backbone: Backbone = None,
    per: Annotated[
        Literal["clip", "window"],
        typer.Option(help="A row for each file, the mean over its windows, or a row for each window."),
    ] = "clip",
    window: Annotated[
        float | None,
        typer.Option(
            callback=greater_than_zero,
            metavar="SECONDS",
            help="Length of a window.",
            show_default="the length of the clips in the evaluation of the run; the complete file with --backbone, up "
            "to 5 minutes",
        ),
    ] = None,
    overlap: Annotated[float, typer.Option(metavar="FRACTION", help="Overlap of consecutive windows.")] = 0.5,
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", help="Windows in a batch.")] = 32,
    workers: Workers = None,
    device: Annotated[Device, typer.Option(help="Device of the network.")] = "auto",
    packs: Packs = Path("outputs/packs"),
    json: Json = False,
) -> ParsedCommand:
    """Embed audio files of any length and format with the network of a run or a pretrained backbone.

    Inputs and lists are those of etude predict. The result has a row per file, with its path, start, end and embedding,
    and a description of the network. Files that cannot be decoded are left out; their reasons are in the description,
    and the exit status is 1.

    All embeddings are kept in a store in the folder of packs, see etude cache. To resume an interrupted command, repeat
    it. Known files are not decoded again, even if they were renamed.
    """
    given = split_arguments("embed", arguments, backbone)

    def work() -> CommandResult:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads free their core for decoding processes
        from etude.inference.embed import EmbedOptions, check_out, embed_files, write_embeddings  # heavy: torch

        check_out(out)
        options = EmbedOptions(given.inputs, per, window, overlap, batch_size, workers, device, packs)
        embeddings = embed_files(given.source(), options)
        paths = write_embeddings(embeddings, out)
        rows, dim = embeddings.values.shape
        log.info("%s: %d rows of %d values; %d files were skipped", out, rows, dim, len(embeddings.skipped))
        values = {"rows": rows, "dim": dim, "n_failed": len(embeddings.skipped), "skipped": embeddings.skipped}
        return CommandResult(paths, values, int(bool(embeddings.skipped)))

    return ParsedCommand(work, json, os_errors.FOLDER_REMEDY)
