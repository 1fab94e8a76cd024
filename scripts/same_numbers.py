"""Compare the numbers of two versions of the code: python scripts/same_numbers.py OLD_TREE NEW_TREE.

It runs the same short experiments on the embedded clips with the code of both trees, one after the other and in one
thread, and compares exactly what they write: predictions, metrics, curves and weights. It is for changes that must not
change any number. The exit status is 1 when something differs or fails. It takes about six minutes on two idle cores.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

TRAINED = ("predictions.parquet", "metrics.json", "curves.csv", "split.csv")
PREDICTED = ("files.parquet", "windows.parquet")
TRAIN = (
    "train.py seed=3 trainer=cpu +trainer.deterministic=true trainer.max_epochs=2 data.workers=0 "
    "outputs={home} hydra.run.dir={home}/{name}"
)
RESUME = "train.py resume={home}/{name}"
NEW_TRAIN, NEW_RESUME = TRAIN, RESUME  # as the new tree spells them, where an option has another name there
SOME = "data=table data.source.table={table} data.source.audio={clips}"
EFFICIENTAT = f"{SOME} backbone=efficientat backbone.width=0.2 task=genre augment=none data.crop=null"
CNN = "{home}/cnn to={home}/{name}"


class Step(NamedTuple):
    """A command, and the files of its folder in which both trees must have the same numbers.

    Args:
        words: What follows `python`; {train}, {home}, {name}, {table}, {clips} and {sounds} are filled in.
        new_words: The same as the new tree spells it, where an option has another name there.
        needs: The step whose folder the command reads.
        files: What is compared.
        resume: Whether the command is stopped after its first epoch, and then resumed.
    """

    words: str
    new_words: str | None = None
    needs: str | None = None
    files: tuple[str, ...] = TRAINED
    resume: bool = False


STEPS = {
    "cnn": Step("{train} backbone=cnn backbone.channels=[16,32,64] task=genre data=demo"),
    "lstm_missing_labels": Step(f"{{train}} backbone=lstm task=joint {SOME}"),
    "ast_dropped_patches": Step(
        f"{{train}} backbone=ast backbone.depth=3 backbone.drop_time=0.5 backbone.drop_patches=0.1 task=genre {SOME}"
    ),
    "efficientat_resumed": Step(f"{{train}} {EFFICIENTAT}", resume=True),
    "efficientat_frozen": Step(  # with transfer.cache=true, a run that cannot cache the frozen layers fails
        f"{{train}} {EFFICIENTAT} transfer=probe transfer.cache=true transfer.init_from={{home}}/efficientat_resumed",
        needs="efficientat_resumed",
    ),
    "lstm_beats": Step(f"{{train}} backbone=lstm feature=fused feature.sync=beat task=genre {SOME}"),
    "predict": Step(f"scripts/predict.py {CNN} {{sounds}} format=parquet page=false", None, "cnn", PREDICTED),
    "export": Step(f"scripts/export.py {CNN} format=safetensors", None, "cnn", ("model.safetensors",)),
}


def environment(tree: Path) -> dict[str, str]:
    """Return the environment of a command: one thread, and the code of a tree before any that is installed."""
    return os.environ | {"PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1"}


def carry_out(name: str, tree: Path, home: Path, given: dict[str, str]) -> str:
    """Run a step with the code of a tree; return why it failed, or an empty text. `home` ends in `old` or `new`."""
    step, places, new = STEPS[name], {"home": str(home), "name": name}, home.name == "new"
    train, resume = (words.format(**places) for words in ((NEW_TRAIN, NEW_RESUME) if new else (TRAIN, RESUME)))
    words = shlex.split(((step.new_words if new else None) or step.words).format(train=train, **places, **given))
    if not step.resume:
        return run(words, tree, home / f"{name}.log")
    stopped = run(words, tree, home / f"{name}_stopped.log", home / name / "checkpoints" / "last.ckpt")
    return stopped or run(shlex.split(resume), tree, home / f"{name}.log")


def run(words: list[str], tree: Path, log: Path, until: Path | None = None) -> str:
    """Run Python with the code of a tree, and with `until`, stop it when that file is there; see `carry_out`."""
    with log.open("w", encoding="utf-8") as output:
        command = [sys.executable, *words]
        process = subprocess.Popen(command, cwd=tree, env=environment(tree), stdout=output, stderr=subprocess.STDOUT)
        if until:
            while process.poll() is None and not until.is_file():
                time.sleep(0.02)
            process.terminate()
        status = process.wait()
    if status == (128 + signal.SIGTERM if until else 0):
        return ""
    return f"exit status {status}: {' '.join(log.read_text('utf-8').splitlines()[-1:])}"


def compare(old: Path, new: Path) -> tuple[int, str]:
    """Return how many rows, lines or tensors a file has, and its first difference to another; empty for none."""
    if missing := [path for path in (old, new) if not path.is_file()]:
        return 0, f"there is no {missing[0]}"
    if old.suffix == ".parquet":
        return compare_tables(pd.read_parquet(old), pd.read_parquet(new))
    if old.suffix == ".safetensors":
        first, second = tensors(old), tensors(new)
        return len(first), next((name for name in {**first, **second} if first.get(name) != second.get(name)), "")
    lines = list(zip_longest(*(path.read_text("utf-8").splitlines() for path in (old, new))))
    return len(lines), next((f"line {n}: {a} and {b}" for n, (a, b) in enumerate(lines, 1) if a != b), "")


def tensors(path: Path) -> dict[str, object]:
    """Return type, shape and bytes of the tensors of a .safetensors file, by name."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    data = {name: slice(*(start + offset for offset in about["data_offsets"])) for name, about in header.items()}
    return {name: (about["dtype"], about["shape"], content[data[name]]) for name, about in header.items()}


def compare_tables(old: pd.DataFrame, new: pd.DataFrame) -> tuple[int, str]:
    """Compare tables by the column `id`, or row by row where there is none; see `compare`."""
    if set(old) != set(new):
        return len(old), f"columns {sorted(map(str, set(old) ^ set(new)))}"
    if "id" in old:
        old, new = (table.sort_values("id", ignore_index=True) for table in (old, new))
    for name in old:
        first, second = (values(table[name]) for table in (old, new))
        if first.dtype != second.dtype or first.shape != second.shape:
            return len(old), f"{name}: {first.dtype} {first.shape} and {second.dtype} {second.shape}"
        same = (first == second) | ((first != first) & (second != second))  # NaN is equal to NaN here
        if not np.all(same):
            place = tuple(np.argwhere(~same)[0])
            return len(old), f"{name} of {old.iloc[place[0], 0]}: {first[place]} and {second[place]}"
    return len(old), ""


def values(column: pd.Series) -> np.ndarray:
    """Return a column as an array, one of vectors as (rows, D)."""
    if len(column) and isinstance(column.iloc[0], np.ndarray):
        return np.stack(list(column))
    numbers = column.dtype.kind in "biuf"
    return (column if numbers else column.astype(object).where(column.notna(), None)).to_numpy()


def prepare(clips: Path, home: Path) -> dict[str, str]:
    """Write a table of every fourth clip of a folder, without some labels; return what the words of steps contain."""
    known = pd.read_csv(clips / "clips.csv", dtype=str)
    targets = ["genre", "valence", "energy", "danceability"]
    table = known.loc[::4, ["id", "path", "group", *targets]].reset_index(drop=True)
    for place, target in enumerate(targets):
        table.loc[table.index % 5 == place, target] = ""
    table.to_csv(home / "some.csv", index=False)
    sounds = [str(clips / path) for path in known.groupby("genre")["path"].first()]
    return {"table": str(home / "some.csv"), "clips": str(clips), "sounds": shlex.join(sounds)}


def main() -> int:
    """Run the experiments with both trees and print, for each, how many rows were compared and what differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, metavar="OLD_TREE", help="a checkout")
    parser.add_argument("new", type=Path, metavar="NEW_TREE", help="a checkout")
    parser.add_argument("--out", type=Path, help="a new folder for the runs; else one in the temporary folder")
    parser.add_argument("--only", action="append", metavar="NAME", choices=STEPS, help=", ".join(STEPS))
    options = parser.parse_args()
    if options.out and options.out.exists():
        parser.error(f"{options.out} exists; name a new folder")
    trees = {"old": options.old.resolve(), "new": options.new.resolve()}
    for tree in trees.values():
        asked = [sys.executable, "-c", "import etude; print(etude.__file__)"]
        found = subprocess.run(asked, env=environment(tree), capture_output=True, text=True).stdout.strip()
        if not Path(found).is_relative_to(tree):
            parser.error(f"{tree} has no src/etude; the code that would run is {found or 'nowhere'}")
    needed = {STEPS[name].needs for name in options.only or ()}
    names = [name for name in STEPS if not options.only or name in needed or name in options.only]
    out = (options.out or Path(tempfile.mkdtemp(prefix="same_numbers_"))).resolve()
    for which in trees:
        (out / which).mkdir(parents=True)
    given = prepare(next((trees["old"] / "src").rglob("demo/clips.csv")).parent, out)
    failed: dict[str, str] = {}
    for which, tree in trees.items():
        for name in names:
            begun = time.monotonic()
            if reason := carry_out(name, tree, out / which, given):
                failed.setdefault(name, f"{which}: {reason}")
            print(f"{which}: {name}, {time.monotonic() - begun:.0f} s", file=sys.stderr)
    print(f"runs: {out}\n{'experiment':<20} {'rows':>5}  result")
    status = 0
    for name in names:
        compared = {file: compare(*(out / which / name / file for which in trees)) for file in STEPS[name].files}
        differences = [f"{file}: {difference}" for file, (_, difference) in compared.items() if difference]
        rows = sum(count for file, (count, _) in compared.items() if not file.endswith((".json", ".csv")))
        print(f"{name:<20} {rows:>5}  {failed.get(name) or next(iter(differences), 'equal')}")
        status |= bool(differences) or name in failed
    return status


if __name__ == "__main__":
    sys.exit(main())
