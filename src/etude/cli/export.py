"""Command `etude export`: files of a trained network for other programs."""

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

HELP = """export: a trained network as files that others run, with a card that says what it is and how good.

  python scripts/export.py outputs/<run>                         an ONNX graph from waveform to probabilities
  python scripts/export.py outputs/<run> format=onnx,torch,safetensors
  python scripts/export.py best.ckpt to=model input=frames       a checkpoint alone; front end left out
  python scripts/export.py outputs/<run> format=onnx,safetensors push=me/my-model private=true

  format=onnx,torch,safetensors    model.onnx; model.pt2, a program of torch.export; model.safetensors with config.json,
                                   which predict and etude.load open again; onnx
  input=waveform | frames          what graphs take: sound, or the frames of another's front end; waveform
  to=<folder>                      where it goes; else export/ in the run, or beside the checkpoint
  check=<files,folders>            sounds that each file is tried on; else clips of the run's data, or embedded ones
  push=<user/name>                 to the Hugging Face hub as well (HF_TOKEN, or hf auth login)
  private=true                     a new repository of that name is not public

Graphs take waveform (B, N) at the front end's rate, or frames (B, T, F), and lengths (B,); they give embedding (B, D)
and, of each target, probabilities (B, K) or a value (B,). Each file is run on clips of different lengths, together and
one by one, and kept only if it says what the network says, to 1e-3."""
NAME = re.compile(r"[\w.-]+/[\w.-]+")


def main(argv: Sequence[str] | None = None) -> int:
    """Export a network.

    Args:
        argv: A run folder or a checkpoint, and options.

    Returns:
        0; 2 if the command has to be corrected, or the outputs of a file differ from the network's; 130 if interrupted.
    """

    def work(words: list[str]) -> list[Path]:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads of torch that wait leave cores to onnxruntime's
        wish = parse(words)
        from etude.export.export import export_network  # heavy: torch

        return export_network(wish)

    return run_command(argv, HELP, work, os_errors.OTHER_FOLDER)


def parse(words: Sequence[str]) -> ExportOptions:
    """Return the options that the words of the command give.

    Raises:
        UserError: A word is unknown, or has a wrong value.
    """
    names, values = options.read_options(words, OPTIONS)
    if len(names) != 1:
        raise UserError(f"export takes one run folder or checkpoint{', got ' + ' '.join(names) if names else ''}")
    from etude.export.export import ExportOptions  # heavy: torch

    return ExportOptions(options.path(names[0]), **values)


def _hub(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError("must be <user>/<name>, as on the Hugging Face hub")
    return value


OPTIONS: options.Options = {
    "format": ("formats", options.several("format", "onnx", "torch", "safetensors")),
    "input": ("input_name", options.one_of("waveform", "frames")),
    "to": ("out", options.path),
    "check": ("check", options.listed),
    "push": ("push", _hub),
    "private": ("private", options.truth),
}
