"""Étude: experiments in music understanding.

Importing this package costs nothing: everything heavy is imported by the functions that need it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from etude.api.run import load, run
    from etude.api.run_object import Run

__version__ = "0.1.0"  # as pyproject.toml has it; other modules ask importlib.metadata for it
__all__ = ["Run", "load", "run"]


def __getattr__(name: str) -> Any:
    """Import `run`, `load` or `Run` when it is first used."""
    if name == "load":
        from etude.api.run import load

        return load
    if name == "run":
        from etude.api.run import run

        return run
    if name == "Run":
        from etude.api.run_object import Run

        return Run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
