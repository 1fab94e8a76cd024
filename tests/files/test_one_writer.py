"""Only one package deletes and renames files, and all other modules that write files are listed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES_PACKAGE = "etude.files"
DELETE = {"rmtree", "unlink", "remove", "rmdir", "removedirs", "move", "rename", "renames", "replace"}
WRITE = {
    *("write_text", "write_bytes", "touch", "save", "savez", "savez_compressed", "savetxt", "tofile", "memmap"),
    *("to_csv", "to_parquet", "to_json", "to_excel", "to_pickle", "to_hdf", "to_feather", "savefig", "save_file"),
    *("copyfile", "copy2", "copytree", "symlink_to", "hardlink_to", "truncate", "mkdir", "makedirs", "dump"),
    *("ParquetWriter", "FileHandler", "SoundFile", "FileIO", "fdopen", "mkstemp", "mkdtemp"),
    *("TemporaryDirectory", "TemporaryFile", "NamedTemporaryFile"),
}
# Reasons why a module outside of etude.files may call a function that writes.
TEXT = "a string, which etude.files writes"
DRAFT = "a draft that etude.files created and renames"
STREAM = "a buffer in memory"
TEMPORARY = "a temporary folder or file, which is removed when the process ends"
READ = "a file that is only read"
CHECKED = "a file that etude.files has checked and recorded"
KNOWN = {
    "src/etude/reports/clip_frames.py": {"SoundFile": DRAFT},
    "src/etude/audio/numba_lock.py": {"TemporaryFile": TEMPORARY},
    "src/etude/benchmarks/audio.py": {"TemporaryDirectory": TEMPORARY, "save": TEMPORARY, "mkdir": TEMPORARY},
    "src/etude/benchmarks/loading.py": {
        "TemporaryDirectory": TEMPORARY,
        "mkdir": TEMPORARY,
        "save": TEMPORARY,
        "save_file": TEMPORARY,
    },
    "src/etude/benchmarks/training.py": {"TemporaryDirectory": TEMPORARY, "mkdir": TEMPORARY},
    "src/etude/benchmarks/timing.py": {"TemporaryDirectory": TEMPORARY},
    "src/etude/benchmarks/transformer.py": {"TemporaryDirectory": TEMPORARY},
    "src/etude/data/pack.py": {"memmap": READ},
    "src/etude/data/pack_writer.py": {"truncate": CHECKED, "memmap": READ, "to_csv": TEXT, "to_parquet": DRAFT},
    "src/etude/data/packing.py": {"to_csv": TEXT},
    "src/etude/demo/server.py": {"TemporaryDirectory": TEMPORARY},
    "src/etude/demo/uploads.py": {"mkdir": TEMPORARY},
    "src/etude/embeddings/cache.py": {"TemporaryFile": TEMPORARY},
    "src/etude/evaluation/paired_tests.py": {"to_csv": TEXT},
    "src/etude/experiment/ensemble.py": {"save": DRAFT},
    "src/etude/experiment/provenance.py": {"to_csv": TEXT},
    "src/etude/experiment/start.py": {"FileHandler": CHECKED},
    "src/etude/export/export.py": {"save": STREAM},
    "src/etude/export/graph.py": {"save": "a draft folder of etude.export.export"},
    "src/etude/inference/embed.py": {"save": DRAFT, "savez": DRAFT},
    "src/etude/inference/figure.py": {"TemporaryDirectory": TEMPORARY},
    "src/etude/inference/predict.py": {"truncate": CHECKED},
    "src/etude/inference/tables.py": {"ParquetWriter": CHECKED},
    "src/etude/loggers/base.py": {"save": "the logger's own method"},
    "src/etude/loggers/dashboard.py": {"save": "a view on the server of Weights & Biases"},
    "src/etude/loggers/mlflow.py": {"to_csv": TEXT},
    "src/etude/loggers/wandb.py": {"dump": "a file of an artifact that is uploaded"},
    "src/etude/reports/comparison/compare.py": {"to_csv": TEXT, "to_json": TEXT},
    "src/etude/reports/comparison/leaderboard.py": {"to_csv": TEXT},
    "src/etude/reports/comparison/leaderboard_page.py": {"to_csv": TEXT},
    "src/etude/reports/comparison/scores.py": {"to_csv": TEXT},
    "src/etude/reports/maps/page.py": {"to_csv": TEXT},
    "src/etude/reports/svg.py": {"savefig": STREAM, "save": STREAM},
    "src/etude/runs/folder.py": {"to_csv": TEXT, "to_parquet": DRAFT},
    "src/etude/sweeps/processes.py": {"fdopen": "a pipe from the process that forks jobs"},
    "src/etude/system/machine.py": {
        "mkdir": "a private folder in the temporary folder",
        "fdopen": "anonymous memory",
    },
    "src/etude/training/checkpointing.py": {"save": DRAFT},
    "src/etude/training/lr_finder.py": {"savefig": DRAFT, "to_csv": TEXT},
}
OPENED = {  # modules that open files for writing by mode or flag
    "src/etude/demo/uploads.py": TEMPORARY,
    "src/etude/experiment/ensemble.py": DRAFT,
    "src/etude/inference/embed.py": DRAFT,
    "src/etude/sweeps/jobs.py": DRAFT,
    "src/etude/sweeps/processes.py": CHECKED,
    "src/etude/system/streams.py": "the null device",
    "src/etude/training/checkpointing.py": DRAFT,
}


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Yield the path and the syntax tree of every module outside of etude.files."""
    for path in [*sorted((ROOT / "src").rglob("*.py")), ROOT / "train.py"]:
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith("src/etude/files/"):
            yield name, ast.parse(path.read_text("utf-8"))


def imported_names(tree: ast.Module) -> dict[str, str]:
    """Return the imported names of a module, with their source modules."""
    sources = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            sources |= {alias.asname or alias.name: node.module or "" for alias in node.names}
    return sources


def calls(tree: ast.Module) -> Iterator[tuple[str, str, ast.Call]]:
    """Yield name, origin and node of every call. The origin is the module of a function or the object of a method."""
    names = imported_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id, names.get(node.func.id, ""), node
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            receiver = ast.unparse(node.func.value)
            origin = f"{names[receiver]}.{receiver}" if receiver in names else receiver
            yield node.func.attr, origin, node


def deletes(name: str, origin: str, node: ast.Call) -> bool:
    """Return whether a call may delete, rename or replace a file.

    `str.replace` and `Series.replace` have two arguments, `dataclasses.replace` and `rename(columns=...)` have keyword
    arguments, and `remove` of a hook's handle has none.
    """
    if name not in DELETE or origin.startswith((FILES_PACKAGE, "dataclasses")):
        return False
    if origin in ("os", "shutil") or name in ("rmtree", "unlink", "rmdir", "removedirs", "renames"):
        return True
    if isinstance(node.func, ast.Name):
        return bool(origin)  # a function of another module
    return len(node.args) == 1 and name in ("rename", "replace", "move")


def test_only_the_files_package_deletes_or_renames_files() -> None:
    violations = [
        f"{path}:{node.lineno}: {ast.unparse(node)[:80]}"
        for path, tree in modules()
        for name, origin, node in calls(tree)
        if deletes(name, origin, node)
    ]
    assert not violations, "delete, rename and replace files with etude.files only:\n" + "\n".join(violations)


def test_all_other_modules_that_write_files_are_listed() -> None:
    writers: dict[str, set[str]] = {}
    for path, tree in modules():
        for name, origin, node in calls(tree):
            if name in WRITE and not origin.startswith(FILES_PACKAGE):
                if name == "SoundFile" and len(node.args) < 2:
                    continue  # opened for reading
                if name == "dump" and origin not in ("json", "yaml", "pickle"):
                    continue
                writers.setdefault(path, set()).add(name)
    assert writers == {path: set(names) for path, names in KNOWN.items()}


def test_all_modules_that_open_files_for_writing_are_listed() -> None:
    opening = set()
    for path, tree in modules():
        for name, origin, node in calls(tree):
            if name != "open" or origin.startswith(FILES_PACKAGE):
                continue
            texts = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
            flags = {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
            writes = any(set(text) <= set("rwaxbt+") and set(text) & set("wax+") for text in texts)
            if writes or (flags & {"O_WRONLY", "O_RDWR", "O_CREAT", "O_APPEND"} and "devnull" not in flags):
                opening.add(path)
    assert opening == set(OPENED)
