"""Tables of a small grammar, with faults of quotes, encodings, names and values, through the source of tables."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
import pytest
from tests.fuzz.harness import Room, assert_none, faults, room, seeds
from tests.fuzz.mutate import TEXTS, damage

from etude.cli import prepare
from etude.data.sources.table import collection

DAILY = 60  # seeds of the default suite, of which one goes through a whole command
NAMES = (
    "path", "id", "group", "split", "genre", "valence", "title", "artist", "licence", "fold", "type",
    "pop", "items", "train",
    "a.b", "", " path", "PATH", "Path", "embedding", "genre.true", "é", "é", "日本語", "__index_level_0__",
    "_target_",
    "genre", "0", "loss", "score", "x" * 300, "a,b", 'a"b', "\ufeffpath", "self", "None", "a/b", "..",
)  # fmt: skip
CLIPS = "abcdefghijkl"
USUAL = ("genre", "valence", "id", "group", "split", "title", "artist", "type", "pop", "fold", "train")
CELLS = (
    "", " ", "rock", "pop", "rock|pop", "0.5", "0,5", "1", "1.0", "2", "-1", "1e400", "nan", "NA", "inf",
    "true", "false", "1_000",
    '"Heroes', 'say "no"', "a,b", "a;b", "a\tb", "a\nb", "x" * 5000, "Café", "Café", "日本語", "🎵", "\u202e",
    "\x00", "\x1f", "=1+1",
    "None", "train", "test", "val", "Test ", "2024-01-01", "{}", "[1]", "9" * 400, "\ufffe", "'", "''", '""', "\r",
)  # fmt: skip
PATHS = (
    "a.wav", "b.wav", "c.wav", "d.wav", "./a.wav", "../beside/deep/beside.wav", "../../above.txt",
    "/etc/passwd", "/dev/zero",
    "", ".", "..", "missing.wav", "a%20b.wav", "file:///a.wav", "a\\b.wav", "~/a.wav", "~nosuch/a.wav",
    "$HOME/a.wav", "a.wav\x00", "é.wav", "é.wav",
    "x" * 300, "a/" * 2000, "a.wav/b", "http://127.0.0.1:9/a.wav", "folder", "link.wav", "pipe.wav", "|ls", "a.wav\n",
)  # fmt: skip
CODES = (
    "utf-8",
    "utf-8",
    "utf-8",
    "utf-8-sig",
    "utf-16",
    "utf-32",
    "cp1252",
    "latin-1",
    "utf-7",
    "shift_jis",
    "utf-16-le",
)


def grid(rng: Random) -> list[list[str]]:
    """Return a header and rows, most of which make sense."""
    names = ["path", *rng.sample(NAMES[1:] if rng.random() < 0.3 else USUAL, rng.choice((1, 1, 2, 4)))]
    if rng.random() < 0.1:
        rng.shuffle(names)
    if rng.random() < 0.1:
        names[rng.randrange(len(names))] = rng.choice(NAMES)
    wild = rng.choice((0.0, 0.0, 0.1, 0.5))
    rows = []
    for k in range(rng.choice((0, 1, 2, 4, 8, 8, 12, 12))):
        usual = {"path": f"{CLIPS[k]}.wav", "genre": ("rock", "pop")[k % 2],
        "valence": f"{k / 9:.2f}", "id": f"id{k}",
                 "split": ("train", "val", "test")[k % 3]}  # fmt: skip
        rows.append([])
        for name in names:
            odd = rng.choice(PATHS if name.strip() == "path" else CELLS) if rng.random() < wild else None
            rows[-1].append(usual.get(name.strip(), "ab"[k % 2]) if odd is None else odd)
        if rng.random() < 0.02:
            rows[-1] = rows[-1][:-1] if rng.random() < 0.5 else [*rows[-1], "more"]
    return [names, *rows]


def text(rng: Random, cells: list[list[str]], mark: str, tame: bool) -> str:
    """Return rows as text, with quotes that are right where it is tame, else right, wrong or missing."""
    quote = rng.choice((lambda c: f'"{c.replace(chr(34), chr(34) * 2)}"' if set(c) & set(mark + '"\n\r') else c,
                        lambda c: f'"{c.replace(chr(34), chr(34) * 2)}"', lambda c: c,
                        lambda c: f"'{c}'"))  # fmt: skip
    if tame:
        return "\n".join(mark.join(f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in row) for row in cells)
    end = rng.choice(("\n", "\n", "\r\n", "\r", "\n\n"))
    first = rng.choice(("", "", "", "", "sep=,\n", "# a comment\n", "\n", "\ufeff"))
    return first + end.join(mark.join(map(quote, row)) for row in cells) + rng.choice(("", end))


def write(rng: Random, home: Path) -> tuple[str, str]:
    """Write a table; returns its name and what it is."""
    cells = grid(rng)
    kind = rng.choice(("csv", "csv", "csv", "tsv", "csv", "csv", "parquet", "parquet", "xlsx", "txt"))
    if kind == "parquet":
        data = _parquet(rng, cells)
        about = "parquet"
    else:
        mark = rng.choice(("\t" if kind == "tsv" else ",",) * 6 + (";", "|", " "))
        code = rng.choice(CODES)
        tame = rng.random() < 0.6  # so that what is behind the reading of text is reached
        if tame:
            mark, code = "\t" if kind == "tsv" else ",", rng.choice(("utf-8", "utf-8-sig"))
        data = text(rng, cells, mark, tame).encode(code, rng.choice(("replace", "xmlcharrefreplace")))
        about = f"{kind} {code} {mark!r}"
    if rng.random() < 0.15:
        data, done = damage(data, rng, data)
        about += f" {done}"
    name = rng.choice(("t", "t", "My clips", "é", "..a", "-x", "T" * 200)) + f".{kind}"
    (home / name).write_bytes(data)
    return name, about


def _parquet(rng: Random, cells: list[list[str]]) -> bytes:
    """Return a table of text columns, or of columns of another type."""
    import io

    columns: dict[str, Any] = {}
    size = max(len(cells) - 1, 0)
    for k, name in enumerate(cells[0]):
        column: list[Any] = [row[k] if k < len(row) else None for row in cells[1:]]
        if rng.random() < 0.2:
            column = rng.choice((
                [0.5] * size, [1] * size, [True, False] * size, [None] * size, [[1, 2]] * size, [{"a": 1}] * size,
                [pd.Timestamp("2024-01-01")] * size, [b"\xff\x00"] * size, [float("nan")] * size, [2**62] * size,
            ))[:size]  # fmt: skip
        columns[name] = column
    frame, file, chances = pd.DataFrame(columns), io.BytesIO(), (rng.random(), rng.random())
    try:
        if chances[0] < 0.3:
            frame = frame.set_index(str(rng.choice(list(frame.columns))))
        if chances[1] < 0.2:
            frame[frame.columns[-1]] = frame[frame.columns[-1]].astype("category")
        frame.to_parquet(file)
    except Exception:  # such types and names parquet has not
        file = io.BytesIO()
        pd.DataFrame({"path": ["a.wav", "b.wav"], "genre": ["a", "b"]}).to_parquet(file)
    return file.getvalue()


def options(rng: Random) -> dict[str, Any]:
    """Return settings of the source, most of them none."""
    made: dict[str, Any] = {}
    if rng.random() < 0.3:
        made["targets"] = rng.choice((
            {"genre": "label"}, {"valence": "scalar"}, {"valence": [0, 1]}, {"genre": "scalar"},
            {"none": "label"}, {}, {"path": "label"},
            {"valence": [1, 0]}, {"valence": [0]}, {"valence": ["a", None]}, {"genre": None},
            {"genre": {"a": 1}}, {"split": "label"},
            {"a.b": "label"}, {"type": "label"}, {"valence": [float("nan"), 1]}, {"genre": 3},
            {"id": "label", "group": "label"},
        ))  # fmt: skip
    if rng.random() < 0.2:
        made["classes"] = rng.choice((
            {"genre": {"a": ["rock"], "b": ["pop"]}}, {"genre": {"a": ["rock", "none"]}}, {"genre": {}},
            {"none": {"a": ["b"]}}, {},
            {"genre": {"a": [1], "b": 2}}, {"genre": {"a": ["rock"], "b": ["rock"]}}, {"genre": None},
            {"genre": {1: [None]}},
            {"valence": {"a": ["0.00"]}}, {"genre": {"": [""]}}, {"genre": "rock"}, {"genre": {"a": {"b": "c"}}},
        ))  # fmt: skip
    if rng.random() < 0.2:
        made["name"] = rng.choice(TEXTS[:-1])
    if rng.random() < 0.2:
        made["audio"] = rng.choice((".", "inputs", "none", "inputs/a.wav", "/", "~", "~nosuch", "", "é", "a\x00"))
    if rng.random() < 0.2:
        made["missing"] = rng.choice((["NA"], [], [""], "NA", [1], None, ["rock", "pop"], [None]))
    return made


def fill(made: Room, clip: Path) -> Path:
    """Put four clips and some names that are no files where tables have their paths from."""
    import os

    home = made.work / "inputs"
    (home / "folder").mkdir(parents=True)
    for name in CLIPS:
        shutil.copyfile(clip, home / f"{name}.wav")
    (home / "link.wav").symlink_to(made.top / "above.txt")
    os.mkfifo(home / "pipe.wav")
    return home


def one(seed: int, clip: Path, top: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, list[str]]:
    """Try one table, read as a collection or packed by prepare."""
    rng = Random(f"tables {seed}")
    with room(monkeypatch, top) as made:
        home = fill(made, clip)
        name, about = write(rng, home)
        if (seed >= DAILY and rng.random() < 0.25) or seed == DAILY - 1:
            if name.startswith("-"):
                name = "./" + name
            words = ["source=table", f"table=inputs/{name}", "workers=1", "data.packs=outputs", "data.max_skipped=1"]
            return f"prepare {about}", faults(made, lambda: prepare.main(words), [made.work / "outputs"])
        said = options(rng)
        return f"{about} {said}", faults(made, lambda: int(collection(f"inputs/{name}", **said) is None))


@pytest.mark.parametrize("chunk", seeds(default=DAILY, full=800, chunk=50))
def test_table_ends_in_a_sentence(
    chunk: Sequence[int], clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    assert_none("tables", {seed: one(seed, clip, tmp_path / str(seed), monkeypatch) for seed in chunk})
