"""Virtual environments with only one distribution and its requirements."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path


def create_environment(folder: Path, package: str = "onnxruntime") -> Path:
    """Create an environment with links to the files of a distribution and its requirements.

    Returns:
        Path of its interpreter.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for name in required_distributions(package):
        installed = distribution(name)
        for top in {file.parts[0] for file in installed.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(installed.locate_file(top))))
    return folder / "bin" / "python"


def required_distributions(package: str) -> list[str]:
    """Return a distribution and all its direct and indirect requirements without extras."""
    names, pending = [], [package]
    while pending:
        name = pending.pop()
        if name not in names:
            names.append(name)
            requirements = [entry for entry in distribution(name).requires or () if "extra ==" not in entry]
            pending += [re.split(r"[^\w.-]", entry)[0].lower() for entry in requirements]
    return names
