"""Only files that Étude wrote are replaced or removed, and all other files and links are unchanged."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from etude.errors import UserError
from etude.files import atomic, ownership
from etude.files.ownership import LIST_NAME


def tree(folder: Path) -> dict[str, object]:
    """Return every file below a folder with its content, and every link with its target."""
    return {
        path.relative_to(folder).as_posix(): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def clear_process_record() -> None:
    """Clear the record of this process, as in another process, which has only the lists on disk."""
    ownership._created.clear()
    ownership._folders.clear()


def test_own_file_is_recorded_and_replaced(tmp_path: Path) -> None:
    path = atomic.write_text(tmp_path / "a.txt", "one")
    assert (tmp_path / LIST_NAME).read_text() == '"a.txt"\n'
    clear_process_record()
    atomic.write_text(path, "two")
    assert tree(tmp_path) == {"a.txt": b"two", LIST_NAME: b'"a.txt"\n'}


@pytest.mark.parametrize("kind", ["file", "folder", "link to a file", "link to nothing", "link above"])
def test_foreign_path_is_not_written(kind: str, tmp_path: Path) -> None:
    folder, other = tmp_path / "run", tmp_path / "other"
    ownership.open_folder(folder)
    other.mkdir()
    (other / "a.txt").write_text("other")
    path = folder / "sub" / "a.txt" if kind == "link above" else folder / "a.txt"
    if kind == "file":
        path.write_text("other")
    elif kind == "folder":
        path.mkdir()
    elif kind == "link above":
        (folder / "sub").symlink_to(other)
    else:
        path.symlink_to(other / ("a.txt" if kind == "link to a file" else "none"))
    before = tree(tmp_path)
    for write in (
        lambda: atomic.write_text(path, "new"),
        lambda: atomic.open_file(path, "ab"),
        lambda: atomic.open_file(path, "wb"),
    ):
        with pytest.raises(UserError, match=r"a\.txt: |sub: "):
            write()
    assert not atomic.remove(path)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_listed_name_that_is_no_file_any_more_is_unchanged(kind: str, tmp_path: Path) -> None:
    """A list may be outdated, or may be copied with the folder of another user."""
    folder, other = tmp_path / "run", tmp_path / "other.txt"
    ownership.open_folder(folder)
    path = atomic.write_text(folder / "a.txt", "own")
    other.write_text("other")
    path.unlink()
    if kind == "link":
        path.symlink_to(other)
    else:
        path.mkdir()
        (path / "b").write_text("other")
    clear_process_record()
    before = tree(tmp_path)
    with pytest.raises(UserError, match=r"a\.txt: is a"):
        atomic.write_text(path, "new")
    assert not atomic.remove(path)
    atomic.remove_folder(folder)
    atomic.remove_created(folder)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("line", ['"../other.txt"', '"/etc/passwd"', "not JSON", "[1]", '"sub/../../other.txt"', ""])
def test_list_contains_no_path_outside_its_folder(line: str, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("other")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / LIST_NAME).write_text(line + "\n")
    for path in (folder / ".." / "other.txt", tmp_path / "other.txt"):
        assert not atomic.remove(path)
    assert ownership.listed_paths(folder) == frozenset()


def test_list_that_is_a_link_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("other\n")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / LIST_NAME).symlink_to(tmp_path / "other.txt")
    with pytest.raises(UserError, match="is a symbolic link"):
        atomic.write_text(folder / "a.txt", "new")
    assert (tmp_path / "other.txt").read_text() == "other\n"


def test_removing_a_folder_keeps_files_that_are_not_listed(tmp_path: Path) -> None:
    folder = tmp_path / "pack"
    ownership.open_folder(folder)
    ownership.subfolder(folder / "sub")
    for name in ("a", "sub/b"):
        atomic.write_text(folder / name, "own")
    assert ownership.foreign_paths(folder) == []
    (folder / "sub" / "notes.txt").write_text("other")
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "c").write_text("other")
    (folder / "link").symlink_to(tmp_path / "far")
    assert ownership.foreign_paths(folder) == ["link", "sub/notes.txt"]
    clear_process_record()
    assert not atomic.remove_folder(folder)
    kept = {name for name in tree(tmp_path) if not name.endswith(LIST_NAME)}
    assert kept == {"pack/link", "pack/sub/notes.txt", "far/c"}
    (folder / "sub" / "notes.txt").unlink()
    (folder / "link").unlink()
    assert atomic.remove_folder(folder)
    assert not folder.exists()


def test_only_files_created_by_this_process_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    ownership.open_folder(folder)
    atomic.write_text(folder / "earlier", "of an earlier process")
    clear_process_record()
    (folder / "notes.txt").write_text("other")
    ownership.open_folder(folder)
    ownership.subfolder(folder / "sub")
    atomic.write_text(folder / "sub" / "new", "of this process")
    atomic.remove_created(folder)
    assert set(tree(folder)) == {LIST_NAME, "earlier", "notes.txt"}


@pytest.mark.parametrize("existed", [False, True])
def test_folder_that_existed_before_is_not_removed(existed: bool, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    if existed:
        folder.mkdir()
    assert ownership.open_folder(folder) is not existed
    atomic.write_text(folder / "a", "own")
    atomic.remove_created(folder)
    assert folder.exists() is existed
    assert not existed or tree(folder) == {}


def test_folder_is_created_by_one_process_only(tmp_path: Path) -> None:
    ownership.create_folder(tmp_path / "deep" / "run")
    with pytest.raises(FileExistsError):
        ownership.create_folder(tmp_path / "deep" / "run")


def test_moved_folder_keeps_its_list(tmp_path: Path) -> None:
    ownership.open_folder(tmp_path / "draft")
    atomic.write_text(tmp_path / "draft" / "a", "own")
    atomic.move(tmp_path / "draft", tmp_path / "pack")
    clear_process_record()
    assert ownership.foreign_paths(tmp_path / "pack") == []
    (tmp_path / "foreign").mkdir()
    with pytest.raises(UserError, match="is not moved"):
        atomic.move(tmp_path / "foreign", tmp_path / "new")
    with pytest.raises(FileExistsError):
        atomic.move(tmp_path / "pack", tmp_path / "foreign")


def test_moved_subfolder_is_listed_under_its_new_name(tmp_path: Path) -> None:
    ownership.open_folder(tmp_path)
    ownership.subfolder(tmp_path / ".errors.1")
    atomic.write_text(tmp_path / ".errors.1" / "0.png", "own")
    atomic.move(tmp_path / ".errors.1", tmp_path / "errors")
    clear_process_record()
    assert atomic.remove_folder(tmp_path / "errors")
    assert not (tmp_path / "errors").exists()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_failed_write_keeps_the_file_and_no_draft_remains(error: BaseException, tmp_path: Path) -> None:
    path = atomic.write_text(tmp_path / "a.txt", "one")

    def fail() -> None:
        with atomic.replacing(path) as draft:
            draft.write_text("hal")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", LIST_NAME}
    assert path.read_text() == "one"


def test_only_drafts_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    atomic.write_text(tmp_path / "last.ckpt", "own")
    for name in (".last.ckpt.17.part", ".mine.17.part", ".last.ckpt.part", ".hidden"):
        (tmp_path / name).touch()
    clear_process_record()
    atomic.remove_drafts(tmp_path)
    assert set(tree(tmp_path)) == {"last.ckpt", ".mine.17.part", ".last.ckpt.part", ".hidden", LIST_NAME}


def test_file_name_of_255_bytes_is_written(tmp_path: Path) -> None:
    path = atomic.write_text(tmp_path / ("é" * 127 + "x"), "own")
    assert path.read_text() == "own"
    assert {file.name for file in tmp_path.iterdir()} == {path.name, LIST_NAME}


def test_removed_name_is_not_owned_any_more(tmp_path: Path) -> None:
    path = atomic.write_text(tmp_path / "a.csv", "own")
    assert atomic.remove(path)
    path.write_text("other")
    clear_process_record()
    assert not atomic.remove(path)
    with pytest.raises(UserError, match=r"a\.csv: exists"):
        atomic.write_text(path, "own")
    path.unlink()
    atomic.write_text(path, "own")
    clear_process_record()
    assert atomic.remove(path)


@pytest.mark.parametrize("listed", [False, True])
def test_draft_folder_has_an_unused_name(listed: bool, tmp_path: Path) -> None:
    """A killed process with this process id may have left a folder, and a user may have added a file to it."""
    ownership.open_folder(tmp_path)
    taken = tmp_path / f".export.{os.getpid()}"
    if listed:
        ownership.record(taken)
    taken.mkdir()
    (taken / "other.txt").write_text("other")
    draft = ownership.draft_folder(tmp_path, "export")
    assert draft != taken and ownership.created(draft) and not list(draft.iterdir())
    assert (taken / "other.txt").read_text() == "other"


def test_threads_write_files_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a copy of the record, a thread that renames a draft fails when another one creates a file."""
    ownership.open_folder(tmp_path)
    monkeypatch.setattr(ownership, "_created", set(ownership._created) | {f"/record/{i}" for i in range(20_000)})
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda i: atomic.write_bytes(tmp_path / str(i), b"content"), range(60)))
            list(threads.map(lambda i: atomic.remove(tmp_path / str(i)), range(0, 60, 2)))
    finally:
        sys.setswitchinterval(interval)
    assert ownership.foreign_paths(tmp_path) == []
    assert {path.name for path in tmp_path.iterdir()} == {LIST_NAME, *map(str, range(1, 60, 2))}
