"""Tests of networks built from configs and loaded from checkpoints, including untrusted ones."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude.audio.frontend_modules import valid
from etude.backbones.base import Backbone
from etude.backbones.cnn import CNN
from etude.embeddings.readouts import Readout
from etude.errors import UserError
from etude.training.build import RECIPE_GROUPS, build_from_recipe, compile_backbone, freeze_unused, load_learner

Config = dict[str, Any]
Compose = Callable[..., Config]


class Payload:
    """Object that creates a folder when its pickle is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def recipe(config: Config) -> Config:
    """Return the recipe of a checkpoint."""
    specs: Config = {
        "genre": {"kind": "label", "classes": ["a", "b", "c"]},
        "energy": {"kind": "scalar", "low": 0.0, "high": 1.0},
    }
    return {"config": {group: config[group] for group in RECIPE_GROUPS}, "targets": specs, "bins": 12}


def test_head_sizes_follow_the_data(config: Compose) -> None:
    learner = build_from_recipe(recipe(config("task=joint", "~task.targets.valence", "~task.targets.danceability")))
    _, out = learner.eval()(torch.zeros(2, 20, 12), torch.tensor([20, 7]))
    assert {name: tuple(value.shape) for name, value in out.items()} == {"genre": (2, 3), "energy": (2, 1)}


def test_width_of_heads_follows_the_readout(config: Compose) -> None:
    learner = build_from_recipe(recipe(config("backbone=cnn", "readout.layers=[1,-1]", "readout.pooling=mean_max")))
    z, out = learner.eval()(torch.zeros(2, 20, 12), torch.tensor([20, 7]))
    assert z.shape == (2, learner.readout.dim) == (2, 2 * (32 + 256))
    assert out["genre"].shape == (2, 3)


def test_recipe_from_before_readouts_has_the_embedding_of_the_backbone(config: Compose) -> None:
    old = recipe(config("backbone=cnn"))
    del old["config"]["readout"]
    torch.manual_seed(0)
    learner = build_from_recipe(old).eval()
    torch.manual_seed(0)
    new = build_from_recipe(recipe(config("backbone=cnn"))).eval()
    assert list(learner.state_dict()) == list(new.state_dict())
    x, lengths = torch.randn(2, 20, 12), torch.tensor([20, 7])
    assert torch.equal(learner(x, lengths)[0], new(x, lengths)[0])
    assert torch.equal(learner(x, lengths)[0], learner.backbone(learner.standardiser(x, lengths), lengths))


def test_weights_after_the_layers_of_the_readout_are_not_trained(config: Compose) -> None:
    """Check that every remaining weight has a gradient, because DDP refuses others."""
    learner = build_from_recipe(
        recipe(config("backbone=lstm", "backbone.depth=3", "backbone.readout=attention", "readout.layers=[2]"))
    )
    freeze_unused(learner)
    trainable = {name for name, weight in learner.named_parameters() if weight.requires_grad}
    _, out = learner(torch.randn(2, 20, 12), torch.tensor([20, 7]))
    sum(value.sum() for value in out.values()).backward()
    assert {name for name, weight in learner.named_parameters() if weight.grad is not None} == trainable
    assert {name.split(".")[2] for name in trainable if name.startswith("backbone")} == {"0", "1"}
    unchanged = build_from_recipe(recipe(config("backbone=cnn")))
    freeze_unused(unchanged)
    assert all(weight.requires_grad for weight in unchanged.parameters())


def test_target_missing_from_the_data_raises_user_error(config: Compose) -> None:
    with pytest.raises(UserError, match=r"^task: this data has no target valence; it has genre, energy$"):
        build_from_recipe(recipe(config("task=valence")))


@pytest.mark.parametrize(("requested", "given"), [("Label", "scalar"), ("Scalar", "label")])
def test_target_of_another_kind_raises_user_error(config: Compose, requested: str, given: str) -> None:
    name = {"scalar": "energy", "label": "genre"}[given]
    composed = config()
    composed["task"] = composed["task"] | {"targets": {name: {"_target_": f"etude.tasks.targets.{requested}"}}}
    with pytest.raises(UserError, match=rf"^task: target {name} is a {given} in this data, not a {requested.lower()}$"):
        build_from_recipe(recipe(composed))


def save_checkpoint(config: Config, path: Path, **changes: Any) -> Path:
    """Write a checkpoint in Lightning's format and return its path."""
    torch.manual_seed(0)
    learner = build_from_recipe(recipe(config))
    for weight in learner.parameters():
        weight.data.add_(torch.randn_like(weight), alpha=0.1)
    learner.standardiser.mean.fill_(3.0)
    checkpoint = {"state_dict": learner.state_dict(), "etude": recipe(config)}
    torch.save(checkpoint | changes, path)
    return path


def test_network_is_loaded_from_its_checkpoint(config: Compose, tmp_path: Path) -> None:
    path = save_checkpoint(config("backbone=cnn", "task=genre"), tmp_path / "best.ckpt")
    learner = load_learner(path)
    assert not learner.training
    stored = torch.load(path, weights_only=True)["state_dict"]
    torch.testing.assert_close(dict(learner.state_dict()), dict(stored))
    assert learner.standardiser.mean.tolist() == [3.0] * 12
    assert isinstance(learner.backbone, CNN)


def test_checkpoint_with_code_is_refused_without_running_it(config: Compose, tmp_path: Path) -> None:
    marker, paths = tmp_path / "marker", [tmp_path / "torch.ckpt", tmp_path / "pickle.ckpt"]
    save_checkpoint(config(), paths[0], extra=Payload(marker))
    paths[1].write_bytes(pickle.dumps({"etude": Payload(marker)}, protocol=2))
    for path in paths:
        with pytest.raises(UserError, match=rf"^{path}: cannot be read as a checkpoint \([^\n]*\)$"):
            load_learner(path)
    assert not marker.exists()
    pickle.loads(paths[1].read_bytes())  # plain unpickling runs the code
    assert marker.is_dir()


def test_checkpoint_with_code_in_its_config_is_refused(config: Compose, tmp_path: Path) -> None:
    marker, malicious = tmp_path / "marker", config()
    malicious["optim"] = {"_target_": "os.mkdir", "path": str(marker)}
    path = tmp_path / "malicious.ckpt"
    torch.save({"state_dict": {}, "etude": recipe(malicious)}, path)
    with pytest.raises(UserError, match=r"calls os\.mkdir, which is not trusted"):
        load_learner(path)
    assert not marker.exists()


def test_checkpoint_with_code_in_its_front_end_is_refused(config: Compose, tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "malicious.ckpt"
    malicious = recipe(config()) | {"columns": [0, 12], "front": {"_target_": "os.mkdir", "path": str(marker)}}
    torch.save({"state_dict": {}, "etude": malicious}, path)
    with pytest.raises(UserError, match=r"calls os\.mkdir, which is not trusted"):
        load_learner(path)
    assert not marker.exists()


def test_checkpoint_cannot_create_a_logger(config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse a logger, which is a trusted target in the config of a run but not in a network."""
    monkeypatch.chdir(tmp_path)
    malicious, name = config(), {"_target_": "etude.tasks.targets.Label", "name": "x", "spec": {"classes": []}}
    logger = {"folder": name, "config": {"task": {"targets": []}}, "mode": "disabled"}
    malicious["optim"] = {"_target_": "etude.loggers.wandb.wandb_logger", **logger}
    torch.save({"state_dict": {}, "etude": recipe(malicious)}, tmp_path / "malicious.ckpt")
    with pytest.raises(UserError, match=r"calls etude\.loggers\.wandb\.wandb_logger, which is not trusted"):
        load_learner(tmp_path / "malicious.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["malicious.ckpt"]


def test_weights_of_another_network_raise_user_error(config: Compose, tmp_path: Path) -> None:
    path = save_checkpoint(config("backbone=cnn"), tmp_path / "best.ckpt", state_dict={"backbone.x": torch.zeros(1)})
    with pytest.raises(UserError, match=rf"^{path}: [^\n]*$"):
        load_learner(path)


@pytest.mark.parametrize(
    "content", [None, b"", b"hello", b"PK\x03\x04half a zip"], ids=["missing", "empty", "text", "zip"]
)
def test_file_that_is_not_a_checkpoint_raises_user_error(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "best.ckpt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=rf"^{path}: cannot be read as a checkpoint \([^\n]*\)$"):
        load_learner(path)


@pytest.mark.parametrize("content", [{"state_dict": {}}, [1, 2], torch.zeros(3)], ids=["other", "list", "tensor"])
def test_checkpoint_of_another_program_raises_user_error(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "best.ckpt")
    with pytest.raises(UserError, match=r"best\.ckpt: is a checkpoint of another program, without the recipe"):
        load_learner(tmp_path / "best.ckpt")


# compilation


class Average(Backbone):
    """Linear map of the mean frame."""

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.dim, self.map = 8, nn.Linear(bins, 8)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.map((x * valid(lengths, x.shape[1])[..., None]).sum(1) / lengths[:, None])


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize(
    ("plain", "layers", "backend"),
    [
        (Average(12), None, "aot_eager"),  # without C++
        pytest.param(Average(12), None, "inductor", marks=pytest.mark.full),
        pytest.param(CNN(12, [4, 8]), [1, 2], "inductor", marks=pytest.mark.full),
    ],
    ids=str,
)
def test_compiled_network_has_equal_loss_gradients_and_names(
    plain: Backbone, layers: list[int] | None, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    torch.manual_seed(0)
    plain.eval()
    learner = SimpleNamespace(backbone=deepcopy(plain), readout=Readout(plain, 12, layers))
    compile_backbone(learner)  # type: ignore[arg-type]
    assert list(learner.backbone.state_dict()) == list(plain.state_dict())
    for frames in (20, 33):
        x, lengths = torch.randn(4, frames, 12), torch.tensor([frames, 5, 9, frames])
        losses = [
            readout(backbone, x, lengths).square().mean()
            for backbone, readout in ((plain, Readout(plain, 12, layers)), (learner.backbone, learner.readout))
        ]
        torch.testing.assert_close(*losses, atol=1e-5, rtol=1e-5)
        gradients = [torch.autograd.grad(loss, next(backbone.parameters()))[0] for loss, backbone in
                     zip(losses, (plain, learner.backbone), strict=True)]  # fmt: skip
        torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


def test_missing_compiler_raises_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"compile=true: needs a C\+\+ compiler"):
        compile_backbone(SimpleNamespace(backbone=Average(12)))  # type: ignore[arg-type]
