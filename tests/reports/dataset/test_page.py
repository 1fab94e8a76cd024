"""A look at a small collection: numbers are what pandas and scipy say, planted copies are found, names are text."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from scipy.stats import spearmanr

from etude.audio.beats import track_beats
from etude.audio.decode import decode
from etude.audio.log_mel import LogMelChroma
from etude.cli.explore import main
from etude.data.pack import Pack
from etude.data.sources import demo
from etude.reports import clip_frames, spectrogram
from etude.reports.clip_frames import ClipView, files, load_view
from etude.reports.dataset import leakage, pictures, statistics
from etude.reports.svg import colours

HOSTILE = "<script>alert('clip')</script>"
GROUP = "<i>Band & Söhne</i> $x$"
CLASSES = "classes={genre: {loud: [metal, electronic], calm: [orchestral]}}"
RATE, SECONDS = 22050, 4
PARTS = ("train", "train", "val", "test")
VOID = {"meta", "br", "link", "img", "hr", "input", "use", "path"}


class Page(HTMLParser):
    """What is in a page: tags with attributes, its text, and the rows of each labelled table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.words: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.values: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.table: str | None = None
        self.feed(text)
        assert self.open == [], "every tag is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.table = str(dict(attrs)["aria-label"])
            self.tables[self.table], self.values[self.table] = [], []
        elif self.table and tag == "tr":
            self.tables[self.table].append([])
        elif self.table and tag in ("th", "td"):
            self.tables[self.table][-1].append("")
        elif self.table and tag == "data":
            self.values[self.table].append(str(dict(attrs)["value"]))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open.pop() == tag
        if tag == "table":
            self.table = None

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.table and self.tables[self.table] and self.tables[self.table][-1]:
            self.tables[self.table][-1][-1] += " ".join(data.split())

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight clips of eight pieces, a copy of the third, the fourth with noise, and a file that is no sound."""
    home = tmp_path_factory.mktemp("music")
    table = demo.collection().table
    table["piece"] = table["id"].str.rsplit("__", n=1).str[0]
    table = table.drop_duplicates("piece")
    most = {"electronic": 3, "metal": 2, "orchestral": 3}
    table = pd.concat([one.drop_duplicates("group").head(most[genre]) for genre, one in table.groupby("genre")])
    (home / "wavs" / "again").mkdir(parents=True)
    rows, sounds = [], []
    for k, row in enumerate(table.to_dict("records")):
        sounds.append(decode(Path(row["path"]), RATE)[: SECONDS * RATE])
        soundfile.write(home / "wavs" / f"{k}.wav", sounds[-1], RATE)
        values = {key: row[key] for key in ("id", "group", "genre", "valence", "energy")}
        rows.append({**values, "path": f"{k}.wav", "split": PARTS[k % 4]})
    rows[0] |= {"id": HOSTILE, "group": GROUP}
    soundfile.write(home / "wavs" / "copy.wav", sounds[2], RATE)
    rows.append(rows[2] | {"id": "copy", "path": "copy.wav", "split": "train"})
    noise = 1e-3 * np.random.default_rng(0).standard_normal(len(sounds[3]))
    soundfile.write(home / "wavs" / "again" / "3.wav", sounds[3] + noise, RATE)
    rows.append(rows[3] | {"id": "noisy", "path": "again/3.wav", "split": "train", "valence": None})
    (home / "wavs" / "broken.wav").write_bytes(b"no sound")
    rows.append(rows[1] | {"id": "broken", "path": "broken.wav"})
    pd.DataFrame(rows).to_csv(home / "clips.csv", index=False)
    return home


def look(home: Path, *words: str) -> tuple[Page, dict[str, Any], Path]:
    shared = (f"data.packs={home / 'packs'}", f"out={home / 'out'}", "data.max_skipped=0.5", "workers=1")
    assert main([*shared, *words]) == 0
    folder = next((home / "out").glob("*/explore.html")).parent
    return Page((folder / "explore.html").read_text("utf-8")), json.loads((folder / "explore.json").read_text()), folder


@pytest.fixture(scope="module")
def table_words(home: Path) -> list[str]:
    return [
        "source=table",
        f"table={home / 'clips.csv'}",
        f"audio={home / 'wavs'}",
        CLASSES,
        "data.split.kind=official",
    ]


@pytest.fixture(scope="module")
def looked(home: Path, table_words: list[str]) -> tuple[Page, dict[str, Any], Path]:
    return look(home, *table_words, f"clips={HOSTILE},noisy")


@pytest.fixture(scope="module")
def truth(home: Path) -> pd.DataFrame:
    """The rows that can be read, with merged classes."""
    table = pd.read_csv(home / "clips.csv")
    table = table[table["id"] != "broken"].reset_index(drop=True)
    return table.assign(genre=table["genre"].map({"metal": "loud", "electronic": "loud", "orchestral": "calm"}))


def test_counts_are_those_of_the_table(looked: tuple[Page, dict[str, Any], Path], truth: pd.DataFrame) -> None:
    page, facts, _ = looked
    assert facts["data"]["clips"] == len(truth) == 10
    assert facts["data"]["groups"] == truth["group"].nunique()
    cross = pd.crosstab(truth["genre"], truth["split"])
    shown = {row[0]: row for row in page.tables["genre: clips of each class"][1:]}
    for row in facts["labels"]["genre"]["classes"]:
        here = truth[truth["genre"] == row["class"]]
        assert row["clips"] == len(here) and row["groups"] == here["group"].nunique()
        assert row["parts"] == {part: cross.loc[row["class"], part] for part in ("train", "val", "test")}
        cells = [len(here), f"{100 * len(here) / 10:.0f} %", *row["parts"].values(), row["groups"]]
        assert shown[row["class"]] == [row["class"], *map(str, cells)]
    for part, size in facts["parts"].items():
        here = truth[truth["split"] == part]
        assert size == {"clips": len(here), "groups": here["group"].nunique()}


def test_classes_before_merging_are_counted(looked: tuple[Page, dict[str, Any], Path], home: Path) -> None:
    page, facts, _ = looked
    before = pd.read_csv(home / "clips.csv")["genre"].value_counts().to_dict()
    assert facts["labels"]["genre"]["before"] == before
    rows = page.tables["genre: clips of each class before merging"][1:]
    assert {name: int(count) for name, count in rows} == before
    assert "Before merging" in page.text and "After merging" in page.text


def test_values_are_those_of_numpy_and_scipy(looked: tuple[Page, dict[str, Any], Path], truth: pd.DataFrame) -> None:
    page, facts, _ = looked
    for name, scalar in facts["scalars"].items():
        values = truth[name].dropna()
        assert scalar["counts"] == np.histogram(values, 20, (0, 1))[0].tolist()
        expected = [values.mean(), values.std(), values.min(), values.median(), values.max()]
        assert [scalar[key] for key in ("mean", "sd", "min", "median", "max")] == pytest.approx(expected)
        assert (scalar["n"], scalar["missing"]) == (len(values), len(truth) - len(values))
    both = truth.dropna(subset=["valence", "energy"])
    rho = spearmanr(both["valence"], both["energy"]).statistic
    shown = [float(value) for value in page.values["Spearman correlations"]]
    assert shown == pytest.approx([1, rho, rho, 1])
    assert [[cell["n"] for cell in row] for row in facts["correlations"]] == [[9, 9], [9, 10]]
    by_class = truth.groupby("genre")["valence"].agg(["mean", "std", "count"])
    for row in facts["by_class"]["genre"]:
        cell = row["scalars"][0]
        assert [cell["mean"], cell["sd"], cell["n"]] == pytest.approx(by_class.loc[row["class"]].tolist())


def test_loudness_and_length_are_those_of_the_files(
    looked: tuple[Page, dict[str, Any], Path], truth: pd.DataFrame, home: Path
) -> None:
    page, facts, _ = looked
    sounds = [soundfile.read(home / "wavs" / path)[0] for path in truth["path"]]
    levels = [10 * np.log10(np.mean(sound**2)) for sound in sounds]
    found = facts["loudness"]
    assert [found["n"], found["mean"], found["max"]] == pytest.approx([10, np.mean(levels), np.max(levels)], abs=1e-3)
    assert found["counts"] == np.histogram(levels, found["edges"])[0].tolist()
    assert facts["lengths"]["mean"] == pytest.approx(SECONDS, abs=0.03)
    assert "Length: all 10 clips have 4.02 s." in page.text


def test_the_planted_copies_are_found_and_nothing_else(
    looked: tuple[Page, dict[str, Any], Path], truth: pd.DataFrame
) -> None:
    page, facts, _ = looked
    third, fourth = truth["id"][2], truth["id"][3]
    assert [(row["ids"], row["parts"]) for row in facts["copies"]] == [([third, "copy"], ["val", "train"])]
    (pair,) = facts["alike"]["pairs"]
    assert pair["ids"] == [fourth, "noisy"] and pair["parts"] == ["test", "train"]
    assert pair["crosses"] and pair["offset"] == 0 and pair["correlation"] > 0.95
    assert f"1 sound stands under several ids: {third} = copy. It stands on two sides of the split." in page.text
    assert f"1 pair sounds almost alike across the split: {fourth} – noisy." in page.text
    assert page.text.count("crosses the split") == 2


def test_leaks_are_said(looked: tuple[Page, dict[str, Any], Path], truth: pd.DataFrame) -> None:
    page, facts, _ = looked
    two = truth.groupby("group")["split"].nunique()
    assert [row["group"] for row in facts["sides"]] == sorted(two[two > 1].index)
    assert f"{(two > 1).sum()} groups stand on two sides of the split" in page.text
    assert facts["names"] == [{"name": "3.wav", "ids": [truth["id"][3], "noisy"]}]
    assert "1 file name occurs more than once: 3.wav (2 times)." in page.text
    assert facts["skipped"][0][0] == "broken" and "broken" in page.tables["Skipped clips"][1]


def test_a_refused_split_is_shown_and_its_parts_all_the_same(looked: tuple[Page, dict[str, Any], Path]) -> None:
    page, facts, _ = looked
    assert "The split is refused. The same audio has two ids" in page.text
    assert "what the split would be if it were allowed" in page.text
    assert set(facts["parts"]) == {"train", "val", "test"}


def test_names_from_the_data_are_text(looked: tuple[Page, dict[str, Any], Path]) -> None:
    page, _, _ = looked
    assert HOSTILE in page.text and GROUP in page.text
    assert not {"script", "i"} & {tag for tag, _ in page.tags}


def test_asks_nothing_of_any_network_and_is_small(looked: tuple[Page, dict[str, Any], Path]) -> None:
    page, _, folder = looked
    for tag, attrs in page.tags:
        assert tag not in {"script", "link", "iframe", "img"}
        for key in ("src", "href", "xlink:href", "srcset", "action"):
            assert attrs.get(key, "#").startswith(("#", "data:image/png;base64,")), (tag, attrs)
    assert not re.search(r"@import|url\((?!#)", "".join(page.words))
    assert (folder / "explore.html").stat().st_size < 2e6
    assert {"clip-1.png", "clip-2.png", "figure-label-1.png", "figure-label-1-before.png", "figure-loudness.png",
            "figure-scalar-1.png", "figure-scalar-2.png"} == {path.name for path in folder.glob("*.png")}  # fmt: skip


def test_is_accessible(looked: tuple[Page, dict[str, Any], Path]) -> None:
    page, _, _ = looked
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


def test_without_leaks_nothing_is_claimed(home: Path, table_words: list[str]) -> None:
    allowed = ["data.split.kind=grouped", "data.split.duplicates=drop"]
    page, facts, _ = look(home, *table_words, *allowed, "count=2", "seed=3", "feature.sync=beat")
    assert "refused" not in page.text and facts["refusal"] == ""
    assert facts["sides"] == [] and "No group stands on two sides of the split." in page.text
    assert facts["parts"]["none"]["clips"] == 1
    assert facts["data"]["seconds"] is None and facts["lengths"]["unit"] == "beats"
    assert sum(facts["lengths"]["counts"]) == 10


def test_a_folder_without_groups_and_parts(home: Path, tmp_path: Path) -> None:
    for k, genre in enumerate(("slow", "fast", "fast", "slow", "odd", "odd")):
        (tmp_path / "music" / genre).mkdir(parents=True, exist_ok=True)
        (tmp_path / "music" / genre / f"{k}.wav").symlink_to(home / "wavs" / f"{k}.wav")
    words = ["source=folder", f"path={tmp_path / 'music'}", "classes={some: [slow, odd], fast: [fast]}", "count=1"]
    assert main([*words, f"data.packs={tmp_path}", f"out={tmp_path}", "data.split.kind=official"]) == 0
    facts = json.loads((tmp_path / "music" / "explore.json").read_text(encoding="utf-8"))
    page = Page((tmp_path / "music" / "explore.html").read_text(encoding="utf-8"))
    assert facts["labels"]["genre"]["before"] == {"slow": 2, "fast": 2, "odd": 2}
    assert [(row["class"], row["clips"]) for row in facts["labels"]["genre"]["classes"]] == [("fast", 2), ("some", 4)]
    assert facts["parts"] == {} and "So there are no parts on this page." in page.text
    assert "No groups are known" in page.text and "No audio occurs twice." in page.text
    assert "No file name occurs twice." in page.text


def test_a_pack_alone_shows_what_it_has(home: Path, looked: Any, tmp_path: Path) -> None:
    (pack,) = (path.parent for path in (home / "packs").glob("clips-*/manifest.json")
               if json.loads(path.read_text("utf-8"))["origin"]["front"]["sync"] == "none")  # fmt: skip
    assert main(["data=pack", f"path={pack}", f"out={tmp_path}", "count=1"]) == 0
    page = Page((tmp_path / "clips" / "explore.html").read_text(encoding="utf-8"))
    assert "No picture by the beat. The pack has frames by the hop only" in page.text
    assert "The loudness of these clips is not known" in page.text
    assert "file names are not compared" in page.text


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("clips=noizy", "clips=noizy: there is no such clip; near it are noisy"),
        ("clips=broken", "clips=broken: this clip was skipped"),
        ("clips=,", "names no clip"),
        ("count=0", "count=0: must be a whole number from 1 to 24"),
        ("seed=x", "seed=x: must be a whole number"),
        ("tabel=x", "tabel: this source has no such option; available: table"),
        ("nothing", "nothing: is not of the form name=value"),
        ("out=/dev/null/x", "/dev/null/x: cannot be used"),
        ("data=nowhere", "data=nowhere: no such option; there are demo"),
    ],
)
def test_bad_words_are_one_sentence(
    word: str, said: str, home: Path, table_words: list[str], looked: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*table_words, "data.max_skipped=0.5", f"data.packs={home / 'packs'}", f"out={home / 'out'}", word]
    assert main(words) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert said in error


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from etude.cli.explore import main; main(['--help']); print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "clips=<id,id,...>" in out
    assert not {"torch", "matplotlib", "pandas", "numpy", "hydra"} & set(out.split())


def test_random_clips_are_of_different_classes() -> None:
    index = pd.DataFrame({"id": range(20), "genre": ["a"] * 16 + ["b", "b", "c", None]})
    targets = {"genre": {"kind": "label", "classes": ["a", "b", "c"]}}
    for seed in range(5):
        rows = clip_frames.random_clips(index, targets, 5, seed)
        kinds = index["genre"][rows].tolist()
        assert sorted(kinds[:3]) == ["a", "b", "c"] and sorted(kinds[3:]) == ["a", "b"]
        assert rows == clip_frames.random_clips(index, targets, 5, seed)
    assert len(clip_frames.random_clips(index, targets, 99, 0)) == 20
    assert clip_frames.random_clips(index, {}, 5, 0) != clip_frames.random_clips(index, {}, 5, 1)


def test_an_offset_between_two_clips_is_found() -> None:
    rng = np.random.default_rng(0)
    whole = rng.normal(size=(400, 128)).cumsum(0)  # wanders, as the spectrum of a piece does
    x, y = leakage.shapes(whole[:300]), leakage.shapes(whole[90:])
    assert leakage.aligned(x, y) == (pytest.approx(1), 90)
    assert leakage.aligned(y, x) == (pytest.approx(1), -90)
    noisy = y + 0.3 * y.std() * rng.normal(size=y.shape)
    correlation, offset = leakage.aligned(x, noisy)
    pairs = np.stack([z - z.mean(0) for z in (x[90:], noisy[:210])]).reshape(2, -1)
    assert (correlation, offset) == (pytest.approx(np.corrcoef(pairs)[0, 1], abs=1e-4), 90)
    assert leakage.aligned(np.zeros((50, 16)), np.zeros((50, 16))) == (0.0, 0)


def test_neighbours_are_those_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    vectors = np.repeat(rng.normal(size=(10, 30)), 4, axis=0) + 0.3 * rng.normal(size=(40, 30))
    monkeypatch.setattr(leakage, "BLOCK", 7)
    unit = (vectors - vectors.mean(0)) / vectors.std(0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosine = unit @ unit.T - 2 * np.eye(40)
    near = np.argsort(-cosine, axis=1)[:, : leakage.NEAREST]
    expected = {(min(i, j), max(i, j)) for i in range(40) for j in near[i] if cosine[i, j] >= leakage.CLOSE}
    found = leakage.close_pairs(vectors)
    assert set(found) == expected and len(expected) >= 50
    assert all(value == pytest.approx(cosine[pair], abs=1e-5) for pair, value in found.items())
    assert leakage.close_pairs(vectors[:1]) == {}


def test_whole_numbers_fill_whole_bins() -> None:
    found = statistics.histogram(np.array([1.0, 1, 2, 9, np.nan]), 1, 9)
    assert found["edges"] == [k - 0.5 for k in range(1, 11)]
    assert found["counts"] == [2, 1, 0, 0, 0, 0, 0, 0, 1] and (found["n"], found["missing"]) == (4, 1)
    wide = statistics.histogram(np.arange(100.0), 0, 99)
    assert set(wide["counts"]) == {5}
    assert statistics.histogram(np.array([np.nan]), 0, 1)["mean"] is None


@pytest.mark.parametrize(("hertz", "pitch"), [(1000.0, "B"), (440.0, "A"), (4000.0, "B"), (277.18, "C♯")])
def test_a_tone_lies_at_its_tick(hertz: float, pitch: str) -> None:
    from matplotlib.figure import Figure

    front = LogMelChroma()
    tone = np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE).astype(np.float32)
    mel, chroma = np.split(front.frames(tone).mean(0), [front.n_mels])
    axes = Figure().add_subplot()
    spectrogram.pitches(axes, front, {"muted": "k"})
    both = [(axes.get_yticks(minor=minor), axes.get_yticklabels(minor=minor)) for minor in (False, True)]
    places = {text.get_text(): place for at, texts in both for place, text in zip(at, texts, strict=True)}
    assert places[pitch] == chroma.argmax() and len(places) == 12
    axes = Figure().add_subplot()
    spectrogram.hertz(axes, front, {})
    bands = {text.get_text(): place for place, text in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)}
    if f"{hertz:,.0f}" in bands:
        assert abs(bands[f"{hertz:,.0f}"] - mel.argmax()) <= 1


def test_bars_are_as_long_as_their_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    drawn: list[Any] = []
    monkeypatch.setattr(pictures, "picture", lambda draw, *_: drawn.append(draw) or "")
    parts = [{"train": 3, "val": 0, "test": 2}, {"train": 7, "val": 1, "test": 4}]
    rows = [{"class": f"${k}$", "clips": sum(one.values()), "parts": one} for k, one in enumerate(parts)]
    pictures.class_chart("genre", {"classes": rows}, tmp_path / "a.png")
    pictures.unmerged_class_chart("genre", {"few": 2, "many": 9}, tmp_path / "b.png")
    pictures.histogram_chart(
        "x",
        {"counts": [1, 0, 4], "edges": [0, 1, 2, 3], "mean": 1.5, "n": 5, "min": 0, "max": 3},
        "s",
        tmp_path / "c.png",
    )
    axes = [figure.axes[0] for figure in (Figure(), Figure(), Figure()) if drawn.pop(0)(figure, colours()) is None]
    assert [patch.get_width() for patch in axes[0].patches] == [3, 7, 0, 1, 2, 4]
    assert [text.get_text() for text in axes[0].texts] == ["5", "12"]
    assert [patch.get_width() for patch in axes[1].patches] == [9, 2]
    assert axes[2].patches[0].get_data().values.tolist() == [1, 0, 4]


def test_a_view_is_what_the_front_end_makes_of_the_sound() -> None:
    source, front = demo.collection(), LogMelChroma()
    clip, path = source.table["id"][0], Path(source.table["path"][0])
    shown = load_view(clip, 0, None, front, files(source))  # type: ignore[arg-type]  # no pack is read where there is sound
    audio = decode(path, front.rate)
    assert np.array_equal(shown.frames["none"], front.frames(audio))
    assert shown.beats is not None and np.array_equal(shown.beats, track_beats(audio, front) / front.frames_per_second)
    assert len(shown.frames["beat"]) == len(shown.beats) + 1 and shown.why == {}


def test_a_long_clip_is_shown_as_means() -> None:
    frames = np.arange(20.0).reshape(10, 2)
    assert np.array_equal(spectrogram.shrink(frames, 4), [[2, 3], [8, 9], [14, 15], [18, 19]])
    assert np.array_equal(spectrogram.shrink(frames, 10), frames)


def test_a_clip_without_frames_has_no_picture(tmp_path: Path) -> None:
    assert (
        spectrogram.drawing(ClipView({}, {"none": "gone"}), LogMelChroma(), tmp_path / "x.png", (-80, 0), 100, "x")
        == ""
    )
    assert not list(tmp_path.iterdir())


def test_one_clip_is_a_collection(home: Path, looked: Any) -> None:
    """Nothing is near a clip that is alone."""
    pack = Pack(next(path.parent for path in (home / "packs").glob("clips-*/manifest.json")))
    pack.index = pack.index.head(1)
    assert leakage.similar_pairs(pack, 128) == {"alike": [], "compared": 0, "closest": None}


def test_picture_of_many_classes_says_how_many_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MOST", 3)  # which is drawn sooner
    rows = [{"class": f"class {i:02d}", "clips": 2, "groups": 2, "parts": {}} for i in range(5)]
    drawing = pictures.class_chart("style", {"classes": rows}, tmp_path / "a.png")
    assert "Clips of each class of style, the first 3 of 5; the table has the numbers." in drawing
    assert "class 02" in drawing and "class 03" not in drawing
    before = pictures.unmerged_class_chart("style", {row["class"]: 2 for row in rows}, tmp_path / "b.png")
    assert "before classes were merged, the first 3 of 5" in before
    assert pictures.first_of(3) == ""
