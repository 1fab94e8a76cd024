"""The command from words to files: what it writes, what it refuses, and that no text of a run is markup."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from etude.cli.maps import main, parse_map_options
from etude.files.ownership import LIST_NAME
from etude.reports.maps.projection import project

HOSTILE = "<script>alert('clip')</script>"
QUICK = ("methods=pca,mds", "dims=2")
Make = Callable[..., Path]


@pytest.fixture
def folder(make_run: Make) -> Path:
    return make_run("a-run")


def test_leaves_a_page_coordinates_and_numbers_twice_the_same(folder: Path, table: pd.DataFrame, capsys) -> None:
    assert main([str(folder), "methods=mds,pca"]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "latent.html")
    left = {name: (folder / name).read_bytes() for name in ("latent.html", "latent.csv", "latent.json")}
    assert main([str(folder), "methods=mds,pca"]) == 0
    assert all((folder / name).read_bytes() == data for name, data in left.items())
    assert [path.name for path in folder.glob(".*")] == [LIST_NAME], "nothing half-written is left"

    test = table[table["split"] == "test"]
    made = project(np.stack(test["embedding"].tolist()), "pca", 3).at
    kept = pd.read_csv(folder / "latent.csv")
    assert list(kept.columns) == ["run", "method", "dims", "id", "x", "y", "z"]
    here = kept[(kept["method"] == "pca") & (kept["dims"] == 3)]
    assert here["id"].tolist() == test["id"].tolist()
    np.testing.assert_allclose(here[["x", "y", "z"]], made)
    assert kept[kept["dims"] == 2]["z"].isna().all()

    numbers = json.loads((folder / "latent.json").read_text("utf-8"))
    assert [(m["method"], m["dims"]) for m in numbers["maps"]] == [("pca", 2), ("pca", 3), ("mds", 2), ("mds", 3)]
    assert set(numbers["maps"][0]["targets"]) == {"genre", "valence", "energy", "danceability"}
    assert numbers["maps"][0]["targets"]["valence"]["full"]["n"] == test["valence.true"].notna().sum() < len(test)


def payload(page: Path) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text("utf-8"), re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_a_clip_with_a_hostile_name_is_text(folder: Path) -> None:
    main([str(folder), *QUICK])
    page = (folder / "latent.html").read_text("utf-8")
    assert HOSTILE in payload(folder / "latent.html")["clips"]
    assert page.count("<script") == page.count("</script>") == 3, "plotly, data, the page's own"
    assert "<script>alert" not in page


def test_a_run_with_a_hostile_name_and_target_is_text(make_run: Make, table: pd.DataFrame, targets: dict) -> None:
    name = "</script><b>genre"
    renamed = table.rename(columns={c: c.replace("genre.", f"{name}.") for c in table.columns})
    folder = make_run("<i>run", renamed, targets={name: targets["genre"]})
    assert main([str(folder), *QUICK]) == 0
    page = (folder / "latent.html").read_text("utf-8")
    assert "<i>run" not in page and "<b>genre" not in page and page.count("</script>") == 3
    assert payload(folder / "latent.html")["targets"][0]["name"] == name


def test_a_sweep_is_all_its_finished_runs_and_keeps_the_page(tmp_path: Path, make_run: Make, table) -> None:
    shared = table.assign(embedding=[row[::-1] for row in table["embedding"]])
    make_run("sweep/seed=0")
    make_run("sweep/seed=1", shared)
    (tmp_path / "sweep/seed=2").mkdir()
    (tmp_path / "sweep/seed=2/config.yaml").write_text("seed: 2\n")
    assert [run.name for run in parse_map_options([str(tmp_path / "sweep")]).folders] == ["seed=0", "seed=1"]
    assert main([str(tmp_path / "sweep"), *QUICK]) == 0
    data = payload(tmp_path / "sweep/latent.html")
    assert [run["name"] for run in data["runs"]] == ["seed=0", "seed=1"]
    assert len(data["clips"]) == len(data["runs"][0]["clips"]), "each clip is there once"
    assert (
        main([str(tmp_path / "sweep/seed=0"), str(tmp_path / "sweep/seed=1"), *QUICK, f"to={tmp_path / 'new/place'}"])
        == 0
    )
    assert (tmp_path / "new/place/latent.html").is_file()


def without(table: pd.DataFrame, what: str) -> pd.DataFrame:
    table = table.copy()
    if what == "column":
        return table.drop(columns="embedding")
    table["embedding"] = [
        np.full(8, np.nan, np.float32) if what == "nan" else np.ones(8, np.float32) for _ in table["id"]
    ]
    return table


@pytest.mark.parametrize(
    ("what", "said"),
    [("column", "no column embedding"), ("nan", "No embedding is finite"), ("constant", "of all 30 clips are equal")],
)
def test_a_run_that_cannot_be_mapped_says_why(
    make_run: Make, table: pd.DataFrame, capsys, what: str, said: str
) -> None:
    bad, good = make_run("bad", without(table, what)), make_run("good")
    assert main([str(bad), *QUICK]) == 2
    assert said in capsys.readouterr().err
    assert not (bad / "latent.html").exists()
    assert main([str(bad), str(good), *QUICK, f"to={good}"]) == 0
    assert said in re.sub(r"<script.*?</script>", "", (good / "latent.html").read_text("utf-8"), flags=re.DOTALL)
    assert all(bool(m["why"]) == (m["run"] == "bad") for m in payload(good / "latent.html")["maps"])


def test_clips_without_a_finite_embedding_are_left_out_and_counted(make_run: Make, table: pd.DataFrame) -> None:
    table = table.copy()
    row = table.index[table["split"] == "test"][4]
    table.at[row, "embedding"] = np.full(8, np.inf, np.float32)
    folder = make_run("a-run", table)
    main([str(folder), *QUICK])
    assert table["id"][row] not in set(pd.read_csv(folder / "latent.csv")["id"])
    assert "1 clip without a finite embedding left out." in (folder / "latent.html").read_text("utf-8")


def test_pooled_folds_are_many_spaces(make_run: Make, capsys) -> None:
    assert main([str(make_run("pooled", data={"pooled": [0, 1, 2]})), *QUICK]) == 2
    assert "3 networks, each with a space of its own" in capsys.readouterr().err


def test_runs_of_other_collections_are_refused(make_run: Make, table: pd.DataFrame, capsys) -> None:
    other = table.assign(**{"genre.true": table["genre.true"].map({"rock": "folk", "folk": "rock"})})
    assert main([str(make_run("a")), str(make_run("b", other)), *QUICK]) == 2
    assert "not of one collection" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["method=pca"], "there is no such option; available: methods"),
        (["methods=pca,som"], "som is not among pca, tsne"),
        (["dims=4"], "4 is not among 2, 3"),
        (["part=train"], "part=test or part=val"),
        (["seed=-1"], "a whole number"),
    ],
)
def test_wrong_words(folder: Path, capsys, words: list[str], said: str) -> None:
    assert main([str(folder), *words]) == 2
    assert said in capsys.readouterr().err
    assert not (folder / "latent.html").exists()


def test_wrong_folders(tmp_path: Path, folder: Path, capsys) -> None:
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "is not a run, and no finished run is below it" in capsys.readouterr().err
    (folder / "record.json").unlink()
    assert main([str(folder)]) == 2
    assert "has no record.json" in capsys.readouterr().err


def test_nothing_can_be_written_into_a_file(tmp_path: Path, folder: Path, capsys) -> None:
    (tmp_path / "file").write_text("")
    assert main([str(folder), *QUICK, f"to={tmp_path / 'file'}"]) == 2
    assert "is not a folder" in capsys.readouterr().err
