"""Command `etude export`, which exports a trained network for other programs."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from etude.cli.arguments import Json, Run, format_option, out_option, split_list
from etude.cli.runner import CommandResult, ParsedCommand
from etude.files import os_errors
from etude.system.machine import without_garbage_collection

FORMATS = ("onnx", "torch", "safetensors")
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
EXAMPLES = """
Examples:
  etude export outputs/<run>                          an ONNX graph from waveform to probabilities
  etude export outputs/<run> --format onnx,torch,safetensors
  etude export best.ckpt --out model --input frames   a checkpoint alone, without the front end
  etude export outputs/<run> --format onnx,safetensors --push me/my-model --private
"""


def _check_repository(value: str | None) -> str | None:
    """Return the name of a repository on the hub; raise BadParameter if it is not of the form `user/name`."""
    if value is not None and not REPOSITORY.fullmatch(value):
        raise typer.BadParameter("must be USER/NAME, as on the Hugging Face hub")
    return value


def export(
    run: Run,
    out: Annotated[Path | None, out_option("export/ in the run folder, or beside the checkpoint")] = None,
    formats: Annotated[
        list[str],
        format_option(
            "Files to write: model.onnx; model.pt2, a program of torch.export; model.safetensors with "
            "config.json, which predict and etude.load can read.",
            *FORMATS,
        ),
    ] = ["onnx"],  # noqa: B006
    input_name: Annotated[
        Literal["waveform", "frames"],
        typer.Option("--input", help="Input of graphs: audio, or the frames of a front end."),
    ] = "waveform",
    check: Annotated[
        list[str],
        typer.Option(
            callback=split_list,
            metavar="FILE,FOLDER",
            help="Audio files for the check of each file.",
            show_default="clips of the run's data, or demo clips",
        ),
    ] = [],  # noqa: B006
    push: Annotated[
        str | None,
        typer.Option(
            callback=_check_repository,
            metavar="USER/NAME",
            help="Also upload to the Hugging Face hub (HF_TOKEN, or hf auth login).",
        ),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository on the hub private.")] = False,
    json: Json = False,
) -> ParsedCommand:
    """Export a trained network as files for other programs, with a model card.

    The inputs of a graph are the waveform (B, N) at the sampling rate of the front end, or frames (B, T, F), and
    lengths (B,). The outputs are the embedding (B, D) and, for each target, probabilities (B, K) or a value (B,). Each
    file is checked on clips of different lengths, in one batch and one by one. It is kept only if its outputs equal the
    outputs of the network within 1e-3. Formats onnx and torch require pip install 'etude[export]'.
    """

    def work() -> CommandResult:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting torch threads free their cores for onnxruntime
        with without_garbage_collection():
            from etude.export.export import ExportOptions, export_network  # heavy: torch

        return CommandResult(
            export_network(ExportOptions(run, formats, input_name, out, check, push, private)),
        )

    return ParsedCommand(work, json, os_errors.FOLDER_REMEDY)
