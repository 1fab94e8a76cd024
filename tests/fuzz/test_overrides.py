"""Seeded words for every command: right ones, and ones with faults of type, name, quotes and interpolation."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tests.fuzz.harness import assert_none, faults, room, seeds
from tests.fuzz.mutate import TEXTS

from etude.__main__ import COMMANDS
from etude.cli import train
from etude.config.compose import conf_dir
from etude.experiment import stages

Command = tuple[str, list[str]]
COMMAND = "train"
OTHERS = ("prepare", "compare", "predict", "latent", "inspect", "export", "report", "explore")
PLACES = ("outputs", "hydra", "data.packs", "name")  # may lead out of the working folder, where the user says so
RAW = (
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
    """Every key of the composed config with its value, and every group with its options."""
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
    return {"flat": flat, "options": options}


def value_of(rng: Random, old: Any) -> str:
    """Return a value that is right, near it, or anything."""
    kind = rng.random()
    if kind < 0.25 and isinstance(old, int | float) and not isinstance(old, bool):
        return str(rng.choice((old, old * 2, -old, old + 0.5, old * 1000, 0, f"'{old}'", f"[{old}]")))
    if kind < 0.25:
        return "null" if old is None else f"'{old}'" if isinstance(old, str) else str(old).replace(" ", "")
    if kind < 0.35:
        return rng.choice(TEXTS)
    if kind < 0.42:
        quote = rng.choice("'\"")
        return quote + rng.choice(TEXTS) + quote
    if kind < 0.5:
        return rng.choice(RAW) + rng.choice(RAW)
    return rng.choice(RAW)


def typo(rng: Random, text: str) -> str:
    """Return a name with a fault in it."""
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


def word(rng: Random, known: dict[str, Any]) -> str:
    """Return one word for train."""
    kind = rng.random()
    if kind < 0.06:
        return rng.choice((*FLAGS, *RAW))
    if kind < 0.3:
        name = rng.choice(tuple(known["options"]))
        value = rng.choice(known["options"][name] or ["x"]) if rng.random() < 0.6 else value_of(rng, "x")
        value = typo(rng, value) if rng.random() < 0.2 else f"[{value},csv]" if rng.random() < 0.1 else value
    else:
        name = rng.choice(tuple(known["flat"]))
        value = value_of(rng, known["flat"][name])
    if rng.random() < 0.1:
        name = rng.choice(
            ("resume", "hydra.run.dir", "hydra.job.name", "hydra.verbose", "hydra.output_subdir", "sweep", "outputs")
        )
    if rng.random() < 0.15:
        name = typo(rng, name)
    sign = rng.choices(("", "+", "++", "~", "+~"), (70, 10, 10, 8, 2))[0]
    return f"{sign}{name}" if sign == "~" and rng.random() < 0.7 else f"{sign}{name}={value}"


def words_of_train(rng: Random, known: dict[str, Any]) -> list[str]:
    """Return the words of a train command."""
    return [word(rng, known) for _ in range(rng.choice((1, 1, 1, 2, 3, 6)))]


SETTINGS = {
    "prepare": ("source", "path", "table", "audio", "targets", "classes", "data.packs", "workers", "retry",
    "ray", "verify",
                "feature", "feature.sync", "feature/front", "data.min_seconds", "data.max_skipped", "data", "name"),
    "explore": ("source", "path", "table", "out", "count", "workers", "data.packs", "targets"),
    "compare": ("rows", "cols", "metric", "part", "table", "to", "format", "backbone", "optim.lr", "target"),
    "predict": ("to", "format", "window", "overlap", "batch", "workers", "device", "page"),
    "latent": ("methods", "dims", "part", "seed", "to"),
    "inspect": ("clip", "crop", "checkpoint", "to"),
    "export": ("format", "input", "to", "check", "private"),
    "report": ("to",),
}  # fmt: skip
GOOD = {
    "source": ("folder", "table", "demo", "pack", "gtzan", "fma", "digits", "union"), "path": (".",
    "inputs"), "workers": ("1",),
    "part": ("test", "val"), "methods": ("pca", "pca,umap"), "dims": ("2", "2,3"), "format": ("csv", "html", "onnx"),
    "device": ("cpu",), "rows": ("backbone", "optim.lr"), "cols": ("feature",), "table": ("1", "runs",
    "inputs/t.csv"),
    "clip": ("a",), "crop": ("1-2", "5"), "window": ("3",), "to": ("out",), "out": ("out",),
    "feature": ("mel", "fused"),
}  # fmt: skip


def words_of(rng: Random, command: str) -> list[str]:
    """Return the words of another command."""
    made = [rng.choice(("inputs", "none", "inputs/t.csv", "inputs/x.ckpt", ".", "", "é", "a\x00b",
    "x" * 300, "-x", "a=b", "~nosuch/x"))
            for _ in range(rng.choice((0, 1, 1, 2)))]  # fmt: skip
    for _ in range(rng.choice((0, 1, 2, 4))):
        name = rng.choice(SETTINGS[command])
        value = rng.choice(GOOD.get(name, ("1",))) if rng.random() < 0.5 else value_of(rng, "a")
        made.append(f"{typo(rng, name) if rng.random() < 0.1 else name}={value}")
    # a cluster that is started, or looked for at an address, is no part of this
    return [text for text in made if not text.startswith("ray=")] or ["inputs"]


def reached(config: Any, folder: Path, resume: bool = False) -> dict[str, Any]:
    """Stand in for a run: what comes after the check of the config is not tried here."""
    return {}


def one(seed: int, known: dict[str, Any], top: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, list[str]]:
    """Try one command; returns its words and its breaches."""
    rng = Random(f"overrides {seed}")
    command = COMMAND if rng.random() < 0.7 else rng.choice(OTHERS)
    words = words_of_train(rng, known) if command == COMMAND else words_of(rng, command)
    with room(monkeypatch, top) as made:
        (made.work / "inputs").mkdir()
        (made.work / "inputs" / "t.csv").write_text("path,genre\na.wav,rock\nb.wav,pop\n")
        (made.work / "inputs" / "x.ckpt").write_bytes(made.pickled())
        writes = [made.work / name for name in ("outputs", "out")]
        if places := [
            text for text in words if text.lstrip("+~").startswith(PLACES) or text.startswith(("to=", "out="))
        ]:
            writes = [made.work]  # wherever it was told; the bait above and beside must still not change
            if any(".." in text or "HOME" in text or "~" in text for text in places):
                writes = [made.top]
        main = import_module(COMMANDS[command][0]).main
        found = faults(made, lambda: main(list(words)), writes, quiet=command == COMMAND)
        left = [path.name for path in (made.top / "middle").iterdir()]
        assert "beside" in left and (made.top / "above.txt").read_text() == "bait above.txt"
    return f"{command} {words!r}", found


@pytest.mark.parametrize("chunk", seeds(default=12, full=400))
def test_words_end_in_a_sentence(
    chunk: Sequence[int], keys: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(stages, "run_experiment", reached)
    monkeypatch.setattr("sys.argv", ["train.py"])
    assert callable(train.main)
    assert_none("overrides", {seed: one(seed, keys, tmp_path / str(seed), monkeypatch) for seed in chunk})


def test_each_breach_of_the_property_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    works: dict[str, Callable[[Any], int]] = {}
    works["escaped"] = lambda made: {}["nothing"]
    works["outside"] = lambda made: (made.top / "above.txt").write_text("changed") and 0
    works["silent"] = lambda made: 2
    works["internal"] = lambda made: sys.stderr.write("KeyError: 'a'") and 2
    works["status"] = lambda made: 7
    works["draft"] = lambda made: (made.work / "out" / ".a.1.part").write_text("half") and 0
    works["leftover"] = lambda made: sys.stderr.write("no") and ((made.work / "out" / "a").write_text("left") and 2)
    works["temporary"] = lambda made: (made.tmp / "a").write_text("left") and 0
    works["code"] = lambda made: made.marker.mkdir() or 0
    for name, work in works.items():
        with room(monkeypatch, tmp_path / name) as made:
            (made.work / "out").mkdir()
            found = faults(made, lambda work=work, made=made: work(made), [made.work / "out"], quiet=True)
            assert any(line.startswith(name) for line in found), (name, found)
