"""A stored config is read without executing code, and each error is reported in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

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
