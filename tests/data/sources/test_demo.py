"""Tests of the embedded clips."""

import csv
import importlib.util
import itertools
import re
import shutil
from pathlib import Path, PurePosixPath
from types import ModuleType

import numpy as np
import pytest
import soundfile

import etude

DEMO = Path(etude.__file__).parent / "data" / "demo"
TARGETS = ("valence", "energy", "danceability")
SOURCE = ("artist", "title", "licence", "package", "version", "source_path", "start")
COLUMNS = ["id", "path", "genre", "group", *TARGETS, *SOURCE]
Row = dict[str, str]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    with (DEMO / "clips.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def make_demo() -> ModuleType:
    path = Path(__file__).parents[3] / "scripts" / "make_demo.py"
    spec = importlib.util.spec_from_file_location("make_demo", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_table_has_each_clip_once(rows: list[Row]) -> None:
    assert list(rows[0]) == COLUMNS
    assert len(rows) == 196
    assert len({row["id"] for row in rows}) == len(rows)
    assert {row["path"] for row in rows} == {p.relative_to(DEMO).as_posix() for p in DEMO.rglob("*.ogg")}
    for row in rows:
        assert row["id"] == PurePosixPath(row["path"]).stem
        assert row["path"].split("/")[:2] == ["clips", row["genre"]]


def test_paths_stay_inside_folder(rows: list[Row]) -> None:
    for row in rows:
        path = PurePosixPath(row["path"])
        assert not path.is_absolute()
        assert ".." not in path.parts
        assert "\\" not in row["path"]
        assert (DEMO / path).resolve().is_relative_to(DEMO.resolve())


def test_every_clip_decodes(rows: list[Row]) -> None:
    for row in rows:
        audio, rate = soundfile.read(DEMO / row["path"], dtype="float32")
        assert (rate, audio.ndim) == (22050, 1), row["id"]
        assert len(audio) / rate == pytest.approx(10, abs=0.05), row["id"]
        assert np.isfinite(audio).all(), row["id"]
        assert np.abs(audio).max() > 0.05, row["id"]


def test_every_clip_is_attributed(rows: list[Row]) -> None:
    card = (DEMO / "CARD.md").read_text(encoding="utf-8")
    for row in rows:
        assert all(row[name].strip() for name in COLUMNS), row["id"]
        assert float(row["start"]) >= 0
    for column in ("licence", "artist", "package"):
        for value in {row[column] for row in rows}:
            assert value in card, f"the card does not name {column} {value}"


def test_card_counts_match_table(rows: list[Row]) -> None:
    card = (DEMO / "CARD.md").read_text(encoding="utf-8")
    for licence in {row["licence"] for row in rows}:
        count = sum(row["licence"] == licence for row in rows)
        assert re.search(rf"^\| {re.escape(licence)} \| {count} \|", card, re.MULTILINE), (licence, count)
    for genre, artist in {(row["genre"], row["artist"]) for row in rows}:
        count = sum((row["genre"], row["artist"]) == (genre, artist) for row in rows)
        line = next(line for line in card.splitlines() if line.startswith(f"| {genre} | {artist} |"))
        assert f"| {count} |" in line, line


def test_no_person_recording_or_title_is_in_two_groups(rows: list[Row]) -> None:
    def names(row: Row) -> set[str]:
        return {re.sub(r"\(.*?\)", "", name).strip().casefold() for name in row["artist"].split(" / ")}

    for a, b in itertools.combinations(rows, 2):
        shared = names(a) & names(b) or a["source_path"] == b["source_path"] or a["title"] == b["title"]
        assert not shared or a["group"] == b["group"], (a["id"], b["id"])
    freecol = {row["group"] for row in rows if "Grenborgen" in row["artist"]}
    assert len(freecol) == 1


def test_each_genre_can_be_split(rows: list[Row]) -> None:
    """Check that each genre has at least one group for each of training, validation and test."""
    for genre in {row["genre"] for row in rows}:
        assert len({row["group"] for row in rows if row["genre"] == genre}) >= 3, genre


def test_shared_people_join_groups(make_demo: ModuleType) -> None:
    base = {"package": "game", "title": "", "source_path": ""}
    credits = ["A / B (Game)", "C", "B / C", "D (Dee)", "D"]
    clips = [base | {"artist": a, "title": str(i), "source_path": str(i)} for i, a in enumerate(credits)]
    result = make_demo.groups(clips)
    assert result[0] == result[1] == result[2] == "a+b+c"
    assert result[3] == result[4] != result[0]


def test_recording_in_two_groups_is_refused(make_demo: ModuleType) -> None:
    clips = [{"package": "game", "title": str(i), "source_path": "same.ogg", "artist": a} for i, a in enumerate("AB")]
    with pytest.raises(ValueError, match="two groups"):
        make_demo.groups(clips)


def test_targets_are_in_range_and_vary(rows: list[Row]) -> None:
    values = np.array([[float(row[name]) for name in TARGETS] for row in rows])
    assert ((values >= 0) & (values <= 1)).all()
    assert ((values == 0) | (values == 1)).mean(axis=0).max() < 0.05
    assert values.std(axis=0).min() > 0.08


@pytest.mark.full
def test_stored_targets_match_clips(rows: list[Row], make_demo: ModuleType) -> None:
    sample = [next(row for row in rows if row["genre"] == genre) for genre in ("metal", "electronic", "orchestral")]
    for row in sample:
        values = make_demo.descriptors(make_demo.decode(DEMO / row["path"], 22050), 22050)
        for name in TARGETS:
            assert float(row[name]) == pytest.approx(values[name], abs=1e-3), (row["id"], name)


@pytest.mark.full
def test_script_rebuilds_table_and_detects_changes(rows: list[Row], make_demo: ModuleType, tmp_path: Path) -> None:
    row = rows[0]
    (tmp_path / row["path"]).parent.mkdir(parents=True)
    shutil.copy(DEMO / row["path"], tmp_path / row["path"])
    fresh = row | {"group": row["artist"]} | dict.fromkeys(TARGETS, "")
    table = tmp_path / "clips.csv"
    table.write_text(f"{','.join(COLUMNS)}\n{','.join(fresh.values())}\n", encoding="utf-8")

    assert make_demo.main([str(tmp_path), "--check"]) == 1
    assert make_demo.main([str(tmp_path)]) == 0
    assert make_demo.main([str(tmp_path), "--check"]) == 0
    with table.open(encoding="utf-8", newline="") as file:
        (rebuilt,) = csv.DictReader(file)
    assert {name: rebuilt[name] for name in TARGETS} == {name: row[name] for name in TARGETS}

    text = table.read_text(encoding="utf-8")
    table.write_text(text.replace(rebuilt["energy"], f"{float(rebuilt['energy']) + 0.002:.4f}"), encoding="utf-8")
    assert make_demo.main([str(tmp_path), "--check"]) == 1
