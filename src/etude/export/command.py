"""The command that exports networks: `etude export outputs/<run> format=onnx,torch,safetensors`."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from etude import disk, settings
from etude.door import door
from etude.errors import UserError

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
FORMATS, INPUTS = ("onnx", "torch", "safetensors"), ("waveform", "frames")
NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass
class Wish:
    """What is to be exported.

    Args:
        run: A run folder, or a checkpoint.
        formats: Of FORMATS.
        takes: What graphs take, of INPUTS.
        to: Where it goes; none: in the run, or beside the checkpoint.
        check: Sounds that it is tried on; none: clips of its data.
        push: Its name on the hub; none keeps it here.
        private: Whether a new repository is not public.
    """

    run: Path
    formats: list[str] = field(default_factory=lambda: ["onnx"])
    takes: str = "waveform"
    to: Path | None = None
    check: list[str] = field(default_factory=list)
    push: str | None = None
    private: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """Export a network.

    Args:
        argv: A run folder or a checkpoint, and settings.

    Returns:
        0; 2 when the command has to be mended, or a file does not say what the network says; 130 when interrupted.
    """

    def work(words: list[str]) -> list[Path]:
        wish = parse(words)
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads of torch that wait leave cores to onnxruntime's
        from etude.export.work import carry_out  # heavy, and only now needed

        return carry_out(wish)

    return door(argv, HELP, work, disk.OTHER_FOLDER)


def parse(words: Sequence[str]) -> Wish:
    """What the words of the command say.

    Raises:
        UserError: A word is none of these, or says something else than it may.
    """
    names, said = settings.read(words, SETTINGS)
    if len(names) != 1:
        raise UserError(f"export takes one run folder or checkpoint{', got ' + ' '.join(names) if names else ''}")
    return Wish(settings.path(names[0]), **said)


def _hub(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError("must be <user>/<name>, as on the Hugging Face hub")
    return value


SETTINGS: settings.Settings = {
    "format": ("formats", settings.several("format", *FORMATS)),
    "input": ("takes", settings.one_of(*INPUTS)),
    "to": ("to", settings.path),
    "check": ("check", settings.listed),
    "push": ("push", _hub),
    "private": ("private", settings.truth),
}
