"""Tests of completion: the functions, and the script in real shells."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ETUDE = Path(sys.executable).with_name("etude")
CASES = [
    ("pre", {"prepare", "predict"}),
    ("train backb", {"backbone="}),
    ("train experiment=reproduction/step7/d", {"experiment=reproduction/step7/digits"}),
    ("train -m seed=0 feature/front=audios", {"feature/front=audioset"}),
    ("prepare data=fo", {"data=folder"}),
    ("predict run --ov", {"--overlap"}),
    ("predict run --device c", {"cpu", "cuda"}),
    ("predict run --out= --device c", {"cpu", "cuda"}),
    ("predict run to=x --device c", {"cpu", "cuda"}),
    ("predict run --format csv,j", {"csv,json"}),
    ("compare runs --layout c", {"classes"}),
    ("maps runs --methods pca,t", {"pca,tsne"}),
    ("bench st", {"startup"}),
]


def complete(shell: str, line: str) -> str:
    """Return what the command prints for a shell that completes the last word of a line."""
    words = f"etude {line}"
    variables = {
        "_ETUDE_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
        "_TYPER_COMPLETE_ARGS": words,
    }
    result = subprocess.run([ETUDE], env=os.environ | variables, capture_output=True, text=True, check=True)
    assert not result.stderr
    return result.stdout


@pytest.mark.parametrize(("line", "expected"), CASES, ids=[line for line, _ in CASES])
def test_last_word_is_completed(line: str, expected: set[str]) -> None:
    assert set(complete("bash", line).split("\n")) - {""} == expected


def test_several_values_of_an_override_are_completed() -> None:
    assert complete("bash", "train -m backbone=lstm,cn").split() == ["backbone=lstm,cnn"]


def test_zsh_shows_the_summaries_of_commands() -> None:
    assert '"predict":"Predict audio files with a trained network."' in complete("zsh", "pre")


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("etude pre", "predict prepare"),
        ("etude train backb", "backbone="),
        ("etude train backbone = as", "ast"),  # bash splits words at the equals sign
        ("etude maps runs --split t", "test"),
    ],
)
def test_script_for_bash_completes_in_bash(words: str, expected: str, tmp_path: Path) -> None:
    code = f"""
eval "$(_ETUDE_COMPLETE=source_bash etude)"
complete -p etude > /dev/null || exit 1
COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_etude_completion etude
printf '%s\\n' "${{COMPREPLY[@]}}" | sort | tr '\\n' ' '
"""
    environment = os.environ | {"PATH": f"{ETUDE.parent}{os.pathsep}{os.environ['PATH']}"}
    result = subprocess.run(["bash", "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.split() == expected.split()


@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not installed")
def test_script_for_zsh_is_accepted_by_zsh() -> None:
    code = 'autoload -U compinit && compinit -u; eval "$(_ETUDE_COMPLETE=source_zsh etude)"; print ${_comps[etude]}'
    environment = os.environ | {"PATH": f"{ETUDE.parent}{os.pathsep}{os.environ['PATH']}"}
    result = subprocess.run(["zsh", "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "_etude_completion"
