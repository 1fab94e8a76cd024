"""Experiments in music understanding.

The public functions are imported when they are first used, so that importing this package takes almost no time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from etude.api.run import embed, load, run
    from etude.api.run_object import Run

__version__ = "0.2.0"  # equal to the version in pyproject.toml; other modules use importlib.metadata
__all__ = ["Run", "embed", "load", "run"]


def __getattr__(name: str) -> Any:
    """Import `run`, `load`, `embed` or `Run` when it is first used."""
    if name == "embed":
        from etude.api.run import embed

        return embed
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


def __dir__() -> list[str]:
    """List the public functions too, before they are imported, for completion in notebooks and shells."""
    return sorted({*globals(), *__all__})
