"""A run folder to what is known of it, whatever state it is in: nothing here ends a comparison.

A run is finished when it has a metrics.json. Of one that has none, the end of its train.log tells what happened: runs
write an error or an interruption there last. A killed run writes nothing more, and looks like one that is going on.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from etude.results.comparison.run import Run, mapping, printable
from etude.results.reading import CHANGED, intact

SWEEP = ("jobs.csv", "multirun.yaml")  # of the folder of a sweep
TAIL = 8192  # bytes of a log that are read from its end
LINE = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (\w+) ([\w.]+): (.*)$")
WITHOUT = ("overfit", "lr")  # the trials that end without a table
KNOWN = ("name", "seed", "model", "data", "targets")
"""What a record.json of today says; an older one may lack some of it."""


def find(path: Path) -> list[Path]:
    """The run folders at or below a path, job 9 before job 10: all that hold a record or a config, unless hidden."""
    marks = [mark for name in ("record.json", "config.yaml") for mark in path.rglob(name)]
    runs = {mark.parent for mark in marks if not any(p.startswith(".") for p in mark.relative_to(path).parts)}
    sweep = any((path / name).is_file() for name in SWEEP) and runs - {path}  # a sweep may lie in the folder of a run
    return [path] if path in runs and not sweep else sorted(runs - {path}, key=_natural)


def read(folder: Path) -> Run:
    """Read a run folder; what is broken in it becomes a status and a remark."""
    faults: list[str] = []
    record = _load(folder / "record.json", faults)
    config = _load(folder / "config.yaml", faults)
    if not (folder / "metrics.json").is_file():
        status, remark = _end(folder / "train.log")
        if (trial := mapping(config.get("choices")).get("debug")) in WITHOUT and status == "unfinished":
            return Run(folder, status, f"a trial run (debug={trial}), which has no scores.", record, config)
        return Run(folder, status, " ".join([remark, *faults]), record, config)
    broken = len(faults)
    metrics = _load(folder / "metrics.json", faults)
    targets = {name: target for name, target in mapping(metrics.get("targets")).items() if _whole(target)}
    if len(faults) == broken and not targets:
        faults.append("metrics.json holds no target with its scores.")
    if not targets:
        return Run(folder, "unreadable", " ".join(faults), record, config)
    if record.get("trial"):
        faults.append(f"a trial run (debug={record['trial']}), whose numbers mean nothing.")
    if lacking := [key for key in KNOWN if key not in record]:
        faults.append(f"record.json does not say its {', '.join(lacking)}: an older version may have written it.")
    run = Run(folder, "finished", " ".join(faults), record, config, targets)
    if "?" in run.scored_on:
        words = "On which data and split it was scored is not known, so that nothing is ranked beside it."
        run = Run(folder, "finished", " ".join([*faults, words]), record, config, targets)
    return run


def _load(path: Path, faults: list[str]) -> dict[str, Any]:
    """A JSON or YAML file that holds a mapping; {} with a fault when it holds none, {} when it is not there."""
    import yaml

    if not path.is_file():
        return {}
    try:
        text = path.read_text("utf-8")
        value = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        value = None
    if not isinstance(value, dict):
        faults.append(f"{path.name} cannot be read.")
        return {}
    if path.suffix == ".json" and not intact(value):
        faults.append(f"{path.name} {CHANGED}.")
        return {}
    return value


def _whole(target: Any) -> bool:
    """Whether a target of metrics.json has what every table needs of it."""
    return (
        isinstance(target, dict)
        and target.get("kind") in ("label", "scalar")
        and isinstance(target.get("splits"), dict)
        and all(isinstance(part, dict) and isinstance(part.get("scores"), dict) for part in target["splits"].values())
    )


def _end(log: Path) -> tuple[str, str]:
    """Status and remark of a run without metrics.json, from the end of its log."""
    if log.is_file():
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL))
            lines = [LINE.match(line) for line in file.read().decode("utf-8", "replace").splitlines()]
        last = next((line for line in reversed(lines) if line), None)
        if last and last[1] in ("ERROR", "CRITICAL"):
            return "failed", f"failed: {printable(last[3]).rstrip('.')}."
        if last and last[3].startswith(("interrupted", "terminated by SIG")):
            return "interrupted", "interrupted before its end."
        if last:
            return "unfinished", f"unfinished; its log ends with: {printable(last[3])[:160].rstrip('.')}."
    return "unfinished", "unfinished, and without a log that says why."


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sorts job 10 of a sweep after job 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]
