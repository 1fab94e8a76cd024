"""Tests of the set-up: Makefile, build server, hooks, constraints, and the files for contributors."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from unittest.mock import Mock

import pytest
import yaml
from hydra.errors import CompactHydraException
from omegaconf import OmegaConf
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.browsing import NO_BROWSER, PROGRAMS
from tests.skip_summary import skip_lines

from etude import __version__
from hydra_plugins.etude_optuna import StudySweeper
from hydra_plugins.etude_submitit import LocalLauncher

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
CONSTRAINTS = (ROOT / "constraints.txt").read_text("utf-8").split()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
MAX_DISTRIBUTIONS = 130  # that `make demo` installs, with pip and uv


def make(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run make in a folder, without the variables of a make that runs the tests."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def planned(target: str, tmp_path: Path) -> list[str]:
    """Return the commands that make would run for a target in a fresh clone."""
    result = make("--dry-run", target, f"VENV={tmp_path / 'venv'}")
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def position(lines: list[str], *texts: str) -> int:
    """Return the index of the only line that contains all texts."""
    (index,) = [index for index, line in enumerate(lines) if all(text in line for text in texts)]
    return index


# make


def test_demo_installs_the_package_without_extras(tmp_path: Path) -> None:
    lines = planned("demo", tmp_path)
    assert position(lines, "pip install", "--editable .") < position(lines, "train.py")
    assert not [line for line in lines if "[dev]" in line]


@pytest.mark.parametrize(("target", "program"), [("test", "-m pytest"), ("lint", "/ruff format"), ("lint", "/mypy")])
def test_target_installs_the_packages_for_tests_first(target: str, program: str, tmp_path: Path) -> None:
    lines = planned(target, tmp_path)
    first = next(index for index, line in enumerate(lines) if program in line)
    assert position(lines, "pip install", "--editable '.[dev]'") < first


@pytest.mark.parametrize(("command", "status"), [("true", 0), ("sh -c 'exit 3'", 3)])
def test_step_prints_its_duration_and_passes_the_status_on(command: str, status: int, tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text(f"include {ROOT}/Makefile\ntry:\n\t@$(STEP) 'Some step' {command}\n")
    result = make("try", folder=tmp_path)
    first, second = result.stdout.splitlines()
    assert first == "Some step ..."
    assert re.fullmatch(r"Some step: done in \d+ s" if status == 0 else r"Some step: failed with status 3", second)
    assert bool(result.returncode) is bool(status)


def test_old_python_is_refused_with_the_remedy(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nshift\nexec {sys.executable} -c "import sys; sys.version_info = (3, 10); $1"\n')
    python.chmod(0o755)
    result = make("setup", f"VENV={tmp_path / 'venv'}", f"PYTHON={python}")
    assert result.returncode != 0
    assert "etude needs Python 3.11 or newer: make PYTHON=python3.12 setup" in result.stderr
    assert not (tmp_path / "venv").exists()


# packages


def required_by(requirement: str) -> set[str]:
    """Return the names of all installed distributions that a requirement needs, itself included."""
    names: set[str] = set()
    waiting = [Requirement(requirement)]
    while waiting:
        current = waiting.pop()
        name = canonicalize_name(current.name)
        seen = {name, *(f"{name}[{extra}]" for extra in current.extras)}
        if seen <= names:
            continue
        names |= seen
        try:
            further = distribution(name).requires or []
        except PackageNotFoundError:
            continue  # of another platform, or of another build of PyTorch
        for item in map(Requirement, further):
            if any(item.marker is None or item.marker.evaluate({"extra": extra}) for extra in ("", *current.extras)):
                waiting.append(item)
    return {name for name in names if "[" not in name}


def test_package_alone_needs_few_distributions() -> None:
    alone = set().union(*map(required_by, PROJECT["dependencies"]))
    assert {"torch", "pytorch-lightning", "hydra-core"} <= alone
    assert alone.isdisjoint({"pytest", "mypy", "gradio", "mlflow", "ray", "onnx", "captum", "transformers"})
    assert len(alone | {"etude", "pip", "uv"}) <= MAX_DISTRIBUTIONS


def test_every_requirement_has_a_constraint_that_satisfies_it() -> None:
    versions = dict(line.split("==") for line in CONSTRAINTS)
    extras = PROJECT["optional-dependencies"].values()
    requirements = [
        Requirement(text) for text in (*PROJECT["dependencies"], *(text for extra in extras for text in extra))
    ]
    assert len(requirements) > 30
    for requirement in requirements:
        name = canonicalize_name(requirement.name)
        if name != "etude":
            assert requirement.specifier.contains(versions[name]), requirement


def test_dev_has_every_other_extra() -> None:
    (own,) = [Requirement(text) for text in PROJECT["optional-dependencies"]["dev"] if text.startswith("etude[")]
    assert own.extras == set(PROJECT["optional-dependencies"]) - {"dev"}


def hide(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Make the import of a package fail, even if other tests have imported its modules."""
    for name in [package, *(name for name in sys.modules if name.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, name, None)


def test_search_without_optuna_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "hydra_plugins.hydra_optuna_sweeper")
    config = yaml.safe_load((ROOT / "conf" / "hydra" / "sweeper" / "study.yaml").read_text("utf-8"))
    # without the package there is no config of a sampler, so that the default list adds none
    sweeper = StudySweeper(**{key: value for key, value in config.items() if key[0] != "_" and key != "defaults"})
    with pytest.raises(CompactHydraException, match=r"pip install 'etude\[optuna\]'"):
        sweeper.setup(hydra_context=Mock(), task_function=Mock(), config=OmegaConf.create())


def test_launcher_without_submitit_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "hydra_plugins.hydra_submitit_launcher")
    with pytest.raises(CompactHydraException, match=r"pip install 'etude\[submitit\]'"):
        LocalLauncher().setup(hydra_context=Mock(), task_function=Mock(), config=OmegaConf.create())


# hooks and the build server


def lint_programs() -> set[str]:
    """Return the programs and subcommands that `make lint` runs, such as `ruff check`."""
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert recipe is not None
    return {program(line) for line in re.findall(r"\$\(BIN\)/(.+)", recipe[1])}


def program(command: str) -> str:
    """Return the name of a command and its subcommand, without folders and options."""
    first, *others = shlex.split(command)
    return " ".join([Path(first).name, *(word for word in others if not word.startswith("-"))])


def test_hooks_run_the_checks_of_make_lint() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    hooks = [hook for repository in config["repos"] for hook in repository["hooks"]]
    assert {"ruff check", "ruff format", "mypy"} <= lint_programs()
    assert {program(hook["entry"]) for hook in hooks} == lint_programs()
    assert all(hook["entry"].startswith(".venv/bin/") and hook["language"] == "system" for hook in hooks)


def run_on_build_server(tmp_path: Path, user: int, apt_status: int, *programs: str) -> tuple[list[str], str]:
    """Run .ci/run with stubs of all programs; return the programs it called with their arguments, and its output."""
    bin, calls = tmp_path / "bin", tmp_path / "calls"
    bin.mkdir()
    calls.touch()
    for name in ("make", "apt-get", *programs):
        status = apt_status if name == "apt-get" else 0
        (bin / name).write_text(
            f'#!/bin/sh\necho "{name} $* ${{DEBIAN_FRONTEND-}}" >> {calls}\necho from {name}\nexit {status}\n'
        )
    (bin / "id").write_text(f"#!/bin/sh\necho {user}\n")
    for name in ("bash", "dirname", "tail"):
        (bin / name).symlink_to(f"/usr/bin/{name}" if Path(f"/usr/bin/{name}").exists() else f"/bin/{name}")
    for path in bin.iterdir():
        if not path.is_symlink():
            path.chmod(0o755)
    result = subprocess.run(
        ["/usr/bin/env", "bash", str(ROOT / ".ci" / "run")],
        env={"PATH": str(bin)},
        capture_output=True,
        text=True,
        check=True,
    )
    return calls.read_text().splitlines(), result.stdout


@pytest.mark.parametrize("browser", PROGRAMS)
def test_build_server_uses_an_installed_browser(browser: str, tmp_path: Path) -> None:
    calls, output = run_on_build_server(tmp_path, 0, 0, browser)
    assert calls == ["make test "]
    assert output == "from make\n"


def test_build_server_installs_a_browser_as_root(tmp_path: Path) -> None:
    calls, output = run_on_build_server(tmp_path, 0, 100)
    assert [" update " in calls[0], calls[-1]] == [True, "make test "]
    assert all("noninteractive" in call for call in calls[:-1])
    assert "Chromium could not be installed, so the browser tests are skipped" in output
    assert "from apt-get" in output


def test_build_server_tests_without_root_and_without_a_browser(tmp_path: Path) -> None:
    calls, output = run_on_build_server(tmp_path, 1000, 0)
    assert calls == ["make test "]
    assert "No Chromium is installed, so the browser tests are skipped." in output


# summary of skipped tests


def test_each_reason_of_a_skip_is_listed_once_with_its_files() -> None:
    skipped = [("needs ffmpeg", "tests/a.py")] + [("no browser", f"tests/{i:02d}.py") for i in range(40) for _ in "12"]
    lines = skip_lines(skipped, width=100)
    assert lines[0] == "  80  no browser"
    assert lines[-2:] == ["   1  needs ffmpeg", "      tests/a.py"]
    assert "tests/00.py (2), tests/01.py (2)" in lines[1]
    assert lines[-3].endswith("34 more files")
    assert len(lines) < 8 and max(map(len, lines)) <= 100


@pytest.mark.parametrize("ci", [True, False])
def test_missing_browser_is_noted_in_ci(ci: bool) -> None:
    lines = skip_lines([(NO_BROWSER, "tests/a.py"), (NO_BROWSER, "tests/b.py")], ci=ci)
    assert lines[:2] == [f"   2  {NO_BROWSER}", "      tests/a.py, tests/b.py"]
    assert lines[2:] == (["CI is set, but browser tests did not run (2): install Chromium."] if ci else [])


SKIPPING_TESTS = """
import pytest

@pytest.mark.skipif(True, reason="no such\\n program")
@pytest.mark.parametrize("x", [1, 2])
def test_x(x):
    pass

def test_y():
    pytest.skip("never")
"""


def test_test_run_ends_with_the_reasons_of_skips(tmp_path: Path) -> None:
    (tmp_path / "test_module.py").write_text(
        "import pytest\npytest.importorskip('no_such_package', reason='needs it')\n"
    )
    (tmp_path / "test_single.py").write_text(SKIPPING_TESTS)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "tests.skip_summary",
        "-p",
        "no:cacheprovider",
        "--rootdir=.",
    ]
    result = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    summary = result.stdout.split(" 4 skipped ")[1].splitlines()
    assert summary[1:7] == [
        "   2  no such program", "      test_single.py (2)",
        "   1  needs it", "      test_module.py",
        "   1  never", "      test_single.py",
    ]  # fmt: skip


# files for contributors


def test_citation_has_the_version_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)  # the required keys of the format
    assert citation["version"] == PROJECT["version"] == __version__
    assert citation["license"] == PROJECT["license"]


def test_changelog_keeps_a_changelog() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    versions = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert versions[0] == "[Unreleased]"
    assert all(re.match(r"\[\d+\.\d+\.\d+\] - ", version) for version in versions[1:])
    assert f"[{__version__}]" in [version.split(" - ")[0] for version in versions]
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= kinds


@pytest.mark.parametrize("name", ["bug.yml", "feature.yml"])
def test_issue_template_has_required_fields(name: str) -> None:
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / name).read_text("utf-8"))
    assert form["name"] and form["description"]
    fields = [item for item in form["body"] if item["type"] != "markdown"]
    assert any(item.get("validations", {}).get("required") for item in fields)
    assert len({item["id"] for item in fields}) == len(fields)


def test_paths_and_targets_for_contributors_exist() -> None:
    paths = set(re.findall(r"`((?:src|conf|tests|docs|scripts|\.ci)/[^`\s]*)`", CONTRIBUTING))
    assert len(paths) > 30
    missing = [path for path in paths if not (ROOT / (Path(path).parent if "<name>" in path else path)).exists()]
    assert missing == []
    targets = set(re.findall(r"`make ([\w-]+)`", CONTRIBUTING))
    assert {"setup", "test", "lint"} <= targets <= set(re.findall(r"^([\w-]+):", MAKEFILE, re.MULTILINE))


def test_contributors_find_every_config_group() -> None:
    groups = {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()}
    settings = {"debug", "hydra", "optim", "trainer", "transfer"}  # values of a run, and Hydra's own groups
    assert groups - settings == set(re.findall(r"`conf/(\w+)/(?:front/)?<name>\.yaml`", CONTRIBUTING))
