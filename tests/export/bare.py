"""A Python that has onnxruntime and what that needs, and nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path


def make(folder: Path, package: str = "onnxruntime") -> Path:
    """An environment whose site-packages has links to the files of some distributions alone; its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for name in needed(package):
        found = distribution(name)
        for top in {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(found.locate_file(top))))
    return folder / "bin" / "python"


def needed(package: str) -> list[str]:
    """A distribution and all that it says it requires, with what these require."""
    found, waiting = [], [package]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.append(name)
            asked = [one for one in distribution(name).requires or () if "extra ==" not in one]
            waiting += [re.split(r"[^\w.-]", one)[0].lower() for one in asked]
    return found
