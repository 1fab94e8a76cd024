"""Tests of the train command, with its help, errors, interruption, loggers and transfer."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from etude.training.network import load_network

ROOT = Path(__file__).parents[2]

Result = subprocess.CompletedProcess[str]
HEAVY_MODULES = ("torch", "pytorch_lightning", "librosa", "umap", "wandb", "pandas", "sklearn", "matplotlib", "timm")


def run_code(code: str, folder: Path, environment: dict[str, str]) -> Result:
    """Run Python code in a process that prints which heavy modules were loaded."""
    code += f"\nprint('LOADED', [m for m in {HEAVY_MODULES!r} if m in sys.modules])"
    return subprocess.run(
        [sys.executable, "-c", "import sys\n" + code], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_help_lists_every_option_and_loads_no_heavy_module(tmp_path: Path, environment: dict[str, str]) -> None:
    code = "from etude.cli.train import main\nsys.argv[0]='train.py'\nmain(['--help'])"
    result = run_code(code, tmp_path, environment)
    assert result.returncode == 0, result.stderr
    assert "LOADED []" in result.stdout
    for group in (path for path in (ROOT / "conf").iterdir() if path.is_dir() and path.name != "hydra"):
        line = next(line for line in result.stdout.splitlines() if line.startswith(f"{group.name}: "))
        assert line.split(": ")[1].split(", ") == sorted(path.stem for path in group.glob("*.yaml"))


@pytest.mark.parametrize(
    ("overrides", "messages"),
    [
        (["+trainer.max_epoch=3"], ["trainer.max_epoch", "did you mean max_epochs?"]),
        (["seed=-1", "+backbone.colour=red"], ["2 errors", "seed: must be a whole number", "backbone.colour"]),
        (["data.batch_size=many"], ["data.batch_size: must be int, got 'many'"]),
        (["transfer=full"], ["transfer.init_from"]),
        (["resume=nowhere"], ["resume=nowhere: is not a run folder"]),
        (["backbone=transformer"], ["backbone=transformer: no such option", "ast"]),
    ],
)
def test_invalid_overrides_are_reported_before_heavy_imports(
    overrides: list[str], messages: list[str], tmp_path: Path, environment: dict[str, str]
) -> None:
    code = (
        f"from etude.cli.train import main\nsys.argv[0]='train.py'\nstatus = main({overrides!r})\n"
        "print('STATUS', status)"
    )
    result = run_code(code, tmp_path, environment)
    assert "STATUS 2" in result.stdout, result.stdout + result.stderr
    assert "LOADED []" in result.stdout
    for message in messages:
        assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.rglob("*.yaml"))


def test_misspelled_key_in_an_experiment_file_is_reported(tmp_path: Path, train: Callable[..., Result]) -> None:
    (tmp_path / "configs" / "experiment").mkdir(parents=True)
    file = tmp_path / "configs" / "experiment" / "typo.yaml"
    file.write_text("# @package _global_\noptim:\n  learning_rate: 0.1\n")
    result = train(tmp_path, "experiment=typo", "--config-dir=configs")
    assert result.returncode == 2
    assert "optim.learning_rate: no such config key" in result.stderr
    assert not (tmp_path / "outputs").exists() or not list((tmp_path / "outputs").iterdir())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.split.kind=official"], "needs a column `split`"),
        (["data.split.kind=random"], "groups are in more than one split"),
        (["+target@task.targets.x=genre"], "x"),
    ],
)
def test_unsuitable_data_gives_a_message(
    overrides: list[str], message: str, tmp_path: Path, train: Callable[..., Result]
) -> None:
    result = train(tmp_path, *overrides)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not list((tmp_path / "outputs").glob("*"))


def test_run_interrupted_by_ctrl_c_can_be_resumed(
    tmp_path: Path, packs: Path, environment: dict[str, str], train: Callable[..., Result]
) -> None:
    command = [sys.executable, str(ROOT / "train.py"), f"data.packs={packs}", "backbone=lstm", "trainer.max_epochs=5"]
    # in a background job, the shell sets Ctrl-C to be ignored, and child processes inherit this
    previous = signal.signal(signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, previous)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("epoch 2/"):
            process.send_signal(signal.SIGINT)
            break
    rest = process.stderr.read()
    assert process.wait(timeout=60) == 130, rest
    assert "resume=" in rest
    (run,) = (tmp_path / "outputs").glob("*_demo_genre_lstm_mel_*")
    assert not (run / "metrics.json").exists()
    result = train(tmp_path, f"resume={run.relative_to(tmp_path)}")
    assert result.returncode == 0, result.stderr
    assert "epoch 1/" not in result.stderr
    assert (run / "report.html").is_file()
    curves = pd.read_csv(run / "curves.csv")
    repeated = train(tmp_path, f"resume={run.relative_to(tmp_path)}")
    assert repeated.returncode == 2
    assert "this run is finished" in repeated.stderr
    assert curves["epoch"].dropna().astype(int).tolist() == list(range(1, 6))


def test_overfitting_run_cannot_be_resumed(tmp_path: Path, train: Callable[..., Result]) -> None:
    result = train(tmp_path, "debug=overfit", "backbone=lstm", "data.crop=1.0", "trainer.max_epochs=5")
    assert result.returncode == 0, result.stderr
    (run,) = (tmp_path / "outputs").iterdir()
    log = (run / "train.log").read_text()
    resumed = train(tmp_path, f"resume={run.relative_to(tmp_path)}")
    assert resumed.returncode == 2
    message = "there is no checkpoints/last.ckpt to resume from; start a new run"
    assert resumed.stderr.strip() == f"resume={run}: {message}"
    assert (run / "train.log").read_text() == log  # the refused command is not logged in the run folder


def test_sweep_has_a_folder_per_job_and_one_table(tmp_path: Path, train: Callable[..., Result]) -> None:
    result = train(tmp_path, "-m", "backbone=lstm", "task=genre,valence", "debug=fast")
    assert result.returncode == 0, result.stderr
    (sweep,) = (tmp_path / "outputs").glob("*_sweep_*")
    jobs = [path for path in sweep.iterdir() if path.is_dir()]
    assert len(jobs) == 2
    table = pd.read_csv(sweep / "compare.csv")
    assert sorted(zip(table["backbone"], table["target"], strict=True)) == [
        ("lstm", "genre"),
        ("lstm", "valence"),
    ]
    for job in jobs:
        record = json.loads((job / "record.json").read_text())
        assert job.name.endswith(f"{record['model']['task']}_{record['model']['backbone']}")
    assert result.stdout.count("linear model") >= 1


def test_basic_launcher_refuses_jobs_of_several_processes(tmp_path: Path, train: Callable[..., Result]) -> None:
    """Hydra's basic launcher runs jobs in one process, where Lightning would start rank 1 with the sweep's command."""
    result = train(tmp_path, "-m", "hydra/launcher=basic", "trainer=ddp_cpu", "debug=fast", "backbone=lstm,cnn")
    assert result.returncode == 2, result.stderr
    assert "this launcher starts one process for each job of a sweep" in result.stderr


@pytest.mark.full
def test_loggers_write_the_curves(tmp_path: Path, train: Callable[..., Result]) -> None:
    result = train(tmp_path, "-m", "hydra/launcher=basic", "logger=wandb,tensorboard", "debug=fast", "backbone=lstm")
    assert result.returncode == 0, result.stderr
    (offline,) = (tmp_path / "outputs").rglob("run-*.wandb")
    assert b"val/score" in offline.read_bytes()
    (events,) = (tmp_path / "outputs").rglob("events.out.tfevents.*")
    assert b"val/score" in events.read_bytes()


def test_transfer_reports_copied_tensors_and_refuses_another_network(
    finished: Path, tmp_path: Path, train: Callable[..., Result]
) -> None:
    transfer = ["transfer=full", f"transfer.init_from={finished}", "backbone=lstm"]
    other_split = "data.split.fold=0"  # with clips on which the source run was trained
    result = train(tmp_path, *transfer, other_split, "trainer.max_epochs=1")
    assert result.returncode == 2
    assert re.search(
        r"\d+ of \d+ test clips were used to train joint_lstm_mel: .*transfer\.overlap=drop", result.stderr
    )
    assert not list(tmp_path.rglob("split.csv"))
    readout = ["debug=fast", "readout.layers=[1,2]", "readout.pooling=mean_std", "readout.combine=weighted"]
    result = train(tmp_path, *transfer, other_split, "transfer.overlap=drop", *readout)
    assert result.returncode == 0, result.stderr
    assert "weights of the backbone copied" in result.stderr
    network = load_network(next(tmp_path.rglob("best.ckpt")))
    assert network.readout.layers == [1, 2] and network.readout.dim == 2 * network.backbone.dim
    assert network.readout.weights is not None and network.readout.weights.all()  # trained, initially 0
    (file,) = tmp_path.rglob("split.csv")
    weights = json.loads(file.with_name("record.json").read_text(encoding="utf-8"))["model"]["layer_weights"]
    assert weights == dict(zip("12", network.readout.layer_weights().tolist(), strict=True))
    assert "Learned weights of the layers" in file.with_name("report.html").read_text(encoding="utf-8")
    split = pd.read_csv(file)
    source = pd.read_csv(finished / "split.csv").set_index("id")["split"]
    assert set(source[split["id"][split["reason"].notna()]]) == {"train"}  # the demo's groups are in one split
    assert not (source[split["id"][split["split"].isin(["val", "test"])]] == "train").any()
    count = int((split["split"] == "none").sum())
    assert count == split["reason"].notna().sum() > 0
    assert "left out, because they or their groups had been used to train joint_lstm_mel" in file.with_name(
        "report.html"
    ).read_text(encoding="utf-8")
    # the sample of a trial run is split anew, so that it overlaps the training clips; its scores have no meaning
    result = train(tmp_path, "transfer=full", f"transfer.init_from={finished}", "backbone=cnn", "debug=fast")
    assert result.returncode == 2 and "test clips were used to train joint_lstm_mel" in result.stderr
    assert "0% of the backbone's weights" in result.stderr
