"""The Free Music Archive (Defferrard, Benzi, Vandergheynst & Bresson, ISMIR 2017, "FMA: A dataset for music analysis").

Its audio and its tables come in separate archives, from https://github.com/mdeff/fma:

    fma_small/     000/000002.mp3 ...           (or fma_medium, fma_large, fma_full)
    fma_metadata/  tracks.csv  echonest.csv ...
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.data.collection import (
    Collection,
    LeftOut,
    expand_path,
    label_target,
    log_left_out,
    merge_classes,
    scalar_target,
)
from etude.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


SUBSETS = ("small", "medium", "large", "full")  # each holds those before it; large and full are the same tracks
SPLITS = {"training": "train", "validation": "val", "test": "test"}
TRACKS = {
    "subset": ("set", "subset"), "split": ("set", "split"), "artist": ("artist", "id"),
    "licence": ("track", "license"), "genre": ("track", "genre_top"),
}  # fmt: skip
SCALARS = ("valence", "energy", "danceability")
ECHONEST = {name: ("echonest", "audio_features", name) for name in SCALARS}
COMPUTED = "an audio feature of The Echo Nest, computed by an algorithm, not rated by listeners"
# Clips of 0 to 27.4 s, cut at the wrong place because the stated length of the track was wrong: the list for fma_medium
# in https://github.com/mdeff/fma/wiki, the same 21 tracks whose lengths https://github.com/mdeff/fma/issues/8 compares.
# The wiki's list for fma_small is the six of them that are in it. Whole tracks were not cut, so fma_full has none.
SHORT = (
    1486, 5574, 65753, 80391, 98558, 98559, 98560, 98565, 98566, 98567, 98568, 98569, 98571, 99134, 105247, 108924,
    108925, 126981, 127336, 133297, 143992,
)  # fmt: skip
CARD = """# {title}

From "FMA: A dataset for music analysis" by M. Defferrard, K. Benzi, P. Vandergheynst and X. Bresson (ISMIR 2017,
arXiv:1612.01840), a copy of the Free Music Archive of April 2017: 106,574 tracks by 16,341 artists. `small` has 8,000
clips in 8 genres of equal size, `medium` 25,000 in 16 genres of unequal size, `large` a clip of every track, `full` the
whole tracks. Clips are 30 seconds from the middle of a track.

- **Genre** is the root of the genre tree that is reached from the genres the artist named; none if they reach several.
- **Valence, energy and danceability** are audio features of The Echo Nest (now Spotify), for 13,129 tracks. They were
  computed by an algorithm that is not public; nobody rated the clips.
- **Split**: the authors' own, about 80, 10 and 10 %. No artist is on two sides.
- **Licences**: each artist chose one for the sound, mostly of Creative Commons; the tables are under CC BY 4.0. The
  authors mean the data for research.
- **Left out**: 21 clips that the authors know to be empty or short, and clips without a label.
- **Known limits**: the authors left the search for duplicates open. Genres are confounded with artists and with how
  they record. Curators chose what is in the archive; it is no sample of music at large.
"""


def collection(
    path: str, metadata: str, subset: str = "small", classes: Mapping[str, Any] | str | None = None
) -> Collection:
    """Tracks of the Free Music Archive with their genre and, where The Echo Nest has them, three scalars.

    Args:
        path: The folder of the audio, with `000`, `001`, ... in it; that of a larger subset will do.
        metadata: The folder of `tracks.csv`. Without `echonest.csv` beside it there is only the genre.
        subset: small, medium, large (clips of 30 s) or full (whole tracks).
        classes: By new name, the genres that it stands for; genres that none names become missing labels.

    Returns:
        The collection, grouped by artist, with the official split. Clips that are known to be empty or short are left
        out, and so are those without any label. A file that is missing keeps its row, and is skipped, and listed, when
        frames are read.

    Raises:
        DataError: The subset is unknown, a table is missing or not FMA's, there is no audio, or nothing has a label.
    """
    if subset not in SUBSETS:
        raise DataError(f"data.source.subset must be one of {', '.join(SUBSETS)}, got {subset!r}")
    tables = expand_path(metadata)
    table = _read(tables / "tracks.csv", TRACKS)
    if (tables / "echonest.csv").is_file():
        table = table.join(_read(tables / "echonest.csv", ECHONEST, float))
    if subset in ("small", "medium"):
        table = table[table["subset"].isin(SUBSETS[: SUBSETS.index(subset) + 1])]
    left_out: list[LeftOut] = []
    if subset != "full":
        short = [track for track in SHORT if track in table.index]
        left_out = [LeftOut(str(track), "clip is known to be empty or short") for track in short]
        table = table.drop(index=short)
    extra: dict[str, Any] = {"before": {"genre": _counts(table["genre"])}} if classes else {}
    table = table.assign(genre=merge_classes(table["genre"], classes))

    targets = {
        "genre": label_target(table["genre"].dropna()),
        **{name: scalar_target(note=COMPUTED) for name in SCALARS},
    }
    targets = {name: target for name, target in targets.items() if name in table and table[name].notna().any()}
    labelled = table[list(targets)].notna().any(axis=1)
    if not labelled.any():
        raise DataError(f"{tables / 'tracks.csv'}: has no track of the subset {subset} that has a label")
    left_out += [LeftOut(str(track), "clip has no label") for track in table.index[~labelled]]
    table = table[labelled]
    log_left_out(f"FMA {subset}", left_out)
    if len(odd := table["split"][~table["split"].isin(SPLITS)]):
        what = f"track {odd.index[0]} has set.split = {odd.iloc[0]!r}, expected {', '.join(SPLITS)}"
        raise DataError(f"{tables / 'tracks.csv'}: {what}")

    extra["licences"] = _counts(table["licence"].fillna("not stated"))
    files = _files(expand_path(path), table.index, subset)
    rows: dict[str, Any] = {"id": table.index.astype(str), "path": files, "group": "artist " + table["artist"]}
    table = table.assign(**rows, split=table["split"].map(SPLITS))
    title = f"FMA {subset}: {len(table):,} {'tracks' if subset == 'full' else 'clips'} of the Free Music Archive"
    return Collection(
        name=f"fma_{subset}",
        title=title,
        table=table[[*rows, "split", *targets]].reset_index(drop=True),
        targets=targets,
        card=CARD.format(title=title),
        extra=extra,
        left_out=tuple(left_out),
    ).check()


def _files(home: Path, tracks: pd.Index, subset: str) -> list[str]:
    """Paths of the tracks' files, of which at least one must be there."""
    files = [str(home / f"{track:06d}"[:3] / f"{track:06d}.mp3") for track in tracks]
    if not any(Path(file).is_file() for file in files):
        raise DataError(
            f"{home}: has none of the {len(files)} files of FMA {subset}, such as {files[0]}; data.source.path must be "
            f"the folder from fma_{subset}.zip that has 000, 001, ... in it"
        )
    return files


def _counts(column: pd.Series) -> dict[str, int]:
    return {str(name): int(count) for name, count in column.value_counts().items()}


def _read(file: Path, columns: Mapping[str, tuple[str, ...]], kind: type = str) -> pd.DataFrame:
    """Some columns of a table of FMA, by track id (int).

    Each level of the columns' names is a row of its header; a last row begins with the index's name, `track_id`.

    Args:
        file: tracks.csv or echonest.csv.
        columns: By our name, the levels of theirs.
        kind: Type of these columns. A cell is missing when it is empty; no word stands for that.

    Raises:
        DataError: The file is missing, cannot be read or is another one.
    """
    import pandas as pd

    if not file.is_file():
        raise DataError(f"{file}: there is no such file; data.source.metadata must be the folder from fma_metadata.zip")
    levels = len(next(iter(columns.values())))
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            header = list(islice(csv.reader(lines), levels + 1))
        names = list(zip(*header[:levels], strict=False))
        absent = [".".join(name) for name in columns.values() if name not in names]
        if absent or [row[:1] for row in header[levels:]] != [["track_id"]]:
            what = f"it lacks {', '.join(absent)}" if absent else f"row {levels + 1} does not begin with track_id"
            raise DataError(f"{file}: has another header than the file in fma_metadata.zip ({what}); take that one")
        places = {0: "track_id"} | {names.index(name): ours for ours, name in columns.items()}
        table = pd.read_csv(
            file, header=None, skiprows=levels + 1, usecols=sorted(places), dtype=str, keep_default_na=False,
            na_values=[""], encoding="utf-8",
        ).rename(columns=places)  # fmt: skip
        return table.astype({"track_id": int, **dict.fromkeys(columns, kind)}).set_index("track_id")
    except DataError:
        raise
    except (ValueError, TypeError, OSError, csv.Error) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{file}: cannot be read ({reason}); unpack fma_metadata.zip anew") from error
