"""One job of a sweep: what it is told, where it lives, what it needs, and how it went."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from etude.compose.stored import finished
from etude.words import quoted

WAITING, RUNNING, DONE, FAILED, STOPPED = "waiting", "running", "done", "failed", "stopped"
REFUSED = 2  # exit status of a command that has to be mended


@dataclass
class Job:
    """One point of a sweep.

    Args:
        number: Its place in the sweep.
        overrides: What it is told, and known by when the sweep is gone on with.
        folder: Its run folder.
        config: Its composed config, plain values.
        flags: Hydra's own flags, such as the folder of further configs.
        settings: Overrides of Hydra's own values, and what its sweep fills in.
        status: How it is.
        code: Exit status of its process; of a signal, negative.
        seconds: From its start to its end.
        score: The monitor of its task on the validation part.
    """

    number: int
    overrides: list[str]
    folder: Path
    config: dict[str, Any] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    settings: list[str] = field(default_factory=list)
    status: str = WAITING
    code: int | None = None
    seconds: float | None = None
    score: float | None = None
    reason: str = ""
    """What ended it, or why it cannot start."""
    found: bool = False
    """Whether it was done before this command."""
    sweep: Path | None = None
    """The folder of its sweep."""

    @property
    def name(self) -> str:
        """Path of its folder below that of the sweep, with slashes."""
        sweep = self.folder.parent if self.sweep is None else self.sweep
        return self.folder.relative_to(sweep).as_posix()

    @property
    def measured(self) -> bool:
        """Whether its results are on disk, however its process ended after that."""
        return finished(self.folder)

    @property
    def words(self) -> list[str]:
        """The command line of its process, after `train.py`; where it has a checkpoint, it goes on from that."""
        if (self.folder / "checkpoints" / "last.ckpt").is_file() and (self.folder / "config.yaml").is_file():
            own = [word for word in self.settings if word.startswith("hydra")]
            return [*self.flags, *own, f"resume={quoted(str(self.folder))}"]
        return [*self.flags, *self.overrides, *self.settings, f"hydra.run.dir={quoted(str(self.folder))}"]

    @property
    def source(self) -> Path | None:
        """The folder of the run whose weights it begins from."""
        said = (self.config.get("transfer") or {}).get("init_from")
        if not said:
            return None
        path = Path(str(said))
        return path.parent.parent if path.suffix == ".ckpt" else path

    @property
    def targets(self) -> tuple[str, ...]:
        """What it learns: scores of the same targets can be compared."""
        return tuple((self.config.get("task") or {}).get("targets") or ())

    @property
    def why(self) -> str:
        """Why it did not come to its end, in a few words."""
        if self.code is not None and self.code < 0:
            return f"killed by {signal.Signals(-self.code).name}"
        if not self.reason and self.code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
            return f"ended by {signal.Signals(self.code - 128).name}"
        said = "; ".join(line.strip() for line in self.reason.splitlines() if line.strip())
        return said.replace(":; ", ": ") or f"ended with status {self.code}"
