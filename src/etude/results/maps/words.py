"""The words of `etude latent` to what is wished for."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from etude import settings
from etude.errors import UserError
from etude.results.compare import find
from etude.results.maps.methods import METHODS
from etude.results.pool import FOLDER

MOST_RUNS = 8  # side by side on one page


@dataclass(frozen=True)
class Wish:
    """What is mapped, how, and where the page goes.

    Args:
        folders: Run folders.
        to: An existing folder, or one to be made.
        methods: Keys of METHODS.
        dims: 2, 3 or both.
        part: "test" or "val".
        seed: Of everything random.
    """

    folders: list[Path]
    to: Path
    methods: tuple[str, ...] = tuple(METHODS)
    dims: tuple[int, ...] = (2, 3)
    part: str = "test"
    seed: int = 0


def wish(words: list[str]) -> Wish:
    """Read the words: folders, and name=value.

    Raises:
        UserError: A folder that holds no run, too many runs, or a word that is not known.
    """
    given: dict[str, Any] = {}
    places: list[Path] = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or settings.exists(word):  # the folder of a sweep's job may have = in its name
            places.append(settings.path(word))
        elif key in ("methods", "dims"):
            given[key] = _several(key, value)
        elif key == "part":
            if value not in ("test", "val"):
                raise UserError(f"{word}: must be part=test or part=val")
            given[key] = value
        elif key == "seed":
            if not (value.isascii() and value.isdigit()) or int(value) >= 2**32:
                raise UserError(f"{word}: must be a whole number of at least 0 and below 2**32")
            given[key] = int(value)
        elif key == "to":
            given[key] = settings.path(value)
        else:
            known = ["methods", "dims", "part", "seed", "to"]
            near = get_close_matches(key, known, n=1) or [", ".join(known)]
            raise UserError(f"{key}: no such word; there is {near[0]}")
    folders = _runs(places)
    one: Any = places[0] if len(places) == 1 else Path("outputs/latent")
    return Wish(folders, **{"to": one} | given)


def _several(key: str, value: str) -> tuple[Any, ...]:
    """The values of methods=a,b or dims=2,3 in their usual order."""
    known = {"methods": tuple(METHODS), "dims": ("2", "3")}[key]
    asked = [item.strip() for item in value.strip("[]").split(",")]
    if unknown := [item for item in asked if item not in known]:
        raise UserError(f"{key}={value}: {unknown[0] or 'nothing'} is not among {', '.join(known)}")
    return tuple(item if key == "methods" else int(item) for item in known if item in asked)


def _runs(places: list[Path]) -> list[Path]:
    """The run folders that are meant: those named, and the finished ones of a sweep."""
    if not places:
        raise UserError("name at least one run folder, such as outputs/<run>; --help shows some")
    folders: dict[Path, Path] = {}
    for place in places:
        found = find(place)
        if found != [place]:
            # what was pooled from several networks has no space of its own
            found = [run for run in found if (run / "predictions.parquet").is_file() and run.parent.name != FOLDER]
        if not found:
            raise UserError(f"{place} is not a run, and no finished run is below it.")
        folders |= {run.resolve(): run for run in found}
    if len(folders) > MOST_RUNS:
        raise UserError(f"{len(folders)} runs are too many for one page; name at most {MOST_RUNS} of them.")
    return list(folders.values())
