"""Tests of networks and trainers built from configs, and of untrusted configs and checkpoints."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from etude.audio.masks import valid
from etude.backbones.base import Backbone
from etude.backbones.cnn import CNN
from etude.config.compose import conf_dir
from etude.config.instantiate import check_trusted, make, resolve
from etude.errors import UserError
from etude.system import machine
from etude.tasks.loss_weighting import PCGrad, RandomWeighting
from etude.training.build import build_from_recipe, build_trainer, check_strategy, compile_backbone, load_learner
from etude.training.checkpointing import AtomicCheckpointIO

Config = dict[str, Any]
Compose = Callable[..., Config]


class Probe:
    """Object that creates a folder when its pickle is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


# instantiation


def test_nested_nodes_are_instantiated_first() -> None:
    node = {
        "_target_": "etude.data.feature.Feature",
        "front": {"_target_": "etude.audio.log_mel.LogMelChroma", "n_mels": 40},
    }
    feature = make(node, view="fused")
    assert (feature.view, feature.front.n_mels, feature.bins) == ("fused", 40, 52)
    net = make({"_target_": "etude.backbones.cnn.CNN", "channels": [4, 8]}, 40)
    assert isinstance(net, CNN)
    assert net.dim == 8


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"_target_": "etude.backbones.cnn.CNN", "colour": "red"}, "etude.backbones.cnn.CNN: .*colour"),
        ({"_target_": "etude.backbones.ast.AST", "model": "huge"}, "etude.backbones.ast.AST: .*'huge'"),
        ({"_target_": "etude.backbones.cnn.RNN"}, "etude.backbones.cnn.RNN: cannot be imported"),
        ({"_target_": "etude.backbones.rnn.RNN"}, "etude.backbones.rnn.RNN: cannot be imported"),
        ({"_target_": "CNN"}, "CNN: cannot be imported"),
        ({"_target_": ".cnn.CNN"}, ".cnn.CNN: cannot be imported"),
    ],
)
def test_invalid_target_raises_user_error(node: Config, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        make(node, 12)


def test_target_is_resolved_only_in_its_module() -> None:
    assert resolve("etude.backbones.cnn.CNN") is CNN
    with pytest.raises(UserError, match=r"etude\.training\.augmentation\.torch\.hub\.load: cannot be imported"):
        resolve("etude.training.augmentation.torch.hub.load")


# trusted targets


def test_all_config_files_are_trusted() -> None:
    for path in (path for path in conf_dir().glob("*/**/*.yaml") if "hydra" not in path.parts):
        check_trusted(OmegaConf.to_container(OmegaConf.load(path)))


@pytest.mark.parametrize(
    "name",
    [
        "torch.hub.load",
        "torch.load",
        "os.system",
        "subprocess.run",
        "builtins.eval",
        "eval",
        "etude.data.pack_writer.write_pack",  # of Étude, but it writes
        "etude.cli.train.main",
        "etude.config.instantiate.make",
        "etude.training.augmentation.torch.hub.load",  # reached through an import of a module
        "etude.training.augmentation.torch",
        "etude.tasks.targets.F",
        "etude.tasks.targets.partial",
        "etude.data.datamodule.open_pack",
        "etude.data.datamodule.Path",
        "etude.data.datamodule.LightningDataModule",
        "etude.training.learner.Learner",
        "etude.training.learner.LightningModule",
        "etude.training.learner.torch",
        "etude.audio.frontend.asdict",
        "etude.training.callbacks.log",
        "etude.training.augmentation._draw_intervals",  # private
        "etude.audio.log_mel._filter_bank",
        "etude.backbones.cnn.CNN.__init__",
        "etude.__main__.main",
        "etude.backbones.cnn.__builtins__",
        "pytorch_lightning.callbacks.lambda_function.Callable",
        ".backbones.cnn.CNN",
        "",
    ],
)
def test_untrusted_target_is_refused(name: str) -> None:
    for node in (
        {"_target_": name},
        {"deep": [{"er": [{"_target_": "etude.training.optimiser.Optimiser", "a": {"_target_": name}}]}]},
    ):
        with pytest.raises(UserError) as error:
            check_trusted(node)
        assert name in str(error.value)


def test_reexported_name_is_judged_by_its_defining_module() -> None:
    check_trusted({"_target_": "pytorch_lightning.Trainer"})  # defined in pytorch_lightning.trainer.trainer
    with pytest.raises(UserError, match="is not trusted"):
        check_trusted({"_target_": "pytorch_lightning.seed_everything"})


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a class in an untrusted package that creates a folder when it is imported."""
    (tmp_path / "stranger_nets").mkdir()
    (tmp_path / "stranger_nets" / "__init__.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'imported')!r})\n")
    (tmp_path / "stranger_nets" / "net.py").write_text("class Net: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    return "stranger_nets.net.Net"


def test_untrusted_package_is_not_imported(stranger: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"stranger_nets\.net\.Net, which is not trusted.*ETUDE_TRUST"):
        check_trusted({"_target_": stranger})
    assert not (tmp_path / "imported").exists()


def test_environment_variable_trusts_a_package(stranger: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETUDE_TRUST", "my_own, stranger_nets")
    check_trusted({"_target_": stranger})
    with pytest.raises(UserError, match="is not trusted"):
        check_trusted({"_target_": "os.system"})
    monkeypatch.setenv("ETUDE_TRUST", "stranger")
    with pytest.raises(UserError, match="is not trusted"):
        check_trusted({"_target_": stranger})


# networks and checkpoints


def recipe(config: Config) -> Config:
    """Return the recipe of a checkpoint."""
    specs: Config = {
        "genre": {"kind": "label", "classes": ["a", "b", "c"]},
        "energy": {"kind": "scalar", "low": 0.0, "high": 1.0},
    }
    groups = ("backbone", "head", "task", "weighting", "augment", "optim", "feature")
    return {"config": {group: config[group] for group in groups}, "targets": specs, "bins": 12}


def test_head_sizes_follow_the_data(config: Compose) -> None:
    made = build_from_recipe(recipe(config("task=joint", "~task.targets.valence", "~task.targets.danceability")))
    _, out = made.eval()(torch.zeros(2, 20, 12), torch.tensor([20, 7]))
    assert {name: tuple(value.shape) for name, value in out.items()} == {"genre": (2, 3), "energy": (2, 1)}


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


def save_checkpoint(config: Config, path: Path, **more: Any) -> Path:
    """Write a checkpoint in Lightning's format."""
    torch.manual_seed(0)
    made = build_from_recipe(recipe(config))
    for weight in made.parameters():
        weight.data.add_(torch.randn_like(weight), alpha=0.1)
    made.standardiser.mean.fill_(3.0)
    checkpoint = {"state_dict": made.state_dict(), "etude": recipe(config)}
    torch.save(checkpoint | more, path)
    return path


def test_network_is_loaded_from_its_checkpoint(config: Compose, tmp_path: Path) -> None:
    path = save_checkpoint(config("backbone=cnn", "task=genre"), tmp_path / "best.ckpt")
    made = load_learner(path)
    assert not made.training
    stored = torch.load(path, weights_only=True)["state_dict"]
    torch.testing.assert_close(dict(made.state_dict()), dict(stored))
    assert made.standardiser.mean.tolist() == [3.0] * 12
    assert isinstance(made.backbone, CNN)


def test_checkpoint_with_code_is_refused_without_running_it(config: Compose, tmp_path: Path) -> None:
    trap, paths = tmp_path / "trap", [tmp_path / "torch.ckpt", tmp_path / "pickle.ckpt"]
    save_checkpoint(config(), paths[0], extra=Probe(trap))
    paths[1].write_bytes(pickle.dumps({"etude": Probe(trap)}, protocol=2))
    for path in paths:
        with pytest.raises(UserError, match=rf"^{path}: cannot be read as a checkpoint \([^\n]*\)$"):
            load_learner(path)
    assert not trap.exists()
    pickle.loads(paths[1].read_bytes())  # plain unpickling runs the code
    assert trap.is_dir()


def test_checkpoint_with_code_in_its_config_is_refused(config: Compose, tmp_path: Path) -> None:
    trap, evil = tmp_path / "trap", config()
    evil["optim"] = {"_target_": "os.mkdir", "path": str(trap)}
    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": {}, "etude": recipe(evil)}, path)
    with pytest.raises(UserError, match=r"calls os\.mkdir, which is not trusted"):
        load_learner(path)
    assert not trap.exists()


def test_checkpoint_with_code_in_its_front_end_is_refused(config: Compose, tmp_path: Path) -> None:
    trap, path = tmp_path / "trap", tmp_path / "evil.ckpt"
    evil = recipe(config()) | {"columns": [0, 12], "front": {"_target_": "os.mkdir", "path": str(trap)}}
    torch.save({"state_dict": {}, "etude": evil}, path)
    with pytest.raises(UserError, match=r"calls os\.mkdir, which is not trusted"):
        load_learner(path)
    assert not trap.exists()


def test_checkpoint_cannot_create_a_logger(config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A logger is a trusted target in a resumed run, but not in a network."""
    monkeypatch.chdir(tmp_path)
    evil, name = config(), {"_target_": "etude.tasks.targets.Label", "name": "x", "spec": {"classes": []}}
    logger = {"folder": name, "config": {"task": {"targets": []}}, "mode": "disabled"}
    evil["optim"] = {"_target_": "etude.loggers.wandb.wandb_logger", **logger}
    torch.save({"state_dict": {}, "etude": recipe(evil)}, tmp_path / "evil.ckpt")
    with pytest.raises(UserError, match=r"calls etude\.loggers\.wandb\.wandb_logger, which is not trusted"):
        load_learner(tmp_path / "evil.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["evil.ckpt"]


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


# trainers


@pytest.mark.parametrize(
    ("choice", "monitor"),
    [("default", None), ("ema", None), ("best_epoch", "val/score"), ("no_early_stopping", "val/score")],
)
def test_checkpoints_and_curves_are_written_to_the_run_folder(
    choice: str, monitor: str | None, config: Compose, tmp_path: Path
) -> None:
    from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

    trainer = build_trainer(config("trainer=cpu", f"callbacks={choice}"), tmp_path / "run")
    checkpoint, last = [callback for callback in trainer.callbacks if isinstance(callback, ModelCheckpoint)]
    assert trainer.checkpoint_callback is checkpoint  # its best checkpoint is scored
    assert (checkpoint.monitor, last.monitor) == (monitor, None)
    stopping = [callback for callback in trainer.callbacks if isinstance(callback, EarlyStopping)]
    assert [callback.monitor for callback in stopping] == ([monitor] if choice == "best_epoch" else [])
    assert checkpoint.dirpath == str(tmp_path / "run" / "checkpoints")
    assert [logger.path for logger in trainer.loggers] == [tmp_path / "run" / "curves.csv"]
    assert not (tmp_path / "run").exists()


def test_history_keeps_all_epochs_and_the_best_and_last_checkpoint(config: Compose, tmp_path: Path) -> None:
    from pytorch_lightning.callbacks import ModelCheckpoint

    trainer = build_trainer(config("trainer=cpu", "callbacks=history"), tmp_path / "run")
    kept = [callback for callback in trainer.callbacks if isinstance(callback, ModelCheckpoint)]
    assert trainer.checkpoint_callback is kept[0]  # the best is still what is scored
    assert len({callback.state_key for callback in kept}) == 3
    (history,) = (callback for callback in kept if callback.save_top_k == -1)
    folder = tmp_path / "run" / "checkpoints" / "history"
    assert [Path(history.format_checkpoint_name({"epoch": k})) for k in (0, 12)] == [
        folder / "epoch=000.ckpt",
        folder / "epoch=012.ckpt",
    ]


def test_callbacks_and_loggers_can_be_disabled(config: Compose, tmp_path: Path) -> None:
    trainer = build_trainer(
        config("trainer=cpu", "callbacks=best_epoch", "callbacks.early_stopping=null", "logger.csv=null"), tmp_path
    )
    assert trainer.loggers == []
    assert "EarlyStopping" not in {type(callback).__name__ for callback in trainer.callbacks}


# requirements of the machine


def test_pcgrad_with_sharded_weights_is_refused(config: Compose) -> None:
    sharded = config("trainer=fsdp", "task=multitask", "weighting=pcgrad")
    pcgrad, random = PCGrad(["genre", "energy"]), RandomWeighting(["genre", "energy"])
    with pytest.raises(UserError, match="weighting=pcgrad needs the whole gradient on each device"):
        check_strategy(sharded, pcgrad)
    check_strategy(sharded, random)
    check_strategy(config("trainer=cpu", "task=multitask", "weighting=pcgrad"), pcgrad)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_checkpoint_callbacks_lightning_adds_none(
    config: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = build_trainer(config("trainer=cpu", "callbacks.checkpoint=null", "callbacks.last=null"), tmp_path)
    assert not trainer.checkpoint_callbacks
    assert "no checkpoint is kept" in caplog.text


def test_invalid_trainer_values_raise_user_error(config: Compose, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^trainer: "):
        build_trainer(config("trainer=cpu", "trainer.precision=8"), tmp_path)


@pytest.mark.parametrize(
    ("precision", "supported", "warnings"), [("bf16-mixed", False, 1), ("bf16-mixed", True, 0), ("32-true", False, 0)]
)
def test_slow_bfloat16_logs_a_warning(
    precision: str,
    supported: bool,
    warnings: int,
    config: Compose,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(machine, "has_bfloat16", lambda: supported)
    build_trainer(config("trainer=cpu", f"trainer.precision={precision}"), tmp_path)
    assert caplog.text.count("no instructions for bfloat16") == warnings


def test_missing_gpu_raises_user_error(config: Compose, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^trainer: .*gpu"):
        build_trainer(config("trainer=fsdp"), tmp_path)


def test_plugins_of_a_config_are_added(config: Compose, tmp_path: Path) -> None:
    plugin = {"_target_": "lightning_fabric.plugins.environments.LightningEnvironment"}
    made = build_trainer(config("trainer=cpu") | {"trainer": config()["trainer"] | {"plugins": [plugin]}}, tmp_path)
    assert isinstance(made.strategy.checkpoint_io, AtomicCheckpointIO)


class Average(Backbone):
    def __init__(self, bins: int) -> None:
        super().__init__()
        self.dim, self.map = 8, nn.Linear(bins, 8)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.map((x * valid(lengths, x.shape[1])[..., None]).sum(1) / lengths[:, None])


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_backbone_has_equal_loss_gradients_and_names() -> None:
    torch.manual_seed(0)
    plain = Average(12)
    learner = SimpleNamespace(backbone=deepcopy(plain))
    compile_backbone(learner)  # type: ignore[arg-type]
    assert list(learner.backbone.state_dict()) == list(plain.state_dict())
    for frames in (20, 33):
        x, lengths = torch.randn(4, frames, 12), torch.tensor([frames, 5, 9, frames])
        losses = [backbone(x, lengths).square().mean() for backbone in (plain, learner.backbone)]
        torch.testing.assert_close(*losses, atol=1e-5, rtol=1e-5)
        gradients = [torch.autograd.grad(loss, backbone.map.weight)[0] for loss, backbone in
                     zip(losses, (plain, learner.backbone), strict=True)]  # fmt: skip
        torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


def test_missing_compiler_raises_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"compile=true needs a C\+\+ compiler"):
        compile_backbone(SimpleNamespace(backbone=Average(12)))  # type: ignore[arg-type]


@pytest.mark.parametrize("resume", [False, True])
def test_existing_checkpoint_outside_of_the_run_is_not_replaced(resume: bool, tmp_path: Path, config: Compose) -> None:
    existing = tmp_path / "elsewhere" / "best.ckpt"
    existing.parent.mkdir()
    existing.write_text("of another run")
    composed = config("trainer=cpu", f"+callbacks.checkpoint.dirpath={existing.parent}")
    if resume:  # a stored folder is not used
        trainer: Any = build_trainer(composed, tmp_path / "run", resume=True)
        dirpaths = {callback.dirpath for callback in trainer.checkpoint_callbacks}
        assert dirpaths == {str(tmp_path / "run" / "checkpoints")}
        return
    with pytest.raises(UserError, match=r"best\.ckpt: exists, and this run would replace it"):
        build_trainer(composed, tmp_path / "run")
