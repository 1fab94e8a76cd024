"""Reading of runs for a comparison.

A run is finished when it has a metrics.json. Of one that has none, the end of its train.log tells what happened: runs
write an error or an interruption there last. A killed run writes nothing more, and looks like one that is going on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from etude.evaluation.paired_tests import ScoredRun, ScoredTarget, scored_run
from etude.runs.folder import RunFolder
from etude.runs.readers import CHANGED, is_unchanged, read_mapping

TAIL = 8192  # bytes of a log that are read from its end
LINE = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (\w+) ([\w.]+): (.*)$")
WITHOUT = ("overfit", "lr")  # the trials that end without a table
KNOWN = ("name", "seed", "model", "data", "targets")
"""Keys of a current record.json; an older one may lack some of them."""


@dataclass(frozen=True)
class ComparedRun:
    """What a folder says of its run.

    Args:
        files: Its files.
        status: finished, failed, interrupted, unfinished, or unreadable.
        remark: What a reader has to know of it, one sentence without the run's name, or "".
        record: record.json; empty where there is none.
        config: config.yaml; empty where there is none.
        metrics: metrics.json's targets; empty unless the run is finished.
    """

    files: RunFolder
    status: str
    remark: str = ""
    record: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where it is."""
        return self.files.path

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


def read(folder: Path) -> ComparedRun:
    """Read a run folder; what is broken in it becomes a status and a remark."""
    files = RunFolder(folder)
    faults: list[str] = []
    record = _content(files.record_path, faults)
    config = _content(files.config_path, faults)
    if not files.metrics_path.is_file():
        status, remark = _end(files)
        if (trial := mapping(config.get("choices")).get("debug")) in WITHOUT and status == "unfinished":
            return ComparedRun(files, status, f"a trial run (debug={trial}), which has no scores.", record, config)
        return ComparedRun(files, status, " ".join([remark, *faults]), record, config)
    broken = len(faults)
    metrics = _content(files.metrics_path, faults)
    targets = {name: target for name, target in mapping(metrics.get("targets")).items() if _whole(target)}
    if len(faults) == broken and not targets:
        faults.append(f"{files.metrics_path.name} holds no target with its scores.")
    if not targets:
        return ComparedRun(files, "unreadable", " ".join(faults), record, config)
    if record.get("trial"):
        faults.append(f"a trial run (debug={record['trial']}), whose numbers mean nothing.")
    if lacking := [key for key in KNOWN if key not in record]:
        lacks = ", ".join(lacking)
        faults.append(f"{files.record_path.name} does not say its {lacks}: an older version may have written it.")
    run = ComparedRun(files, "finished", " ".join(faults), record, config, targets)
    if "?" in run.scored_on:
        words = "On which data and split it was scored is not known, so that nothing is ranked beside it."
        run = ComparedRun(files, "finished", " ".join([*faults, words]), record, config, targets)
    return run


def scored_targets(
    runs: Sequence[ComparedRun], names: Mapping[Path, str], part: str = "test"
) -> Iterator[ScoredTarget]:
    """Yield the predictions of each target by the runs that have it, for tests of pairs.

    Args:
        runs: Runs; those that are not finished have no target.
        names: Their titles.
        part: test or val.
    """
    for name in dict.fromkeys(name for run in runs for name in run.metrics):
        scored: list[ScoredRun] = []
        remarks: list[str] = []
        for run in (run for run in runs if name in run.metrics):
            title = names[run.folder]
            try:
                table = run.files.read_columns(["id", "group", f"{name}.true", f"{name}.pred", "split"])
                scored.append(scored_run(title, name, run.metrics[name], table, part))
            except (OSError, ValueError, KeyError, TypeError) as error:
                remarks.append(f"{title}: {run.files.predictions_path.name} cannot be tested: {_short(error)}.")
        yield ScoredTarget(name, scored, remarks)


def titles(runs: list[ComparedRun]) -> dict[Path, str]:
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


def _suffix(run: ComparedRun) -> str:
    return "" if run.fold is None else f", {run.fold}" if run.pooled else f", fold {run.fold}"


def _content(path: Path, faults: list[str]) -> dict[str, Any]:
    """Return the content of a JSON or YAML file; {} where it is missing, {} with a fault where it is damaged.

    Its structure is not checked: of an older version's files, what is there is compared.
    """
    if not path.is_file():
        return {}
    try:
        value = read_mapping(path)
    except ValueError:
        faults.append(f"{path.name} cannot be read.")
        return {}
    if path.suffix == ".json" and not is_unchanged(value):
        faults.append(f"{path.name} {CHANGED}.")
        return {}
    return value


def _short(error: Exception) -> str:
    """Return the first line of an error, of at most 160 characters."""
    return printable(str(error).splitlines()[0])[:160].rstrip(" .") if str(error) else type(error).__name__


def _whole(target: Any) -> bool:
    """Whether a target of metrics.json has what every table needs of it."""
    return (
        isinstance(target, dict)
        and target.get("kind") in ("label", "scalar")
        and isinstance(target.get("splits"), dict)
        and all(isinstance(part, dict) and isinstance(part.get("scores"), dict) for part in target["splits"].values())
    )


def _end(files: RunFolder) -> tuple[str, str]:
    """Return status and remark of a run without metrics.json, from the end of its log."""
    lines = [LINE.match(line) for line in files.read_log_end(TAIL)]
    last = next((line for line in reversed(lines) if line), None)
    if last and last[1] in ("ERROR", "CRITICAL"):
        return "failed", f"failed: {printable(last[3]).rstrip('.')}."
    if last and last[3].startswith(("interrupted", "terminated by SIG")):
        return "interrupted", "interrupted before its end."
    if last:
        return "unfinished", f"unfinished; its log ends with: {printable(last[3])[:160].rstrip('.')}."
    return "unfinished", "unfinished, and without a log that says why."
