"""Every experiment file fits all the data it is meant for, runs to its table, and is the network that it says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import lru_cache
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

pytestmark = pytest.mark.xdist_group("experiments")  # what is run once is run in one process
Compose = Callable[..., dict[str, Any]]
HOME = conf_dir() / "experiment"
FILES = [path.relative_to(HOME).with_suffix("") for path in sorted(HOME.rglob("*.yaml"))]
NAMES = [name.as_posix() for name in FILES if name.parent.name != "base"]  # from which the others are made
LAB = [name for name in NAMES if name.startswith("reproduction/") and name != "reproduction/step7/digits"]
BETTER = [name for name in NAMES if name.startswith("improved/")]
# One of each kind is trained. The others differ from one of these in a target, a feature or a value that is composed.
TRAINED = [
    *(
        "small",
        "joint_ast",
        "reproduction/step7/digits",
        "reproduction/step7/ast",
        "reproduction/step7/cnn",
        "reproduction/table1/lstm_mel",
    ),
    *(
        "reproduction/table2/lstm_valence",
        "reproduction/step9/transfer_energy",
        "reproduction/step9/imagenet_danceability",
    ),
    *(
        "reproduction/table3/multitask_random",
        "improved/step7/ast",
        "improved/step9/transfer_valence",
        "improved/table1/lstm_fused",
    ),
]
AXES = ("valence", "energy", "danceability")
D = 192  # numbers of a token of the tiny AST
MODEL = "deit_tiny_distilled_patch16_224"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A file as timm's of ImageNet, with random weights, in the folder where it is looked for."""
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    save_file(timm.create_model(MODEL).state_dict(), folder / f"{MODEL}.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ETUDE_WEIGHTS", str(folder))
        yield


@pytest.fixture(scope="module")
def efficientat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as EfficientAT's authors', with random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "mn04.pt"
    own = EfficientAT(128).state_dict()
    torch.save({key: value.transpose(2, 3) if value.ndim == 4 else value for key, value in own.items()}, path)
    return path


@pytest.fixture(scope="module")
def composed(config: Compose) -> Compose:
    """What `config` composes, each line once."""
    return lru_cache(None)(config)


@pytest.fixture(scope="module")
def ran(
    composed: Compose, weights: None, efficientat: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The folder of an experiment that was run for two steps; each is run once."""
    done: dict[str, Path] = {}

    def go(name: str) -> Path:
        if name not in done:
            line = [f"experiment={name}", "debug=fast"]
            if name == "small":
                line += [f"backbone.weights={efficientat}"]
            elif name != "reproduction/step7/digits":
                line += ["data=demo", "data.crop=1.0", "data.eval_crops=1"]
            if (composed(*line)["transfer"] or {}).get("init_from") == "???":
                line += [f"transfer.init_from={go(name.split('/')[0] + '/step7/ast')}"]
            done[name] = tmp_path_factory.mktemp("run")
            run_experiment(composed(*line), done[name])
            (done[name] / "line.json").write_text(json.dumps(line))
        return done[name]

    return go


@pytest.mark.parametrize("name", TRAINED)
def test_every_clip_is_in_the_table_and_counted(name: str, ran: Callable[[str], Path], composed: Compose) -> None:
    folder = ran(name)
    table, split = pd.read_parquet(folder / "predictions.parquet"), pd.read_csv(folder / "split.csv", dtype=str)
    assert sorted(table["id"]) == sorted(split["id"][split["split"] != "train"])
    assert table["embedding"].map(len).nunique() == 1
    assert "</html>" in (folder / "report.html").read_text()
    metrics = json.loads((folder / "metrics.json").read_text())["targets"]
    assert list(metrics) == list(composed(f"experiment={name}")["task"]["targets"])
    for target in metrics.values():
        assert {part: target["splits"][part]["n"] for part in ("val", "test")} == {
            part: int((split["split"] == part).sum()) for part in ("val", "test")
        }


def lstm(bins: int, hidden: int, depth: int) -> int:
    """Weights of torch's LSTM: four gates, each with a bias for its input and one for its state."""
    return sum(4 * hidden * (width + hidden + 2) for width in [bins] + [hidden] * (depth - 1))


def ast(places: int, outputs: int) -> int:
    """Weights of the tiny AST: filters, two tokens, places, twelve blocks, a norm, and linear heads."""
    return 257 * D + 2 * D + places * D + 12 * (12 * D * D + 13 * D) + 2 * D + (D + 1) * outputs


def cnn(*channels: int) -> int:
    """Weights of 3 x 3 convolutions without biases, each with a batch norm."""
    return sum(9 * before * after + 2 * after for before, after in zip((1, *channels), channels, strict=False))


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("reproduction/step7/digits", 5994),
        ("reproduction/table1/lstm_mel", lstm(128, 256, 8) + 257 * 10),
        ("reproduction/table1/lstm_chroma", lstm(12, 256, 8) + 257 * 10),
        ("reproduction/table1/lstm_fused", lstm(140, 256, 8) + 257 * 10),
        ("reproduction/step7/cnn", cnn(32, 64, 128, 256) + 257 * 10),
        ("reproduction/step7/ast", ast(12 * 128, 10)),  # places of 128 x 1293
        ("reproduction/table2/lstm_energy", lstm(128, 64, 2) + 65),
        ("reproduction/table2/cnn_energy", cnn(32, 64, 128, 256) + 257),
        ("reproduction/table2/ast_energy", ast(12 * 128, 1)),
        ("reproduction/table3/multitask_random", ast(12, 3)),  # without weights, places are learned in frequency alone
        ("reproduction/table3/multitask_pretrained", ast(12 * 128, 3)),
        ("improved/table3/multitask_random", ast(12, 3)),
        ("improved/step9/transfer_energy", ast(12 * 128, 1)),
        ("small", sum(p.numel() for p in EfficientAT(128).parameters()) + 2 * 384 + 385 * 10),
    ],
)
def test_networks_are_as_large_as_they_are_said_to_be(name: str, count: int, composed: Compose) -> None:
    plain = composed(f"experiment={name}")
    ten = {"kind": "label", "classes": list("0123456789")}
    targets = {"genre": ten, "digit": ten} | {axis: {"kind": "scalar", "low": 0.0, "high": 1.0} for axis in AXES}
    bins = instantiate.make(plain["feature"]).bins
    net = build_from_recipe({"config": plain, "targets": targets, "bins": bins})
    assert sum(p.numel() for p in net.parameters()) == count


def test_layers_of_the_network_for_digits_have_the_shapes_of_the_source_work(ran: Callable[[str], Path]) -> None:
    net = load_learner(ran("reproduction/step7/digits") / "checkpoints" / "best.ckpt")
    shapes: dict[str, list[int]] = {}

    def note(name: str) -> Callable[..., None]:
        return lambda module, given, made: shapes.update(
            {f"{name} in": list(given[0].shape[1:]), f"{name} out": list(made.shape[1:])}
        )

    parts = {"first": net.backbone.first, "second": net.backbone.second, "head": net.task.heads["digit"]}
    for name, part in parts.items():
        part.register_forward_hook(note(name))
    z, _ = net(torch.rand(1, 24, 24), torch.tensor([24]))
    assert shapes == {
        "first in": [1, 24, 24], "first out": [8, 24, 24],
        "second in": [8, 12, 12], "second out": [16, 12, 12],
        "head in": [16 * 4 * 4], "head out": [10],
    }  # fmt: skip
    assert z.shape == (1, 256)


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """Parts of a network in which a tensor has changed: a block by its number, others by their first name."""
    assert before.keys() == after.keys()
    places = [name.split(".") for name, value in after.items() if not torch.equal(value, before[name])]
    return {".".join(place[:3]) if place[1] == "blocks" else ".".join(place[:2]) for place in places}


@pytest.mark.parametrize("name", ["reproduction/step9/transfer_energy", "reproduction/step9/imagenet_danceability"])
def test_only_the_last_two_blocks_the_norm_and_the_head_learn(
    name: str, ran: Callable[[str], Path], composed: Compose
) -> None:
    from pytorch_lightning import seed_everything

    folder = ran(name)
    after = read_checkpoint(folder / "checkpoints" / "best.ckpt")["state_dict"]
    plain = composed(*json.loads((folder / "line.json").read_text()))
    seed_everything(plain["seed"], verbose=False)
    data = build_datamodule(plain)
    data.setup()
    before = build_learner(plain, data).state_dict()
    expected = {"backbone.blocks.10", "backbone.blocks.11", "backbone.norm", "task.heads"}
    assert moved(before, after) == expected
    if name == "reproduction/step9/transfer_energy":
        source = read_checkpoint(ran("reproduction/step7/ast") / "checkpoints" / "best.ckpt")["state_dict"]
        for key in (key for key in after if key.startswith("backbone.")):
            assert torch.equal(before[key], source[key]), key  # all of it was copied


@pytest.mark.parametrize("kind", ["reproduction", "improved"])
@pytest.mark.parametrize("axis", AXES)
def test_a_transfer_asks_what_to_begin_from(kind: str, axis: str, composed: Compose) -> None:
    for way, origin in {"transfer": "???", "imagenet": None}.items():
        plain = composed(f"experiment={kind}/step9/{way}_{axis}")
        assert (plain["transfer"]["init_from"], plain["backbone"]["weights"]) == (origin, "imagenet")
        assert plain["transfer"]["train"] == {"reproduction": "last_k", "improved": "full"}[kind]
        assert list(plain["task"]["targets"]) == [axis]


def test_the_heads_of_the_multitask_network_read_its_whole_embedding(ran: Callable[[str], Path]) -> None:
    net = load_learner(ran("reproduction/table3/multitask_random") / "checkpoints" / "best.ckpt")
    heads = {name: [tuple(p.shape) for p in head.parameters()] for name, head in net.task.heads.items()}
    assert heads == {axis: [(1, D), (1,)] for axis in AXES}


def test_a_cosine_ends_with_the_run(ran: Callable[[str], Path]) -> None:
    curves = pd.read_csv(ran("reproduction/table3/multitask_random") / "curves.csv")
    assert curves["lr"].tolist() == [0.0]  # of a run of two steps, whatever the number of epochs that were planned
    assert pd.read_csv(ran("reproduction/step7/ast") / "curves.csv")["lr"].tolist() == [1e-4]


@pytest.mark.parametrize("name", [*LAB, *BETTER])
def test_a_cell_is_of_the_source_works_data_unless_other_data_are_named(name: str, composed: Compose) -> None:
    here, there = composed(f"experiment={name}"), composed(f"experiment={name}", "data=demo")
    genre = list(here["task"]["targets"]) == ["genre"]
    assert here["data"]["source"]["path"] == ("data/fma_genre_spectrograms" if genre else "data/multitask_dataset")
    assert here["feature"]["front"]["chroma"] == "cqt"  # as those frames were made
    assert config_errors(here) == config_errors(there) == []
    assert there["data"]["source"] == {"_target_": "etude.data.sources.demo.collection"}
    assert there["feature"] == here["feature"] | {"front": composed()["feature"]["front"]}
    for key in ("batch_size", "crop", "eval_crops"):
        assert there["data"][key] == here["data"][key]
    for key in set(here) - {"data", "feature"}:
        assert there[key] == here[key], key


def test_each_cell_of_the_source_work_has_ours_beside_it() -> None:
    assert [name.removeprefix("improved/") for name in BETTER] == [name.removeprefix("reproduction/") for name in LAB]
    assert len(LAB) == 4 + 2 + 9 + 6 + 2


@pytest.mark.parametrize("name", BETTER)
def test_ours_differs_in_method_alone(name: str, composed: Compose) -> None:
    ours, theirs = composed(f"experiment={name}"), composed(f"experiment=reproduction/{name.removeprefix('improved/')}")
    stem = name.rpartition("/")[2]
    assert (ours["name"], theirs["name"]) == (
        f"improved_{stem}",
        f"reproduction_{stem}",
    )  # what tables and folders are told by
    for key in ("feature", "task", "head", "weighting"):
        assert ours[key] == theirs[key], key
    assert ours["data"]["source"] == theirs["data"]["source"] and ours["data"]["split"] == theirs["data"]["split"]
    for key in ("_target_", "model", "weights", "channels"):
        assert ours["backbone"].get(key) == theirs["backbone"].get(key), key
    assert bool(ours["transfer"]) == bool(theirs["transfer"])
    assert (ours["optim"]["kind"], theirs["optim"]["kind"]) == ("adamw", "adam")
    assert ours["augment"] and not theirs["augment"]
    assert theirs["callbacks"]["early_stopping"] and not ours["callbacks"]["early_stopping"]


@pytest.mark.parametrize("name", TRAINED)
def test_every_experiment_can_be_asked_to_learn_by_heart(name: str, composed: Compose) -> None:
    asked, plain = composed(f"experiment={name}", "debug=overfit"), composed(f"experiment={name}")
    assert config_errors(asked) == []
    assert asked["data"]["overfit"] == 8
    assert not asked["augment"]
    assert asked["callbacks"]["early_stopping"]["monitor"] == "val/loss"  # whatever stopped it
    assert asked["backbone"] == plain["backbone"]


@pytest.mark.parametrize("choice", sorted(path.stem for path in (conf_dir() / "callbacks").glob("*.yaml")))
def test_what_stops_a_training_can_be_chosen_for_an_experiment(choice: str, composed: Compose) -> None:
    plain = composed("experiment=reproduction/table2/cnn_valence", f"callbacks={choice}")
    assert config_errors(plain) == []
    stopping = plain["callbacks"]["early_stopping"]
    assert stopping is None or stopping["patience"] == plain["patience"] == 10  # the source work's
