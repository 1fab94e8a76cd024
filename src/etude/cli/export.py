"""Command `etude export`, which exports a trained network for other programs."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from etude.cli.runner import run_command
from etude.config import options
from etude.errors import UserError
from etude.files import os_errors

if TYPE_CHECKING:
    from etude.export.export import ExportOptions

HELP = """Usage: python scripts/export.py RUN [OPTION=VALUE ...]

Export a trained network as files for other programs, with a model card. RUN is a run folder or a checkpoint.

Examples:
  python scripts/export.py outputs/<run>                         an ONNX graph from waveform to probabilities
  python scripts/export.py outputs/<run> format=onnx,torch,safetensors
  python scripts/export.py best.ckpt to=model input=frames       a checkpoint alone, without the front end
  python scripts/export.py outputs/<run> format=onnx,safetensors push=me/my-model private=true

Options:
  format=onnx,torch,safetensors   files to write (default: onnx): model.onnx; model.pt2, a program of torch.export;
                                  model.safetensors with config.json, which predict and etude.load can read
  input=waveform|frames           input of graphs: audio, or the frames of a front end (default: waveform)
  to=<folder>                     output folder (default: export/ in the run folder, or beside the checkpoint)
  check=<files,folders>           audio files for the check of each file (default: clips of the run's data, or
                                  demo clips)
  push=<user/name>                also upload to the Hugging Face hub (HF_TOKEN, or hf auth login)
  private=true                    make a new repository on the hub private

The inputs of a graph are the waveform (B, N) at the sampling rate of the front end, or frames (B, T, F), and lengths
(B,). The outputs are the embedding (B, D) and, for each target, probabilities (B, K) or a value (B,). Each file is
checked on clips of different lengths, in one batch and one by one. It is kept only if its outputs equal the outputs of
the network within 1e-3."""
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def main(argv: Sequence[str] | None = None) -> int:
    """Export a network.

    Args:
        argv: A run folder or a checkpoint, and options.

    Returns:
        0; 2 if the command must be corrected, or the outputs of a file differ from the network's; 130 if interrupted.
    """

    def export(arguments: list[str]) -> list[Path]:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting torch threads free their cores for onnxruntime
        export_options = parse_export_options(arguments)
        from etude.export.export import export_network  # heavy: torch

        return export_network(export_options)

    return run_command(argv, HELP, export, os_errors.FOLDER_REMEDY)


def parse_export_options(arguments: Sequence[str]) -> ExportOptions:
    """Return the options of the command.

    Raises:
        UserError: An argument is unknown or has an invalid value.
    """
    names, values = options.read_options(arguments, OPTIONS)
    if len(names) != 1:
        raise UserError(f"export takes one run folder or checkpoint{', got ' + ' '.join(names) if names else ''}")
    from etude.export.export import ExportOptions  # heavy: torch

    return ExportOptions(options.path(names[0]), **values)


def _read_repository(value: str) -> str:
    """Return the name of a repository on the hub.

    Raises:
        ValueError: The value is not of the form `user/name`.
    """
    if not REPOSITORY.fullmatch(value):
        raise ValueError("must be <user>/<name>, as on the Hugging Face hub")
    return value


OPTIONS: options.Options = {
    "format": ("formats", options.several_of("format", "onnx", "torch", "safetensors")),
    "input": ("input_name", options.one_of("waveform", "frames")),
    "to": ("out", options.path),
    "check": ("check", options.comma_separated),
    "push": ("push", _read_repository),
    "private": ("private", options.boolean),
}
