"""Every sweep that has a name goes over experiments that there are, and knows beforehand where each job will be."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from etude.config.compose import conf_dir
from etude.reports.comparison.compare import parse_options

SWEEPS = sorted(path.stem for path in (conf_dir() / "sweep").glob("*.yaml"))
HOME = conf_dir() / "experiment"
KINDS = ("reproduction", "improved")


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A config with Hydra's own node, which values of the config may name."""

    def go(*overrides: str) -> Any:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            composed = compose("train", overrides=["hydra.sweep.dir=there", *overrides], return_hydra_config=True)
        monkeypatch.setattr(HydraConfig.instance(), "cfg", None)  # what is set now goes with the test
        HydraConfig.instance().set_config(composed)
        return composed

    return go


def over(composed: Any) -> list[str]:
    """The experiments that a sweep goes over."""
    named = composed.hydra.sweeper.params.get("experiment", "")
    return [name.strip() for name in str(named).split(",") if name.strip()]


@pytest.mark.parametrize("sweep", SWEEPS)
def test_a_sweep_names_experiments_that_there_are_and_tables_that_can_be_made(sweep: str, at: Any) -> None:
    composed = at(f"sweep={sweep}")
    assert composed.hydra.mode is None  # each of its jobs gets this file too, and is no sweep
    names = over(composed)
    assert len(set(names)) == len(names)
    for name in names:
        assert (HOME / f"{name}.yaml").is_file(), name
    for words in composed.hydra.callbacks.table.tables.values():
        assert parse_options(list(words))[1] == []  # each word is understood, and none is taken for a folder


def test_the_whole_source_work_is_each_of_its_cells_and_ours() -> None:
    files = {
        path.relative_to(HOME).with_suffix("").as_posix() for kind in KINDS for path in (HOME / kind).rglob("*.yaml")
    }
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = {name: compose("train", overrides=[f"sweep={name}"], return_hydra_config=True) for name in SWEEPS}
    every = over(composed["reproduction"])
    assert set(every) == {name for name in files if "/base/" not in name} - {"reproduction/step7/digits"}
    parts = [name for name in SWEEPS if name.startswith("reproduction_") and name != "reproduction"]
    assert set(every) == {name for part in parts for name in over(composed[part])}
    tables = {name: dict(composed[name].hydra.callbacks.table.tables) for name in [*parts, "reproduction"]}
    assert tables["reproduction"] == {name: words for part in parts for name, words in tables[part].items()}
    assert composed["reproduction"].hydra.callbacks.table.maps == "genre"


@pytest.mark.parametrize("sweep", ["reproduction_step9", "reproduction"])
def test_a_transfer_begins_from_the_genre_ast_of_its_sweep_seed_and_kind(sweep: str, at: Any) -> None:
    composed = at(f"sweep={sweep}")
    names, seeds = over(composed), composed.hydra.sweeper.params.seed.split(",")
    assert len(seeds) == 3
    for kind, axis in product(KINDS, ("valence", "energy", "danceability")):
        name = f"{kind}/step9/transfer_{axis}"
        assert names.index(f"{kind}/step7/ast") < names.index(name)  # jobs that run one after the other find it there
    for kind, seed in zip(KINDS, ("1", "2"), strict=True):
        first = at(f"sweep={sweep}", f"experiment={kind}/step7/ast", f"seed={seed}")
        there = Path(first.hydra.sweep.dir, first.hydra.sweep.subdir)
        then = at(f"sweep={sweep}", f"experiment={kind}/step9/transfer_energy", f"seed={seed}")
        assert there == Path("there", f"{kind}_ast_seed{seed}") == Path(then.transfer.init_from)
        beside = at(f"sweep={sweep}", f"experiment={kind}/step9/imagenet_energy", f"seed={seed}")
        assert beside.transfer.init_from is None
        assert OmegaConf.to_container(then.backbone) == OmegaConf.to_container(first.backbone)


def test_no_two_jobs_of_the_whole_source_work_share_a_folder() -> None:
    """A folder is the job's name and seed, and a name says its file and whose settings it has."""
    cells = [path.relative_to(HOME) for kind in KINDS for path in (HOME / kind).rglob("*.yaml")]
    called = [f"{cell.parts[0]}_{cell.stem}" for cell in cells if cell.parent.name != "base"]
    assert len(set(called)) == len(called)
