"""Only files that Étude wrote are replaced or removed: everything else, and every link, stays as it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from etude.errors import UserError
from etude.files import atomic, ownership
from etude.files.ownership import LIST_NAME


def tree(folder: Path) -> dict[str, object]:
    """Every path below a folder with its content; of a link, its target."""
    return {
        path.relative_to(folder).as_posix(): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def forget_process() -> None:
    """Continue as another process would, which knows only the lists on disk."""
    ownership._created.clear()
    ownership._folders.clear()


def test_a_file_is_written_recorded_and_replaced(tmp_path: Path) -> None:
    path = atomic.write_text(tmp_path / "a.txt", "one")
    assert (tmp_path / LIST_NAME).read_text() == '"a.txt"\n'
    forget_process()
    atomic.write_text(path, "two")
    assert tree(tmp_path) == {"a.txt": b"two", LIST_NAME: b'"a.txt"\n'}


@pytest.mark.parametrize("kind", ["file", "folder", "link to a file", "link to nothing", "link above"])
def test_a_path_of_somebody_else_is_refused(kind: str, tmp_path: Path) -> None:
    folder, other = tmp_path / "run", tmp_path / "other"
    ownership.open_folder(folder)
    other.mkdir()
    (other / "a.txt").write_text("mine")
    path = folder / "sub" / "a.txt" if kind == "link above" else folder / "a.txt"
    if kind == "file":
        path.write_text("mine")
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
def test_a_listed_name_that_became_something_else_is_left_alone(kind: str, tmp_path: Path) -> None:
    """A list may be old, or may come with the folder of somebody else."""
    folder, other = tmp_path / "run", tmp_path / "other.txt"
    ownership.open_folder(folder)
    path = atomic.write_text(folder / "a.txt", "ours")
    other.write_text("mine")
    path.unlink()
    if kind == "link":
        path.symlink_to(other)
    else:
        path.mkdir()
        (path / "b").write_text("mine")
    forget_process()
    before = tree(tmp_path)
    with pytest.raises(UserError, match=r"a\.txt: is a"):
        atomic.write_text(path, "new")
    assert not atomic.remove(path)
    atomic.remove_folder(folder)
    atomic.remove_created(folder)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("line", ['"../other.txt"', '"/etc/passwd"', "not JSON", "[1]", '"sub/../../other.txt"', ""])
def test_a_list_names_nothing_outside_its_folder(line: str, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("mine")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / LIST_NAME).write_text(line + "\n")
    for path in (folder / ".." / "other.txt", tmp_path / "other.txt"):
        assert not atomic.remove(path)
    assert ownership.listed_paths(folder) == frozenset()


def test_a_list_that_is_a_link_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("mine\n")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / LIST_NAME).symlink_to(tmp_path / "other.txt")
    with pytest.raises(UserError, match="is a symbolic link"):
        atomic.write_text(folder / "a.txt", "new")
    assert (tmp_path / "other.txt").read_text() == "mine\n"


def test_removing_a_folder_keeps_what_is_not_listed(tmp_path: Path) -> None:
    folder = tmp_path / "pack"
    ownership.open_folder(folder)
    ownership.subfolder(folder / "sub")
    for name in ("a", "sub/b"):
        atomic.write_text(folder / name, "ours")
    assert ownership.foreign_paths(folder) == []
    (folder / "sub" / "notes.txt").write_text("mine")
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "c").write_text("mine")
    (folder / "link").symlink_to(tmp_path / "far")
    assert ownership.foreign_paths(folder) == ["link", "sub/notes.txt"]
    forget_process()
    assert not atomic.remove_folder(folder)
    kept = {name for name in tree(tmp_path) if not name.endswith(LIST_NAME)}
    assert kept == {"pack/link", "pack/sub/notes.txt", "far/c"}
    (folder / "sub" / "notes.txt").unlink()
    (folder / "link").unlink()
    assert atomic.remove_folder(folder)
    assert not folder.exists()


def test_discarding_removes_only_what_this_process_created(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    ownership.open_folder(folder)
    atomic.write_text(folder / "earlier", "of a process before")
    forget_process()
    (folder / "notes.txt").write_text("mine")
    ownership.open_folder(folder)
    ownership.subfolder(folder / "sub")
    atomic.write_text(folder / "sub" / "new", "of this one")
    atomic.remove_created(folder)
    assert set(tree(folder)) == {LIST_NAME, "earlier", "notes.txt"}


@pytest.mark.parametrize("existed", [False, True])
def test_a_folder_that_existed_before_is_never_removed(existed: bool, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    if existed:
        folder.mkdir()
    assert ownership.open_folder(folder) is not existed
    atomic.write_text(folder / "a", "ours")
    atomic.remove_created(folder)
    assert folder.exists() is existed
    assert not existed or tree(folder) == {}


def test_a_folder_is_created_by_one_process_only(tmp_path: Path) -> None:
    ownership.create_folder(tmp_path / "deep" / "run")
    with pytest.raises(FileExistsError):
        ownership.create_folder(tmp_path / "deep" / "run")


def test_a_moved_folder_keeps_its_list(tmp_path: Path) -> None:
    ownership.open_folder(tmp_path / "draft")
    atomic.write_text(tmp_path / "draft" / "a", "ours")
    atomic.move(tmp_path / "draft", tmp_path / "pack")
    forget_process()
    assert ownership.foreign_paths(tmp_path / "pack") == []
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="is not moved"):
        atomic.move(tmp_path / "mine", tmp_path / "other")
    with pytest.raises(FileExistsError):
        atomic.move(tmp_path / "pack", tmp_path / "mine")


def test_a_moved_subfolder_is_listed_under_its_new_name(tmp_path: Path) -> None:
    ownership.open_folder(tmp_path)
    ownership.subfolder(tmp_path / ".errors.1")
    atomic.write_text(tmp_path / ".errors.1" / "0.png", "ours")
    atomic.move(tmp_path / ".errors.1", tmp_path / "errors")
    forget_process()
    assert atomic.remove_folder(tmp_path / "errors")
    assert not (tmp_path / "errors").exists()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_file_and_no_draft(error: BaseException, tmp_path: Path) -> None:
    path = atomic.write_text(tmp_path / "a.txt", "one")

    def fail() -> None:
        with atomic.replacing(path) as draft:
            draft.write_text("hal")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", LIST_NAME}
    assert path.read_text() == "one"


def test_drafts_of_a_killed_process_are_removed_and_nothing_else(tmp_path: Path) -> None:
    atomic.write_text(tmp_path / "last.ckpt", "ours")
    for name in (".last.ckpt.17.part", ".mine.17.part", ".last.ckpt.part", ".hidden"):
        (tmp_path / name).touch()
    forget_process()
    atomic.remove_drafts(tmp_path)
    assert set(tree(tmp_path)) == {"last.ckpt", ".mine.17.part", ".last.ckpt.part", ".hidden", LIST_NAME}


def test_a_name_of_255_bytes_is_written(tmp_path: Path) -> None:
    path = atomic.write_text(tmp_path / ("é" * 127 + "x"), "ours")
    assert path.read_text() == "ours"
    assert {one.name for one in tmp_path.iterdir()} == {path.name, LIST_NAME}


def test_a_name_that_was_removed_is_free_for_the_user(tmp_path: Path) -> None:
    path = atomic.write_text(tmp_path / "a.csv", "ours")
    assert atomic.remove(path)
    path.write_text("mine")
    forget_process()
    assert not atomic.remove(path)
    with pytest.raises(UserError, match=r"a\.csv: exists"):
        atomic.write_text(path, "ours")
    path.unlink()
    atomic.write_text(path, "ours")
    forget_process()
    assert atomic.remove(path)


@pytest.mark.parametrize("listed", [False, True])
def test_a_draft_folder_has_a_name_that_nothing_had(listed: bool, tmp_path: Path) -> None:
    """Also where the folder of a killed process with this number is there, and somebody put a file into it."""
    ownership.open_folder(tmp_path)
    taken = tmp_path / f".export.{os.getpid()}"
    if listed:
        ownership.record(taken)
    taken.mkdir()
    (taken / "mine.txt").write_text("mine")
    draft = ownership.draft_folder(tmp_path, "export")
    assert draft != taken and ownership.created(draft) and not list(draft.iterdir())
    assert (taken / "mine.txt").read_text() == "mine"
