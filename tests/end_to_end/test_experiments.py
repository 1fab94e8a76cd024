"""Tests of all experiment files, which must compose, train and build networks of the expected size."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from etude.backbones.efficientat import EfficientAT
from etude.config import instantiate
from etude.config.compose import conf_dir
from etude.config.validation import config_errors
from etude.data.datamodule import build_datamodule
from etude.experiment.stages import run_experiment
from etude.files.safe_read import read_checkpoint
from etude.training.build import build_from_recipe, build_learner, load_learner

pytestmark = pytest.mark.xdist_group("experiments")  # one process, so that shared runs are trained once
Compose = Callable[..., dict[str, Any]]
HOME = conf_dir() / "experiment"
FILES = [path.relative_to(HOME).with_suffix("") for path in sorted(HOME.rglob("*.yaml"))]
NAMES = [name.as_posix() for name in FILES if name.parent.name != "base"]  # other files include those in base/
REPRODUCTION = [name for name in NAMES if name.startswith("reproduction/") and name != "reproduction/step7/digits"]
IMPROVED = [name for name in NAMES if name.startswith("improved/")]
# One experiment of each kind is trained. The others differ only in a target, a feature or a value.
TRAINED = [
    "small",
    "finetune",
    "joint_ast",
    "reproduction/step7/digits",
    "reproduction/step7/ast",
    "reproduction/step7/cnn",
    "reproduction/table1/lstm_mel",
    "reproduction/step9/transfer_energy",
    "improved/step7/ast",
    *(
        pytest.param(name, marks=pytest.mark.full)
        for name in (
            "reproduction/table2/lstm_valence",
            "reproduction/step9/imagenet_danceability",
            "reproduction/table3/multitask_random",
            "improved/step9/transfer_valence",
            "improved/table1/lstm_fused",
        )
    ),
]
AXES = ("valence", "energy", "danceability")
D = 192  # embedding size of the tiny AST
MODEL = "deit_tiny_distilled_patch16_224"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Write timm's file of ImageNet weights with random weights, and select its folder."""
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    save_file(timm.create_model(MODEL).state_dict(), folder / f"{MODEL}.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ETUDE_WEIGHTS", str(folder))
        yield


@pytest.fixture(scope="module")
def train_once(config: Compose, weights: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that trains an experiment for two steps, once per module, and returns its run folder."""
    folders: dict[str, Path] = {}

    def train(name: str) -> Path:
        if name not in folders:
            overrides = [f"experiment={name}", "debug=fast", "imagenet_weights=imagenet"]
            if name not in ("small", "reproduction/step7/digits"):
                overrides += ["data=demo", "data.crop=1.0", "data.eval_crops=1"]  # instead of whole clips, for speed
            if (config(*overrides)["transfer"] or {}).get("init_from") == "???":
                overrides += [f"transfer.init_from={train(name.split('/')[0] + '/step7/ast')}"]
            folders[name] = tmp_path_factory.mktemp("run")
            run_experiment(config(*overrides), folders[name])
            (folders[name] / "overrides.json").write_text(json.dumps(overrides))
        return folders[name]

    return train


@pytest.mark.parametrize("name", TRAINED)
def test_predictions_and_metrics_include_every_clip(
    name: str, train_once: Callable[[str], Path], config: Compose
) -> None:
    folder = train_once(name)
    table, split = pd.read_parquet(folder / "predictions.parquet"), pd.read_csv(folder / "split.csv", dtype=str)
    assert sorted(table["id"]) == sorted(split["id"][split["split"] != "train"])
    assert table["embedding"].map(len).nunique() == 1
    assert "</html>" in (folder / "report.html").read_text()
    metrics = json.loads((folder / "metrics.json").read_text())["targets"]
    assert list(metrics) == list(config(f"experiment={name}")["task"]["targets"])
    for target in metrics.values():
        assert {name: target["splits"][name]["n"] for name in ("val", "test")} == {
            name: int((split["split"] == name).sum()) for name in ("val", "test")
        }


def lstm(bins: int, hidden: int, depth: int) -> int:
    """Return the number of parameters of torch's bidirectional LSTM.

    Each of its four gates has an input bias and a state bias.
    """
    return 2 * sum(4 * hidden * (width + hidden + 2) for width in [bins] + [2 * hidden] * (depth - 1))


def ast(positions: int, outputs: int) -> int:
    """Return the number of parameters of the tiny AST.

    It has filters, two tokens, positional embeddings, twelve blocks, a final norm and linear heads.
    """
    return 257 * D + 2 * D + positions * D + 12 * (12 * D * D + 13 * D) + 2 * D + (D + 1) * outputs


def cnn(kernels: tuple[int, ...]) -> int:
    """Return the number of parameters of four convolutions without biases, each with a batch norm."""
    sizes = zip((1, 32, 64, 128), (32, 64, 128, 256), kernels, strict=True)
    return sum(kernel**2 * before * after + 2 * after for before, after, kernel in sizes)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("reproduction/step7/digits", 5994),
        ("reproduction/table1/lstm_mel", lstm(128, 256, 8) + 513 * 10),
        ("reproduction/table1/lstm_chroma", lstm(12, 256, 8) + 513 * 10),
        ("reproduction/table1/lstm_fused", lstm(140, 256, 8) + 513 * 10),
        ("reproduction/step7/cnn", cnn((5, 5, 3, 3)) + 257 * 10),
        ("reproduction/step7/ast", ast(12 * 128, 10)),  # positions of 128 x 1293
        ("reproduction/table2/lstm_energy", lstm(128, 64, 2) + 129),
        ("reproduction/table2/cnn_energy", cnn((5, 5, 3, 3)) + 257),
        ("reproduction/table2/ast_energy", ast(12 * 128, 1)),
        ("reproduction/table3/multitask_random", ast(12 * 128, 3)),
        ("reproduction/table3/multitask_pretrained", ast(12 * 128, 3)),
        ("improved/step7/cnn", cnn((3, 3, 3, 3)) + 257 * 10),
        ("improved/table3/multitask_random", ast(12 * 128, 3)),
        ("improved/step9/transfer_energy", ast(12 * 128, 1)),
        ("small", sum(p.numel() for p in EfficientAT(128).parameters()) + (2048 + 1) * 10),  # all layers,
    ],
)
def test_networks_have_the_expected_number_of_parameters(name: str, count: int, config: Compose) -> None:
    plain = config(f"experiment={name}")
    ten_classes = {"kind": "label", "classes": list("0123456789")}
    targets = {"genre": ten_classes, "digit": ten_classes}
    targets |= {axis: {"kind": "scalar", "low": 0.0, "high": 1.0} for axis in AXES}
    bins = instantiate.make(plain["feature"]).bins
    net = build_from_recipe({"config": plain, "targets": targets, "bins": bins})
    assert sum(p.numel() for p in net.parameters()) == count


def test_layers_of_the_digit_network_have_the_shapes_of_the_source_work(train_once: Callable[[str], Path]) -> None:
    net = load_learner(train_once("reproduction/step7/digits") / "checkpoints" / "best.ckpt")
    shapes: dict[str, list[int]] = {}

    def record_shapes(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: shapes.update(
            {f"{name} in": list(inputs[0].shape[1:]), f"{name} out": list(output.shape[1:])}
        )

    modules = {"first": net.backbone.first, "second": net.backbone.second, "head": net.task.heads["digit"]}
    for name, module in modules.items():
        module.register_forward_hook(record_shapes(name))
    z, _ = net(torch.rand(1, 24, 24), torch.tensor([24]))
    assert shapes == {
        "first in": [1, 24, 24], "first out": [8, 24, 24],
        "second in": [8, 12, 12], "second out": [16, 12, 12],
        "head in": [16 * 4 * 4], "head out": [10],
    }  # fmt: skip
    assert z.shape == (1, 256)


def test_denormal_numbers_are_zero_in_training(train_once: Callable[[str], Path]) -> None:
    train_once("reproduction/step7/digits")
    assert (torch.tensor([2e-38]) * 0.1).item() == 0


def changed_modules(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """Return the names of modules with a changed tensor, with three components for a block and two for others."""
    assert before.keys() == after.keys()
    names = [name.split(".") for name, value in after.items() if not torch.equal(value, before[name])]
    return {".".join(name[:3]) if name[1] == "blocks" else ".".join(name[:2]) for name in names}


@pytest.mark.parametrize("name", ["reproduction/step9/transfer_energy", "reproduction/step9/imagenet_danceability"])
def test_only_the_last_two_blocks_the_norm_and_the_head_are_trained(
    name: str, train_once: Callable[[str], Path], config: Compose
) -> None:
    from pytorch_lightning import seed_everything

    folder = train_once(name)
    after = read_checkpoint(folder / "checkpoints" / "best.ckpt")["state_dict"]
    plain = config(*json.loads((folder / "overrides.json").read_text()))
    seed_everything(plain["seed"], verbose=False)
    data = build_datamodule(plain)
    data.setup()
    before = build_learner(plain, data).state_dict()
    expected = {"backbone.blocks.10", "backbone.blocks.11", "backbone.norm", "task.heads"}
    assert changed_modules(before, after) == expected
    if name == "reproduction/step9/transfer_energy":
        source = read_checkpoint(train_once("reproduction/step7/ast") / "checkpoints" / "best.ckpt")["state_dict"]
        for key in (key for key in after if key.startswith("backbone.")):
            assert torch.equal(before[key], source[key]), key  # the complete backbone was copied


@pytest.mark.parametrize("kind", ["reproduction", "improved"])
@pytest.mark.parametrize("axis", AXES)
def test_transfer_experiments_require_a_source_run(kind: str, axis: str, config: Compose) -> None:
    for prefix, init_from in {"transfer": "???", "imagenet": None}.items():
        plain = config(f"experiment={kind}/step9/{prefix}_{axis}")
        assert (plain["transfer"]["init_from"], plain["backbone"]["weights"]) == (init_from, "imagenet")
        assert plain["transfer"]["train"] == {"reproduction": "last_k", "improved": "full"}[kind]
        assert list(plain["task"]["targets"]) == [axis]


def test_heads_of_the_multitask_network_use_the_complete_embedding(train_once: Callable[[str], Path]) -> None:
    net = load_learner(train_once("reproduction/table3/multitask_random") / "checkpoints" / "best.ckpt")
    heads = {name: [tuple(p.shape) for p in head.parameters()] for name, head in net.task.heads.items()}
    assert heads == {axis: [(1, D), (1,)] for axis in AXES}


def test_cosine_schedule_ends_with_the_run(train_once: Callable[[str], Path]) -> None:
    curves = pd.read_csv(train_once("reproduction/table3/multitask_random") / "curves.csv")
    assert curves["lr"].tolist() == [0.0]  # after the two steps of debug=fast, not after the epochs of the experiment
    assert pd.read_csv(train_once("reproduction/step7/ast") / "curves.csv")["lr"].tolist() == [1e-4]


@pytest.mark.parametrize("name", [*REPRODUCTION, *IMPROVED])
def test_experiment_uses_the_source_works_data_by_default(name: str, config: Compose) -> None:
    default, demo = config(f"experiment={name}"), config(f"experiment={name}", "data=demo")
    genre = list(default["task"]["targets"]) == ["genre"]
    assert default["data"]["source"]["path"] == ("data/fma_genre_spectrograms" if genre else "data/multitask_dataset")
    assert default["feature"]["front"]["chroma"] == "cqt"  # as in the data of the student report
    assert config_errors(default) == config_errors(demo) == []
    assert demo["data"]["source"] == {"_target_": "etude.data.sources.demo.collection"}
    assert demo["feature"] == default["feature"] | {"front": config()["feature"]["front"]}
    for key in ("batch_size", "crop", "eval_crops"):
        assert demo["data"][key] == default["data"][key]
    for key in set(default) - {"data", "feature"}:
        assert demo[key] == default[key], key


def test_each_reproduction_experiment_has_an_improved_one() -> None:
    assert [name.removeprefix("improved/") for name in IMPROVED] == [
        name.removeprefix("reproduction/") for name in REPRODUCTION
    ]
    assert len(REPRODUCTION) == 4 + 2 + 9 + 6 + 2


@pytest.mark.parametrize("name", IMPROVED)
def test_improved_experiment_differs_only_in_method(name: str, config: Compose) -> None:
    improved = config(f"experiment={name}")
    reproduction = config(f"experiment=reproduction/{name.removeprefix('improved/')}")
    stem = name.rpartition("/")[2]
    # tables and folders use these names
    assert (improved["name"], reproduction["name"]) == (f"improved_{stem}", f"reproduction_{stem}")
    for key in ("feature", "task", "weighting"):
        assert improved[key] == reproduction[key], key
    assert improved["head"] | {"dropout": reproduction["head"]["dropout"]} == reproduction["head"]
    for key in ("source", "split"):
        assert improved["data"][key] == reproduction["data"][key], key
    for key in ("_target_", "model", "weights", "channels"):
        assert improved["backbone"].get(key) == reproduction["backbone"].get(key), key
    assert bool(improved["transfer"]) == bool(reproduction["transfer"])
    assert (improved["optim"]["kind"], reproduction["optim"]["kind"]) == ("adamw", "adam")
    assert improved["augment"] and not reproduction["augment"]
    assert reproduction["callbacks"]["early_stopping"] and not improved["callbacks"]["early_stopping"]


@pytest.mark.parametrize("name", [name for name in TRAINED if name != "small"])  # a linear probe has no steps
def test_every_experiment_composes_with_overfitting(name: str, config: Compose) -> None:
    overfit, plain = config(f"experiment={name}", "debug=overfit"), config(f"experiment={name}")
    assert config_errors(overfit) == []
    assert overfit["data"]["overfit"] == 8
    assert not overfit["augment"]
    assert overfit["callbacks"]["early_stopping"]["monitor"] == "val/loss"  # replaces the experiment's early stopping
    assert overfit["backbone"] == plain["backbone"]


@pytest.mark.parametrize("choice", sorted(path.stem for path in (conf_dir() / "callbacks").glob("*.yaml")))
def test_callbacks_of_an_experiment_can_be_replaced(choice: str, config: Compose) -> None:
    plain = config("experiment=reproduction/table2/cnn_valence", f"callbacks={choice}")
    assert config_errors(plain) == []
    stopping = plain["callbacks"]["early_stopping"]
    assert stopping is None or stopping["patience"] == plain["patience"] == 10  # as in the student report
