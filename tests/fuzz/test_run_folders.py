"""A finished run with one damaged file, through every command that reads runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from random import Random

import pytest
import yaml
from tests.fuzz.harness import Room, assert_none, faults, room, seeds
from tests.fuzz.mutate import TEXTS, damage, nested

from etude.__main__ import COMMANDS
from etude.api import run as api
from etude.experiment import stages
from etude.runs import readers
from etude.runs.folder import RunFolder

WORDS: dict[str, Sequence[str]] = {
    "report": ["{run}"],
    "compare": ["{run}", "{other}", "to=out"],
    "latent": ["{run}", "methods=pca", "dims=2", "to=out"],
    "predict": ["{run}", "inputs/clip.ogg", "to=out", "workers=1"],
    "inspect": ["{run}", "clip=inputs/clip.ogg", "crop=1", "to=out"],
    "export": ["{run}", "format=safetensors", "check=inputs/clip.ogg", "to=out"],
    "resume": ["resume={run}"],
    "load": [],
}
DAILY = 6  # seeds of the default suite, with the commands that take little time
CARRY_OUT = stages.fit_and_measure
CHEAP = ("report", "compare", "latent", "resume", "load")
READ = {  # by command, what it reads first; of other files, any
    "predict": ("checkpoints/best.ckpt", "checkpoints/last.ckpt"), "export": ("checkpoints/best.ckpt", "record.json"),
    "inspect": ("checkpoints/best.ckpt", "config.yaml", "predictions.parquet", "split.csv"),
    "resume": ("config.yaml", "checkpoints/last.ckpt", "trackers.json"),
}  # fmt: skip


def spoil(made: Room, run: Path, path: Path, rng: Random) -> str:
    """Damage one file of a run; returns what was done."""
    data, kind = path.read_bytes(), rng.random()
    if kind < 0.3 and path.suffix in (".json", ".yaml") and data:
        parsed = json.loads(data) if path.suffix == ".json" else yaml.safe_load(data)
        for _ in range(rng.choice((1, 1, 2, 4))):
            parsed, done = nested(parsed, rng)
        if isinstance(parsed, dict) and readers.CHECKSUM in parsed and rng.random() < 0.8:
            parsed, done = readers.add_checksum(parsed), f"{done}, sealed"
        path.write_text(
            json.dumps(parsed) if path.suffix == ".json" else yaml.safe_dump(parsed), "utf-8", "surrogatepass"
        )
        return done
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
        done = rng.choice(("drop", "text", "none", "rename", "empty", "repeat", "one row", "number"))
        changed = {
            "drop": lambda: table.drop(columns=name),
            "text": lambda: table.assign(**{name: rng.choice(TEXTS[:-1])}),
            "none": lambda: table.assign(**{name: None}),
            "rename": lambda: table.rename(columns={name: rng.choice(TEXTS[:-1])}),
            "empty": lambda: table.head(0),
            "repeat": lambda: pd.concat([table, table]),
            "one row": lambda: table.head(1),
            "number": lambda: table.assign(**{name: rng.choice((0.0, float("nan"), float("inf"), -7, 10**12))}),
        }[done]()
        changed.to_parquet(path)
        record = RunFolder(run).record_path
        about = json.loads(record.read_text()) if record.is_file() else {}
        if about and rng.random() < 0.8:  # as of a version without hashes
            about.pop(readers.TABLE_HASH, None)
            record.write_text(json.dumps(readers.add_checksum(about)))
        return f"{name} {done}"
    if kind < 0.35:
        path.write_bytes(made.pickled())
        return "pickle"
    if kind < 0.4:
        path.write_bytes(b"")
        return "empty"
    path.unlink()
    if kind < 0.45:
        return "deleted"
    if kind < 0.5:
        path.mkdir()
        (path / "mine.txt").write_text("mine")
        return "folder"
    if kind < 0.6:
        target = rng.choice(
            (made.top / "above.txt", made.top / "middle", made.top / "nothing", path, run / "record.json")
        )
        path.symlink_to(target)
        return f"link to {target.name}"
    data, done = damage(data, rng, (run / "config.yaml").read_bytes() if (run / "config.yaml").is_file() else b"")
    path.write_bytes(data)
    return done


def stopped(*args: object, **kwargs: object) -> dict[str, object]:
    """Stand in for training, and for all that comes after it."""
    return {}


def load(run: Path) -> int:
    """Read all parts of a run from Python."""
    found = api.load(run)
    found.scores(), found.predictions, found.curves, found.record, found.config
    found.figures()
    found._repr_html_()
    return 0


def one(seed: int, tiny: Path, clip: Path, top: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, list[str]]:
    """Try one command on one damaged run."""
    rng = Random(f"run folders {seed}")
    with room(monkeypatch, top) as made:
        run, other = made.work / "outputs" / tiny.name, made.work / "outputs" / "other"
        shutil.copytree(tiny, run)
        shutil.copytree(tiny, other)
        (made.work / "inputs").mkdir()
        shutil.copyfile(clip, made.work / "inputs" / "clip.ogg")
        command = rng.choice(CHEAP if seed < DAILY else tuple(WORDS))
        if command == "resume" and rng.random() < 0.7:  # an interrupted run
            for name in ("report.html", "metrics.json", "record.json", "predictions.parquet")[: rng.choice((1, 2, 4))]:
                (run / name).unlink()
        files = sorted(path for path in run.rglob("*") if path.is_file() and not path.name.endswith(".holder"))
        first = [run / name for name in READ.get(command, ()) if (run / name) in files]
        path = rng.choice(first) if first and rng.random() < 0.6 else rng.choice(files)
        about = f"{command} with {path.relative_to(run)}: {spoil(made, run, path, rng)}"
        if command == "resume" and path.suffix == ".ckpt":  # it is read where training begins
            monkeypatch.setattr(stages, "fit_and_measure", CARRY_OUT)
        else:
            monkeypatch.setattr(stages, "fit_and_measure", stopped)
        words = [
            word.format(run=run.relative_to(made.work), other=other.relative_to(made.work)) for word in WORDS[command]
        ]
        calls: dict[str, Callable[[], int | None]] = {"load": lambda: load(run)}
        module = import_module(COMMANDS["train" if command == "resume" else command][0]) if command != "load" else None
        work = calls.get(command) or (lambda: module.main(words))  # type: ignore[union-attr]
        kept = {one: one.read_bytes() for one in (run, *run.rglob("*")) if one.is_file() and not one.is_symlink()}
        found = faults(made, work, [run, made.work / "out"], quiet=command not in ("report", "resume"))
        if command not in ("report", "resume"):
            lost = [one for one, data in kept.items() if not one.is_file() or one.read_bytes() != data]
            found += [f"run changed: {one.name}" for one in lost if one.name not in (".etude-files", ".lock")]
    return about, found


@pytest.mark.parametrize("chunk", seeds(default=DAILY, full=400))
def test_damaged_run_ends_in_a_sentence(
    chunk: Sequence[int], tiny_run: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("sys.argv", ["train.py"])
    found = {seed: one(seed, tiny_run, clip, tmp_path / str(seed), monkeypatch) for seed in chunk}
    assert_none("run folders", found)
