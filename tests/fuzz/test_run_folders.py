"""Fuzz test of every command that reads runs, with a run in which one file is damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import pytest
import yaml
from tests.fuzz.harness import Sandbox, assert_no_violations, find_violations, open_sandbox, seed_chunks
from tests.fuzz.mutations import TEXTS, change_nested_value, damage

from etude.api import run as api
from etude.cli.app import run_command
from etude.experiment import stages
from etude.runs import readers
from etude.runs.folder import RunFolder

ARGUMENTS: dict[str, Sequence[str]] = {
    "report": ["{run}"],
    "compare": ["{run}", "{other}", "--out=out"],
    "maps": ["{run}", "--methods=pca", "--dims=2", "--out=out"],
    "predict": ["{run}", "inputs/clip.ogg", "--out=out", "--workers=1"],
    "inspect": ["{run}", "--clip=inputs/clip.ogg", "--crop=1", "--out=out"],
    "export": ["{run}", "--format=safetensors", "--check=inputs/clip.ogg", "--out=out"],
    "resume": ["resume={run}"],
    "load": [],
}
DEFAULT_SEEDS = 6  # number of seeds in the default suite, which uses only fast commands
FIT_AND_MEASURE = stages.fit_and_measure
FAST = ("report", "compare", "maps", "resume", "load")
FIRST_READ = {  # files that a command reads first; they are damaged more often than others
    "predict": ("checkpoints/best.ckpt", "checkpoints/last.ckpt"), "export": ("checkpoints/best.ckpt", "record.json"),
    "inspect": ("checkpoints/best.ckpt", "config.yaml", "predictions.parquet", "split.csv"),
    "resume": ("config.yaml", "checkpoints/last.ckpt", "trackers.json"),
}  # fmt: skip


def damage_file(sandbox: Sandbox, run: Path, path: Path, rng: Random) -> str:
    """Damage one file of a run and return a description of the damage."""
    data, kind = path.read_bytes(), rng.random()
    if kind < 0.3 and path.suffix in (".json", ".yaml") and data:
        parsed = json.loads(data) if path.suffix == ".json" else yaml.safe_load(data)
        for _ in range(rng.choice((1, 1, 2, 4))):
            parsed, description = change_nested_value(parsed, rng)
        if isinstance(parsed, dict) and readers.CHECKSUM in parsed and rng.random() < 0.8:
            parsed, description = readers.add_checksum(parsed), f"{description}, with a valid checksum"
        path.write_text(
            json.dumps(parsed) if path.suffix == ".json" else yaml.safe_dump(parsed), "utf-8", "surrogatepass"
        )
        return description
    if kind < 0.3 and path.suffix == ".csv":
        lines = data.decode().splitlines()
        k = rng.randrange(len(lines))
        cells = lines[k].split(",")
        cells[rng.randrange(len(cells))] = rng.choice(TEXTS[:-1])
        lines[k] = ",".join(cells)
        path.write_text("\n".join(lines), "utf-8")
        return "one cell"
    if kind < 0.3 and path.suffix == ".parquet":
        import pandas as pd

        table = pd.read_parquet(path)
        name = rng.choice([str(column) for column in table.columns])
        change = rng.choice(("drop", "text", "none", "rename", "empty", "repeat", "one row", "number"))
        changed = {
            "drop": lambda: table.drop(columns=name),
            "text": lambda: table.assign(**{name: rng.choice(TEXTS[:-1])}),
            "none": lambda: table.assign(**{name: None}),
            "rename": lambda: table.rename(columns={name: rng.choice(TEXTS[:-1])}),
            "empty": lambda: table.head(0),
            "repeat": lambda: pd.concat([table, table]),
            "one row": lambda: table.head(1),
            "number": lambda: table.assign(**{name: rng.choice((0.0, float("nan"), float("inf"), -7, 10**12))}),
        }[change]()
        changed.to_parquet(path)
        record_path = RunFolder(run).record_path
        record = json.loads(record_path.read_text()) if record_path.is_file() else {}
        if record and rng.random() < 0.8:  # like a run of a version without hashes
            record.pop(readers.TABLE_HASH, None)
            record_path.write_text(json.dumps(readers.add_checksum(record)))
        return f"{name} {change}"
    if kind < 0.35:
        path.write_bytes(sandbox.pickled())
        return "pickle"
    if kind < 0.4:
        path.write_bytes(b"")
        return "empty"
    path.unlink()
    if kind < 0.45:
        return "deleted"
    if kind < 0.5:
        path.mkdir()
        (path / "other.txt").write_text("other")
        return "folder"
    if kind < 0.6:
        target = rng.choice(
            (sandbox.top / "above.txt", sandbox.top / "middle", sandbox.top / "nothing", path, run / "record.json")
        )
        path.symlink_to(target)
        return f"link to {target.name}"
    data, description = damage(
        data, rng, (run / "config.yaml").read_bytes() if (run / "config.yaml").is_file() else b""
    )
    path.write_bytes(data)
    return description


def skip_training(*args: object, **kwargs: object) -> dict[str, object]:
    """Replace training and evaluation."""
    return {}


def load_all(folder: Path) -> int:
    """Read everything in a run folder with the Python API."""
    run = api.load(folder)
    run.scores(), run.predictions, run.curves, run.record, run.config
    run.figures()
    run._repr_html_()
    return 0


def check_seed(
    seed: int, tiny_run: Path, clip: Path, top: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, list[str]]:
    """Check one command with one damaged run.

    Returns:
        Description of the command and the damage, and the violations.
    """
    rng = Random(f"run folders {seed}")
    with open_sandbox(monkeypatch, top) as sandbox:
        run, other = sandbox.work / "outputs" / tiny_run.name, sandbox.work / "outputs" / "other"
        shutil.copytree(tiny_run, run)
        shutil.copytree(tiny_run, other)
        (sandbox.work / "inputs").mkdir()
        shutil.copyfile(clip, sandbox.work / "inputs" / "clip.ogg")
        command = rng.choice(FAST if seed < DEFAULT_SEEDS else tuple(ARGUMENTS))
        if command == "resume" and rng.random() < 0.7:  # an interrupted run
            for name in ("report.html", "metrics.json", "record.json", "predictions.parquet")[: rng.choice((1, 2, 4))]:
                (run / name).unlink()
        files = sorted(path for path in run.rglob("*") if path.is_file() and not path.name.endswith(".holder"))
        first = [run / name for name in FIRST_READ.get(command, ()) if (run / name) in files]
        path = rng.choice(first) if first and rng.random() < 0.6 else rng.choice(files)
        description = f"{command} with {path.relative_to(run)}: {damage_file(sandbox, run, path, rng)}"
        if command == "resume" and path.suffix == ".ckpt":  # the checkpoint is read when training starts
            monkeypatch.setattr(stages, "fit_and_measure", FIT_AND_MEASURE)
        else:
            monkeypatch.setattr(stages, "fit_and_measure", skip_training)
        run_path, other_path = run.relative_to(sandbox.work), other.relative_to(sandbox.work)
        arguments = [argument.format(run=run_path, other=other_path) for argument in ARGUMENTS[command]]
        action: Callable[[], int | None] = lambda: load_all(run)  # noqa: E731
        if command != "load":
            name = "train" if command == "resume" else command
            action = lambda: run_command(name, arguments)  # noqa: E731
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and not path.is_symlink()}
        writes = [run, sandbox.work / "out"]
        violations = find_violations(sandbox, action, writes, atomic=command not in ("report", "resume"))
        if command not in ("report", "resume"):
            changed = [path for path, data in before.items() if not path.is_file() or path.read_bytes() != data]
            violations += [
                f"run changed: {path.name}" for path in changed if path.name not in (".etude-files", ".lock")
            ]
    return description, violations


@pytest.mark.parametrize("chunk", seed_chunks(default=DEFAULT_SEEDS, full=400))
def test_damaged_run_gives_a_message(
    chunk: Sequence[int], tiny_run: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("sys.argv", ["train.py"])
    results = {seed: check_seed(seed, tiny_run, clip, tmp_path / str(seed), monkeypatch) for seed in chunk}
    assert_no_violations("run folders", results)
