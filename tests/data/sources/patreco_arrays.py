"""Arrays of PatReco with random values, for tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from etude.data.audio_files import ARRAY_FRONT_END
from etude.data.collection import Collection
from etude.data.sources.patreco import collection

# Clips per original class (train, test), about a twentieth of the real counts.
COUNTS = {
    "Rock": (12, 3), "Psych-Rock": (6, 1), "Post-Rock": (3, 1), "Folk": (10, 3), "Psych-Folk": (6, 1),
    "Electronic": (10, 3), "Chiptune": (6, 1), "Metal": (10, 3), "Punk": (6, 1), "Trip-Hop": (7, 2), "Pop": (8, 2),
    "Hip-Hop": (8, 2), "Classical": (8, 2), "Blues": (8, 2), "Jazz": (8, 2), "Indie-Rock": (9, 2), "Post-Punk": (5, 1),
    "Soundtrack": (9, 2), "International": (8, 2), "Old-Time": (6, 2),
}  # fmt: skip

DROPPED = {"Indie-Rock", "Post-Punk", "Soundtrack", "International", "Old-Time"}

DOCUMENTED = {  # counts of the ten classes in the real data
    "Rock": (415, 103), "Electronic": (320, 80), "Folk": (320, 80), "Metal": (313, 78), "Blues": (160, 40),
    "Classical": (160, 40), "Hip-Hop": (160, 40), "Jazz": (160, 40), "Pop": (160, 40), "Trip-Hop": (137, 34),
}  # fmt: skip

MERGED = {name: (round(train / 20), round(test / 20)) for name, (train, test) in DOCUMENTED.items()}

BEAT = replace(ARRAY_FRONT_END, sync="beat")

FEW = 8  # frames of most clips; the first LONG clips have 1291 to 1293 frames, and 26 to 129 beats

LONG = 4


@dataclass
class WrittenArrays:
    """Folder of arrays and the values that were written."""

    home: Path
    genre: dict[str, str]
    split: dict[str, str]
    full: dict[str, np.ndarray]
    beat: dict[str, np.ndarray]

    def collection(self, config: Callable[..., dict[str, Any]]) -> Collection:
        """Return the collection with the classes of the config."""
        return collection(str(self.home), config("data=patreco", "data.source.path=x")["data"]["source"]["classes"])


def random_array(rng: np.random.Generator, length: int) -> np.ndarray:
    """Return a float64 array (140, T) with mel bands in [-80, 0] dB and pitch classes in [0, 1]."""
    mel = rng.uniform(-80, 0, (128, length))
    mel.flat[0] = 0.0
    return np.concatenate([mel, rng.uniform(0, 1, (12, length))])


def save_array(home: Path, split: str, clip: str, values: np.ndarray) -> Path:
    path = home / split / f"{clip}.fused.full.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values)
    return path


def row_name(clip: str, split: str, beat: bool, zipped: bool) -> str:
    """Return the name of a clip in the rows of a label file."""
    suffix = "beatsync.fused" if beat else "full.fused" if split == "test" else "fused.full"
    return f"{clip}.{suffix}.npy" + ".gz" * zipped


def write_genre(
    home: Path, counts: Mapping[str, tuple[int, int]], ids: Sequence[str], lengths: Callable[[int], tuple[int, int]]
) -> WrittenArrays:
    """Write the arrays and label files of the genre collection, and its neighbour with one frame per beat.

    Args:
        home: Folder of the collection; the neighbour has the suffix `_beat`.
        counts: Training and test clips of each class.
        ids: Names of the clips.
        lengths: Function that returns the number of frames and beats of a clip, given its number.
    """
    rng = np.random.default_rng(0)
    written = WrittenArrays(home, {}, {}, {}, {})
    rows = [
        (split, genre)
        for genre, clips in counts.items()
        for split, count in zip(("train", "test"), clips, strict=True)
        for _ in range(count)
    ]
    for number, row in enumerate(rng.permutation(len(rows))):
        clip, (split, genre) = ids[row], rows[row]
        written.genre[clip], written.split[clip] = genre, split
        frames, beats = lengths(number)
        written.full[clip], written.beat[clip] = random_array(rng, frames), random_array(rng, beats)
    neighbour = home.with_name(home.name + "_beat")
    for folder, arrays in ((home, written.full), (neighbour, written.beat)):
        for clip, values in arrays.items():
            save_array(folder, written.split[clip], clip, values)
        for split in ("train", "test"):
            lines = [f"{row_name(clip, split, folder is neighbour, index % 3 > 0)}\t{written.genre[clip]}"
                     for index, clip in enumerate(written.split) if written.split[clip] == split]  # fmt: skip
            (folder / f"{split}_labels.txt").write_text("\n".join(["Id\tGenre", *lines]) + "\n")
    return written


def write_affect(
    home: Path, ids: Sequence[str], unlabelled: Sequence[str], lengths: Callable[[int], tuple[int, int]]
) -> None:
    """Write the arrays and ratings of the affect collection, whose test split has no label file, and its neighbour."""
    rng = np.random.default_rng(1)
    ratings = [f"{clip},{rng.random():.4f},{rng.random():.4f},{rng.random():.4f}" for clip in ids]
    for beat, folder in enumerate((home, home.with_name(home.name + "_beat"))):
        for number, clip in enumerate([*ids, *unlabelled]):
            save_array(folder, "train" if clip in ids else "test", clip, random_array(rng, lengths(number)[beat]))
        (folder / "train_labels.txt").write_text("\n".join(["Id,valence,energy,danceability", *ratings]) + "\n")
