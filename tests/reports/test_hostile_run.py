"""Tests of pages of a run folder by another user, with hostile names and links to other files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.commands import compare, maps
from tests.hostile import NAMES, assert_harmless
from tests.synthetic_runs import curves, record

from etude.reports import worst_errors
from etude.reports.run_report import write_report
from etude.runs.folder import RunFolder, write_metrics

CLASSES, LABEL, SCALAR = sorted(NAMES[:4]), NAMES[1] + ".", NAMES[7]
PIXEL = bytes.fromhex("89504e470d0a1a0a0000000d4948445200000001000000010806000000")


def name(k: int) -> str:
    return NAMES[k % len(NAMES)]


def hostile(value: Any, count: list[int] | None = None) -> Any:
    """Replace every text in nested data by a hostile name, and every key of a mapping of names."""
    count = [0] if count is None else count
    if isinstance(value, dict):
        return {key: hostile(item, count) for key, item in value.items()}
    if isinstance(value, list):
        return [hostile(item, count) for item in value]
    if isinstance(value, str):
        count[0] += 1
        return name(count[0])
    return value


def predictions(clips: int = 48) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    chances = rng.dirichlet([1.0] * 4, clips)
    table = pd.DataFrame({
        "id": [f"{name(k)}{k // len(NAMES) or ''}" for k in range(clips)],
        "group": [name(k % 8) for k in range(clips)], "split": ["test" if k % 8 < 5 else "val" for k in range(clips)],
        f"{LABEL}.true": [CLASSES[k % 4] for k in range(clips)],
        f"{LABEL}.pred": [CLASSES[k] for k in chances.argmax(1)],
        f"{LABEL}.baseline.constant": CLASSES[0], f"{LABEL}.baseline.linear": CLASSES[1],
        f"{SCALAR}.true": rng.random(clips), f"{SCALAR}.pred": rng.random(clips),
        f"{SCALAR}.baseline.constant": 0.5, f"{SCALAR}.baseline.linear": rng.random(clips),
    })  # fmt: skip
    for k, class_name in enumerate(CLASSES):
        table[f"{LABEL}.score.{class_name}"] = chances[:, k]
    table["embedding"] = list(rng.normal(size=(clips, 6)).astype(np.float32))
    return table


def write_errors(folder: Path, table: pd.DataFrame) -> None:
    """Write images and audio of errors with hostile texts."""
    (folder / "errors").mkdir()
    clips = []
    for k, clip in enumerate(table["id"]):
        (folder / "errors" / f"{k}.png").write_bytes(PIXEL)
        (folder / "errors" / f"{k}.ogg").write_bytes(b"OggS")
        credit = {
            key: name(k + n) for n, key in enumerate(("title", "artist", "licence", "package", "version", "source"))
        }
        entry = {"length": 40, "picture": f"{k}.png", "audio": f"{k}.ogg", "excerpt_seconds": 1, "seconds": 9}
        entry["why"] = name(k)
        clips.append({"id": clip, "credit": credit, "encoded": True, **entry})
    scale = {"sound": True, "rate": 20.0, "bins": 8, "limits": [-80, 0], "hertz": [[k, name(k)] for k in range(7)]}
    (folder / "errors" / "index.json").write_text(json.dumps(scale | {"clips": clips}), encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with hostile names in every text of its files."""
    folder = tmp_path_factory.mktemp("runs") / NAMES[5].replace("/", "")
    folder.mkdir()
    table = predictions()
    table.to_parquet(folder / "predictions.parquet")
    label = {"kind": "label", "classes": CLASSES, "note": name(4)}
    scalar = {"kind": "scalar", "low": 0.0, "high": 1.0, "note": name(6)}
    content = hostile(record())
    content["started"] = "2026-11-22T14:03:11+00:00"
    content["data"] |= {
        "licences": dict.fromkeys(NAMES, 3),
        "splits": {text: {"clips": 3, "groups": 2} for text in NAMES},
        "card": "\n\n".join(f"# {text}\n\n- {text}\n\n| {text} |\n|---|\n| {text} |\n\n{text}" for text in NAMES),
    }
    content |= {"targets": {LABEL: label, SCALAR: scalar}, "versions": {text: text for text in NAMES}, "trial": name(3)}
    (folder / "record.json").write_text(json.dumps(content), encoding="utf-8")
    config = {"backbone": {"name": name(0)}, "feature": {"name": name(1)}, "seed": 1, **{text: text for text in NAMES}}
    (folder / "config.yaml").write_text(json.dumps(config, indent=1), encoding="utf-8")
    curves().rename(columns={"val/genre/macro_f1": f"val/{LABEL}/macro_f1"}).to_csv(folder / "curves.csv", index=False)
    write_errors(folder, table)
    write_metrics(RunFolder(folder))
    return folder


def test_report_escapes_names(folder: Path) -> None:
    page = assert_harmless(write_report(RunFolder(folder)).read_text("utf-8"), scripts=0)
    text = "".join(data for _, data in page.data)
    assert all(" ".join(hostile_name.split()) in " ".join(text.split()) for hostile_name in NAMES)


def test_report_does_not_read_linked_config_outside_of_run(folder: Path, tmp_path: Path) -> None:
    run = shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "private.txt").write_text("private text", encoding="utf-8")
    (run / "config.yaml").unlink()
    (run / "config.yaml").symlink_to(tmp_path / "private.txt")
    page = write_report(RunFolder(run)).read_text("utf-8")
    assert "private text" not in page and "The run has no config.yaml" in page


def test_comparison_escapes_names(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare([str(folder), f"--out={tmp_path}"]) == 0
    capsys.readouterr()
    assert_harmless((tmp_path / "compare.html").read_text("utf-8"), scripts=1)
    assert_harmless((tmp_path / "curves.html").read_text("utf-8"), scripts=0)
    text = (tmp_path / "compare.md").read_text("utf-8")
    assert "<" not in text.replace("&lt;", "") and "](javascript" not in text.replace(r"\]", "")
    lines = (tmp_path / "compare.tex").read_text("utf-8").splitlines()
    assert not [line for line in lines if "evil()" in line and line.startswith("<")]


def test_maps_escape_names(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert maps([str(folder), "--methods=pca", "--dims=2", f"--out={tmp_path}"]) == 0
    capsys.readouterr()
    page = next(tmp_path.glob("*.html")).read_text("utf-8")
    assert_harmless(page, scripts=3)


@pytest.mark.parametrize(
    "path",
    ["../../private.png", "{home}/private.png", "link.png", "hidden/link.png", "..", "", "folder.png", "loop.png"],
)
@pytest.mark.parametrize("kind", ["picture", "audio"])
def test_files_outside_of_a_run_are_not_embedded(folder: Path, tmp_path: Path, path: str, kind: str) -> None:
    (tmp_path / "private.png").write_bytes(b"private")
    run = tmp_path / "runs" / "run"
    (run / "errors" / "folder.png").mkdir(parents=True)
    (run / "errors" / "hidden").mkdir()
    (run / "errors" / "link.png").symlink_to(tmp_path / "private.png")
    (run / "errors" / "hidden" / "link.png").symlink_to(tmp_path / "private.png")
    (run / "errors" / "loop.png").symlink_to("loop.png")
    clip = {"id": "clip", "length": 4, kind: path.format(home=tmp_path)}
    index = {"sound": True, "rate": 2.0, "bins": 8, "limits": [-80, 0], "hertz": [], "clips": [clip]}
    (run / "errors" / "index.json").write_text(json.dumps(index), encoding="utf-8")
    saved = RunFolder(run).read_worst_errors()
    sections = [{"worst_errors": {"rows": [["clip", "group", "a", "b", 0.5]]}}]
    worst_errors.add_error_cards(RunFolder(run), saved, sections, 10_000)
    cards = [card for section in sections for card in section["cards"]]
    assert not any(card["svg"] or card["audio"] for card in cards)
    assert saved["fault"] or path in ("", "folder.png", "loop.png")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("length", "long"),
        ("excerpt_seconds", [1]),
        ("seconds", {}),
        ("credit", "me"),
        ("hertz", [[1]]),
        ("rate", 0),
        ("bins", None),
    ],
)
def test_malformed_list_of_errors_gives_one_sentence(tmp_path: Path, key: str, value: Any) -> None:
    (tmp_path / "errors").mkdir()
    (tmp_path / "errors" / "0.png").write_bytes(PIXEL)
    clip = {"id": "clip", "length": 4, "picture": "0.png"}
    index = {"sound": True, "rate": 2.0, "bins": 8, "limits": [-80, 0], "hertz": []}
    (clip if key in ("length", "excerpt_seconds", "seconds", "credit") else index)[key] = value
    (tmp_path / "errors" / "index.json").write_text(json.dumps(index | {"clips": [clip]}), encoding="utf-8")
    saved = RunFolder(tmp_path).read_worst_errors()
    assert not saved["clips"] and "errors/index.json cannot be read" in saved["fault"]
