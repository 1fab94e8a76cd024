"""A stored config is read without running anything in it, and every fault of it is one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from etude.config import stored
from etude.config.validation import problems
from etude.errors import UserError

BOMB = "a: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
)
WHOLE = "data: {}\nfeature: {}\nbackbone: {}\ntask: {}\ntrainer: {}\n"


@pytest.mark.parametrize(
    "text",
    [BOMB, "a: &a [*a]\n", "[" * 5000, "a: !!python/object/apply:os.system [true]\n", "\x00", "a: [", ""],
    ids=["aliases", "itself", "deep", "tag", "null", "open", "empty"],
)
def test_a_file_that_is_no_config_is_one_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text((WHOLE if text else "") + text)
    with pytest.raises(UserError, match=r"config\.yaml: (cannot be read as|is not) a config"):
        stored.read(tmp_path / "config.yaml")


def test_interpolations_stay_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "value")
    (tmp_path / "config.yaml").write_text(f"{WHOLE}name: ${{oc.env:SECRET}}\n")
    assert stored.read(tmp_path / "config.yaml")["name"] == "${oc.env:SECRET}"


@pytest.mark.parametrize("key", ["trainer", "task", "optim", "choices"])
def test_a_group_that_is_plain_text_is_named(key: str) -> None:
    assert problems({key: "x"}) == [f"{key}: must be a group of settings, got 'x'"]
