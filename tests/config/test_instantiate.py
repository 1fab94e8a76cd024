"""Tests of instantiation from configs and of the targets that configs may name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from etude.backbones.cnn import CNN
from etude.config.compose import conf_dir
from etude.config.instantiate import check_trusted, make, resolve
from etude.errors import UserError

Config = dict[str, Any]


def test_nested_nodes_are_instantiated_first() -> None:
    node = {
        "_target_": "etude.data.batches.Feature",
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
        ({"_target_": "etude.backbones.ast.AST", "model": "huge"}, "backbone.model must be tiny, small, .*'huge'"),
        ({"_target_": "etude.backbones.ast.AST", "positions": "x"}, "backbone.positions must be learned or .*'x'"),
        (
            {"_target_": "etude.backbones.ast.AST", "drop_time": 2},
            "backbone.drop_time must be in .*got 2",
        ),
        ({"_target_": "etude.backbones.cnn.CNN", "kernel": 4}, "backbone.kernel must be an odd number or .*got 4$"),
        ({"_target_": "etude.backbones.cnn.RNN"}, "etude.backbones.cnn.RNN: cannot be imported"),
        ({"_target_": "etude.backbones.rnn.RNN"}, "etude.backbones.rnn.RNN: cannot be imported"),
        ({"_target_": "etude.tasks.balance.Sum"}, "etude.tasks.balance.Sum: was renamed; use etude.tasks.loss_weight"),
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
        "etude.data.pack_writer.write_pack",  # in Étude, but it writes files
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
        "etude.cli.app.main",
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


def test_reexported_name_is_trusted_by_its_defining_module() -> None:
    check_trusted({"_target_": "pytorch_lightning.Trainer"})  # defined in pytorch_lightning.trainer.trainer
    with pytest.raises(UserError, match="is not trusted"):
        check_trusted({"_target_": "pytorch_lightning.seed_everything"})


@pytest.fixture
def untrusted_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a class in an untrusted package that creates a folder when it is imported."""
    (tmp_path / "untrusted_nets").mkdir()
    (tmp_path / "untrusted_nets" / "__init__.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'imported')!r})\n")
    (tmp_path / "untrusted_nets" / "net.py").write_text("class Net: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    return "untrusted_nets.net.Net"


def test_untrusted_package_is_not_imported(untrusted_class: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"untrusted_nets\.net\.Net, which is not trusted.*ETUDE_TRUST"):
        check_trusted({"_target_": untrusted_class})
    assert not (tmp_path / "imported").exists()


def test_environment_variable_trusts_a_package(untrusted_class: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETUDE_TRUST", "my_own, untrusted_nets")
    check_trusted({"_target_": untrusted_class})
    with pytest.raises(UserError, match="is not trusted"):
        check_trusted({"_target_": "os.system"})
    monkeypatch.setenv("ETUDE_TRUST", "untrusted")
    with pytest.raises(UserError, match="is not trusted"):
        check_trusted({"_target_": untrusted_class})
