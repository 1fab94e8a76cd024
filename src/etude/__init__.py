"""Étude: experiments in music understanding.

Importing this package costs nothing: everything heavy is imported by the functions that need it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from etude.api.run import load, run
    from etude.api.run_object import Run

__version__ = "0.1.0"
__all__ = ["Run", "load", "run"]


def __getattr__(name: str) -> Any:
    """`run`, `load` and `Run`, imported when they are first asked for."""
    from importlib import import_module

    if name in ("load", "run"):
        return getattr(import_module("etude.api.run"), name)
    if name == "Run":
        return import_module("etude.api.run_object").Run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
