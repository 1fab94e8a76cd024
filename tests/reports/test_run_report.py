"""The page shows metrics.json's numbers, asks nothing of any network, and takes no string from a run for markup."""

import json
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from etude.cli.report import main
from etude.evaluation.formatting import METRIC_ORDER, format_number
from etude.evaluation.metrics import LOWER_IS_BETTER
from etude.reports import embedding_thumbnail
from etude.reports import html as markdown
from etude.reports.run_report import write_report
from etude.runs.folder import RunFolder
from etude.runs.results import write_metrics

VOID = {"meta", "br", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """What is in a page: tags with attributes, the text, ids, and the `data` values of each labelled table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.tables: dict[str, list[tuple[str, str]]] = {}
        self.open: list[str] = []
        self.table = self.value = None
        self.feed(text)
        assert self.open == [], "every tag is closed"

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.table = dict(attrs).get("aria-label")
        self.value = dict(attrs)["value"] if tag == "data" else None

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "table":
            self.table = None

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.value is not None:
            self.tables.setdefault(self.table, []).append((self.value, data))
            self.value = None

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))


def build(folder: Path) -> tuple[Page, dict]:
    write_metrics(RunFolder(folder))
    path = write_report(RunFolder(folder))
    assert path == folder / "report.html"
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return Page(path.read_text(encoding="utf-8")), metrics


@pytest.fixture(scope="module")
def page(run: Path) -> tuple[Page, dict]:
    return build(run)


@pytest.mark.parametrize(("split", "title"), [("test", "Test"), ("val", "Validation (optimistic)")])
def test_tables_hold_the_numbers_of_metrics_json(page, split: str, title: str) -> None:
    html, metrics = page
    for name, target in metrics["targets"].items():
        part = target["splits"][split]
        expected = []
        for metric in METRIC_ORDER[target["kind"]]:
            digits = 3 if metric in LOWER_IS_BETTER else 2
            scores = [part["scores"][metric]]
            for baseline in part["baselines"].values():
                scores += [baseline["scores"][metric], baseline["difference"][metric]]
            for score in scores:
                ends = ("value",) if score["low"] is None else ("value", "low", "high")
                expected += [("" if score[k] is None else str(score[k]), format_number(score[k], digits)) for k in ends]
        assert html.tables[f"{name}: {title}"] == expected


def test_classes_confusion_and_errors(page, table: pd.DataFrame) -> None:
    html, metrics = page
    part = metrics["targets"]["genre"]["splits"]["test"]
    shown = [value for value, _ in html.tables["genre: scores per class"]]
    for row in part["per_class"]:
        for key in ("precision", "recall", "f1") if row["predicted"] else ("recall", "f1"):
            assert shown.pop(0) == str(row[key])
    assert "never predicted" in html.text
    wrong = table[(table["split"] == "test") & (table["genre.true"] != table["genre.pred"])]
    surest = wrong[[c for c in table.columns if c.startswith("genre.score.")]].max(axis=1).sort_values(ascending=False)
    assert [float(v) for v, _ in html.tables["genre: most confident errors"]] == pytest.approx(list(surest[:10]))
    hits = sum(part["confusion"][i][i] for i in range(4))
    assert f"{hits} of {part['n']} clips are on the diagonal." in html.text


def test_asks_nothing_of_any_network(page) -> None:
    html, _ = page
    for tag, attrs in html.tags:
        assert tag not in {"script", "link", "iframe", "img"}
        for key in ("src", "href", "xlink:href", "srcset", "action"):
            assert attrs.get(key, "#").startswith(("#", "data:")), (tag, attrs)
    style = "".join(html.words)
    assert "@import" not in style and not re.search(r"url\((?!#)", style)


def test_strings_of_a_run_are_text(make_run, table: pd.DataFrame) -> None:
    hostile = "<script>alert('clip')</script>"
    sure = table.copy()
    here = sure["id"] == hostile
    sure.loc[here, ["genre.true", "genre.pred", "genre.score.rock", "group", "valence.pred"]] = [
        "folk",
        "rock",
        1,
        hostile,
        9,
    ]
    data = {"title": hostile, "card": hostile, "note": hostile}
    git = {"commit": hostile, "dirty": False}
    html, _ = build(make_run(table=sure, command=hostile, data=data, git=git))
    assert html.text.count(hostile) >= 6
    assert "script" not in {tag for tag, _ in html.tags}


def test_is_accessible(page) -> None:
    html, _ = page
    ids = [attrs["id"] for _, attrs in html.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for tag, attrs in html.tags:
        if tag == "th":
            assert attrs["scope"] in {"col", "row"}
        if tag == "svg":
            assert attrs.get("aria-hidden") or (attrs["role"] == "img" and attrs["aria-label"])
        if attrs.get("href", "").startswith("#"):
            assert attrs["href"][1:] in ids
    levels = [int(tag[1]) for tag, _ in html.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_says_what_was_run_and_on_what(page) -> None:
    html, _ = page
    for words in (
        "train.py backbone=ast task=multitask",
        "844e9d2c0ffee844e9d2c0ffee844e9d2c0ffee0 with changes that were not committed",
        "9f86d081884c7d659a2feaa0c55ad015",
        "60303ae22b998861",
        "5,512,345 parameters",
        "CC-BY-4.0 (120)",
        "8 min 33 s",
        "it chose the epoch, so it is optimistic",
        "Few groups. The intervals come from only 6 groups",
        "depth: 4",
    ):
        assert words in html.text, words
    assert (
        html.text.count("omputed from the signal, not rated by listeners.") == 6
    )  # in brief and in its section, for three targets


def test_a_validation_that_chose_nothing_is_not_called_optimistic(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    known = json.loads((copy / "record.json").read_text(encoding="utf-8"))
    known["model"] |= {"monitor": None, "best_score": None, "best_epoch": 12}
    (copy / "record.json").write_text(json.dumps(known), encoding="utf-8")
    html, _ = build(copy)
    assert "Validation: in this run it chose nothing" in html.text
    assert "12 epochs; the weights of epoch 12 predict" in html.text
    assert "optimistic" not in html.text and "best by" not in html.text


def test_figures_take_the_colours_of_the_page(run: Path, page) -> None:
    drawings = re.findall(r"<svg.*?</svg>", (run / "report.html").read_text(encoding="utf-8"), flags=re.DOTALL)
    named = [svg for svg in drawings if "aria-hidden" not in svg]
    # forest, reliability twice, of each scalar a scatter and residuals twice, three curves, and two maps
    assert len(named) == 1 + 2 + 3 * 3 + 3 + 2
    for svg in drawings:
        assert "var(--" in svg and not re.search(r"#[0-9a-f]{6}", svg) and "font-family" not in svg


def test_calibration_and_residuals_are_those_of_metrics_json(page) -> None:
    html, metrics = page
    kinds = {
        "label": ("calibration", ("nll", "brier", "ece")),
        "scalar": ("agreement", ("bias", "sd", "lower", "upper")),
    }
    for name, target in metrics["targets"].items():
        part, keys = kinds[target["kind"]]
        found = target["splits"]["test"][part]
        expected = [(str(found[k][e]), format_number(found[k][e], 3)) for k in keys for e in ("value", "low", "high")]
        assert html.tables[f"{name}: {'residuals' if part == 'agreement' else part}"] == expected
    rows = [row for row in metrics["targets"]["genre"]["splits"]["test"]["calibration"]["bins"] if row["n"]]
    shown = [float(value) for value, _ in html.tables["genre: bins of confidence"]]
    assert shown == [x for row in rows for x in (row["confidence"], *row["accuracy"].values())]


def test_every_thing_that_was_logged_has_a_panel(make_run) -> None:
    folder = make_run("joint")
    log = pd.DataFrame({"epoch": [1, 2, 3], "step": [9, 19, 29], "train/loss": [3, 2, 1], "val/loss": [3.1, 2.1, 1.9]})
    for name in ("genre", "valence"):
        log = log.assign(**{f"{side}/{name}/loss": [2, 1, 0.5] for side in ("train", "val")})
        log[f"train/{name}/weight"] = [1, 0.9, 0.8]
    log = log.assign(**{"val/genre/macro_f1": [0.1, 0.2, 0.3], "val/valence/spearman": [0.1, 0.3, 0.2]})
    log = log.assign(**{"val/score": [0.1, 0.25, 0.25], "lr": [1e-3, 5e-4, 0], "lr/1": [1e-4, 5e-5, 0]})
    log.to_csv(folder / "curves.csv", index=False)
    html, _ = build(folder)
    text = (folder / "report.html").read_text("utf-8").split('id="training"')[1].split("</section>")[0]
    captions = re.findall("<figcaption>(.*?)</figcaption>", text)
    assert captions == [
        *("Loss", "Loss of genre", "Loss of valence", "Mean of the leading scores, validation"),
        *("Macro-F1 of genre, validation", "Spearman ρ of valence, validation"),
        *("Weight of genre’s loss", "Weight of valence’s loss", "Learning rate", "Learning rate of group 1"),
    ]
    assert "whose weights made the predictions" not in text  # epoch 6 was not logged
    same = log.assign(**{f"train/{name}/weight": 1.0 for name in ("genre", "valence")})
    same.to_csv(folder / "curves.csv", index=False)
    html, _ = build(folder)
    assert "losses were the same throughout: genre 1.00, valence 1.00." in html.text


def test_everything_that_a_record_knows_is_shown(page, run: Path) -> None:
    html, _ = page
    record = json.loads((run / "record.json").read_text("utf-8"))
    record["data"].pop("card")

    def leaves(value: object) -> list[object]:
        values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        return [leaf for one in values for leaf in leaves(one)] if values is not None else [value]

    for leaf in leaves(record):
        assert json.dumps(leaf, ensure_ascii=False).strip('"') in html.text, leaf
    for key in ("command", "seed", "hardware", "versions", "git", "model", "data", "targets"):
        assert f'"{key}"' in html.text


def test_a_run_that_was_measured_before_these_numbers_is_shown(make_run) -> None:
    folder = make_run("older")
    _, metrics = build(folder)
    del metrics["checksum"]
    for target in metrics["targets"].values():
        for part in target["splits"].values():
            part.pop("calibration", None), part.pop("agreement", None)
    (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    html = Page(write_report(RunFolder(folder)).read_text("utf-8"))
    assert "This run was measured before they were judged: rebuild the report." in html.text
    assert html.text.count("This run was measured before residuals were: rebuild the report.") == 3


def test_maps_need_clips_and_one_network(make_run, table: pd.DataFrame) -> None:
    html, _ = build(make_run("few", table=table[::6]))
    assert "There is no map: of 5 test clips no map can be read; 12 are needed." in html.text
    html, _ = build(make_run("bare", table=table.drop(columns="embedding")))
    assert "There is no map: the table of predictions has no embeddings." in html.text
    html, _ = build(make_run("pooled", data={"pooled": [0, 1], "folds": 2, "name": "demo"}))
    assert "There is no map: each fold has a network of its own" in html.text


def test_map_is_scikit_learns_and_the_same_again(table: pd.DataFrame, targets: dict) -> None:
    z = np.stack(table["embedding"].to_list()).astype(float)
    plane = embedding_thumbnail.points(z)["Principal components"]
    expected = PCA(2).fit_transform(StandardScaler().fit_transform(z))
    assert np.abs(plane) == pytest.approx(np.abs(expected), abs=1e-6)
    first, again = (embedding_thumbnail.embedding_maps(table, targets) for _ in range(2))
    assert first == again and first["rings"] and first["by"] == "genre"
    wrong = (table["genre.true"] != table["genre.pred"])[table["split"] == "test"].sum()
    assert first["drawn"][0][1].split("fill:none;stroke:var(--ink)")[0].rsplit('d="', 1)[1].count("M") == wrong


def test_a_page_of_many_clips_stays_small(make_run, table: pd.DataFrame) -> None:
    folder = make_run("many")
    write_metrics(RunFolder(folder))  # of few, which is quicker; the page draws what the table has
    many = pd.concat([table] * 300, ignore_index=True)
    many.assign(id=[f"clip {i}" for i in many.index]).to_parquet(folder / "predictions.parquet")
    assert write_report(RunFolder(folder)).stat().st_size < 2_000_000


def test_empty_states_have_a_sentence(make_run, table: pd.DataFrame) -> None:
    bare = table[[c for c in table.columns if ".score." not in c]]
    folder = make_run("bare", table=bare[bare["split"] == "test"])
    (folder / "curves.csv").unlink()
    (folder / "config.yaml").unlink()
    html, _ = build(folder)
    assert "there is no learning curve to show" in html.text
    assert "no class probabilities" in html.text
    assert "No two validation clips have this label." in html.text
    assert "left no config.yaml" in html.text
    html, _ = build(make_run("no-test", table=table[table["split"] == "val"]))
    assert "there is no score to draw" in html.text
    assert "0 test clips with this label; a score requires two." in html.text


def test_main_rebuilds_and_refuses(make_run, tmp_path: Path, capsys) -> None:
    folder = make_run()
    assert main([str(folder)]) == 0
    assert (folder / "metrics.json").is_file() and (folder / "report.html").is_file()
    assert main([str(folder), str(tmp_path / "nowhere")]) == 2
    error = capsys.readouterr().err
    assert "nowhere: is not a finished run" in error and error.count("\n") == 1
    assert main(["--help"]) == 0


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("# A\ntext *b* and **c**\ngoes on", "<h3>A</h3>\n<p>text <em>b</em> and <strong>c</strong> goes on</p>"),
        ("- a\n- `x<y`", "<ul><li>a</li><li><code>x&lt;y</code></li></ul>"),
        ("1. a\n2. b", "<ol><li>a</li><li>b</li></ol>"),
        ("```\n# <i>\n```", "<pre># &lt;i&gt;</pre>"),
        ("[here](javascript:alert(1))", "<p>here (<span class='address'>javascript:alert(1</span>))</p>"),
        ("snake_case 2 * 3 * 4", "<p>snake_case 2 * 3 * 4</p>"),
    ],
)
def test_markdown_subset(text: str, html: str) -> None:
    assert markdown.markdown_to_html(text) == html


def test_markdown_table() -> None:
    html = markdown.markdown_to_html("| a | b |\n|---|--:|\n| 1 | <2 |")
    assert '<thead><tr><th scope="col">a</th><th scope="col">b</th></tr></thead>' in html
    assert "<tr><td>1</td><td>&lt;2</td></tr>" in html


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("predictions.parquet", "no table", "cannot be read as a table"),
        ("record.json", "{", "cannot be read as JSON"),
        ("record.json", "{}", "does not list the targets of a run"),
    ],
)
def test_a_damaged_file_is_a_sentence(
    name: str, content: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pd.DataFrame({"id": ["a"]}).to_parquet(tmp_path / "predictions.parquet")
    (tmp_path / "record.json").write_text('{"targets": {}}')
    (tmp_path / name).write_text(content)
    assert main([str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{tmp_path / name}: {said}; train the run again")
    assert not (tmp_path / "report.html").exists()


def test_confusion_of_many_classes_is_a_list_of_pairs(make_run, table: pd.DataFrame) -> None:
    many = pd.concat([table[["id", "group", "split", "embedding"]]] * 5, ignore_index=True)
    names = np.array([f"class {i:03d}" for i in range(100)], dtype=object)
    true = many.index.to_numpy() // 3
    many = many.assign(id=[f"clip {i}" for i in many.index], **{
        "genre.true": names[true], "genre.pred": names[(true + 1) % 100],
        "genre.baseline.constant": names[0], "genre.baseline.linear": names[1],
    })  # fmt: skip
    page, metrics = build(make_run("many-classes", many, targets={"genre": {"kind": "label", "classes": list(names)}}))
    assert np.shape(metrics["targets"]["genre"]["splits"]["test"]["confusion"]) == (100, 100)
    assert "The matrix of 100 classes is too large for a page; metrics.json has it." in page.text
    assert "50 of " in page.text and "pairs of a true and another predicted class" in page.text
    assert "genre: confusion matrix" not in page.tables
