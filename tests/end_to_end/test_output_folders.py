"""Tests that runs and sweeps change no existing file, refuse links and never share a folder."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pytest
import torch
import yaml

from etude.experiment.start import run_folder
from etude.files.ownership import LIST_NAME
from etude.runs.folder import RunFolder

Train = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).parents[2]
SAME_SECOND = f"""
import datetime, sys
import etude.system.distributed, etude.cli.train

class Fixed(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 1, 1, tzinfo=tz)

etude.system.distributed.datetime = Fixed
sys.argv[0] = {str(ROOT / "train.py")!r}
sys.exit(etude.cli.train.main())
"""
TINY = (
    *("debug=fast", "backbone=lstm", "backbone.hidden=8", "backbone.depth=1", "trainer=cpu", "trainer.max_epochs=1"),
    *("augment=none", "data.crop=1.0"),
)


def read_files(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a folder with files of the user."""
    folder = tmp_path / "home"
    (folder / "thesis").mkdir(parents=True)
    (folder / "notes.txt").write_text("notes")
    (folder / "thesis" / "chapter.tex").write_text("chapter")
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, train: Train) -> Path:
    """Return a finished run of two epochs that saved its best checkpoint."""
    folder = tmp_path_factory.mktemp("original")
    result = train(folder, *TINY, "callbacks=no_early_stopping", "trainer.max_epochs=2", "hydra.run.dir=run")
    assert result.returncode == 0, result.stderr
    return folder / "run"


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    """Return a copy of the original run."""
    return Path(shutil.copytree(original, tmp_path / "copy" / "run"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("hydra.run.dir=.", "trainer.max_epochs=abc"),
        ("hydra.run.dir=.", "data.split.kind=official"),
        ("hydra.run.dir=thesis", "trainer.max_epochs=abc"),
        ("-m", "hydra.sweep.dir=.", "trainer.max_epochs=abc"),
        ("-m", "hydra.sweep.dir=.", "seed=0,1", "data.split.kind=official", "hydra/launcher=basic"),
    ],
)
def test_refused_command_removes_no_file(arguments: tuple[str, ...], home: Path, train: Train) -> None:
    before = read_files(home)
    result = train(home, *arguments)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    after = read_files(home)
    assert {name: after.get(name) for name in before} == before
    if "-m" not in arguments:
        assert after == before


def test_run_and_sweep_in_a_folder_with_other_files(home: Path, train: Train) -> None:
    before = read_files(home)
    for arguments in (["hydra.run.dir=."], ["-m", "hydra.sweep.dir=.", "seed=0", "hydra/launcher=basic"]):
        result = train(home, *TINY, *arguments)
        assert result.returncode == 0, result.stderr
    after = read_files(home)
    assert {name: after.get(name) for name in before} == before
    assert RunFolder(home).is_finished and RunFolder(home / "0_fast_genre_lstm").is_finished
    repeated = train(home, *TINY, "hydra.run.dir=.")
    assert repeated.returncode == 2
    assert ".: already contains a" in repeated.stderr
    assert read_files(home) == after


@pytest.mark.parametrize(
    ("option", "name"),
    [
        *(("hydra.run.dir", name) for name in ("train.log", "checkpoints/")),
        *(("hydra.sweep.dir", name) for name in ("multirun.yaml", "logs/")),
    ],
)
def test_existing_file_ends_the_command_before_it_writes(option: str, name: str, home: Path, train: Train) -> None:
    existing = home / name.rstrip("/")
    if name.endswith("/"):
        existing.mkdir()
        (existing / "other.txt").write_text("other")
    else:
        existing.write_text("other")
    before = read_files(home)
    result = train(home, *TINY, f"{option}=.", *(["-m", "seed=0,1"] if "sweep" in option else []))
    assert result.returncode == 2, result.stderr
    assert f"{name.rstrip('/')}: exists and is not in {LIST_NAME}" in result.stderr
    assert read_files(home) == before


@pytest.mark.parametrize("name", ["checkpoints/", "errors/", "train.log", "config.yaml", ".lock"])
def test_links_in_a_run_folder_are_refused(name: str, home: Path, run: Path, train: Train) -> None:
    (run / "report.html").unlink()
    path = run / name.rstrip("/")
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.symlink_to(home / "thesis" if name.endswith("/") else home / "notes.txt")
    before = read_files(home)
    result = train(run.parent, "resume=run")
    assert result.returncode == 2, result.stderr
    assert f"{name.rstrip('/')}: " in result.stderr
    assert read_files(home) == before


def test_paths_stored_in_a_run_are_never_written(run: Path, home: Path, train: Train) -> None:
    """Resume a run from another user, whose config and checkpoint contain paths of this user's files."""
    for name in ("metrics.json", "report.html", "predictions.parquet"):
        (run / name).unlink()
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["trainer"]["max_epochs"] = 4
    config["outputs"] = str(home / "outputs")
    config["callbacks"]["checkpoint"] |= {"dirpath": str(home / "thesis"), "monitor": "val/loss", "mode": "min"}
    config["logger"]["mlflow"] = {
        "_target_": "etude.loggers.mlflow.mlflow_logger",
        "uri": f"sqlite:///{home / 'runs.db'}",
    }
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    path = run / "checkpoints" / "last.ckpt"
    stored = torch.load(path, weights_only=True)
    user_file = str(home / "thesis" / "chapter.tex")
    for state in stored["callbacks"].values():
        for key in ("best_model_path", "last_model_path", "kth_best_model_path"):
            if key in state:
                state[key] = user_file
        if "best_k_models" in state:
            state |= {"dirpath": str(home / "thesis"), "best_k_models": {user_file: torch.tensor(1e9)}}
            state |= {"kth_value": torch.tensor(1e9), "best_model_score": torch.tensor(1e9)}
    torch.save(stored, path)
    before = read_files(home)
    result = train(run.parent, "resume=run")
    assert result.returncode == 0, result.stderr
    assert read_files(home) == before
    assert RunFolder(run).is_finished


def test_resuming_does_not_write_a_pack_to_a_stored_path(run: Path, home: Path, train: Train) -> None:
    (run / "metrics.json").unlink()
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["packs"] = str(home / "thesis")
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    before = read_files(home)
    result = train(run.parent, "resume=run")
    assert result.returncode == 2
    assert f"data.packs={home / 'thesis'}: the pack is missing or outdated" in result.stderr
    assert read_files(home) == before


@pytest.mark.parametrize("first", ["split.csv", "predictions.parquet", "record.json", "metrics.json", "report.html"])
def test_resume_writes_missing_results(first: str, original: Path, run: Path, train: Train, packs: Path) -> None:
    """Remove a file and all files that a run writes after it, and resume the run."""
    order = ["split.csv", "predictions.parquet", "record.json", "metrics.json", "report.html"]
    for name in order[order.index(first) :]:
        (run / name).unlink()
    config = yaml.safe_load((run / "config.yaml").read_text())
    result = train(run.parent, "resume=run", f"data.packs={config['data']['packs']}")
    assert result.returncode == 0, result.stderr
    assert RunFolder(run).is_finished
    for name in ("split.csv", "predictions.parquet", "metrics.json"):
        assert (run / name).read_bytes() == (original / name).read_bytes()


@pytest.mark.full
def test_runs_started_in_the_same_second_have_different_folders(
    tmp_path: Path, packs: Path, environment: dict[str, str]
) -> None:
    """Three processes with the same run name start at once."""
    command = [sys.executable, "-c", SAME_SECOND, *TINY, f"data.packs={packs}", "name=same"]
    processes = [subprocess.Popen([*command, f"seed={seed}"], cwd=tmp_path, env=environment) for seed in (1, 2, 3)]
    assert [process.wait(timeout=240) for process in processes] == [0, 0, 0]
    runs = sorted((tmp_path / "outputs").glob("*_same*"))
    assert len(runs) == 3 and all(RunFolder(run).is_finished for run in runs)
    seeds = [(yaml.safe_load((run / "config.yaml").read_text())["seed"], read_record(run)["seed"]) for run in runs]
    assert sorted(seeds) == [(1, 1), (2, 2), (3, 3)]


def test_run_folders_of_the_same_second_are_different(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fixed(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return cls(2026, 1, 1)

    monkeypatch.setattr("etude.system.distributed.datetime", Fixed)
    monkeypatch.setattr("secrets.token_hex", lambda _: str(random.randrange(9)))  # most names are in use
    with ThreadPoolExecutor(8) as threads:
        names = list(threads.map(lambda _: run_folder.__wrapped__(None, str(tmp_path), "same"), range(8)))
    assert len(set(names)) == 8
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == sorted(Path(name).name for name in names)


def read_record(run: Path) -> dict[str, object]:
    """Return the record of a run."""
    return json.loads((run / "record.json").read_text())


def test_second_process_in_a_run_folder_is_refused(run: Path, train: Train, environment: dict[str, str]) -> None:
    (run / "metrics.json").unlink()
    code = "import sys; from pathlib import Path; from etude.files.journal import *\n"
    code += "lock = Lock(Path(sys.argv[1]), 'run'); lock.acquire(); print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(run / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        before = {name: data for name, data in read_files(run).items() if not name.startswith(".")}
        for arguments in (["resume=run"], [*TINY, "hydra.run.dir=run"]):
            result = train(run.parent, *arguments)
            assert result.returncode == 2
            assert f"run: another process is writing to it (process {holder.pid} on" in result.stderr
        os.kill(holder.pid, signal.SIGKILL)
    assert {name: data for name, data in read_files(run).items() if not name.startswith(".")} == before
