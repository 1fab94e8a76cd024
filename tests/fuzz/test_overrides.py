"""Fuzz test of the overrides and options of every command, with errors of type, name, quotes and interpolation."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tests.fuzz.harness import Sandbox, assert_no_violations, find_violations, open_sandbox, seed_chunks
from tests.fuzz.mutations import TEXTS

from etude.cli.app import run_command
from etude.config.compose import conf_dir
from etude.experiment import stages

OTHER_COMMANDS = ("prepare", "compare", "predict", "maps", "inspect", "export", "report", "explore")
PATH_KEYS = ("outputs", "hydra", "data.packs", "name")  # these may select a path outside of the working folder
VALUES = (
    "", "???", "null", "~", "-1", "0", "1", "1.5", "1e400", "-.inf", ".nan", "nan", "inf", "true", "True",
    "yes", "a", "é",
    "[]", "[1,2]", "[1,[2,{a:1}]]", "{}", "{a:1}", "{a:{b:[c]}}", "{a:1", "[1", "'a", '"a', "a'b",
    "'a\\'b'", '"', "a b",
    "${oc.env:HOME}", "${oc.env:NOT_THERE}", "${oc.env:NOT_THERE,x}", "${seed}", "${nothing}", "${", "$",
    "${${name}}",
    "${name}", "${oc.create:{a:1}}", "${oc.decode:'{'}", "${run_folder:a,b,c}", "${hydra:job.num}", "${.}",
    "${..seed}",
    "1,2", "range(1,3)", "choice(a,b)", "glob(*)", "interval(0,1)", "int(1.5)", "str(1)", "float(a)",
    "sort(3,1)", "shuffle(1)",
    "日本語", "🎵", "a/b", "../beside", "~nosuch/x", "./", ".", "..", "~/x", "%s", "\\", "\t", "a\nb",
    "x" * 3000, "9" * 400, "[" * 60,
    "[" * 40 + "]" * 40, "{a:" * 30 + "1" + "}" * 30, "\udcff", "a\x00b", "null,null", "'${seed}'", "=",
    "a=b", "@", "a@b", ":",
    "_target_", "{_target_:os.system,_args_:[ls]}", "{_target_:etude.nothing}", "{_target_: 3}",
    "os.system", "builtins.eval",
)  # fmt: skip
FLAGS = (
    "--cfg", "--cfg=job", "--cfg=x", "--resolve", "--info", "--info=all", "-p", "--package=seed",
    "--version", "--config-dir=.",
    "--config-dir=none", "--config-name=none", "--config-path=.", "-cn", "--hydra-help", "--help", "-h",
    "-", "--", "-x", "--é",
    "--experimental-rerun=x", "--run", "-r", "--shell-completion", "-sc", "--multirun=x",
)  # fmt: skip


@pytest.fixture(scope="module")
def keys() -> dict[str, Any]:
    """Return the values of all keys of the composed config as `flat`, and the options of all groups as `options`."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = compose("train", return_hydra_config=False)
    flat: dict[str, Any] = {}

    def walk(value: Any, path: str) -> None:
        if path:
            flat[path] = value
        if isinstance(value, dict):
            for key, item in value.items():
                walk(item, f"{path}.{key}" if path else str(key))

    walk(OmegaConf.to_container(composed, resolve=False), "")
    groups = sorted({p.relative_to(conf_dir()).parent.as_posix() for p in conf_dir().rglob("*.yaml")} - {"."})
    options = {group: sorted(p.stem for p in (conf_dir() / group).glob("*.yaml")) for group in groups}
    options["experiment"].remove("small_ensemble")  # a sweep without -m, whose jobs would train in other processes
    return {"flat": flat, "options": options}


def draw_value(rng: Random, default: Any) -> str:
    """Return a value that is equal to the default, similar to it, or arbitrary."""
    kind = rng.random()
    if kind < 0.25 and isinstance(default, int | float) and not isinstance(default, bool):
        return str(
            rng.choice(
                (default, default * 2, -default, default + 0.5, default * 1000, 0, f"'{default}'", f"[{default}]")
            )
        )
    if kind < 0.25:
        if default is None:
            return "null"
        return f"'{default}'" if isinstance(default, str) else str(default).replace(" ", "")
    if kind < 0.35:
        return rng.choice(TEXTS)
    if kind < 0.42:
        quote = rng.choice("'\"")
        return quote + rng.choice(TEXTS) + quote
    if kind < 0.5:
        return rng.choice(VALUES) + rng.choice(VALUES)
    return rng.choice(VALUES)


def misspell(rng: Random, text: str) -> str:
    """Return a misspelled name."""
    if not text:
        return "x"
    k = rng.randrange(len(text))
    return rng.choice(
        (
            text[:k] + text[k + 1 :],
            text[:k] + rng.choice("xé.-_ /@'") + text[k:],
            text.upper(),
            f"{text}.x",
            f"{text}.",
            f".{text}",
            text.rpartition(".")[0],
            f"{text}@a",
            f"{text}[0]",
            text.replace(".", "/"),
        )
    )


def draw_override(rng: Random, keys: dict[str, Any]) -> str:
    """Return one override or flag of train."""
    kind = rng.random()
    if kind < 0.06:
        return rng.choice((*FLAGS, *VALUES))
    if kind < 0.3:
        name = rng.choice(tuple(keys["options"]))
        value = rng.choice(keys["options"][name] or ["x"]) if rng.random() < 0.6 else draw_value(rng, "x")
        value = misspell(rng, value) if rng.random() < 0.2 else f"[{value},csv]" if rng.random() < 0.1 else value
    else:
        name = rng.choice(tuple(keys["flat"]))
        value = draw_value(rng, keys["flat"][name])
    if rng.random() < 0.1:
        name = rng.choice(
            ("resume", "hydra.run.dir", "hydra.job.name", "hydra.verbose", "hydra.output_subdir", "sweep", "outputs")
        )
    if rng.random() < 0.15:
        name = misspell(rng, name)
    sign = rng.choices(("", "+", "++", "~", "+~"), (70, 10, 10, 8, 2))[0]
    return f"{sign}{name}" if sign == "~" and rng.random() < 0.7 else f"{sign}{name}={value}"


def draw_overrides(rng: Random, keys: dict[str, Any]) -> list[str]:
    """Return the overrides of a train command."""
    return [draw_override(rng, keys) for _ in range(rng.choice((1, 1, 1, 2, 3, 6)))]


OVERRIDES = (  # keys of prepare and explore, two of them in the form of version 0.1
    "data", "data.source.path", "data.source.table", "data.source.audio", "data.source.targets", "data.source.classes",
    "data.packs", "feature", "feature.sync", "feature/front", "data.min_seconds", "data.max_skipped", "name", "outputs",
    "source", "path",
)  # fmt: skip
OPTIONS = {
    "prepare": ("workers", "retry", "verify", "json"),
    "explore": ("clips", "count", "seed", "out", "workers", "retry", "json"),
    "compare": ("rows", "cols", "metric", "split", "layout", "where", "out", "format", "json"),
    "predict": ("out", "format", "window", "overlap", "batch-size", "workers", "device", "page", "no-page", "json"),
    "maps": ("methods", "dims", "split", "seed", "out", "json"),
    "inspect": ("clip", "crop", "checkpoint", "out", "json"),
    "export": ("format", "input", "out", "check", "private", "json"),
    "report": ("json",),
}  # fmt: skip
VALID = {
    "data": ("folder", "table", "demo", "pack", "gtzan", "fma", "digits", "union"),
    "data.source.path": (".", "inputs"), "data.source.table": ("inputs/t.csv",), "data.source.audio": ("inputs",),
    "feature": ("mel", "fused"), "workers": ("1",), "split": ("test", "val"), "methods": ("pca", "pca,umap"),
    "dims": ("2", "2,3"), "format": ("csv", "html", "onnx"), "device": ("cpu",), "rows": ("backbone", "optim.lr"),
    "cols": ("feature",), "layout": ("runs", "classes"), "where": ("backbone=lstm",), "clip": ("a",),
    "crop": ("1-2", "5"), "window": ("3",), "out": ("out",), "input": ("waveform", "frames"), "checkpoint": ("last",),
}  # fmt: skip
PATHS = ("inputs", "none", "inputs/t.csv", "inputs/x.ckpt", ".", "", "é", "a\x00b", "x" * 300, "-x", "a=b", "~nosuch/x")
FLAGS_OF_COMMANDS = ("retry", "verify", "json", "page", "no-page", "private")


def draw_options(rng: Random, command: str) -> list[str]:
    """Return the arguments and options of a command other than train."""
    arguments = [rng.choice(PATHS) for _ in range(rng.choice((0, 1, 1, 2)))]
    takes_overrides = command in ("prepare", "explore")
    for _ in range(rng.choice((0, 1, 2, 4))):
        name = rng.choice((*OVERRIDES, *OPTIONS[command]) if takes_overrides else OPTIONS[command])
        value = rng.choice(VALID.get(name, ("1",))) if rng.random() < 0.5 else draw_value(rng, "a")
        dashes = "" if name in OVERRIDES else "--"
        name = misspell(rng, name) if rng.random() < 0.1 else name
        form = rng.random()
        if dashes and name in FLAGS_OF_COMMANDS and form < 0.8:
            arguments.append(dashes + name)
        elif dashes and form < 0.5:
            arguments += [dashes + name, value]
        elif form < 0.9:
            arguments.append(f"{dashes}{name}={value}")
        else:  # the form of version 0.1
            arguments.append(f"{name}={value}")
    return arguments or ["inputs"]


def skip_experiment(config: Any, folder: Path, resume: bool = False) -> dict[str, Any]:
    """Replace the run, because only the check of the config is tested here."""
    return {}


def check_seed(seed: int, keys: dict[str, Any], top: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, list[str]]:
    """Check one command.

    Returns:
        The command line, and its violations.
    """
    rng = Random(f"overrides {seed}")
    command = "train" if rng.random() < 0.7 else rng.choice(OTHER_COMMANDS)
    options = draw_overrides(rng, keys) if command == "train" else draw_options(rng, command)
    with open_sandbox(monkeypatch, top) as sandbox:
        inputs = sandbox.work / "inputs"
        inputs.mkdir()
        (inputs / "t.csv").write_text("path,genre\na.wav,rock\nb.wav,pop\n")
        (inputs / "x.ckpt").write_bytes(sandbox.pickled())
        writes = [sandbox.work / name for name in ("outputs", "out")]
        if paths := [
            f"{option} {following}"
            for option, following in zip(options, [*options[1:], ""], strict=True)
            if option.lstrip("+~").startswith((*PATH_KEYS, "--out"))
        ]:
            writes = [sandbox.work]  # any folder in it; the bait files above and beside must still not change
            if any(".." in option or "HOME" in option or "~" in option for option in paths):
                writes = [sandbox.top]
        violations = find_violations(
            sandbox, lambda: run_command(command, list(options)), writes, atomic=command == "train"
        )
        names = [path.name for path in (sandbox.top / "middle").iterdir()]
        assert "beside" in names and (sandbox.top / "above.txt").read_text() == "bait above.txt"
    return f"{command} {options!r}", violations


@pytest.mark.parametrize("chunk", seed_chunks(default=12, full=400))
def test_invalid_options_give_a_message(
    chunk: Sequence[int], keys: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(stages, "run_experiment", skip_experiment)
    monkeypatch.setattr("sys.argv", ["train.py"])
    results = {seed: check_seed(seed, keys, tmp_path / str(seed), monkeypatch) for seed in chunk}
    assert_no_violations("overrides", results)


def test_each_kind_of_violation_is_detected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    actions: dict[str, Callable[[Sandbox], Any]] = {
        "exception": lambda sandbox: {}["missing"],
        "outside": lambda sandbox: (sandbox.top / "above.txt").write_text("changed") and 0,
        "no message": lambda sandbox: 2,
        "internal": lambda sandbox: sys.stderr.write("KeyError: 'a'") and 2,
        "status": lambda sandbox: 7,
        "draft": lambda sandbox: (sandbox.work / "out" / ".a.1.part").write_text("half") and 0,
        "leftover": lambda sandbox: sys.stderr.write("no") and (sandbox.work / "out" / "a").write_text("left") and 2,
        "temporary": lambda sandbox: (sandbox.tmp / "a").write_text("left") and 0,
        "code": lambda sandbox: sandbox.marker.mkdir() or 0,
    }
    for name, action in actions.items():
        with open_sandbox(monkeypatch, tmp_path / name) as sandbox:
            output = sandbox.work / "out"
            output.mkdir()
            violations = find_violations(sandbox, lambda run=action, box=sandbox: run(box), [output], atomic=True)
            assert any(line.startswith(name) for line in violations), (name, violations)
