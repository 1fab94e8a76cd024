"""Every command that writes into a folder, with a file, folder or link of somebody else in its way.

The command ends with status 2 and changes neither what is in the way nor what a link leads to. The names that are tried
are those that a command lists after it has written into an empty folder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import pytest

from etude.__main__ import COMMANDS
from etude.data.sources.demo import collection
from etude.files import ownership
from etude.files.ownership import LIST

KINDS = ("file", "folder", "link to a file", "link to a folder", "link to nothing", "listed link", "listed folder")
WORDS: dict[str, Sequence[str]] = {  # {to}: the folder that is written into
    "prepare": ["source=folder", "path={music}", "data.packs={to}", "workers=1"],
    "explore": ["source=folder", "path={music}", "data.packs={packs}", "out={to}", "workers=1", "count=1"],
    "predict": ["{run}", "{clip}", "to={to}", "format=csv,json", "workers=1"],
    "export": ["{run}", "to={to}", "format=safetensors", "check={clip}"],
    "inspect": ["{run}", "clip={clip}", "to={to}"],
    "report": ["{to}"],
    "compare": ["{run}", "to={to}"],
    "latent": ["{run}", "to={to}", "methods=pca", "dims=2"],
}
REMADE = ("metrics.json", "report.html")  # by report, from a run folder

Call = Callable[[str, Path], int]


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips in two folders, one for each class."""
    home = tmp_path_factory.mktemp("music")
    table = collection().table
    for genre in ("metal", "electronic"):
        (home / genre).mkdir()
        for path in table.loc[table["genre"] == genre, "path"].head(2):
            shutil.copyfile(path, home / genre / Path(path).name)
    return home


@pytest.fixture(scope="module")
def call(finished: Path, music: Path, tmp_path_factory: pytest.TempPathFactory) -> Call:
    """Run a command in this process, writing into a folder; its exit status."""
    packs = tmp_path_factory.mktemp("packs of music")
    clip = next(music.glob("metal/*"))

    def go(command: str, to: Path) -> int:
        known = {"to": to, "run": finished, "music": music, "packs": packs, "clip": clip}
        words = [word.format(**known) for word in WORDS[command]]
        return int(import_module(COMMANDS[command][0]).main(words) or 0)

    return go


def fresh(command: str, to: Path, finished: Path) -> Path:
    """The folder that a command is to write into: empty, but for `report` a run without what it makes."""
    if command == "report":
        shutil.copytree(finished, to)
        for name in REMADE:
            (to / name).unlink()
        lines = (to / LIST).read_text().splitlines(keepends=True)
        (to / LIST).write_text("".join(line for line in lines if json.loads(line) not in REMADE))
    else:
        to.mkdir()
    return to


def written(command: str, to: Path) -> list[str]:
    """The files that a command listed as its own; the file that only names the holder of a lock may be missing."""
    found = []
    for listing in to.rglob(LIST):
        for name in sorted(ownership.listed(listing.parent)):
            path = (listing.parent / name).relative_to(to)
            if (command != "report" or name in REMADE) and (listing.parent / name).is_file():
                found.append(path.as_posix())
    return [name for name in found if not name.endswith((".holder", ".part"))]


def plant(kind: str, to: Path, name: str, other: Path) -> None:
    """Put something of somebody else in the way; `other` is a folder with a file of theirs."""
    path = to / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind.startswith("listed"):
        with (to / LIST).open("a") as listing:
            listing.write(json.dumps(name) + "\n")
    if kind == "file":
        path.write_text("mine")
    elif kind.endswith("folder") and "link" not in kind:
        path.mkdir()
        (path / "mine.txt").write_text("mine")
    else:
        path.symlink_to(other / {"link to a folder": ".", "link to nothing": "none"}.get(kind, "mine.txt"))


def content(folder: Path) -> dict[str, bytes | str]:
    """Every file below a folder with its bytes, and every link with its target."""
    return {
        path.relative_to(folder).as_posix(): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def assert_refused(command: str, kind: str, name: str, call: Call, home: Path, finished: Path) -> None:
    """Plant, run, and compare."""
    other = home / "other"
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    to = fresh(command, home / "to", finished)
    plant(kind, to, name, other)
    before, run = content(home), content(finished)
    status = call(command, to)
    after = content(home)
    assert status == 2
    ours = {one for one in before if one.endswith(LIST)}
    assert {one: after.get(one) for one in before.keys() - ours} == {one: before[one] for one in before.keys() - ours}
    assert content(finished) == run


@pytest.fixture(scope="module")
def names(call: Call, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    """What each command writes into an empty folder."""
    known: dict[str, list[str]] = {}

    def of(command: str) -> list[str]:
        if command not in known:
            to = fresh(command, tmp_path_factory.mktemp(command) / "to", finished)
            assert call(command, to) == 0
            known[command] = written(command, to)
            assert known[command]
        return known[command]

    return of


@pytest.mark.parametrize("command", WORDS)
def test_what_is_in_the_way_is_refused_and_stays(
    command: str, names: Callable[[str], list[str]], call: Call, tmp_path: Path, finished: Path
) -> None:
    """One name of the command for each kind, in turns; `make test-full` tries every pair."""
    every = names(command)
    for turn, kind in enumerate(KINDS):
        home = tmp_path / str(turn)
        home.mkdir()
        assert_refused(command, kind, every[turn % len(every)], call, home, finished)


@pytest.mark.full
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", WORDS)
def test_every_name_of_every_command_is_refused_and_stays(
    command: str, kind: str, names: Callable[[str], list[str]], call: Call, tmp_path: Path, finished: Path
) -> None:
    for turn, name in enumerate(names(command)):
        home = tmp_path / str(turn)
        home.mkdir()
        assert_refused(command, kind, name, call, home, finished)
