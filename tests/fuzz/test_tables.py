"""Fuzz test of tables with errors of quotes, encodings, names and values in the `table` source and `prepare`."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
import pytest
from tests.commands import prepare
from tests.fuzz.harness import Sandbox, assert_no_violations, find_violations, open_sandbox, seed_chunks
from tests.fuzz.mutations import TEXTS, damage

from etude.config.overrides import quote_value
from etude.data.sources.table import collection

DEFAULT_SEEDS = 60  # number of seeds in the default suite, of which only the last runs a command
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
ENCODINGS = (
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


def draw_cells(rng: Random) -> list[list[str]]:
    """Return a header and rows, most of which are valid."""
    names = ["path", *rng.sample(NAMES[1:] if rng.random() < 0.3 else USUAL, rng.choice((1, 1, 2, 4)))]
    if rng.random() < 0.1:
        rng.shuffle(names)
    if rng.random() < 0.1:
        names[rng.randrange(len(names))] = rng.choice(NAMES)
    odd_share = rng.choice((0.0, 0.0, 0.1, 0.5))
    rows = []
    for k in range(rng.choice((0, 1, 2, 4, 8, 8, 12, 12))):
        usual = {"path": f"{CLIPS[k]}.wav", "genre": ("rock", "pop")[k % 2],
        "valence": f"{k / 9:.2f}", "id": f"id{k}",
                 "split": ("train", "val", "test")[k % 3]}  # fmt: skip
        rows.append([])
        for name in names:
            odd = rng.choice(PATHS if name.strip() == "path" else CELLS) if rng.random() < odd_share else None
            rows[-1].append(usual.get(name.strip(), "ab"[k % 2]) if odd is None else odd)
        if rng.random() < 0.02:
            rows[-1] = rows[-1][:-1] if rng.random() < 0.5 else [*rows[-1], "more"]
    return [names, *rows]


def format_text(rng: Random, cells: list[list[str]], separator: str, valid: bool) -> str:
    """Return rows as text. If `valid` is false, quotes may be wrong or missing."""
    quote = rng.choice((lambda c: f'"{c.replace(chr(34), chr(34) * 2)}"' if set(c) & set(separator + '"\n\r') else c,
                        lambda c: f'"{c.replace(chr(34), chr(34) * 2)}"', lambda c: c,
                        lambda c: f"'{c}'"))  # fmt: skip
    if valid:
        return "\n".join(separator.join(f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in row) for row in cells)
    end = rng.choice(("\n", "\n", "\r\n", "\r", "\n\n"))
    first = rng.choice(("", "", "", "", "sep=,\n", "# a comment\n", "\n", "\ufeff"))
    return first + end.join(separator.join(map(quote, row)) for row in cells) + rng.choice(("", end))


def write_table(rng: Random, folder: Path) -> tuple[str, str]:
    """Write a table and return its file name and a description."""
    cells = draw_cells(rng)
    kind = rng.choice(("csv", "csv", "csv", "tsv", "csv", "csv", "parquet", "parquet", "xlsx", "txt"))
    if kind == "parquet":
        data = _format_parquet(rng, cells)
        description = "parquet"
    else:
        separator = rng.choice(("\t" if kind == "tsv" else ",",) * 6 + (";", "|", " "))
        encoding = rng.choice(ENCODINGS)
        valid = rng.random() < 0.6  # valid text reaches the code after the parser
        if valid:
            separator, encoding = "\t" if kind == "tsv" else ",", rng.choice(("utf-8", "utf-8-sig"))
        text = format_text(rng, cells, separator, valid)
        data = text.encode(encoding, rng.choice(("replace", "xmlcharrefreplace")))
        description = f"{kind} {encoding} {separator!r}"
    if rng.random() < 0.15:
        data, damage_description = damage(data, rng, data)
        description += f" {damage_description}"
    name = rng.choice(("t", "t", "My clips", "é", "..a", "-x", "T" * 200)) + f".{kind}"
    (folder / name).write_bytes(data)
    return name, description


def _format_parquet(rng: Random, cells: list[list[str]]) -> bytes:
    """Return a Parquet table of text columns, some of them replaced by columns of other types."""
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
    frame, file, drawn = pd.DataFrame(columns), io.BytesIO(), (rng.random(), rng.random())
    try:
        if drawn[0] < 0.3:
            frame = frame.set_index(str(rng.choice(list(frame.columns))))
        if drawn[1] < 0.2:
            frame[frame.columns[-1]] = frame[frame.columns[-1]].astype("category")
        frame.to_parquet(file)
    except Exception:  # Parquet does not support these types or names
        file = io.BytesIO()
        pd.DataFrame({"path": ["a.wav", "b.wav"], "genre": ["a", "b"]}).to_parquet(file)
    return file.getvalue()


def draw_options(rng: Random) -> dict[str, Any]:
    """Return options of the source, often none."""
    options: dict[str, Any] = {}
    if rng.random() < 0.3:
        options["targets"] = rng.choice((
            {"genre": "label"}, {"valence": "scalar"}, {"valence": [0, 1]}, {"genre": "scalar"},
            {"none": "label"}, {}, {"path": "label"},
            {"valence": [1, 0]}, {"valence": [0]}, {"valence": ["a", None]}, {"genre": None},
            {"genre": {"a": 1}}, {"split": "label"},
            {"a.b": "label"}, {"type": "label"}, {"valence": [float("nan"), 1]}, {"genre": 3},
            {"id": "label", "group": "label"},
        ))  # fmt: skip
    if rng.random() < 0.2:
        options["classes"] = rng.choice((
            {"genre": {"a": ["rock"], "b": ["pop"]}}, {"genre": {"a": ["rock", "none"]}}, {"genre": {}},
            {"none": {"a": ["b"]}}, {},
            {"genre": {"a": [1], "b": 2}}, {"genre": {"a": ["rock"], "b": ["rock"]}}, {"genre": None},
            {"genre": {1: [None]}},
            {"valence": {"a": ["0.00"]}}, {"genre": {"": [""]}}, {"genre": "rock"}, {"genre": {"a": {"b": "c"}}},
        ))  # fmt: skip
    if rng.random() < 0.2:
        options["name"] = rng.choice(TEXTS[:-1])
    if rng.random() < 0.2:
        options["audio"] = rng.choice((".", "inputs", "none", "inputs/a.wav", "/", "~", "~nosuch", "", "é", "a\x00"))
    if rng.random() < 0.2:
        options["missing"] = rng.choice((["NA"], [], [""], "NA", [1], None, ["rock", "pop"], [None]))
    return options


def create_inputs(sandbox: Sandbox, clip: Path) -> Path:
    """Create a folder of audio files, with a link, a named pipe and a folder, and return its path."""
    import os

    folder = sandbox.work / "inputs"
    (folder / "folder").mkdir(parents=True)
    for name in CLIPS:
        shutil.copyfile(clip, folder / f"{name}.wav")
    (folder / "link.wav").symlink_to(sandbox.top / "above.txt")
    os.mkfifo(folder / "pipe.wav")
    return folder


def check_seed(seed: int, clip: Path, top: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, list[str]]:
    """Check one table in the source or in `prepare`.

    Returns:
        Description of the table, and the violations.
    """
    rng = Random(f"tables {seed}")
    with open_sandbox(monkeypatch, top) as sandbox:
        name, description = write_table(rng, create_inputs(sandbox, clip))
        if (seed >= DEFAULT_SEEDS and rng.random() < 0.25) or seed == DEFAULT_SEEDS - 1:
            if name.startswith("-"):
                name = "./" + name
            options = [
                "data=table",
                f"data.source.table={quote_value(f'inputs/{name}', 'str')}",
                "--workers=1",
                "data.packs=outputs",
                "data.max_skipped=1",
            ]
            violations = find_violations(sandbox, lambda: prepare(options), [sandbox.work / "outputs"])
            return f"prepare {description}", violations
        source = draw_options(rng)
        violations = find_violations(sandbox, lambda: int(collection(f"inputs/{name}", **source) is None))
        return f"{description} {source}", violations


@pytest.mark.parametrize("chunk", seed_chunks(default=DEFAULT_SEEDS, full=800, chunk=50))
def test_invalid_table_gives_a_message(
    chunk: Sequence[int], clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    results = {seed: check_seed(seed, clip, tmp_path / str(seed), monkeypatch) for seed in chunk}
    assert_no_violations("tables", results)
