"""Collections of the Free Music Archive (FMA).

Source: Defferrard, Benzi, Vandergheynst & Bresson, ISMIR 2017, "FMA: A dataset for music analysis".

Audio and tables are in separate archives at https://github.com/mdeff/fma:

    fma_small/     000/000002.mp3 ...           (or fma_medium, fma_large, fma_full)
    fma_metadata/  tracks.csv  echonest.csv ...
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.data.audio_files import SkippedItem
from etude.data.collection import (
    Collection,
    label_target,
    log_skipped_items,
    merge_classes,
    merged_names,
    scalar_target,
)
from etude.errors import DataError, one_line_message
from etude.files.safe_read import expand_path

if TYPE_CHECKING:
    import pandas as pd


SUBSETS = ("small", "medium", "large", "full")  # each contains the previous ones; large and full have the same tracks
SPLITS = {"training": "train", "validation": "val", "test": "test"}
TRACKS = {
    "subset": ("set", "subset"), "split": ("set", "split"), "artist": ("artist", "id"),
    "licence": ("track", "license"), "genre": ("track", "genre_top"),
}  # fmt: skip
SCALARS = ("valence", "energy", "danceability")
ECHONEST = {name: ("echonest", "audio_features", name) for name in SCALARS}
COMPUTED = "an audio feature of The Echo Nest, computed by an algorithm, not rated by listeners"
# Clips of 0 to 27.4 s, which were cut at a wrong position because the stated length of the track was wrong. The 21
# tracks are the list for fma_medium in https://github.com/mdeff/fma/wiki; https://github.com/mdeff/fma/issues/8
# compares the lengths of the same tracks. The wiki's list for fma_small contains the six of these tracks that are in
# fma_small. fma_full has no such clips, because its tracks were not cut.
SHORT = (
    1486, 5574, 65753, 80391, 98558, 98559, 98560, 98565, 98566, 98567, 98568, 98569, 98571, 99134, 105247, 108924,
    108925, 126981, 127336, 133297, 143992,
)  # fmt: skip
CARD = """# {title}

From "FMA: A dataset for music analysis" by M. Defferrard, K. Benzi, P. Vandergheynst and X. Bresson (ISMIR 2017,
arXiv:1612.01840), a copy of the Free Music Archive of April 2017: 106,574 tracks by 16,341 artists. `small` has 8,000
clips in 8 genres of equal size, `medium` 25,000 in 16 genres of unequal size, `large` a clip of every track, `full` the
complete tracks. Clips are 30 seconds from the middle of a track.

- **Genre** is the root, in the genre tree, of the genres that the artist named. It is missing if these genres have
  several roots.
- **Valence, energy and danceability** are audio features of The Echo Nest (now Spotify), for 13,129 tracks. They were
  computed by an algorithm that is not public, not rated by listeners.
- **Split**: the official split, about 80, 10 and 10 %. No artist is in two splits.
- **Licences**: each artist chose one for the audio, mostly of Creative Commons; the tables are under CC BY 4.0. The
  authors intend the data for research.
- **Skipped**: 21 clips that the authors list as empty or short, and clips without a label.
- **Known limits**: the authors did not search for duplicates. Genres are confounded with artists and their recording
  conditions. Curators selected the archive, so it is not a random sample of music.
"""


def collection(
    path: str, metadata: str, subset: str = "small", classes: Mapping[str, Any] | str | None = None
) -> Collection:
    """Return tracks of the Free Music Archive with their genre and three scalars of The Echo Nest.

    Args:
        path: The folder of the audio that contains `000`, `001`, ...; the folder of a larger subset works too.
        metadata: The folder of `tracks.csv`. Without `echonest.csv` beside it, the genre is the only target.
        subset: `small`, `medium`, `large` (clips of 30 s) or `full` (complete tracks).
        classes: Mapping from a new genre to an old genre or a list of old genres. Genres that are not listed become
            missing labels.

    Returns:
        The collection, grouped by artist, with the official split. Clips that are listed as empty or short and clips
        without a label are skipped. The row of a missing file is kept, and the file is skipped when frames are read.

    Raises:
        DataError: The subset is unknown, a table is missing or is not a table of FMA, there is no audio, or no track
            has a label.
    """
    if subset not in SUBSETS:
        raise DataError(f"data.source.subset must be one of {', '.join(SUBSETS)}, got {subset!r}")
    tables = expand_path(metadata)
    table = _read_columns(tables / "tracks.csv", TRACKS)
    if (tables / "echonest.csv").is_file():
        table = table.join(_read_columns(tables / "echonest.csv", ECHONEST, float))
    if subset in ("small", "medium"):
        table = table[table["subset"].isin(SUBSETS[: SUBSETS.index(subset) + 1])]
    skipped_items: list[SkippedItem] = []
    if subset != "full":
        short = [track for track in SHORT if track in table.index]
        skipped_items = [SkippedItem(str(track), "clip is listed as empty or short") for track in short]
        table = table.drop(index=short)
    extra: dict[str, Any] = {"before": {"genre": _count_values(table["genre"])}} if classes else {}
    extra |= {"merged": {"genre": merged_names(extra["before"]["genre"], classes)}} if classes else {}
    table = table.assign(genre=merge_classes(table["genre"], classes))

    targets = {
        "genre": label_target(table["genre"].dropna()),
        **{name: scalar_target(note=COMPUTED) for name in SCALARS},
    }
    targets = {name: target for name, target in targets.items() if name in table and table[name].notna().any()}
    labelled = table[list(targets)].notna().any(axis=1)
    if not labelled.any():
        raise DataError(f"{tables / 'tracks.csv'}: no track of the subset {subset} has a label")
    skipped_items += [SkippedItem(str(track), "clip has no label") for track in table.index[~labelled]]
    table = table[labelled]
    log_skipped_items(f"FMA {subset}", skipped_items)
    if len(invalid := table["split"][~table["split"].isin(SPLITS)]):
        reason = f"track {invalid.index[0]} has set.split = {invalid.iloc[0]!r}, expected {', '.join(SPLITS)}"
        raise DataError(f"{tables / 'tracks.csv'}: {reason}")

    extra["licences"] = _count_values(table["licence"].fillna("not stated"))
    files = _find_files(expand_path(path), table.index, subset)
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
        skipped_items=tuple(skipped_items),
        id_space="fma",
    ).check()


def read_artists(metadata: Path) -> dict[int, str]:
    """Return the group of each track of FMA, its artist.

    Args:
        metadata: The folder of `tracks.csv`.

    Raises:
        DataError: The table is missing or is not a table of FMA.
    """
    artists = _read_columns(metadata / "tracks.csv", {"artist": TRACKS["artist"]})["artist"].dropna()
    return {int(track): f"artist {artist}" for track, artist in zip(artists.index, artists, strict=True)}


def _find_files(home: Path, tracks: pd.Index, subset: str) -> list[str]:
    """Return the paths of the tracks' files, of which at least one must exist."""
    files = [str(home / f"{track:06d}"[:3] / f"{track:06d}.mp3") for track in tracks]
    if not any(Path(file).is_file() for file in files):
        raise DataError(
            f"{home}: has none of the {len(files)} files of FMA {subset}, such as {files[0]}; data.source.path must be "
            f"the folder from fma_{subset}.zip that contains 000, 001, ..."
        )
    return files


def _count_values(column: pd.Series) -> dict[str, int]:
    """Return the number of rows with each value."""
    return {str(name): int(count) for name, count in column.value_counts().items()}


def _read_columns(file: Path, columns: Mapping[str, tuple[str, ...]], kind: type = str) -> pd.DataFrame:
    """Read columns of a table of FMA, indexed by track id (int).

    The header has a row for each level of the column names, and a last row that begins with the name of the index,
    `track_id`.

    Args:
        file: tracks.csv or echonest.csv.
        columns: Mapping from a column name of the result to the levels of the column in the file.
        kind: Type of these columns. Only an empty cell is a missing value.

    Raises:
        DataError: The file is missing, cannot be read or has another header.
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
            reason = f"it lacks {', '.join(absent)}" if absent else f"row {levels + 1} does not begin with track_id"
            raise DataError(
                f"{file}: the header differs from the file in fma_metadata.zip ({reason}); use the original file"
            )
        columns_by_index = {0: "track_id"} | {names.index(key): name for name, key in columns.items()}
        table = pd.read_csv(
            file, header=None, skiprows=levels + 1, usecols=sorted(columns_by_index), dtype=str, keep_default_na=False,
            na_values=[""], encoding="utf-8",
        ).rename(columns=columns_by_index)  # fmt: skip
        return table.astype({"track_id": int, **dict.fromkeys(columns, kind)}).set_index("track_id")
    except DataError:
        raise
    except (ValueError, TypeError, OSError, csv.Error) as error:
        raise DataError(f"{file}: cannot be read ({one_line_message(error)}); unpack fma_metadata.zip again") from error
