"""Every experiment file fits all the data it is meant for, runs to its table, and is the network that it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from etude import build
from etude.backbones.efficientat import EfficientAT
from etude.build import conf_dir, load
from etude.checkpoint import read
from etude.experiment import run
from etude.schema import problems

pytestmark = pytest.mark.xdist_group("experiments")  # what is run once is run in one process
Compose = Callable[..., dict[str, Any]]
HOME = conf_dir() / "experiment"
FILES = [path.relative_to(HOME).with_suffix("") for path in sorted(HOME.rglob("*.yaml"))]
NAMES = [name.as_posix() for name in FILES if name.parent.name != "base"]  # from which the others are made
ON_MUSIC = [name for name in NAMES if name != "lab/step7_digits"]
GIVEN = {"lab/step9_transfer": ["transfer.init_from=somewhere"]}
D = 192  # numbers of a token of the tiny AST


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as timm's of ImageNet, with random weights."""
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(timm.create_model("deit_tiny_distilled_patch16_224").state_dict(), path)
    return path


@pytest.fixture(scope="module")
def efficientat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as EfficientAT's authors', with random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "mn04.pt"
    own = EfficientAT(128).state_dict()
    torch.save({key: value.transpose(2, 3) if value.ndim == 4 else value for key, value in own.items()}, path)
    return path


@pytest.fixture(scope="module")
def ran(
    config: Compose, weights: Path, efficientat: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The folder of an experiment that was run for two steps; each is run once."""
    done: dict[str, Path] = {}

    def go(name: str) -> Path:
        if name not in done:
            line = [f"experiment={name}", "debug=fast"]
            composed = config(*line)
            if name == "small":
                line += [f"backbone.weights={efficientat}"]
            elif name in ON_MUSIC:
                line += ["data.crop=1.0", "data.eval_crops=1"]
            if composed["backbone"].get("weights") == "imagenet":
                line += [f"backbone.weights={weights}"]
            if composed["transfer"].get("init_from") == "???":
                line += [f"transfer.init_from={go('lab/step7_ast')}"]
            done[name] = tmp_path_factory.mktemp("run")
            run(config(*line), done[name])
            (done[name] / "line.json").write_text(json.dumps(line))
        return done[name]

    return go


@pytest.mark.parametrize("name", NAMES)
def test_every_clip_is_in_the_table_and_counted(name: str, ran: Callable[[str], Path], config: Compose) -> None:
    folder = ran(name)
    table, split = pd.read_parquet(folder / "predictions.parquet"), pd.read_csv(folder / "split.csv", dtype=str)
    assert sorted(table["id"]) == sorted(split["id"][split["split"] != "train"])
    assert table["embedding"].map(len).nunique() == 1
    assert "</html>" in (folder / "report.html").read_text()
    metrics = json.loads((folder / "metrics.json").read_text())["targets"]
    assert list(metrics) == list(config(f"experiment={name}")["task"]["targets"])
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
        ("lab/step5_lstm", lstm(128, 256, 8) + 257 * 3),
        ("lab/step7_digits", 5994),
        ("lab/step7_cnn", cnn(32, 64, 128, 256) + 257 * 3),
        ("lab/step7_ast", ast(12 * 128, 3)),  # places of 128 x 1293
        ("lab/step8_lstm", lstm(128, 64, 2) + 65),
        ("lab/step8_cnn", cnn(32, 64, 128, 256) + 257),
        ("lab/step8_ast", ast(12 * 128, 1)),
        ("lab/step10_multitask", ast(12, 3)),  # without weights from elsewhere, places are learned in frequency alone
        ("lab/step10_multitask_pretrained", ast(12 * 128, 3)),
        ("small", sum(p.numel() for p in EfficientAT(128).parameters()) + 2 * 384 + 385 * 3),
    ],
)
def test_networks_are_as_large_as_they_are_said_to_be(name: str, count: int, ran: Callable[[str], Path]) -> None:
    assert json.loads((ran(name) / "record.json").read_text())["model"]["parameters"] == count


def test_layers_of_the_network_for_digits_have_the_shapes_of_the_source_work(ran: Callable[[str], Path]) -> None:
    net = load(ran("lab/step7_digits") / "checkpoints" / "best.ckpt")
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


@pytest.mark.parametrize("name", ["lab/step9_transfer", "lab/step9_imagenet"])
def test_only_the_last_two_blocks_the_norm_and_the_head_learn(
    name: str, ran: Callable[[str], Path], config: Compose
) -> None:
    from pytorch_lightning import seed_everything

    folder = ran(name)
    after = read(folder / "checkpoints" / "best.ckpt")["state_dict"]
    composed = config(*json.loads((folder / "line.json").read_text()))
    seed_everything(composed["seed"], verbose=False)
    data = build.data(composed)
    data.setup()
    before = build.learner(composed, data).state_dict()
    expected = {"backbone.blocks.10", "backbone.blocks.11", "backbone.norm", "task.heads"}
    assert moved(before, after) == expected
    if name == "lab/step9_transfer":
        source = read(ran("lab/step7_ast") / "checkpoints" / "best.ckpt")["state_dict"]
        for key in (key for key in after if key.startswith("backbone.")):
            assert torch.equal(before[key], source[key]), key  # all of it was copied


def test_a_transfer_asks_what_to_begin_from(config: Compose) -> None:
    assert config("experiment=lab/step9_transfer")["transfer"]["init_from"] == "???"


def test_the_heads_of_the_multitask_network_read_its_whole_embedding(ran: Callable[[str], Path]) -> None:
    net = load(ran("lab/step10_multitask") / "checkpoints" / "best.ckpt")
    heads = {name: [tuple(p.shape) for p in head.parameters()] for name, head in net.task.heads.items()}
    assert heads == {axis: [(1, D), (1,)] for axis in ("valence", "energy", "danceability")}


def test_a_cosine_ends_with_the_run(ran: Callable[[str], Path]) -> None:
    curves = pd.read_csv(ran("lab/step10_multitask") / "curves.csv")
    assert curves["lr"].tolist() == [0.0]  # of a run of two steps, whatever the number of epochs that were planned
    assert pd.read_csv(ran("lab/step8_ast") / "curves.csv")["lr"].tolist() == [1e-4]


@pytest.mark.parametrize("name", ON_MUSIC)
@pytest.mark.parametrize("data", ["lab", "lab_affect"])
def test_experiments_take_the_source_works_data_as_they_are(name: str, data: str, config: Compose) -> None:
    line = [f"experiment={name}", *GIVEN.get(name, [])]
    here, there = config(*line), config(*line, f"data={data}", "data.source.path=somewhere")
    assert problems(there) == []
    assert there["feature"]["front"]["chroma"] == "cqt"  # as those frames were made
    assert there["data"]["source"]["path"] == "somewhere"
    for key in ("batch_size", "crop"):
        assert there["data"][key] == here["data"][key]
    for key in set(here) - {"data", "feature"}:
        assert there[key] == here[key], key


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_can_be_asked_to_learn_by_heart(name: str, config: Compose) -> None:
    line = [f"experiment={name}", *GIVEN.get(name, [])]
    composed, plain = config(*line, "debug=overfit"), config(*line)
    assert problems(composed) == []
    assert composed["data"]["overfit"] == 8
    assert not composed["augment"]
    assert composed["callbacks"]["early_stopping"]["monitor"] == "val/loss"  # whatever stopped it
    assert composed["backbone"] == plain["backbone"]


@pytest.mark.parametrize("choice", sorted(path.stem for path in (conf_dir() / "callbacks").glob("*.yaml")))
def test_what_stops_a_training_can_be_chosen_for_an_experiment(choice: str, config: Compose) -> None:
    composed = config("experiment=lab/step8_cnn", f"callbacks={choice}")
    assert problems(composed) == []
    stopping = composed["callbacks"]["early_stopping"]
    assert stopping is None or stopping["patience"] == composed["patience"] == 10  # the source work's
