"""Tests of the named sweeps: their experiments, tables, and folders of jobs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from etude.config.compose import conf_dir, register_resolvers
from etude.data.from_overrides import fold_names
from etude.errors import Refused
from etude.reports.comparison.axes import options_from_config
from etude.sweeps.callback import OutputCheck, SweepTable

SWEEPS = sorted(path.stem for path in (conf_dir() / "sweep").glob("*.yaml"))
HOME = conf_dir() / "experiment"
KINDS = ("reproduction", "improved")


@pytest.fixture
def compose_sweep(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Function that composes a config with Hydra's own node, which values of the config may refer to."""

    def compose_with_hydra(*overrides: str) -> Any:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            composed = compose("train", overrides=["hydra.sweep.dir=there", *overrides], return_hydra_config=True)
        monkeypatch.setattr(HydraConfig.instance(), "cfg", None)  # restored after the test
        HydraConfig.instance().set_config(composed)
        return composed

    return compose_with_hydra


def experiments(composed: Any) -> list[str]:
    """Return the names of the experiments of a sweep."""
    names = composed.hydra.sweeper.params.get("experiment", "")
    return [name.strip() for name in str(names).split(",") if name.strip()]


@pytest.mark.parametrize("sweep", SWEEPS)
def test_experiments_of_a_sweep_exist_and_its_tables_are_valid(sweep: str, compose_sweep: Any) -> None:
    composed = compose_sweep(f"sweep={sweep}")
    assert composed.hydra.mode is None  # each job reads this file too and is not a sweep
    names = experiments(composed)
    assert len(set(names)) == len(names)
    for name in names:
        assert (HOME / f"{name}.yaml").is_file(), name
    options = {key: value for key, value in composed.hydra.callbacks.table.items() if key != "_target_"}
    SweepTable(**options).check_options()
    for table in composed.hydra.callbacks.table.tables.values():
        options = options_from_config(table)
        assert options.rows and options.cols and options.metrics and options.where


@pytest.mark.parametrize(("kind", "runs"), [("reproduction", 24), ("improved", 23)])
def test_sweep_of_a_method_has_all_experiments_of_its_parts(kind: str, runs: int) -> None:
    files = {path.relative_to(HOME).with_suffix("").as_posix() for path in (HOME / kind).rglob("*.yaml")}
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = {
            name: compose("train", overrides=[f"sweep={name}"], return_hydra_config=True)
            for name in SWEEPS
            if name.startswith(kind)
        }
    names = experiments(composed[kind])
    assert len(names) == runs
    assert set(names) == {name for name in files if "/base/" not in name}
    parts = [name for name in composed if name != kind]
    assert parts == [f"{kind}_{part}" for part in ("step9", "table1", "table2", "table3")]
    assert set(names) == {name for part in parts for name in experiments(composed[part])}
    tables = {name: dict(composed[name].hydra.callbacks.table.tables) for name in composed}
    assert tables[kind] == {name: table for part in parts for name, table in tables[part].items()}
    assert composed[kind].hydra.callbacks.table.maps == "genre"


@pytest.mark.parametrize("debug", [[], ["debug=fast"]])
@pytest.mark.parametrize(("kind", "seed"), [("reproduction", "1"), ("improved", "2")])
def test_transfer_starts_from_the_genre_ast_of_its_sweep_and_seed(
    kind: str, seed: str, debug: list[str], compose_sweep: Any
) -> None:
    for sweep in (f"{kind}_step9", kind):
        composed = compose_sweep(f"sweep={sweep}")
        names, seeds = experiments(composed), composed.hydra.sweeper.params.seed.split(",")
        assert len(seeds) == 3
        for target in ("valence", "energy", "danceability"):
            name = f"{kind}/step9/transfer_{target}"
            assert names.index(f"{kind}/step7/ast") < names.index(name)  # so that consecutive jobs find its weights
    options = (f"sweep={kind}", f"seed={seed}", *debug)
    source = compose_sweep(*options, f"experiment={kind}/step7/ast")
    folder = Path(source.hydra.sweep.dir, source.hydra.sweep.subdir)
    transfer = compose_sweep(*options, f"experiment={kind}/step9/transfer_energy")
    assert folder == Path("there", f"{kind}_ast_seed{seed}") == Path(transfer.transfer.init_from)
    imagenet = compose_sweep(*options, f"experiment={kind}/step9/imagenet_energy")
    assert imagenet.transfer.init_from is None
    # both arms are scored on the same clips; the reproduction scores all, as the student report did
    assert imagenet.data.leave_out == (str(folder) if kind == "improved" else None)
    assert transfer.transfer.overlap == ("drop" if kind == "improved" else "allow")
    assert OmegaConf.to_container(transfer.backbone) == OmegaConf.to_container(source.backbone)


def test_all_runs_of_both_methods_have_different_names() -> None:
    """The folder of a run outside a sweep is its name, which is made of the kind and the file of the experiment."""
    paths = [path.relative_to(HOME) for kind in KINDS for path in (HOME / kind).rglob("*.yaml")]
    names = [f"{path.parts[0]}_{path.stem}" for path in paths if path.parent.name != "base"]
    assert len(set(names)) == len(names)


def test_seeds_vary_the_split_only_if_the_sweep_says_so(compose_sweep: Any) -> None:
    for name, split_seed in (("seeds", 0), ("seeds_and_splits", 2)):
        composed = compose_sweep(f"sweep={name}", "seed=2")
        assert composed.hydra.sweeper.params.seed == "0,1,2"
        assert (composed.seed, composed.data.split.seed) == (2, split_seed)


def write_clips(folder: Path, column: str, cells: Sequence[str]) -> str:
    """Write a table with a column of splits or folds, and return its path."""
    rows = [f'{number}.wav,{"ab"[number % 2]},"{cells[number % len(cells)]}"' for number in range(12)]
    (folder / "clips.csv").write_text("\n".join([f"path,genre,{column}", *rows]), encoding="utf-8")
    return str(folder / "clips.csv")


@pytest.mark.parametrize(
    ("column", "cells", "split", "folds"),
    [
        ("fold", ["c", "a", "b"], {}, "a,b,c"),
        ("fold", ["3", "1", "10"], {}, "1,3,10"),
        ("fold", ["x y", "b,c", "3"], {}, "'3','b,c','x y'"),
        ("cv", ["a", "b"], {"column": "cv"}, "a,b"),
        ("fold", ["a", "b", "c"], {"column": None}, "0,1,2,3,4"),
        ("fold", ["a", "b", "c"], {"kind": "grouped", "folds": 3}, "0,1,2"),
        ("other", ["a", "b", "c"], {"folds": 4}, "0,1,2,3"),
    ],
)
def test_names_of_folds_are_those_of_the_column(
    column: str, cells: list[str], split: dict[str, Any], folds: str, tmp_path: Path
) -> None:
    source = {"_target_": "etude.data.sources.table.collection", "table": write_clips(tmp_path, column, cells)}
    defaults = {"kind": "auto", "column": "auto", "folds": 5, "fold": None}
    data = {"source": source | {"split_column": split.get("column", "auto")}, "split": defaults | split}
    assert fold_names(OmegaConf.create(data)) == folds


@pytest.mark.parametrize(
    ("sweep", "folds"),
    [("folds", "a,b,c"), ("repeated_folds", "a,b,c"), ("encoders", "a,b,c"), ("split_gap", "0,1,2,3,4")],
)
def test_folds_of_a_sweep_are_those_of_the_table(sweep: str, folds: str, compose_sweep: Any, tmp_path: Path) -> None:
    register_resolvers()
    table = f"data.source.table={write_clips(tmp_path, 'fold', 'abc')}"
    composed = compose_sweep(f"sweep={sweep}", "data=table", table, f"hydra.sweep.dir={tmp_path}")
    OmegaConf.set_readonly(composed.hydra, True)
    OutputCheck().on_multirun_start(composed)
    assert OmegaConf.to_container(composed.hydra.sweeper.params, resolve=False)["data.split.fold"] == folds


def test_sweep_over_folds_of_a_column_of_splits_is_refused(compose_sweep: Any, tmp_path: Path) -> None:
    register_resolvers()
    table = f"data.source.table={write_clips(tmp_path, 'split', ['train', 'val', 'test'])}"
    composed = compose_sweep("sweep=folds", "data=table", table, f"hydra.sweep.dir={tmp_path}")
    with pytest.raises(Refused) as refusal:
        OutputCheck().on_multirun_start(composed)
    message = "the column split has train, val and test and no folds; add data.split.kind=grouped or stratified"
    assert message in str(refusal.value.error) and "\n" not in str(refusal.value.error)


@pytest.mark.parametrize("option", ["experiment=small", "experiment=small_ensemble", "experiment=finetune"])
def test_names_of_runs_with_other_readouts_differ(option: str, compose_sweep: Any) -> None:
    register_resolvers()
    names: list[str] = []
    layers: list[Any] = []
    for overrides in ([], ["readout=last"], ["readout.layers=[0]", "backbone=musicnn"]):
        composed = compose_sweep(option, *overrides)
        assert composed.backbone.weights == ("msd" if "backbone=musicnn" in overrides else "mn04_as")
        names.append(composed.name)
        layers.append(composed.readout.layers)
    assert layers == ["all", "last", [0]]
    assert len(set(names)) == 3 and "_layer_0" in names[2] and "musicnn" in names[2]
    assert names[0] == f"{option.partition('=')[2].removesuffix('_ensemble')}_efficientat_genre"


def test_names_of_encoders_with_other_layers_differ(compose_sweep: Any) -> None:
    register_resolvers()
    options = (["readout=default"], ["readout=all"], ["readout.layers=[0]"], ["readout.layers=[1]"])
    names = [compose_sweep("sweep=encoders", "choices.encoder=mine", *readout).name for readout in options]
    assert names == [f"genre_mine{suffix}" for suffix in ("", "_all", "_layer_0", "_layer_1")]
