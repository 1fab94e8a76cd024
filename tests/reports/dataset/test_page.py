"""Tests of the dataset page of a small collection."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from scipy.stats import spearmanr
from tests.commands import explore as main
from tests.reports.dataset.conftest import HOSTILE_GROUP, HOSTILE_ID, SECONDS
from tests.reports.dataset.dataset_page import DatasetPage, Explored, explore

from etude.reports.dataset.page import list_findings
from etude.reports.dataset.statistics import SplitAssignment, _compare_clips

pytestmark = pytest.mark.xdist_group("dataset")  # which share the page of a collection

EXAMPLES = ("figure-1-mel.png", "figure-2-beat-mel.png", "figure-3-chroma.png", "figure-4-beat-chroma.png")


def test_counts_match_table(explored: Explored, truth: pd.DataFrame) -> None:
    page, facts, _ = explored
    assert facts["data"]["clips"] == len(truth) == 10
    assert facts["data"]["groups"] == truth["group"].nunique()
    counts = pd.crosstab(truth["genre"], truth["split"])
    rows = {row[0]: row for row in page.tables["genre: clips of each class"][1:]}
    for row in facts["labels"]["genre"]["classes"]:
        clips = truth[truth["genre"] == row["class"]]
        assert row["clips"] == len(clips) and row["groups"] == clips["group"].nunique()
        assert row["splits"] == {split: counts.loc[row["class"], split] for split in ("train", "val", "test")}
        cells = [len(clips), f"{100 * len(clips) / 10:.0f} %", *row["splits"].values(), row["groups"]]
        assert rows[row["class"]] == [row["class"], *map(str, cells)]
    for split, size in facts["splits"].items():
        clips = truth[truth["split"] == split]
        assert size == {"clips": len(clips), "groups": clips["group"].nunique()}


def test_classes_before_merging_are_counted(explored: Explored, home: Path) -> None:
    page, facts, _ = explored
    before = pd.read_csv(home / "clips.csv")["genre"].value_counts().to_dict()
    assert facts["labels"]["genre"]["before_merging"] == before
    rows = page.tables["genre: clips of each class before merging"][1:]
    assert {name: int(count) for name, count in rows} == before
    assert "Before merging" in page.text and "After merging" in page.text
    merged = {"metal": "loud", "electronic": "loud", "orchestral": "calm"}
    assert facts["labels"]["genre"]["merged_into"] == merged


def test_example_figures_show_two_clips_with_and_without_beats(explored: Explored) -> None:
    page, _, folder = explored
    for number, name in enumerate(EXAMPLES, 1):
        assert f"Figure {number}." in page.text and f"File: {name}." in page.text
        assert (folder / name).stat().st_size > 5000
    ids = [str(attrs.get("id")) for _, attrs in page.tags]
    assert ids.count("examples") == 1 and len([name for name in ids if re.fullmatch(r"figure-\d", name)]) == 4


def test_scalar_statistics_match_numpy_and_scipy(explored: Explored, truth: pd.DataFrame) -> None:
    page, facts, _ = explored
    for name, scalar in facts["scalars"].items():
        values = truth[name].dropna()
        assert scalar["counts"] == np.histogram(values, 20, (0, 1))[0].tolist()
        expected = [values.mean(), values.std(), values.min(), values.median(), values.max()]
        assert [scalar[key] for key in ("mean", "sd", "min", "median", "max")] == pytest.approx(expected)
        assert (scalar["n"], scalar["missing"]) == (len(values), len(truth) - len(values))
    both = truth.dropna(subset=["valence", "energy"])
    rho = spearmanr(both["valence"], both["energy"]).statistic
    values = [float(value) for value in page.values["Spearman correlations"]]
    assert values == pytest.approx([1, rho, rho, 1])
    assert [[cell["n"] for cell in row] for row in facts["correlations"]] == [[9, 9], [9, 10]]
    by_class = truth.groupby("genre")["valence"].agg(["mean", "std", "count"])
    for row in facts["by_class"]["genre"]:
        cell = row["scalars"][0]
        assert [cell["mean"], cell["sd"], cell["n"]] == pytest.approx(by_class.loc[row["class"]].tolist())


def test_loudness_and_length_match_audio_files(explored: Explored, truth: pd.DataFrame, home: Path) -> None:
    page, facts, _ = explored
    signals = [soundfile.read(home / "wavs" / path)[0] for path in truth["path"]]
    levels = [10 * np.log10(np.mean(signal**2)) for signal in signals]
    loudness = facts["loudness"]
    expected = [10, np.mean(levels), np.max(levels)]
    assert [loudness["n"], loudness["mean"], loudness["max"]] == pytest.approx(expected, abs=1e-3)
    assert loudness["counts"] == np.histogram(levels, loudness["edges"])[0].tolist()
    assert facts["lengths"]["mean"] == pytest.approx(SECONDS, abs=0.03)
    assert "Length: all 10 clips have 4.02 s." in page.text


def test_only_copies_are_reported_as_duplicates(explored: Explored, truth: pd.DataFrame) -> None:
    page, facts, _ = explored
    third, fourth = truth["id"][2], truth["id"][3]
    assert [(row["ids"], row["splits"]) for row in facts["identical"]] == [([third, "copy"], ["val", "train"])]
    (pair,) = facts["similar"]["pairs"]
    assert pair["ids"] == [fourth, "noisy"] and pair["splits"] == ["test", "train"]
    assert pair["crosses_splits"] and pair["offset"] == 0 and pair["correlation"] > 0.95
    assert f"1 recording has several ids: {third} = copy. It is in several splits." in page.text
    assert f"1 pair of clips is nearly identical across splits: {fourth} – noisy." in page.text
    assert page.text.count("different splits") == 2


def test_shared_groups_and_repeated_names_are_reported(explored: Explored, truth: pd.DataFrame) -> None:
    page, facts, _ = explored
    n_splits = truth.groupby("group")["split"].nunique()
    assert [row["group"] for row in facts["shared_groups"]] == sorted(n_splits[n_splits > 1].index)
    assert f"{(n_splits > 1).sum()} groups are in several splits" in page.text
    assert facts["repeated_names"] == [{"name": "3.wav", "ids": [truth["id"][3], "noisy"]}]
    assert "1 file name occurs more than once: 3.wav (2 times)." in page.text
    assert facts["skipped"][0][0] == "broken" and "broken" in page.tables["Skipped clips"][1]


def test_refused_split_is_shown_with_its_reason(explored: Explored) -> None:
    page, facts, _ = explored
    assert "The split is refused. The same audio has two ids" in page.text
    assert "This page shows splits that allow shared groups and duplicates." in page.text
    assert set(facts["splits"]) == {"train", "val", "test"}
    assert facts["split_method"]["kind"] == "official"
    assert "The splits are official, from the column split." in page.text


def test_names_from_data_are_escaped(explored: Explored) -> None:
    page, _, _ = explored
    assert HOSTILE_ID in page.text and HOSTILE_GROUP in page.text
    assert not {"script", "i"} & {tag for tag, _ in page.tags}


def test_page_is_small_and_loads_nothing_from_a_network(explored: Explored) -> None:
    page, _, folder = explored
    for tag, attrs in page.tags:
        assert tag not in {"script", "link", "iframe", "img"}
        for key in ("src", "href", "xlink:href", "srcset", "action"):
            assert attrs.get(key, "#").startswith(("#", "data:image/png;base64,")), (tag, attrs)
    assert not re.search(r"@import|url\((?!#)", "".join(page.texts))
    assert (folder / "explore.html").stat().st_size < 2e6
    names = {"clip-1.png", "clip-2.png", "figure-label-1.png", "figure-label-1-before.png", "figure-loudness.png"}
    names |= {*EXAMPLES, "figure-scalar-1.png", "figure-scalar-2.png"}
    assert names == {path.name for path in folder.glob("*.png")}


def test_page_is_accessible(explored: Explored) -> None:
    page, _, _ = explored
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for tag, attrs in page.tags:
        if tag == "th":
            assert attrs["scope"] in {"col", "row"}
        if tag == "svg":
            assert attrs["role"] == "img" and attrs["aria-label"]
        if tag == "a":
            assert attrs["href"][1:] in ids
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_valid_split_has_no_leakage(home: Path, source_options: list[str]) -> None:
    split_options = ["data.split.kind=grouped", "data.split.duplicates=drop"]
    page, facts, _ = explore(home, *source_options, *split_options, "--count=2", "--seed=3", "feature.sync=beat")
    assert "refused" not in page.text and facts["split_error"] == ""
    assert facts["shared_groups"] == [] and "No group occurs in more than one split." in page.text
    assert facts["splits"]["none"]["clips"] == 1
    assert facts["split_method"]["unused"] == {"duplicate": 1} and "1 clip is not used (duplicate)." in page.text
    number = facts["split_method"]["partitions"]
    assert number > 0 and f"so values of data.split.seed repeat after {number}." in page.text
    assert facts["data"]["seconds"] is None and facts["lengths"]["unit"] == "beats"
    assert sum(facts["lengths"]["counts"]) == 10


def test_folder_without_groups_and_splits_has_a_page(home: Path, tmp_path: Path) -> None:
    for k, genre in enumerate(("slow", "fast", "fast", "slow", "odd", "odd")):
        (tmp_path / "music" / genre).mkdir(parents=True, exist_ok=True)
        (tmp_path / "music" / genre / f"{k}.wav").symlink_to(home / "wavs" / f"{k}.wav")
    classes = "data.source.classes={some: [slow, odd], fast: [fast]}"
    options = ["data=folder", f"data.source.path={tmp_path / 'music'}", classes, "data.split.kind=official"]
    assert main([*options, f"data.packs={tmp_path}", f"--out={tmp_path}", "--count=1"]) == 0
    facts = json.loads((tmp_path / "music" / "explore.json").read_text(encoding="utf-8"))
    page = DatasetPage((tmp_path / "music" / "explore.html").read_text(encoding="utf-8"))
    assert facts["labels"]["genre"]["before_merging"] == {"slow": 2, "fast": 2, "odd": 2}
    assert [(row["class"], row["clips"]) for row in facts["labels"]["genre"]["classes"]] == [("fast", 2), ("some", 4)]
    assert facts["splits"] == {} and "This page therefore shows no splits." in page.text
    assert "Groups are unknown" in page.text and "No two clips have identical frames." in page.text
    assert "No file name occurs more than once." in page.text


def test_pack_without_files_has_a_page(home: Path, explored: Explored, tmp_path: Path) -> None:
    (pack,) = (path.parent for path in (home / "packs").glob("clips-*/manifest.json")
               if json.loads(path.read_text("utf-8"))["bins"] == 140
               and json.loads(path.read_text("utf-8"))["origin"]["front"]["sync"] == "none")  # fmt: skip
    assert main(["data=pack", f"data.source.path={pack}", f"--out={tmp_path}", "--count=1"]) == 0
    page = DatasetPage((tmp_path / "clips" / "explore.html").read_text(encoding="utf-8"))
    assert "No frames by beat. The pack contains only frames by hop" in page.text
    assert "The loudness of these clips is unknown" in page.text
    assert "file names are not compared" in page.text


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--clips=noizy", "--clips noizy: there is no such clip; similar ids: noisy"),
        ("--clips=broken", "--clips broken: this clip was skipped"),
        ("--clips=,", "contains no clip id"),
        ("--count=0", "'--count': Input should be greater than or equal to 1"),
        ("--count=25", "'--count': Input should be less than or equal to 24"),
        ("--seed=x", "'--seed': Input should be a valid integer"),
        ("data.source.tabel=x", "data.source.tabel: no such config key; did you mean table?"),
        ("tabel=x", "tabel=x: is not an override for data or feature; an option of the source is data.source.tabel=x"),
        ("clips=noisy", "clips=noisy: options of etude explore have dashes; use --clips noisy"),
        ("nothing", "nothing: is not of the form name=value"),
        ("--out=/dev/null/x", "/dev/null/x: cannot be used"),
        ("data=nowhere", "data=nowhere: no such option; available: demo"),
    ],
)
def test_invalid_option_gives_error_message(
    option: str,
    message: str,
    home: Path,
    source_options: list[str],
    explored: Explored,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = [*source_options, "data.max_skipped=0.5", f"data.packs={home / 'packs'}", f"--out={home / 'out'}", option]
    assert main(options) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error


def test_help_imports_no_heavy_modules() -> None:
    code = "import sys; from etude.cli.app import run_command; run_command('explore', ['--help']); print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "--clips ID,ID" in out
    assert not {"torch", "matplotlib", "pandas", "numpy", "hydra"} & set(out.split())


def test_copies_in_two_official_folds_are_reported(explored: Explored) -> None:
    """Each fold is the test split once, although both folds are training now."""
    _, facts, _ = explored
    index = pd.DataFrame({"id": ["a", "b", "c"], "group": [None] * 3, "fold": ["1", "2", "2"], "genre": ["x"] * 3})
    method = {"kind": "official", "column": "fold", "fold": "3", "folds": ["1", "2", "3"]}
    split = SplitAssignment(np.array(["train"] * 3), method)
    rows = [_compare_clips(index, {"genre": {}}, rows, split) for rows in ([0, 1], [1, 2])]
    assert [row["crosses_splits"] for row in rows] == [True, False]
    pairs = [row | {"correlation": 1.0} for row in rows]
    changed = facts | {"split_method": method, "identical": rows, "similar": {"pairs": pairs, "closest": None}}
    text = " ".join(sentence for _, sentence in list_findings(changed))
    assert "2 recordings have several ids: a = b; b = c. 1 of them is in several official folds." in text
    assert "nearly identical across official folds: a – b." in text
    assert "nearly identical within one official fold: b – c." in text
