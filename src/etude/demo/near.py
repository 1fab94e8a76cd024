"""The clips that are nearest to a sound by their embeddings, with their labels, whose they are, and a player."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.audio.excerpt import excerpt
from etude.audio.front import Front
from etude.demo.library import Library
from etude.keep import CREDIT
from etude.prediction.columns import Columns
from etude.prediction.shown import uri
from etude.results.excerpts import MIME, credit
from etude.results.exploration.views import File
from etude.results.maps.neighbours import nearest
from etude.results.template import template
from etude.results.text import number

if TYPE_CHECKING:
    import pandas as pd

COUNT, SAMPLE = 6, 2000  # clips that are shown; clips whose own neighbours say what is near


class Near:
    """Finds them.

    Args:
        library: Clips with their embeddings.
        front: Which says what file of a clip is heard.
        columns: What is known of a clip.
    """

    def __init__(self, library: Library, front: Front, columns: Columns) -> None:
        self.library, self.front, self.columns = library, front, columns
        self.usual = _usual(library.x)
        self._beginning = lru_cache(maxsize=64)(beginning)

    def find(self, embedding: np.ndarray, count: int = COUNT) -> list[tuple[int, float]]:
        """Rows of the nearest clips and their Euclidean distances, nearest first; of equally near ones the first.

        Args:
            embedding: Of the sound (D,).
            count: How many at most.
        """
        x = self.library.x.astype(np.float64)
        if not len(x):
            return []
        distances = np.linalg.norm(x - embedding.astype(np.float64), axis=1)
        order = np.argsort(distances, kind="stable")[:count]
        return [(int(row), float(distances[row])) for row in order]

    def page(self, embedding: np.ndarray) -> str:
        """The part of the page."""
        found = self.find(embedding)
        table, files = self.library.table, self.library.files
        ids = [str(table["id"].iloc[row]) for row, _ in found]
        return template("demo_near.html.j2").render(
            clips=[
                self.card(table.iloc[row], files.get(clip)) | {"distance": distance}
                for clip, (row, distance) in zip(ids, found, strict=True)
            ],
            what=self.library.what, why=self.library.why, count=len(self.library.x), words=self.words(found),
        )  # fmt: skip

    def words(self, found: list[tuple[int, float]]) -> str:
        """How near the nearest is, among what is near here."""
        if not found or self.usual is None:
            return ""
        first, share = found[0][1], float((self.usual <= found[0][1]).mean())
        here = f"The nearest is {number(first)} away"
        if first < 1e-3:
            return f"{here}: for this network it is the same sound."
        if share > 0.95:
            return (
                f"{here}, further than {100 * share:.0f} % of these clips are from their own nearest: the network has "
                "learned from nothing like it, and what it says is a guess."
            )
        return f"{here}; half of these clips have their own nearest within {number(float(np.median(self.usual)))}."

    def card(self, about: pd.Series, file: File | None) -> dict[str, Any]:
        """What is said of a clip: its name, whose it is, its labels, and its sound as the address of itself.

        Args:
            about: Its row in a table of clips.
            file: Its sound, where it is at hand.
        """
        sound, encoded, why = self._heard(file)
        known = {key: about[key] for key in CREDIT if key in about.index}
        said = {key: str(value) for key, value in known.items() if value == value and value}
        return {
            "id": str(about["id"]), "credit": credit({"credit": said, "encoded": encoded}), "sound": sound, "why": why,
            "labels": self._labels(about),
        }  # fmt: skip

    def _heard(self, file: File | None) -> tuple[str, bool, str]:
        if file is None:
            return "", False, "its sound is not at hand"
        return (
            self._beginning(file.under(self.front)) if file.is_sound else ("", False, "the data are frames, no sound")
        )

    def _labels(self, about: Any) -> list[tuple[str, str]]:
        found = []
        for name, spec in self.columns.targets.items():
            value = about.get(name, about.get(f"{name}.true"))
            if value is not None and value == value:
                found.append((name, str(value) if spec["kind"] == "label" else number(float(value))))
        return found


def beginning(path: Path) -> tuple[str, bool, str]:
    """The beginning of a sound as the address of itself, whether it was encoded anew, and why there is none."""
    try:
        with tempfile.TemporaryDirectory() as home:
            kept = excerpt(path, Path(home) / "sound")
            made = Path(home) / kept["audio"]
            return uri(made.read_bytes(), MIME[made.suffix]), bool(kept["encoded"]), ""
    except Exception:  # whatever a file of somebody's does, the page goes on
        return "", False, "its file cannot be played"


def _usual(x: np.ndarray) -> np.ndarray | None:
    """How far clips have their own nearest (m,), of a sample that is always the same; none for a single clip."""
    if len(x) < 2:
        return None
    some = x[np.sort(np.random.default_rng(0).permutation(len(x))[:SAMPLE])].astype(np.float64)
    return np.linalg.norm(some - some[nearest(some, 1)[:, 0]], axis=1)
