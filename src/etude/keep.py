"""What a report needs of the clips that were got most wrong, kept in the run's folder: a picture and a short sound.

The data are at hand when a run ends, and often no more when its report is read. So errors/ holds, for the worst test
errors of each target, a picture of the frames as PNG, a few seconds of the sound where its file can be read, and
index.json, which says what is what and whose it is. A clip that cannot be read is left out, and the log says so: a
finished run never fails here.
"""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.files.atomic import move, remove, remove_folder, write_bytes, write_text
from etude.files.ownership import draft_folder
from etude.machine import usable_cores
from etude.results.excerpts import FOLDER, INDEX
from etude.results.shades import png
from etude.results.worst import worst

if TYPE_CHECKING:
    import pandas as pd

    from etude.audio.front import Front
    from etude.data.module import MusicData
    from etude.results.exploration.views import File

log = logging.getLogger(__name__)

COLUMNS, RANGE = 300, 80.0  # columns of a picture; dB below the clip's loudest value
CREDIT = ("title", "artist", "licence", "license", "package", "version", "source_path")


def keep(folder: Path, table: pd.DataFrame, data: MusicData, targets: dict[str, Any]) -> Path | None:
    """Write errors/ into a run folder, whole or not at all; one of an earlier end of the run is replaced.

    Args:
        folder: The run's.
        table: Its predictions.
        data: What it was trained on, set up.
        targets: Kind of each target, by name.

    Returns:
        The folder; None where there is no error to show.
    """
    from etude.results.exploration.views import files

    target = folder / FOLDER
    remove_folder(target)
    listed = [[row[0] for row in worst(table, name, spec["kind"])["rows"]] for name, spec in targets.items()]
    ids = list(dict.fromkeys(str(clip) for rank in zip_longest(*listed) for clip in rank if clip is not None))
    place = {str(clip): row for row, clip in enumerate(data.pack.index["id"])}
    ids = [clip for clip in ids if clip in place]
    if not ids:
        return None
    part = draft_folder(folder, FOLDER)
    try:
        frames, scale = _pictures([np.asarray(data.pack.clip(place[clip])) for clip in ids], data.feature.front)
        known = files(data.source)
        stems = [part / f"{number:02d}" for number in range(len(ids))]
        with ThreadPoolExecutor(min(4, usable_cores())) as threads:  # encoders run outside of Python's lock
            front = data.feature.front
            sounds = list(threads.map(lambda clip, stem: _sound(known.get(clip), front, stem), ids, stems))
        clips = []
        for clip, stem, shown, (sound, why) in zip(ids, stems, frames, sounds, strict=True):
            rows = shown.T[::-1] if scale["sound"] else shown
            write_bytes(stem.with_suffix(".png"), png(rows, (scale["limits"][0], scale["limits"][1])))
            row = data.pack.index.iloc[place[clip]]
            said = {key: str(row[key]) for key in CREDIT if key in row.index and row[key] == row[key] and row[key]}
            length = int(data.pack.lengths[place[clip]])
            clips.append(
                {"id": clip, "picture": f"{stem.name}.png", "length": length, "credit": said, "why": why, **sound}
            )
        text = json.dumps({"version": 1, **scale, "clips": clips}, indent=1, ensure_ascii=False) + "\n"
        write_text(part / INDEX, text)
        move(part, target)
    finally:
        remove_folder(part)
    silent = [entry["why"] for entry in clips if entry["why"]]
    if silent:
        log.info("errors/ has no sound of %d of %d clips: %s", len(silent), len(clips), silent[0])
    return target


def _pictures(clips: list[np.ndarray], front: Front) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Mel bands of each clip (T, F), at most so many frames, in dB below its loudest value; and what the axes say."""
    from etude.results.exploration.spectra import shrink
    from etude.results.exploration.ticks import bands
    from etude.results.exploration.views import hears

    mels = [clip[:, : front.n_mels].astype(np.float32) for clip in clips]
    per = front.decibel[: front.n_mels]
    sound = hears(front) and bool(per.all())
    about: dict[str, Any] = {"sound": sound, "beats": front.sync == "beat", "bins": front.n_mels}
    if not sound:
        return mels, about | {"limits": [min(float(m.min()) for m in mels), max(float(m.max()) for m in mels)]}
    mels = [shrink(mel / per, COLUMNS) for mel in mels]
    about |= {"rate": front.frames_per_second, "hertz": bands(front), "limits": [-RANGE, 0.0]}
    return [mel - mel.max() for mel in mels], about


def _sound(file: File | None, front: Front, stem: Path) -> tuple[dict[str, Any], str]:
    """Keep the beginning of a clip's sound; what was kept, or why nothing was."""
    from etude.audio.excerpt import excerpt
    from etude.results.exploration.views import hears

    if not hears(front):
        return {}, ""  # the picture is all there is
    if file is None:
        return {}, "the pack does not say where its files are"
    if not file.is_sound:
        return {}, "the data are frames, not sound"
    try:
        return excerpt(file.under(front), stem), ""
    except Exception as error:  # whatever a file of somebody's does, the run has ended well
        for left in (stem.with_suffix(".ogg"), stem.with_suffix(".mp3")):
            remove(left)
        return {}, " ".join(str(error).split()) or type(error).__name__
