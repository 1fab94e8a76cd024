"""A stored config is read without executing code, and each error is reported in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from etude.config import stored
from etude.config.validation import config_errors
from etude.errors import UserError

BOMB = "a: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
)
COMPLETE = "data: {}\nfeature: {}\nbackbone: {}\ntask: {}\ntrainer: {}\n"


@pytest.mark.parametrize(
    "text",
    [BOMB, "a: &a [*a]\n", "[" * 5000, "a: !!python/object/apply:os.system [true]\n", "\x00", "a: [", ""],
    ids=["aliases", "itself", "deep", "tag", "null", "open", "empty"],
)
def test_file_that_is_no_config_is_refused_with_message(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text((COMPLETE if text else "") + text)
    with pytest.raises(UserError, match=r"config\.yaml: (cannot be read as|is not) a config"):
        stored.read_config(tmp_path / "config.yaml")


def test_interpolations_stay_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "value")
    (tmp_path / "config.yaml").write_text(f"{COMPLETE}name: ${{oc.env:SECRET}}\n")
    assert stored.read_config(tmp_path / "config.yaml")["name"] == "${oc.env:SECRET}"


@pytest.mark.parametrize("key", ["trainer", "task", "optim", "choices"])
def test_text_instead_of_a_mapping_is_reported(key: str) -> None:
    assert config_errors({key: "x"}) == [f"{key}: must be a mapping, got 'x'"]


@pytest.mark.parametrize(
    ("option", "model", "name"),
    [
        ("hf", "m-a-p/MERT-v1-95M", "MERT-v1-95M"),
        ("hf", "/models/my hubert (v2)/", "my-hubert-v2"),
        ("hf", "..", "hf"),
        ("hf", "???", "hf"),
        ("timm", "convnext_atto", "timm"),
    ],
)
def test_run_of_an_encoder_has_the_name_of_its_checkpoint(option: str, model: str, name: str) -> None:
    assert stored.backbone_name(option, OmegaConf.create({"model": model, "config": "${absent:1}"})) == name


@pytest.mark.parametrize(
    ("readout", "name"),
    [
        ({"layers": None, "pooling": "mean", "combine": "concat"}, "default"),
        ({"layers": "all", "pooling": "mean_std", "combine": "concat"}, "all_mean_std"),
        ({"layers": "last", "pooling": "mean", "combine": "weighted"}, "last_weighted"),
        ({"layers": [0, -1], "pooling": "mean", "combine": "concat"}, "layers_0_-1"),
        ({"layers": [3], "pooling": "mean_max", "combine": "concat"}, "layer_3_mean_max"),
        (None, "default"),
        ({"pooling": "mean", "combine": "concat"}, None),
    ],
)
def test_readout_has_the_name_of_its_option(readout: dict[str, object] | None, name: str | None) -> None:
    assert stored.readout_name(readout) == name
    assert stored.readout_suffix(readout) == ("" if name in ("default", None) else f"_{name}")


@pytest.mark.parametrize(
    ("overrides", "name"), [((), "t_b_f"), (("readout=all_mean_std",), "t_b_f_all_mean_std"),
                            (("readout.layers=[1]",), "t_b_f_layer_1")]
)  # fmt: skip
def test_name_of_a_run_contains_a_readout_other_than_the_default(
    overrides: tuple[str, ...], name: str, config: Callable[..., dict[str, Any]]
) -> None:
    assert config(*overrides)["name"] == name
