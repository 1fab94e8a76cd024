"""Tests of the command: written files, refused arguments and runs, and escaping of texts from runs."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.commands import maps as main

from etude.files.ownership import LIST_NAME
from etude.reports.maps.embeddings import finished_runs
from etude.reports.maps.projection import project

HOSTILE = "<script>alert('clip')</script>"
QUICK = ("--methods=pca,mds", "--dims=2")
Make = Callable[..., Path]


@pytest.fixture
def folder(make_run: Make) -> Path:
    return make_run("a-run")


def test_page_coordinates_and_numbers_are_written_and_reproducible(folder: Path, table: pd.DataFrame, capsys) -> None:
    assert main([str(folder), "--methods=mds,pca"]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "maps.html")
    written = {name: (folder / name).read_bytes() for name in ("maps.html", "maps.csv", "maps.json")}
    assert main([str(folder), "--methods=mds,pca"]) == 0
    assert all((folder / name).read_bytes() == data for name, data in written.items())
    assert [path.name for path in folder.glob(".*")] == [LIST_NAME], "there are no temporary files"

    test = table[table["split"] == "test"]
    expected = project(np.stack(test["embedding"].tolist()), "pca", 3).coordinates
    coordinates = pd.read_csv(folder / "maps.csv")
    assert list(coordinates.columns) == ["run", "method", "dims", "id", "x", "y", "z"]
    rows = coordinates[(coordinates["method"] == "pca") & (coordinates["dims"] == 3)]
    assert rows["id"].tolist() == test["id"].tolist()
    np.testing.assert_allclose(rows[["x", "y", "z"]], expected)
    assert coordinates[coordinates["dims"] == 2]["z"].isna().all()

    numbers = json.loads((folder / "maps.json").read_text("utf-8"))
    assert [(m["method"], m["dims"]) for m in numbers["maps"]] == [("pca", 2), ("pca", 3), ("mds", 2), ("mds", 3)]
    assert set(numbers["maps"][0]["targets"]) == {"genre", "valence", "energy", "danceability"}
    assert numbers["maps"][0]["targets"]["valence"]["full"]["n"] == test["valence.true"].notna().sum() < len(test)


def read_page_data(page: Path) -> dict:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text("utf-8"), re.DOTALL)
    assert match is not None
    return json.loads(match[1])


def test_hostile_clip_id_is_escaped(folder: Path) -> None:
    main([str(folder), *QUICK])
    page = (folder / "maps.html").read_text("utf-8")
    assert HOSTILE in read_page_data(folder / "maps.html")["clips"]
    assert page.count("<script") == page.count("</script>") == 3, "plotly, data and the script of the page"
    assert "<script>alert" not in page


def test_hostile_names_of_run_and_target_are_escaped(make_run: Make, table: pd.DataFrame, targets: dict) -> None:
    name = "</script><b>genre"
    renamed = table.rename(columns={c: c.replace("genre.", f"{name}.") for c in table.columns})
    folder = make_run("<i>run", renamed, targets={name: targets["genre"]})
    assert main([str(folder), *QUICK]) == 0
    page = (folder / "maps.html").read_text("utf-8")
    assert "<i>run" not in page and "<b>genre" not in page and page.count("</script>") == 3
    assert read_page_data(folder / "maps.html")["targets"][0]["name"] == name


def test_sweep_selects_its_finished_runs_and_contains_the_page(tmp_path: Path, make_run: Make, table) -> None:
    reversed_rows = table.assign(embedding=[row[::-1] for row in table["embedding"]])
    make_run("sweep/seed=0")
    make_run("sweep/seed=1", reversed_rows)
    (tmp_path / "sweep/seed=2").mkdir()
    (tmp_path / "sweep/seed=2/config.yaml").write_text("seed: 2\n")
    assert [run.name for run in finished_runs([tmp_path / "sweep"])] == ["seed=0", "seed=1"]
    assert main([str(tmp_path / "sweep"), *QUICK]) == 0
    data = read_page_data(tmp_path / "sweep/maps.html")
    assert [run["name"] for run in data["runs"]] == ["seed=0", "seed=1"]
    assert len(data["clips"]) == len(data["runs"][0]["clips"]), "each clip occurs once"
    runs = [str(tmp_path / "sweep/seed=0"), str(tmp_path / "sweep/seed=1")]
    assert main([*runs, *QUICK, f"--out={tmp_path / 'new/folder'}"]) == 0
    assert (tmp_path / "new/folder/maps.html").is_file()


def replace_embeddings(table: pd.DataFrame, case: str) -> pd.DataFrame:
    """Return the table without embeddings, or with embeddings that are nan or constant."""
    table = table.copy()
    if case == "column":
        return table.drop(columns="embedding")
    value = np.nan if case == "nan" else 1.0
    table["embedding"] = [np.full(8, value, np.float32) for _ in table["id"]]
    return table


@pytest.mark.parametrize(
    ("case", "message"),
    [("column", "no column embedding"), ("nan", "No embedding is finite"), ("constant", "of all 30 clips are equal")],
)
def test_run_without_usable_embeddings_has_a_message(
    make_run: Make, table: pd.DataFrame, capsys, case: str, message: str
) -> None:
    bad, good = make_run("bad", replace_embeddings(table, case)), make_run("good")
    assert main([str(bad), *QUICK]) == 2
    assert message in capsys.readouterr().err
    assert not (bad / "maps.html").exists()
    assert main([str(bad), str(good), *QUICK, f"--out={good}"]) == 0
    assert message in re.sub(r"<script.*?</script>", "", (good / "maps.html").read_text("utf-8"), flags=re.DOTALL)
    assert all(bool(m["problem"]) == (m["run"] == "bad") for m in read_page_data(good / "maps.html")["maps"])


def test_clips_without_finite_embedding_are_excluded_and_counted(make_run: Make, table: pd.DataFrame) -> None:
    table = table.copy()
    row = table.index[table["split"] == "test"][4]
    table.at[row, "embedding"] = np.full(8, np.inf, np.float32)
    folder = make_run("a-run", table)
    main([str(folder), *QUICK])
    assert table["id"][row] not in set(pd.read_csv(folder / "maps.csv")["id"])
    assert "1 clip without a finite embedding left out." in (folder / "maps.html").read_text("utf-8")


def test_pooled_folds_are_refused(make_run: Make, capsys) -> None:
    assert main([str(make_run("pooled", data={"pooled": [0, 1, 2]})), *QUICK]) == 2
    assert "3 networks, which have different embedding spaces" in capsys.readouterr().err


def test_runs_of_different_collections_are_refused(make_run: Make, table: pd.DataFrame, capsys) -> None:
    other = table.assign(**{"genre.true": table["genre.true"].map({"rock": "folk", "folk": "rock"})})
    assert main([str(make_run("a")), str(make_run("b", other)), *QUICK]) == 2
    assert "different collections cannot be shown on one page" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method=pca"], "No such option: --method (Possible options: --methods)"),
        (["method=pca"], "method=pca: there is no such run folder"),
        (["methods=pca"], "methods=pca: options of etude maps have dashes; use --methods pca"),
        (["part=val"], "part=val: options of etude maps have dashes; use --split val"),
        (["--methods=pca,som"], "'--methods': 'som' is not one of pca, tsne"),
        (["--methods="], "--methods=: empty value"),
        (["--methods=pca,"], "'--methods': an item of the list is empty"),
        (["--dims=4"], "'--dims': '4' is not one of 2, 3"),
        (["--split=train"], "'--split': 'train' is not one of 'test', 'val'"),
        (["--seed=-1"], "'--seed': Input should be greater than or equal to 0"),
        (["--seed=4294967296"], "'--seed': Input should be less than or equal to 4294967295"),
        (["--seed=x"], "'--seed': Input should be a valid integer"),
        (["--out="], "--out=: empty value"),
    ],
)
def test_invalid_arguments_are_refused(folder: Path, capsys, arguments: list[str], message: str) -> None:
    assert main([str(folder), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (folder / "maps.html").exists()


def test_folders_without_finished_run_are_refused(tmp_path: Path, folder: Path, capsys) -> None:
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "nowhere: there is no such run folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty")]) == 2
    assert "is not a run folder and contains no finished run" in capsys.readouterr().err
    (folder / "record.json").unlink()
    assert main([str(folder)]) == 2
    assert "it has no record.json" in capsys.readouterr().err


def test_file_is_refused_as_output_folder(tmp_path: Path, folder: Path, capsys) -> None:
    (tmp_path / "file").write_text("")
    assert main([str(folder), *QUICK, f"--out={tmp_path / 'file'}"]) == 2
    assert "is not a folder" in capsys.readouterr().err
