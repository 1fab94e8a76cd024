"""Worst errors of a run: saving their pictures and sounds, and showing them.

The page is one file, so they go into it as data, and for as many clips as there is room: pictures first, then sounds,
the worst errors first.

The data are at hand when a run ends, and often no more when its report is read. So errors/ holds, for the worst test
errors of each target, a picture of the frames as PNG, a few seconds of the sound where its file can be read, and
index.json, which says what is what and whose it is. A clip that cannot be read is left out, and the log says so: a
finished run never fails here.
"""

from __future__ import annotations

import base64
import json
import logging
import re
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.audio.excerpt import write_excerpt
from etude.errors import one_line_message
from etude.evaluation.formatting import duration
from etude.evaluation.predictions import find_worst_errors
from etude.files.atomic import move, remove, remove_folder, write_bytes, write_text
from etude.files.ownership import draft_folder
from etude.reports.charts import Panel, round_ticks
from etude.reports.clip_frames import ClipFile, files
from etude.reports.spectrogram import bands, shrink
from etude.reports.svg import shaded_png
from etude.runs.folder import RunFolder
from etude.system.machine import usable_cores

if TYPE_CHECKING:
    import pandas as pd

    from etude.audio.frontend import FrontEnd
    from etude.data.datamodule import MusicData


PAGE = 4_800_000  # bytes of a whole page
MIME = {".png": "image/png", ".ogg": "audio/ogg", ".mp3": "audio/mpeg"}
LICENCE = re.compile(r"CC[- ](BY(?:-(?:NC|ND|SA))*)[- ](\d\.\d)", re.IGNORECASE)


def cards(run: RunFolder, kept: dict[str, Any], sections: list[dict[str, Any]], room: int) -> dict[str, int]:
    """Put pictures and sounds beside the errors that a page lists, in place, while there is room.

    Args:
        run: The run's folder.
        kept: What `RunFolder.read_worst_errors` returned.
        sections: Of the page; each gets `cards`, one for each listed error that was kept.
        room: Bytes that may be added.

    Returns:
        How many `pictures` and `sounds` found no room.
    """
    ranked: list[tuple[int, dict[str, Any]]] = []
    first: dict[str, str] = {}
    for number, section in enumerate(sections, 1):
        section["cards"] = []
        for rank, row in enumerate(section["worst"]["rows"], 1):
            clip = kept["clips"].get(str(row[0]))
            if clip is None:
                continue
            anchor = f"error-{number}-{rank}"
            card = {"rank": rank, "row": row, "anchor": anchor, "shown": first.setdefault(str(row[0]), anchor)}
            section["cards"].append(card)
            if card["shown"] == anchor:
                card |= {"clip": clip, "credit": credit(clip), "svg": "", "sound": "", "heard": ""}
                ranked.append((rank, card))
    ranked.sort(key=lambda pair: pair[0])
    left = {"pictures": 0, "sounds": 0}
    for kind, key, many in (("picture", "svg", "pictures"), ("audio", "sound", "sounds")):
        for _, card in ranked:
            name = card["clip"].get(kind)
            if not name:
                continue
            path = run.errors_path / name
            if 4 * path.stat().st_size / 3 + 2000 > room:
                left[many] += 1
                continue
            card[key] = _uri(path) if kind == "audio" else _drawing(card["clip"], kept["scale"], _uri(path))
            room -= len(card[key])
            if kind == "audio":
                card["heard"] = _heard(card["clip"])
    return left


def credit(clip: dict[str, Any]) -> dict[str, str]:
    """Whose a clip is: title, artist, licence with its address, what was done to it; empty where nothing is known."""
    said = {str(key): str(value) for key, value in clip.get("credit", {}).items()}
    licence = said.get("licence") or said.get("license") or ""
    if not licence and "artist" not in said:
        return {}
    known = LICENCE.search(licence)
    address = f"https://creativecommons.org/licenses/{known[1].lower()}/{known[2]}/" if known else ""
    source = " ".join(said[key] for key in ("package", "version") if key in said)
    return {
        "title": said.get("title", ""), "artist": said.get("artist", ""), "licence": licence, "address": address,
        "source": source, "changed": "shortened and re-encoded" if clip.get("encoded") else "",
    }  # fmt: skip


def stops() -> str:
    """Colours of the pictures, dark to light, as the stops of a CSS gradient."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return ", ".join(to_hex(colormaps["magma"](i / 12)) for i in range(13))


def _heard(clip: dict[str, Any]) -> str:
    heard, seconds = float(clip.get("excerpt_seconds", clip.get("seconds", 0))), float(clip.get("seconds", 0))
    return f"The first {duration(heard)} of {duration(seconds)}." if seconds > heard + 0.5 else ""


def _drawing(clip: dict[str, Any], scale: dict[str, Any], picture: str) -> str:
    """The picture of a clip between its axes."""
    length, bins = int(clip["length"]), int(scale["bins"])
    if not scale.get("sound"):  # an image: frames are its rows
        about = f"{clip['id']}: the input, {length} frames of {bins} values."
        return Panel((0, bins), (length, 0), about, "bin", "frame", (240, 240), left=38).image_svg(picture)
    beats = bool(scale.get("beats"))
    end = length if beats else length / float(scale["rate"])
    about = f"{clip['id']}: log-mel spectrogram, frequency over {'beats' if beats else f'{end:.1f} s'}."
    panel = Panel(
        (0, end), (-0.5, bins - 0.5), about, "beat" if beats else "time (s)", "frequency (Hz)", (280, 170),
        xticks=round_ticks((0, end), 4, whole=True), yticks=[(float(p), str(w)) for p, w in scale["hertz"]],
    )  # fmt: skip
    return panel.image_svg(picture)


def _uri(path: Path) -> str:
    return f"data:{MIME[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


log = logging.getLogger(__name__)

COLUMNS, RANGE = 300, 80.0  # columns of a picture; dB below the clip's loudest value
CREDIT = ("title", "artist", "licence", "license", "package", "version", "source_path")


def save_worst_errors(run: RunFolder, table: pd.DataFrame, data: MusicData, targets: dict[str, Any]) -> Path | None:
    """Write errors/ into a run folder, whole or not at all; one of an earlier end of the run is replaced.

    Args:
        run: The run's folder.
        table: Its predictions.
        data: What it was trained on, set up.
        targets: Kind of each target, by name.

    Returns:
        The folder; None where there is no error to show.
    """
    remove_folder(run.errors_path)
    listed = [
        [row[0] for row in find_worst_errors(table, name, spec["kind"])["rows"]] for name, spec in targets.items()
    ]
    ids = list(dict.fromkeys(str(clip) for rank in zip_longest(*listed) for clip in rank if clip is not None))
    place = {str(clip): row for row, clip in enumerate(data.pack.index["id"])}
    ids = [clip for clip in ids if clip in place]
    if not ids:
        return None
    part = draft_folder(run.path, run.errors_path.name)
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
            write_bytes(stem.with_suffix(".png"), shaded_png(rows, (scale["limits"][0], scale["limits"][1])))
            row = data.pack.index.iloc[place[clip]]
            said = {key: str(row[key]) for key in CREDIT if key in row.index and row[key] == row[key] and row[key]}
            length = int(data.pack.lengths[place[clip]])
            clips.append(
                {"id": clip, "picture": f"{stem.name}.png", "length": length, "credit": said, "why": why, **sound}
            )
        text = json.dumps({"version": 1, **scale, "clips": clips}, indent=1, ensure_ascii=False) + "\n"
        write_text(part / run.errors_index_path.name, text)
        move(part, run.errors_path)
    finally:
        remove_folder(part)
    silent = [entry["why"] for entry in clips if entry["why"]]
    if silent:
        log.info("%s/ has no sound of %d of %d clips: %s", run.errors_path.name, len(silent), len(clips), silent[0])
    return run.errors_path


def _pictures(clips: list[np.ndarray], front: FrontEnd) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Mel bands of each clip (T, F), at most so many frames, in dB below its loudest value; and what the axes say."""
    mels = [clip[:, : front.n_mels].astype(np.float32) for clip in clips]
    per = front.decibel[: front.n_mels]
    sound = front.reads_sound and bool(per.all())
    about: dict[str, Any] = {"sound": sound, "beats": front.sync == "beat", "bins": front.n_mels}
    if not sound:
        return mels, about | {"limits": [min(float(m.min()) for m in mels), max(float(m.max()) for m in mels)]}
    mels = [shrink(mel / per, COLUMNS) for mel in mels]
    about |= {"rate": front.frames_per_second, "hertz": bands(front), "limits": [-RANGE, 0.0]}
    return [mel - mel.max() for mel in mels], about


def _sound(file: ClipFile | None, front: FrontEnd, stem: Path) -> tuple[dict[str, Any], str]:
    """Keep the beginning of a clip's sound; what was kept, or why nothing was."""
    if not front.reads_sound:
        return {}, ""  # the picture is all there is
    if file is None:
        return {}, "the pack does not say where its files are"
    if not file.is_sound:
        return {}, "the data are frames, not sound"
    try:
        return write_excerpt(file.under(front), stem), ""
    except Exception as error:  # whatever a file of somebody's does, the run has ended well
        for left in (stem.with_suffix(".ogg"), stem.with_suffix(".mp3")):
            remove(left)
        return {}, one_line_message(error)
