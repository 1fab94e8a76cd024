"""PatReco collections of precomputed mel and chroma features of FMA clips.

The layout and the parameters of the arrays are those of Kaggle's `geoparslp/patreco3-multitask-affective-music`:

    fma_genre_spectrograms/  train/<id>.fused.full.npy  test/...  train_labels.txt  test_labels.txt
    multitask_dataset/       the same, without test_labels.txt, which was not published
    <either>_beat/           the same, synchronised to beats
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.data.audio_files import BEAT, GZIP, SkippedItem, as_text, clip_id, locate_array, read_precomputed
from etude.data.collection import (
    NO_GROUP,
    Collection,
    label_target,
    log_skipped_items,
    merge_classes,
    merged_names,
    scalar_target,
    slug,
)
from etude.data.sources.fma import read_artists
from etude.data.table_reader import parse_number
from etude.errors import DataError
from etude.files.safe_read import expand_path

if TYPE_CHECKING:
    import pandas as pd


ARCHIVE = "geoparslp/patreco3-multitask-affective-music"
SUFFIX = ".fused.full.npy"
ID_FORMAT = f"{{id}}{SUFFIX}{GZIP}"  # ids in the course's table of predictions, which are former file names
SPLITS = ("train", "test")
AXES = ("valence", "energy", "danceability")
CARD = """# {title}

Frames of 30-second clips of the Free Music Archive, without their audio. A frame is 128 mel bands, in dB below the
maximum of the clip, and 12 pitch classes of a constant-Q transform at the clip's own tuning; 22,050 Hz, a frame every
512 samples or every beat. {artists} The clips' licences are unknown.
"""
METADATA = "fma_metadata"  # folder from fma_metadata.zip, which is found beside the arrays
NO_ARTISTS = f"{NO_GROUP.rstrip('.')}; data.source.metadata names the folder of FMA's tracks.csv, with the artists."
log = logging.getLogger(__name__)


def collection(path: str, classes: Mapping[str, Any] | str | None = None, metadata: str | None = None) -> Collection:
    """Return the clips of a folder of precomputed frames.

    Args:
        path: The folder `fma_genre_spectrograms` or `multitask_dataset`. Beat-synchronous arrays are read from the
            folder of the same name with the suffix `_beat`. The front end's `sync` selects one of the two.
        classes: Mapping from a new genre to an old genre or a list of old genres. Clips of genres that are not listed
            are skipped. It is ignored if clips have ratings instead of a genre.
        metadata: The folder from FMA's fma_metadata.zip, whose tracks.csv has the artist of each clip. None reads the
            folder `fma_metadata` beside the arrays if it exists.

    Returns:
        The collection, grouped by artist if the artists are known. `split` is the folder of a clip. Clips without a
        label are skipped. If an array is missing, its clip stays in the table and is skipped when frames are read.

    Raises:
        DataError: The folder, the label files or all arrays are missing, or a label file is invalid.
    """
    import pandas as pd

    labels = expand_path(path).absolute()
    home = labels.with_name(labels.name.removesuffix(BEAT))
    if not labels.is_dir():
        raise DataError(
            f"data.source.path: there is no folder {labels}; unpack {ARCHIVE} from Kaggle there, or set "
            "data.source.path to the folder fma_genre_spectrograms or multitask_dataset in it"
        )
    if not (labels / "train_labels.txt").is_file():
        raise DataError(f"{labels}: has no train_labels.txt; expected fma_genre_spectrograms or multitask_dataset")
    tables = [_read_labels(file, split) for split in SPLITS if (file := labels / f"{split}_labels.txt").is_file()]
    if len({tuple(table) for table in tables}) > 1:
        raise DataError(f"{labels}: one of its label files has genres and the other ratings")
    table = pd.concat(tables, ignore_index=True)
    names = [str(name) for name in table if name not in ("id", "split")]
    unlabelled = table[names].isna().all(axis=1)
    listed = set(zip(table["split"], table["id"], strict=True))
    skipped_items = [SkippedItem(clip, "clip has no label") for clip in table["id"][unlabelled]]
    table = table[~unlabelled].reset_index(drop=True)
    pairs = zip(table["split"], table["id"], strict=True)
    table = table.assign(path=[str(home / split / (clip + SUFFIX)) for split, clip in pairs], group=None)
    skipped_items += _find_unused_files(home, table, listed)
    table["group"] = pd.Series(_find_artists(home, metadata, table["id"].tolist()), table.index, dtype=object)

    extra: dict[str, Any] = {}
    targets = {name: scalar_target() for name in names}
    if names == ["genre"]:
        if classes:
            extra["before"] = {"genre": {str(k): int(v) for k, v in table["genre"].value_counts().items()}}
            extra["merged"] = {"genre": merged_names(extra["before"]["genre"], classes)}
        kept = merge_classes(table["genre"], classes)
        skipped_items += [
            SkippedItem(clip, "class is not named in data.source.classes") for clip in table["id"][kept.isna()]
        ]
        table = table.assign(genre=kept)[kept.notna()].reset_index(drop=True)
        targets = {"genre": label_target(table["genre"])}
    log_skipped_items(home, skipped_items)
    labels_text = (
        f"{len(targets['genre']['classes'])} genres" if names == ["genre"] else "ratings of " + ", ".join(names)
    )
    title = f"{home.name}: {len(table)} clips of the Free Music Archive with {labels_text}"
    return Collection(
        name=slug(home.name),
        title=title,
        table=table,
        targets=targets,
        card=CARD.format(title=title, artists=_describe_artists(table)),
        note="" if table["group"].notna().any() else NO_ARTISTS,
        extra=extra,
        reader=read_precomputed,
        locate=locate_array,
        skipped_items=tuple(skipped_items),
        id_space="fma",
    ).check()


def _find_artists(home: Path, metadata: str | None, ids: list[str]) -> list[str | None]:
    """Return the artist of each clip, or None where it is unknown.

    Raises:
        DataError: The named table of FMA is missing or invalid, or has none of the clips.
    """
    folder = home.parent / METADATA if metadata is None else expand_path(metadata)
    if metadata is None and not (folder / "tracks.csv").is_file():
        return [None] * len(ids)
    artists = read_artists(folder)
    groups = [artists.get(int(clip)) if clip.isdecimal() else None for clip in ids]
    unknown = [clip for clip, group in zip(ids, groups, strict=True) if group is None]
    if len(unknown) == len(ids):
        raise DataError(f"{folder / 'tracks.csv'}: has none of the {len(ids)} clips of {home}, such as {ids[0]}")
    log.info("%s: clips are grouped by the artists of %s", home, folder / "tracks.csv")
    if unknown:
        log.warning("%s: %d clips have no artist in tracks.csv, such as %s; each is a separate group",
                    home, len(unknown), unknown[0])  # fmt: skip
    return groups


def _describe_artists(table: pd.DataFrame) -> str:
    """Return a sentence on the artists for the data card."""
    known = table["group"].notna()
    if not known.any():
        return "The clips' artists are unknown."
    return f"{known.sum()} of the {len(table)} clips are by {table['group'].nunique()} artists, as in FMA's tracks.csv."


def _read_labels(path: Path, split: str) -> pd.DataFrame:
    """Read a label file, with tabs for genres or commas for ratings, as `id`, `split` and a column per target."""
    import pandas as pd

    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    delimiter = "\t" if lines and "\t" in lines[0] else ","
    header = [cell.strip().lower() for cell in lines[0].split(delimiter)] if lines else []
    if header != ["id", "genre"] and header != ["id", *AXES]:
        raise DataError(f"{path}: the header must be Id and Genre, separated by a tab, or Id,{','.join(AXES)}")
    rows: list[list[Any]] = []
    for count, line in enumerate(lines[1:], 2):
        cells: list[Any] = [cell.strip() for cell in line.split(delimiter)]
        if cells == [""]:
            continue
        clip = clip_id(cells[0])  # rows have former file names
        if len(cells) != len(header) or not clip:
            raise DataError(f"{path}, row {count}: has {line!r}, expected {delimiter.join(header)!r}")
        if header[1] != "genre":
            values = [parse_number(cell) for cell in cells[1:]]
            if invalid := [cell for cell, value in zip(cells[1:], values, strict=True) if cell and value is None]:
                raise DataError(f"{path}, row {count}: {invalid[0]!r} is not a number")
            cells[1:] = values
        rows.append([clip, split, *(None if cell == "" else cell for cell in cells[1:])])
    table = pd.DataFrame(rows, columns=["id", "split", *header[1:]], dtype=object)
    return table if header[1] == "genre" else table.astype(dict.fromkeys(AXES, float))


def _find_unused_files(home: Path, table: pd.DataFrame, listed: set[tuple[str, str]]) -> list[SkippedItem]:
    """Return the files that are not arrays of listed clips, as skipped items.

    Args:
        home: Folder of the arrays.
        table: Clips with a label: `id`, `split` and `path`.
        listed: Split and id of all rows of the label files.

    Raises:
        DataError: None of the clips has an array, or a folder cannot be read.
    """
    folders = (home, home.with_name(home.name + BEAT))
    existing: set[tuple[str, str]] = set()
    skipped_items: list[SkippedItem] = []
    for parent in (folder / split for folder in folders for split in SPLITS if (folder / split).is_dir()):
        try:
            names = sorted(file.name for file in parent.iterdir())
        except OSError as error:
            raise DataError(f"{parent}: cannot be read ({error.strerror or error})") from error
        existing |= {(parent.name, name) for name in names if name.endswith(SUFFIX)}
        others = [name for name in names if not name.endswith(SUFFIX)]
        skipped_items += [
            SkippedItem(as_text(f"{parent.name}/{name}"), f"name does not end in {SUFFIX}") for name in others
        ]
    labelled = {(split, clip + SUFFIX) for split, clip in zip(table["split"], table["id"], strict=True)}
    if not existing & labelled:
        example = f", for example {table['path'].iloc[0]}" if len(table) else ""
        raise DataError(f"{home}: none of the {len(table)} arrays in its label files exists{example}")
    unlisted = sorted(existing - labelled - {(split, clip + SUFFIX) for split, clip in listed})
    return skipped_items + [
        SkippedItem(f"{split}/{name}", "array has no row in a label file") for split, name in unlisted
    ]
