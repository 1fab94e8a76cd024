"""Tests of the settings of the student report in all reproduction experiments, and of both sweeps on its data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from tests.data.sources.patreco_arrays import COUNTS, write_affect, write_genre
from tests.end_to_end.conftest import Result
from torch import nn

from etude.backbones.ast import AST, UNTRAINED
from etude.backbones.cnn import CNN
from etude.backbones.lstm import LSTM
from etude.backbones.patches import LearnedPositions
from etude.config.compose import conf_dir
from etude.config.stored import flatten
from etude.training.build import build_from_recipe

pytestmark = pytest.mark.xdist_group("experiments")  # one process, so that each experiment is composed once
Compose = Callable[..., dict[str, Any]]
HOME = conf_dir() / "experiment" / "reproduction"
AXES = ("valence", "energy", "danceability")

COMMON = {  # values of all experiments but the digits
    "data.crop": None,
    "data.eval_crops": None,
    "data.buckets": False,
    "data.balanced_sampling": None,
    "data.leave_out": None,
    "data.split.fold": None,
    "data.split.few_groups": "keep",
    "augment": None,
    "optim.kind": "adam",
    "optim.weight_decay": 0.0,
    "optim.warmup": 0.0,
    "trainer.precision": "32-true",
    "trainer.accumulate_grad_batches": 1,
    "weighting._target_": "etude.tasks.loss_weighting.WeightedSum",
    "weighting.weights": None,
    "head._target_": "etude.tasks.heads.Linear",
    "head.norm": False,
    "compile": False,
    "callbacks.ema": None,
    "callbacks.checkpoint.monitor": "val/loss",
    "callbacks.checkpoint.mode": "min",
    "callbacks.early_stopping.monitor": "val/loss",
    "callbacks.early_stopping.mode": "min",
}
DEEP = {"hidden": 256, "depth": 8, "bidirectional": True, "readout": "last", "dropout": 0.0, "packed": None}
SMALL = DEEP | {"hidden": 64, "depth": 2}
CONVOLUTIONS = {"channels": [32, 64, 128, 256], "kernel": [5, 5, 3, 3], "dropout": 0.0}
TRANSFORMER = {
    "model": "deit_tiny_distilled_patch16_224", "weights": "imagenet", "depth": None, "patch": None, "fstride": 10,
    "tstride": 10, "span": 1293, "positions": "learned", "pool": None, "dropout": 0.0, "drop_path": 0.0,
    "drop_time": 0.0, "drop_frequency": 0.0, "drop_patches": 0.0,
}  # fmt: skip
RANDOM = TRANSFORMER | {"weights": None}
SINGLE = (100, None, 1e-4, "none")  # epochs, gradient clipping, learning rate, schedule
MULTITASK = (40, 1.0, 1e-2, "cosine")
# feature, backbone, dropout of the head, batch size, patience, and the values above
TABLE: dict[str, tuple[str, dict[str, Any], float, int, int, tuple[int, float | None, float, str]]] = {
    "table1/lstm_mel": ("mel", DEEP, 0.1, 32, 10, SINGLE),
    "table1/lstm_beat_mel": ("beat-mel", DEEP, 0.1, 32, 10, SINGLE),
    "table1/lstm_chroma": ("chroma", DEEP, 0.1, 32, 10, SINGLE),
    "table1/lstm_fused": ("fused", DEEP, 0.1, 32, 10, SINGLE),
    "step7/cnn": ("mel", CONVOLUTIONS, 0.0, 8, 3, SINGLE),
    "step7/ast": ("mel", TRANSFORMER, 0.0, 8, 3, SINGLE),
    **{f"table2/lstm_{axis}": ("mel", SMALL, 0.1, 8, 10, SINGLE) for axis in AXES},
    **{f"table2/cnn_{axis}": ("mel", CONVOLUTIONS, 0.0, 8, 10, SINGLE) for axis in AXES},
    **{f"table2/ast_{axis}": ("mel", TRANSFORMER, 0.0, 8, 10, SINGLE) for axis in AXES},
    **{f"step9/transfer_{axis}": ("mel", TRANSFORMER, 0.0, 8, 3, SINGLE) for axis in AXES},
    **{f"step9/imagenet_{axis}": ("mel", TRANSFORMER, 0.0, 8, 3, SINGLE) for axis in AXES},
    "table3/multitask_random": ("mel", RANDOM, 0.0, 8, 5, MULTITASK),
    "table3/multitask_pretrained": ("mel", TRANSFORMER, 0.0, 8, 5, MULTITASK),
}


def value(config: dict[str, Any], key: str) -> Any:
    """Return the value of a dotted key. A missing value and an empty mapping are None."""
    node: Any = config
    for part in key.split("."):
        node = (node or {}).get(part)
    return None if node == {} else node


def test_every_reproduction_experiment_has_a_row() -> None:
    files = {path.relative_to(HOME).with_suffix("").as_posix() for path in HOME.glob("*/*.yaml")}
    assert set(TABLE) == {name for name in files if not name.startswith("base/")} - {"step7/digits"}


@pytest.mark.parametrize("data", [[], ["data=demo"]], ids=["patreco", "demo"])
@pytest.mark.parametrize("name", TABLE)
def test_experiment_has_the_settings_of_the_report(name: str, data: list[str], config: Compose) -> None:
    feature, backbone, dropout, batch, patience, (epochs, clip, rate, schedule) = TABLE[name]
    composed = config(f"experiment=reproduction/{name}", *data)
    target = name.rpartition("_")[2]
    targets = [target] if target in AXES else list(AXES) if name.startswith("table3/") else ["genre"]
    assert {key: value(composed, key) for key in COMMON} == COMMON
    assert composed["backbone"] == backbone | {"_target_": composed["backbone"]["_target_"]}
    assert {
        "feature": f"{'beat-' if composed['feature']['sync'] == 'beat' else ''}{composed['feature']['view']}",
        "head.dropout": composed["head"]["dropout"],
        "data.batch_size": composed["data"]["batch_size"],
        "patience": composed["patience"],
        "callbacks.early_stopping.patience": composed["callbacks"]["early_stopping"]["patience"],
        "trainer.max_epochs": composed["trainer"]["max_epochs"],
        "trainer.gradient_clip_val": composed["trainer"]["gradient_clip_val"],
        "optim.lr": composed["optim"]["lr"],
        "optim.schedule": composed["optim"]["schedule"],
    } == {
        "feature": feature,
        "head.dropout": dropout,
        "data.batch_size": batch,
        "patience": patience,
        "callbacks.early_stopping.patience": patience,
        "trainer.max_epochs": epochs,
        "trainer.gradient_clip_val": clip,
        "optim.lr": rate,
        "optim.schedule": schedule,
    }
    label = {"_target_": "etude.tasks.targets.Label", "smoothing": 0.0, "class_weight": None}
    scalar = {"_target_": "etude.tasks.targets.Scalar", "loss": "mse", "bounded": False}
    assert composed["task"]["targets"] == {name: label if name == "genre" else scalar for name in targets}
    transfer = composed["transfer"]
    if not name.startswith("step9/"):
        assert not transfer
    else:
        assert (transfer["train"], transfer["last_k"], transfer["layer_decay"]) == ("last_k", 2, 1.0)


def test_validation_is_a_fifth_of_the_training_clips_of_genre(config: Compose) -> None:
    for name in ("table1/lstm_mel", "step7/cnn", "step7/ast"):
        split = config(f"experiment=reproduction/{name}")["data"]["split"]
        train, val, _ = split["fractions"]
        assert (split["kind"], val / (train + val)) == ("official", pytest.approx(0.2))


def test_short_tests_change_steps_and_weights_only(config: Compose) -> None:
    changed = {"name", "imagenet_weights", "data.max_clips", "trainer.max_epochs", "trainer.limit_train_batches"}
    changed |= {"trainer.limit_val_batches", "backbone.weights"}
    for method in ("reproduction", "improved"):
        for name in ("table2/cnn_energy", "step9/imagenet_valence"):
            plain = flatten(config(f"experiment={method}/{name}"))
            fast = flatten(config(f"experiment={method}/{name}", "debug=fast"))
            assert {key for key in {*plain, *fast} if plain.get(key) != fast.get(key)} <= changed
            pretrained = plain.get("backbone.weights") == "imagenet"
            assert fast.get("backbone.weights") == (UNTRAINED if pretrained else plain.get("backbone.weights"))


def test_digits_keep_their_data_in_sweeps_with_other_data(config: Compose) -> None:
    digits = config("experiment=reproduction/step7/digits")
    assert config("experiment=reproduction/step7/digits", "data=demo") == digits
    assert digits["data"]["source"] == config("data=digits")["data"]["source"]


def build(config: dict[str, Any], bins: int) -> nn.Module:
    """Build the network of a config for frames of `bins` bins."""
    names = list(config["task"]["targets"])
    label, scalar = {"kind": "label", "classes": list("abcdefghij")}, {"kind": "scalar", "low": 0.0, "high": 1.0}
    targets = {name: label if name == "genre" else scalar for name in names}
    recipe = {"config": config, "targets": targets, "bins": bins, "columns": [0, bins]}
    return build_from_recipe(recipe)


@pytest.mark.parametrize(("name", "bins"), [("table1/lstm_fused", 140), ("table2/lstm_energy", 128)])
def test_lstm_is_bidirectional_with_dropout_on_its_output_only(name: str, bins: int, config: Compose) -> None:
    network = build(config(f"experiment=reproduction/{name}"), bins)
    backbone: Any = network.backbone
    assert isinstance(backbone, LSTM)
    layers = 8 if "table1" in name else 2
    assert len(backbone.forward_layers) == len(backbone.backward_layers) == layers
    assert {layer.input_size for layer in backbone.forward_layers[1:]} == {backbone.dim}  # both directions
    rates = {key: module.p for key, module in network.named_modules() if isinstance(module, nn.Dropout)}
    assert {key.split(".")[0]: rate for key, rate in rates.items()} == {"backbone": 0.0, "task": 0.1}


def test_cnn_has_the_kernels_of_the_report_and_no_dropout(config: Compose) -> None:
    network = build(config("experiment=reproduction/step7/cnn"), 128)
    backbone: Any = network.backbone
    assert isinstance(backbone, CNN)
    sizes = [(block.conv.kernel_size, block.conv.padding, block.conv.out_channels) for block in backbone.blocks]
    kernels = zip((5, 5, 3, 3), (32, 64, 128, 256), strict=True)
    assert sizes == [((side, side), (side // 2, side // 2), filters) for side, filters in kernels]
    assert all(module.p == 0 for module in network.modules() if isinstance(module, nn.Dropout))


def test_both_multitask_networks_differ_in_their_weights_only(config: Compose) -> None:
    shapes = []
    for name in ("table3/multitask_random", "table3/multitask_pretrained"):
        network = build(config(f"experiment=reproduction/{name}"), 128)
        backbone: Any = network.backbone
        assert isinstance(backbone, AST) and isinstance(backbone.patches.positions, LearnedPositions)
        for module in network.modules():
            assert getattr(module, "drop_prob", None) in (None, 0.0)  # timm's DropPath
            assert not isinstance(module, nn.Dropout) or module.p == 0
        shapes.append({key: value.shape for key, value in network.state_dict().items()})
    assert shapes[0] == shapes[1]


def test_untrained_weights_have_the_network_of_pretrained_weights(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    untrained, pretrained = AST(32, weights=UNTRAINED, depth=1), AST(32, weights="imagenet", depth=1)
    assert {key: value.shape for key, value in untrained.state_dict().items()} == {
        key: value.shape for key, value in pretrained.state_dict().items()
    }
    before = {key: value.clone() for key, value in untrained.state_dict().items()}
    untrained.initialise()
    assert all(torch.equal(value, before[key]) for key, value in untrained.state_dict().items())
    assert "backbone.weights=untrained: the weights are random" in caplog.text
    assert not untrained.skips_standardisation


def whole_lengths(number: int) -> tuple[int, int]:
    """Return the number of frames and beats of a clip as in the data of the student report."""
    return 1291 + number % 3, 26 + 37 * number % 104


def write_data(folder: Path, clips: tuple[int, int], lengths: Callable[[int], tuple[int, int]]) -> None:
    """Write both collections into `data`, with a few training and test clips of each of the twenty classes.

    Some tracks are in both collections, as in the data of the student report.
    """
    counts = dict.fromkeys(COUNTS, clips)
    ids = [str(1000 + 7 * number) for number in range(20 * sum(clips))]
    write_genre(folder / "data" / "fma_genre_spectrograms", counts, ids, lengths)
    others = [str(50_000 + number) for number in range(21)]
    write_affect(folder / "data" / "multitask_dataset", ids[:6] + others[:16], others[16:], lengths)


def scored_clips(folder: Path) -> dict[str, dict[str, int]]:
    """Return the number of scored test clips of each job of the only sweep in a folder, by the name of its folder.

    All clips of the validation and test splits are scored. All others have a reason.
    """
    (jobs,) = folder.glob("outputs/*_sweep_*/jobs.csv")
    counts = {}
    for run in (jobs.parent / name for name in pd.read_csv(jobs)["folder"]):
        table, split = pd.read_parquet(run / "predictions.parquet"), pd.read_csv(run / "split.csv", dtype=str)
        assert sorted(table["id"]) == sorted(split["id"][split["split"].isin(["val", "test"])])
        left_out = split[~split["split"].isin(["train", "val", "test"])]
        assert left_out.empty or left_out["reason"].notna().all()
        counts[run.name] = int((table["split"] == "test").sum())
    return counts


SHORT = ("debug=fast", "trainer.limit_train_batches=1", "trainer.limit_val_batches=1", "seed=0")


@pytest.mark.full
def test_one_cell_of_each_kind_trains_on_the_layout_of_the_data(tmp_path: Path, train: Callable[..., Result]) -> None:
    write_data(tmp_path, (2, 1), lambda number: (48, 12))
    cells = {"table1/lstm_beat_mel": 15, "table2/cnn_valence": 5, "table3/multitask_random": 5}
    result = train(
        tmp_path, "-m", "sweep=reproduction", *SHORT,
        f"hydra.sweeper.params.experiment='{','.join(f'reproduction/{cell}' for cell in cells)}'",
        "hydra.callbacks.table=null",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert scored_clips(tmp_path) == {
        f"reproduction_{cell.partition('/')[2]}_seed0": count for cell, count in cells.items()
    }


@pytest.mark.full
@pytest.mark.parametrize(("sweep", "runs"), [("reproduction", 24), ("improved", 23)])
def test_complete_sweep_trains_on_the_layout_of_the_data(
    sweep: str, runs: int, tmp_path: Path, train: Callable[..., Result]
) -> None:
    # a training and a test clip are whole, so that a batch has the shape of the report's
    write_data(tmp_path, (2, 1), lambda number: whole_lengths(number) if number in (0, 2) else (160, 24))
    result = train(tmp_path, "-m", f"sweep={sweep}", *SHORT, limit=1800)
    assert result.returncode == 0, result.stderr
    assert len(scored_clips(tmp_path)) == runs
