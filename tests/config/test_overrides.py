"""Values of the prepare command are unchanged in the composed config."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from etude.config.overrides import quote_value
from etude.data.from_overrides import PrepareOptions, datamodule_from_overrides

TEXTS = [
    "/data/Beyoncé", "Ünï ♫", "中文", "[live]", "{x}", "[a=b, c]", "a,b", "x=y", "a: b", "true", "NULL", "nan", "inf",
    "1", "1e3", ".5", ".0", "-", "'", '"', "it's", "a\\", "\\'", "'é\\'", " a ", "", "~/x", "$HOME", "a#b", "(live)",
    "50%", "a\tb",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_quoted_text_is_unchanged_by_hydras_grammar(text: str) -> None:
    override = OverridesParser.create().parse_override(f"data.source.path={quote_value(text, 'str')}")
    assert override.value() == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[/data/Beyoncé, b]", ["/data/Beyoncé", "b"]),
        ("{a: [é, ü x], b: 'ö'}", {"a": ["é", "ü x"], "b": "ö"}),
        ("{Größe: label}", "{Größe: label}"),  # Hydra's grammar has no quoted keys; the source parses the text as YAML
        ("[1, 2]", [1, 2]),
        ("true", True),
        ("null", None),
    ],
)
def test_lists_and_mappings_are_parsed_with_any_letters(text: str, value: Any) -> None:
    override = OverridesParser.create().parse_override(f"data.source.x={quote_value(text, 'Mapping | None')}")
    assert override.value() == value


@pytest.mark.parametrize("name", ["Beyoncé", "[live] = a, b", "true"])
def test_printed_overrides_compose_to_the_same_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: Callable[..., dict[str, Any]]
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("x/a.wav", "x/b.wav", "y/a.wav", "y/b.wav"):
        (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name / file).touch()
    overrides = ["data=folder", f"data.source.path={quote_value(name, 'str')}"]
    assert len(datamodule_from_overrides(PrepareOptions(overrides)).source.table) == 4
    pasted = shlex.split(shlex.join(overrides))
    assert config(*pasted)["data"]["source"]["path"] == name
