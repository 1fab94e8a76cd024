"""The PatReco collections: precomputed mel and chroma features of FMA clips.

The layout is that of Kaggle's `geoparslp/patreco3-multitask-affective-music`, and so are the parameters of the arrays:

    fma_genre_spectrograms/  train/<id>.fused.full.npy  test/...  train_labels.txt  test_labels.txt
    multitask_dataset/       the same, without test_labels.txt, which was never published
    <either>_beat/           the same again, synchronised to beats
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.data.collection import (
    NO_GROUP,
    Collection,
    LeftOut,
    expand_path,
    label_target,
    log_left_out,
    merge_classes,
    scalar_target,
    slug,
)
from etude.data.readers import BEAT, locate_array, read_precomputed
from etude.data.sound_files import as_text
from etude.data.table_reader import parse_number
from etude.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


ARCHIVE = "geoparslp/patreco3-multitask-affective-music"
SUFFIX = ".fused.full.npy"
SPLITS = ("train", "test")
AXES = ("valence", "energy", "danceability")
CARD = """# {title}

Frames of 30-second clips of the Free Music Archive, without their sound. A frame is 128 mel bands, in dB below the
clip's loudest, and 12 pitch classes of a constant-Q transform at the clip's own tuning; 22,050 Hz, a frame every 512
samples or every beat. The clips' artists and licences are not known.
"""


def collection(path: str, classes: Mapping[str, Any] | str | None = None) -> Collection:
    """Clips whose frames are on disk.

    Args:
        path: The folder `fma_genre_spectrograms` or `multitask_dataset`. The arrays synchronised to beats are read from
            its neighbour of the same name and `_beat`; which of both is the front end's `sync`.
        classes: By new name, the genres that it stands for; clips of genres that none names are left out. Ignored
            where clips have ratings instead of a genre.

    Returns:
        The collection. `split` says in which folder a clip is; clips without a label are left out. An array that is
        named but missing keeps its row, and is skipped, and listed, when frames are read.

    Raises:
        DataError: The folder, the label files or all the arrays are missing, or a label file is not as expected.
    """
    import pandas as pd

    labels = expand_path(path).absolute()
    home = labels.with_name(labels.name.removesuffix(BEAT))
    if not labels.is_dir():
        raise DataError(
            f"data.source.path: there is no folder {labels}; unpack Kaggle's {ARCHIVE} there, or say where its folder "
            "fma_genre_spectrograms or multitask_dataset is: data.source.path=..."
        )
    if not (labels / "train_labels.txt").is_file():
        raise DataError(f"{labels}: has no train_labels.txt; expected fma_genre_spectrograms or multitask_dataset")
    found = [_labels(file, part) for part in SPLITS if (file := labels / f"{part}_labels.txt").is_file()]
    if len({tuple(one) for one in found}) > 1:
        raise DataError(f"{labels}: one of its label files has genres and the other ratings")
    table = pd.concat(found, ignore_index=True)
    names = [str(name) for name in table if name not in ("id", "split")]
    unlabelled = table[names].isna().all(axis=1)
    known = set(zip(table["split"], table["id"], strict=True))
    left_out = [LeftOut(clip, "clip has no label") for clip in table["id"][unlabelled]]
    table = table[~unlabelled].reset_index(drop=True)
    where = zip(table["split"], table["id"], strict=True)
    table = table.assign(path=[str(home / part / (clip + SUFFIX)) for part, clip in where], group=None)
    left_out += _compare(home, table, known)

    extra: dict[str, Any] = {}
    targets = {name: scalar_target() for name in names}
    if names == ["genre"]:
        if classes:
            extra["before"] = {"genre": {str(k): int(v) for k, v in table["genre"].value_counts().items()}}
        kept = merge_classes(table["genre"], classes)
        left_out += [LeftOut(clip, "class is not named in data.source.classes") for clip in table["id"][kept.isna()]]
        table = table.assign(genre=kept)[kept.notna()].reset_index(drop=True)
        targets = {"genre": label_target(table["genre"])}
    log_left_out(home, left_out)
    what = f"{len(targets['genre']['classes'])} genres" if names == ["genre"] else "ratings of " + ", ".join(names)
    title = f"{home.name}: {len(table)} clips of the Free Music Archive with {what}"
    return Collection(
        name=slug(home.name),
        title=title,
        table=table,
        targets=targets,
        card=CARD.format(title=title),
        note=NO_GROUP,
        extra=extra,
        reader=read_precomputed,
        locate=locate_array,
        left_out=tuple(left_out),
    ).check()


def _labels(path: Path, part: str) -> pd.DataFrame:
    """A label file as `id`, `split` and a column per target; tabs part genres, commas part ratings."""
    import pandas as pd

    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    mark = "\t" if lines and "\t" in lines[0] else ","
    header = [cell.strip().lower() for cell in lines[0].split(mark)] if lines else []
    if header != ["id", "genre"] and header != ["id", *AXES]:
        raise DataError(f"{path}: must begin with Id and Genre, tab between, or with Id,{','.join(AXES)}")
    rows: list[list[Any]] = []
    for count, line in enumerate(lines[1:], 2):
        cells: list[Any] = [cell.strip() for cell in line.split(mark)]
        if cells == [""]:
            continue
        clip = cells[0].split(".")[0]  # rows name files that were renamed since; what precedes the first dot is the id
        if len(cells) != len(header) or not clip:
            raise DataError(f"{path}, row {count}: has {line!r}, expected {mark.join(header)!r}")
        if header[1] != "genre":
            values = [parse_number(cell) for cell in cells[1:]]
            if wrong := [cell for cell, value in zip(cells[1:], values, strict=True) if cell and value is None]:
                raise DataError(f"{path}, row {count}: {wrong[0]!r} is not a number")
            cells[1:] = values
        rows.append([clip, part, *(None if cell == "" else cell for cell in cells[1:])])
    table = pd.DataFrame(rows, columns=["id", "split", *header[1:]], dtype=object)
    return table if header[1] == "genre" else table.astype(dict.fromkeys(AXES, float))


def _compare(home: Path, table: pd.DataFrame, known: set[tuple[str, str]]) -> list[LeftOut]:
    """Return the files that are no arrays of clips that a label file names.

    Args:
        home: Folder of the arrays.
        table: Clips with a label: `id`, `split` and `path`.
        known: Split and id of all rows of the label files.

    Raises:
        DataError: None of the clips has an array, or a folder cannot be read.
    """
    folders = (home, home.with_name(home.name + BEAT))
    there: set[tuple[str, str]] = set()
    left_out: list[LeftOut] = []
    for parent in (folder / part for folder in folders for part in SPLITS if (folder / part).is_dir()):
        try:
            names = sorted(file.name for file in parent.iterdir())
        except OSError as error:
            raise DataError(f"{parent}: cannot be read ({error.strerror or error})") from error
        there |= {(parent.name, name) for name in names if name.endswith(SUFFIX)}
        others = [name for name in names if not name.endswith(SUFFIX)]
        left_out += [LeftOut(as_text(f"{parent.name}/{name}"), f"name does not end in {SUFFIX}") for name in others]
    named = {(part, clip + SUFFIX) for part, clip in zip(table["split"], table["id"], strict=True)}
    if not there & named:
        example = f", for example {table['path'].iloc[0]}" if len(table) else ""
        raise DataError(f"{home}: has none of the {len(table)} arrays that its label files name{example}")
    unlabelled = sorted(there - named - {(part, clip + SUFFIX) for part, clip in known})
    return left_out + [LeftOut(f"{part}/{name}", "array has no row in a label file") for part, name in unlabelled]
