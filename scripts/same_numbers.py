"""Compare the numbers of two versions of the code: python scripts/same_numbers.py OLD_TREE NEW_TREE.

The script runs the same short experiments on the embedded clips with the code of both trees, one after the other and in
one thread, and compares their predictions, metrics, curves and weights exactly. Use it for changes that must not change
any number. The exit status is 1 if something differs or fails. It takes about six minutes on two idle cores.
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
NEW_TRAIN, NEW_RESUME = TRAIN, RESUME  # in the new tree, if options were renamed
SOME = "data=table data.source.table={table} data.source.audio={clips}"
EFFICIENTAT = f"{SOME} backbone=efficientat backbone.width=0.2 task=genre augment=none data.crop=null"
CNN = "{home}/cnn to={home}/{name}"


class Step(NamedTuple):
    """Command, and the files of its folder that must have the same numbers in both trees.

    Args:
        arguments: Arguments of `python`; {train}, {home}, {name}, {table}, {clips} and {sounds} are replaced.
        new_arguments: Arguments in the new tree, if options were renamed.
        needs: Step whose folder the command reads.
        files: Compared files.
        resume: Whether the command is stopped after its first epoch and then resumed.
    """

    arguments: str
    new_arguments: str | None = None
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
    """Return the environment of a command, with one thread and the code of a tree instead of installed code."""
    return os.environ | {"PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1"}


def run_step(name: str, tree: Path, home: Path, inputs: dict[str, str]) -> str:
    """Run a step with the code of a tree and return its error, or "". The name of `home` is `old` or `new`."""
    step, folders, new = STEPS[name], {"home": str(home), "name": name}, home.name == "new"
    train, resume = (command.format(**folders) for command in ((NEW_TRAIN, NEW_RESUME) if new else (TRAIN, RESUME)))
    template = (step.new_arguments if new else None) or step.arguments
    arguments = shlex.split(template.format(train=train, **folders, **inputs))
    if not step.resume:
        return run(arguments, tree, home / f"{name}.log")
    stopped = run(arguments, tree, home / f"{name}_stopped.log", home / name / "checkpoints" / "last.ckpt")
    return stopped or run(shlex.split(resume), tree, home / f"{name}.log")


def run(arguments: list[str], tree: Path, log: Path, until: Path | None = None) -> str:
    """Run Python with the code of a tree, stop it once the file `until` exists, and return the error or ""."""
    with log.open("w", encoding="utf-8") as output:
        command = [sys.executable, *arguments]
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
    """Return the number of rows, lines or tensors of a file, and the first difference from another file or ""."""
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
    """Return type, shape and bytes of the tensors of a .safetensors file by name."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    data = {name: slice(*(start + offset for offset in entry["data_offsets"])) for name, entry in header.items()}
    return {name: (entry["dtype"], entry["shape"], content[data[name]]) for name, entry in header.items()}


def compare_tables(old: pd.DataFrame, new: pd.DataFrame) -> tuple[int, str]:
    """Compare tables by the column `id`, or row by row without it. For the result see `compare`."""
    if set(old) != set(new):
        return len(old), f"columns {sorted(map(str, set(old) ^ set(new)))}"
    if "id" in old:
        old, new = (table.sort_values("id", ignore_index=True) for table in (old, new))
    for name in old:
        first, second = (values(table[name]) for table in (old, new))
        if first.dtype != second.dtype or first.shape != second.shape:
            return len(old), f"{name}: {first.dtype} {first.shape} and {second.dtype} {second.shape}"
        same = (first == second) | ((first != first) & (second != second))  # NaN equals NaN here
        if not np.all(same):
            index = tuple(np.argwhere(~same)[0])
            return len(old), f"{name} of {old.iloc[index[0], 0]}: {first[index]} and {second[index]}"
    return len(old), ""


def values(column: pd.Series) -> np.ndarray:
    """Return a column as an array. A column of vectors becomes (rows, D)."""
    if len(column) and isinstance(column.iloc[0], np.ndarray):
        return np.stack(list(column))
    numbers = column.dtype.kind in "biuf"
    return (column if numbers else column.astype(object).where(column.notna(), None)).to_numpy()


def prepare(clips: Path, home: Path) -> dict[str, str]:
    """Write a table of every fourth clip of a folder without some labels, and return the inputs of the steps."""
    all_clips = pd.read_csv(clips / "clips.csv", dtype=str)
    targets = ["genre", "valence", "energy", "danceability"]
    table = all_clips.loc[::4, ["id", "path", "group", *targets]].reset_index(drop=True)
    for i, target in enumerate(targets):
        table.loc[table.index % 5 == i, target] = ""
    table.to_csv(home / "some.csv", index=False)
    sounds = [str(clips / path) for path in all_clips.groupby("genre")["path"].first()]
    return {"table": str(home / "some.csv"), "clips": str(clips), "sounds": shlex.join(sounds)}


def main() -> int:
    """Run the experiments with both trees, and print the number of compared rows and the first difference of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, metavar="OLD_TREE", help="checkout of the old code")
    parser.add_argument("new", type=Path, metavar="NEW_TREE", help="checkout of the new code")
    parser.add_argument("--out", type=Path, help="new folder for the runs (default: a temporary folder)")
    parser.add_argument("--only", action="append", metavar="NAME", choices=STEPS, help=", ".join(STEPS))
    options = parser.parse_args()
    if options.out and options.out.exists():
        parser.error(f"{options.out}: exists; name a new folder")
    trees = {"old": options.old.resolve(), "new": options.new.resolve()}
    for tree in trees.values():
        command = [sys.executable, "-c", "import etude; print(etude.__file__)"]
        module = subprocess.run(command, env=environment(tree), capture_output=True, text=True).stdout.strip()
        if not Path(module).is_relative_to(tree):
            parser.error(f"{tree}: has no src/etude; Python would import {module or 'nothing'}")
    needed = {STEPS[name].needs for name in options.only or ()}
    names = [name for name in STEPS if not options.only or name in needed or name in options.only]
    out = (options.out or Path(tempfile.mkdtemp(prefix="same_numbers_"))).resolve()
    for version in trees:
        (out / version).mkdir(parents=True)
    inputs = prepare(next((trees["old"] / "src").rglob("demo/clips.csv")).parent, out)
    failed: dict[str, str] = {}
    for version, tree in trees.items():
        for name in names:
            start = time.monotonic()
            if error := run_step(name, tree, out / version, inputs):
                failed.setdefault(name, f"{version}: {error}")
            print(f"{version}: {name}, {time.monotonic() - start:.0f} s", file=sys.stderr)
    print(f"runs: {out}\n{'experiment':<20} {'rows':>5}  result")
    status = 0
    for name in names:
        compared = {file: compare(*(out / version / name / file for version in trees)) for file in STEPS[name].files}
        differences = [f"{file}: {difference}" for file, (_, difference) in compared.items() if difference]
        rows = sum(count for file, (count, _) in compared.items() if not file.endswith((".json", ".csv")))
        print(f"{name:<20} {rows:>5}  {failed.get(name) or next(iter(differences), 'equal')}")
        status |= bool(differences) or name in failed
    return status


if __name__ == "__main__":
    sys.exit(main())
