"""A run as a comparison knows it, and how it is called."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Run:
    """What a folder says of its run.

    Args:
        folder: Where it is.
        status: finished, failed, interrupted, unfinished, or unreadable.
        remark: What a reader has to know of it, one sentence without the run's name, or "".
        record: record.json; empty where there is none.
        config: config.yaml; empty where there is none.
        metrics: metrics.json's targets; empty unless the run is finished.
    """

    folder: Path
    status: str
    remark: str = ""
    record: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As the run calls itself, else as its folder is called; what cannot be printed is replaced."""
        return printable(self.record.get("name") or self.config.get("name") or self.folder.resolve().name)

    @property
    def data(self) -> dict[str, Any]:
        """What the record says of data and split."""
        return mapping(self.record.get("data"))

    @property
    def pooled(self) -> bool:
        """Whether this is the pooled result of several folds."""
        return bool(self.data.get("pooled"))

    @property
    def fold(self) -> str | None:
        """The fold as a text: "0", "3 of 5 folds", or None where there was no cross-validation."""
        if self.pooled:
            return f"{len(self.data['pooled'])} of {self.data.get('folds')} folds"
        fold = self.data.get("fold")
        return None if fold is None else str(fold)

    @property
    def scored_on(self) -> str:
        """Hashes of data and split, "?" for one that is not known: runs whose numbers compare have the same."""
        return f"{self.data.get('labels') or self.data.get('hash') or '?'}/{self.data.get('split_hash') or '?'}"

    @property
    def seconds(self) -> float | None:
        """Time of the whole run."""
        return mapping(self.record.get("seconds")).get("total")


def titles(runs: list[Run]) -> dict[Path, str]:
    """A title for each run: its name and fold, with its folder where two runs would be called the same."""
    plain = {run.folder: run.name + _suffix(run) for run in runs}
    twice = {name for name in plain.values() if list(plain.values()).count(name) > 1}
    folders = {run.folder: printable(run.folder.resolve().name) + _suffix(run) for run in runs}
    named = {folder: folders[folder] if name in twice else name for folder, name in plain.items()}
    again = {name for name in named.values() if list(named.values()).count(name) > 1}
    return {folder: printable(folder) if name in again else name for folder, name in named.items()}


def printable(value: object) -> str:
    """A text on one line; what would steer a terminal is shown as a replacement character."""
    return "".join(c if c.isprintable() else "�" for c in str(value))


def mapping(value: Any) -> dict[str, Any]:
    """The value when it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def _suffix(run: Run) -> str:
    return "" if run.fold is None else f", {run.fold}" if run.pooled else f", fold {run.fold}"
