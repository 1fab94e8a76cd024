"""Tests that no command overwrites an existing file, folder or link.

The command ends with status 2 and changes neither the existing path nor the target of a link. The tested names are
those that a command lists after it has written into an empty folder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import soundfile

from etude.cli import app
from etude.data.sources.demo import collection
from etude.files import ownership
from etude.files.ownership import LIST_NAME

pytestmark = pytest.mark.usefixtures("compiled_librosa")
KINDS = ("file", "folder", "link to a file", "link to a folder", "link to nothing", "listed link", "listed folder")
ARGUMENTS: dict[str, Sequence[str]] = {  # the command writes into the folder {output}
    "prepare": ["data=folder", "data.source.path={music}", "data.packs={output}", "--workers=1"],
    "explore": [
        "data=folder",
        "data.source.path={music}",
        "data.packs={packs}",
        "--out={output}",
        "--workers=1",
        "--count=1",
    ],
    "predict": ["{run}", "{clip}", "--out={output}", "--format=csv,json", "--workers=1"],
    "export": ["{run}", "--out={output}", "--format=safetensors", "--check={clip}"],
    "inspect": ["{run}", "--clip={clip}", "--out={output}"],
    "report": ["{output}"],
    "compare": ["{run}", "--out={output}"],
    "maps": ["{run}", "--out={output}", "--methods=pca", "--dims=2"],
}
REPORT_FILES = ("metrics.json", "report.html")  # written by report in a run folder

RunCommand = Callable[[str, Path], int]


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with four excerpts of three seconds in two folders, one for each class."""
    folder = tmp_path_factory.mktemp("music")
    table = collection().table
    for genre in ("metal", "electronic"):
        (folder / genre).mkdir()
        for path in map(Path, table.loc[table["genre"] == genre, "path"].head(2)):
            audio, rate = soundfile.read(path)
            soundfile.write(folder / genre / f"{path.stem}.wav", audio[: 3 * rate], rate)
    return folder


@pytest.fixture(scope="module")
def run_command(finished: Path, music: Path, tmp_path_factory: pytest.TempPathFactory) -> RunCommand:
    """Return a function that runs a command in this process with an output folder and returns its exit status."""
    paths = {"run": finished, "music": music, "packs": tmp_path_factory.mktemp("packs of music")}
    paths |= {"clip": next(music.glob("metal/*"))}

    def run(command: str, output: Path) -> int:
        arguments = [argument.format(output=output, **paths) for argument in ARGUMENTS[command]]
        return app.run_command(command, arguments)

    return run


def create_output(command: str, output: Path, finished: Path) -> Path:
    """Create the output folder of a command, empty or for `report` a run without the files that it writes."""
    if command == "report":
        shutil.copytree(finished, output)
        for name in REPORT_FILES:
            (output / name).unlink()
        lines = (output / LIST_NAME).read_text().splitlines(keepends=True)
        (output / LIST_NAME).write_text("".join(line for line in lines if json.loads(line) not in REPORT_FILES))
    else:
        output.mkdir()
    return output


def list_written(command: str, output: Path) -> list[str]:
    """Return the files that a command has listed as created by it, without lock holders and drafts."""
    names = []
    for listing in output.rglob(LIST_NAME):
        for name in sorted(ownership.listed_paths(listing.parent)):
            path = (listing.parent / name).relative_to(output)
            if (command != "report" or name in REPORT_FILES) and (listing.parent / name).is_file():
                names.append(path.as_posix())
    return [name for name in names if not name.endswith((".holder", ".part"))]


def create_existing(kind: str, output: Path, name: str, other: Path) -> None:
    """Create a file, folder or link with the name of an output file.

    Args:
        kind: One of KINDS.
        output: Output folder.
        name: Name of the output file.
        other: Folder with another file, as the target of links.
    """
    path = output / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind.startswith("listed"):
        with (output / LIST_NAME).open("a") as listing:
            listing.write(json.dumps(name) + "\n")
    if kind == "file":
        path.write_text("other")
    elif kind.endswith("folder") and "link" not in kind:
        path.mkdir()
        (path / "other.txt").write_text("other")
    else:
        path.symlink_to(other / {"link to a folder": ".", "link to nothing": "none"}.get(kind, "other.txt"))


def read_files(folder: Path) -> dict[str, bytes | str]:
    """Return the content of every file and the target of every link below a folder."""
    return {
        path.relative_to(folder).as_posix(): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def assert_refused(command: str, kind: str, name: str, run_command: RunCommand, folder: Path, finished: Path) -> None:
    """Assert that a command ends with status 2 and changes no existing file."""
    other = folder / "other"
    other.mkdir()
    (other / "other.txt").write_text("other")
    output = create_output(command, folder / "output", finished)
    create_existing(kind, output, name, other)
    before, run_before = read_files(folder), read_files(finished)
    status = run_command(command, output)
    after = read_files(folder)
    assert status == 2
    unlisted = [path for path in before if not path.endswith(LIST_NAME)]
    assert {path: after.get(path) for path in unlisted} == {path: before[path] for path in unlisted}
    assert read_files(finished) == run_before


@pytest.fixture(scope="module")
def output_names(
    run_command: RunCommand, finished: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], list[str]]:
    """Return a function that lists the files that a command writes into an empty folder."""
    cached: dict[str, list[str]] = {}

    def list_names(command: str) -> list[str]:
        if command not in cached:
            output = create_output(command, tmp_path_factory.mktemp(command) / "output", finished)
            assert run_command(command, output) == 0
            cached[command] = list_written(command, output)
            assert cached[command]
        return cached[command]

    return list_names


@pytest.mark.parametrize("command", ARGUMENTS)
def test_existing_path_is_refused_and_unchanged(
    command: str,
    output_names: Callable[[str], list[str]],
    run_command: RunCommand,
    tmp_path: Path,
    finished: Path,
) -> None:
    """Test three kinds with one name of the command each. `make test-full` tests every pair.

    Together, the commands test each kind three or four times.
    """
    names, first = output_names(command), 3 * list(ARGUMENTS).index(command)
    for index in range(3):
        kind = KINDS[(first + index) % len(KINDS)]
        folder = tmp_path / str(index)
        folder.mkdir()
        assert_refused(command, kind, names[(first + index) % len(names)], run_command, folder, finished)


@pytest.mark.full
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", ARGUMENTS)
def test_every_existing_path_is_refused_and_unchanged(
    command: str,
    kind: str,
    output_names: Callable[[str], list[str]],
    run_command: RunCommand,
    tmp_path: Path,
    finished: Path,
) -> None:
    for index, name in enumerate(output_names(command)):
        folder = tmp_path / str(index)
        folder.mkdir()
        assert_refused(command, kind, name, run_command, folder, finished)
