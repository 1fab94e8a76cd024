"""What a class or function takes, read from its source without importing it.

Importing torch to find a typing error in a config costs seconds; parsing one file costs a millisecond. The signature is
the schema: a new backbone is checked from the moment its file is there.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import PathFinder
from pathlib import Path


@dataclass(frozen=True)
class Signature:
    """Names that can be given, the annotations they have, and whether any other name is taken too."""

    takes: dict[str, str]
    open: bool


@lru_cache(maxsize=256)
def signature(name: str) -> Signature | None:
    """The signature of a dotted name.

    Args:
        name: For example `etude.backbones.cnn.CNN`.

    Returns:
        Its parameters, or None when there is no source to read.

    Raises:
        LookupError: The module is there, but has nothing of this name; or there is no such module.
    """
    module, _, attribute = name.rpartition(".")
    path = _file(module)
    if path is None:
        raise LookupError(f"there is no module {module}")
    if path.suffix != ".py":
        return None
    found = _find(path, module, attribute)
    if found is None:
        raise LookupError(f"{module} has no {attribute}")
    return _of(*found)


def _file(module: str) -> Path | None:
    """Source of a module, found by walking the folders: importlib would import its parent packages."""
    parts = module.split(".")
    spec = PathFinder.find_spec(parts[0])
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin)
    for part in parts[1:]:
        if path.name != "__init__.py":
            return None
        folder = path.parent
        path = next((p for p in (folder / part / "__init__.py", folder / f"{part}.py") if p.is_file()), Path())
        if not path.name:
            return None
    return path


Found = tuple[ast.ClassDef | ast.FunctionDef, Path, str]


def _find(path: Path, module: str, name: str) -> Found | None:
    """The definition of a name in a file, or where the file imports it from."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return node, path, module
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
                    base = (
                        ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
                    )
                    origin = ".".join(filter(None, (base, node.module)))
                    source = _file(origin)
                    return _find(source, origin, alias.name) if source else None
    return None


def _of(node: ast.ClassDef | ast.FunctionDef, path: Path, module: str) -> Signature:
    if isinstance(node, ast.FunctionDef):
        return _arguments(node.args, skip=0)
    for child in node.body:
        if isinstance(child, ast.FunctionDef) and child.name == "__init__":
            return _arguments(child.args, skip=1)
    takes: dict[str, str] = {}
    is_open = False
    for base in node.bases:
        found = _find(path, module, base.id) if isinstance(base, ast.Name) else None
        if found is None:
            is_open = is_open or ast.unparse(base) != "object"  # a base that cannot be read may take anything
        elif not takes and not is_open:  # Python calls the first __init__ that it finds
            inherited = _of(*found)
            takes, is_open = dict(inherited.takes), inherited.open
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        takes |= {c.target.id: ast.unparse(c.annotation) for c in node.body
                  if isinstance(c, ast.AnnAssign) and isinstance(c.target, ast.Name) and _is_field(c)}  # fmt: skip
    return Signature(takes, is_open)


def _is_field(node: ast.AnnAssign) -> bool:
    """Whether a line of a dataclass is a parameter of its __init__."""
    hidden = node.value is not None and "init=False" in ast.unparse(node.value)
    return not hidden and "ClassVar" not in ast.unparse(node.annotation)


def _arguments(args: ast.arguments, skip: int) -> Signature:
    every = [*args.posonlyargs, *args.args][skip:] + args.kwonlyargs
    return Signature({a.arg: ast.unparse(a.annotation) if a.annotation else "" for a in every}, args.kwarg is not None)
