"""Worst errors of a run with their spectrograms and audio.

The data of a run are available when it ends, but often not when its report is rebuilt. For the worst test errors of
each target, errors/ therefore contains an image of the frames as PNG, an excerpt of the audio file if it can be
decoded, and index.json with ids, credits and axes. Clips that cannot be read are logged and omitted: they must not
cause a completed run to fail.

A report is a single file. Images and audio are embedded in it up to a maximum total size. Images have priority over
audio, and worse errors over other errors.
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

from etude.evaluation.formatting import format_duration
from etude.evaluation.predictions import find_worst_errors
from etude.files.atomic import move, remove, remove_folder, write_bytes, write_text
from etude.files.ownership import draft_folder
from etude.reports.charts import Panel, round_ticks
from etude.reports.clip_frames import ClipFile, clip_files, write_excerpt
from etude.reports.spectrogram import average_frames, frequency_ticks
from etude.reports.svg import shaded_png
from etude.runs.folder import RunFolder
from etude.system.machine import usable_cores

if TYPE_CHECKING:
    import pandas as pd

    from etude.audio.frontend import FrontEnd
    from etude.data.datamodule import MusicData


MAX_PAGE_SIZE = 4_800_000  # bytes
MIME_TYPES = {".png": "image/png", ".ogg": "audio/ogg", ".mp3": "audio/mpeg"}
LICENCE = re.compile(r"CC[- ](BY(?:-(?:NC|ND|SA))*)[- ](\d\.\d)", re.IGNORECASE)


def add_error_cards(
    run: RunFolder, saved: dict[str, Any], sections: list[dict[str, Any]], max_bytes: int
) -> dict[str, int]:
    """Add a card with image and audio for each listed error of a page, in place.

    Args:
        run: Folder of the run.
        saved: Result of `RunFolder.read_worst_errors`.
        sections: Sections of the page. Each gets `cards`, one for each listed error that was saved.
        max_bytes: Maximum size of all images and audio.

    Returns:
        Number of `images` and `excerpts` that are omitted because of their size.
    """
    ranked: list[tuple[int, dict[str, Any]]] = []
    first_anchors: dict[str, str] = {}
    for number, section in enumerate(sections, 1):
        section["cards"] = []
        for rank, row in enumerate(section["worst_errors"]["rows"], 1):
            clip = saved["clips"].get(str(row[0]))
            if clip is None:
                continue
            anchor = f"error-{number}-{rank}"
            first_anchor = first_anchors.setdefault(str(row[0]), anchor)
            card = {"rank": rank, "row": row, "anchor": anchor, "first_anchor": first_anchor}
            section["cards"].append(card)
            if first_anchor == anchor:
                card |= {"clip": clip, "credit": clip_credit(clip), "svg": "", "audio": "", "excerpt_note": ""}
                ranked.append((rank, card))
    ranked.sort(key=lambda pair: pair[0])
    omitted = {"images": 0, "excerpts": 0}
    for file_key, card_key, count_key in (("picture", "svg", "images"), ("audio", "audio", "excerpts")):
        for _, card in ranked:
            name = card["clip"].get(file_key)
            if not name:
                continue
            path = run.errors_path / name
            if 4 * path.stat().st_size / 3 + 2000 > max_bytes:
                omitted[count_key] += 1
                continue
            uri = _data_uri(path)
            card[card_key] = uri if file_key == "audio" else _image_with_axes(card["clip"], saved["scale"], uri)
            max_bytes -= len(card[card_key])
            if file_key == "audio":
                card["excerpt_note"] = _describe_excerpt(card["clip"])
    return omitted


def clip_credit(clip: dict[str, Any]) -> dict[str, str]:
    """Return title, artist, licence, licence address, source and changes of a clip. {} without artist and licence."""
    credit = {str(key): str(value) for key, value in clip.get("credit", {}).items()}
    licence = credit.get("licence") or credit.get("license") or ""
    if not licence and "artist" not in credit:
        return {}
    match = LICENCE.search(licence)
    address = f"https://creativecommons.org/licenses/{match[1].lower()}/{match[2]}/" if match else ""
    source = " ".join(credit[key] for key in ("package", "version") if key in credit)
    return {
        "title": credit.get("title", ""), "artist": credit.get("artist", ""), "licence": licence, "address": address,
        "source": source, "changed": "shortened and re-encoded" if clip.get("encoded") else "",
    }  # fmt: skip


def colour_stops() -> str:
    """Return the colours of spectrogram images, from dark to light, as colour stops of a CSS gradient."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return ", ".join(to_hex(colormaps["magma"](i / 12)) for i in range(13))


def _describe_excerpt(clip: dict[str, Any]) -> str:
    """Return the length of an excerpt and of the audio file as a sentence, or "" if they are equal."""
    excerpt, seconds = float(clip.get("excerpt_seconds", 0)), float(clip.get("seconds", 0))
    return f"The first {format_duration(excerpt)} of {format_duration(seconds)}." if seconds > excerpt + 0.5 else ""


def _image_with_axes(clip: dict[str, Any], scale: dict[str, Any], uri: str) -> str:
    """Return the image of a clip with axes as SVG."""
    length, bins = int(clip["length"]), int(scale["bins"])
    if not scale.get("sound"):  # the input is an image, and each frame is a row
        description = f"{clip['id']}: the input, {length} frames of {bins} bins."
        return Panel((0, bins), (length, 0), description, "bin", "frame", (240, 240), left=38).image_svg(uri)
    by_beat = bool(scale.get("beats"))
    end = length if by_beat else length / float(scale["rate"])
    description = f"{clip['id']}: log-mel spectrogram, frequency over {'beats' if by_beat else f'{end:.1f} s'}."
    panel = Panel(
        (0, end), (-0.5, bins - 0.5), description, "beat" if by_beat else "time (s)", "frequency (Hz)", (280, 170),
        xticks=round_ticks((0, end), 4, integer=True), yticks=[(float(p), str(label)) for p, label in scale["hertz"]],
    )  # fmt: skip
    return panel.image_svg(uri)


def _data_uri(path: Path) -> str:
    """Return a file as a data URI."""
    return f"data:{MIME_TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


log = logging.getLogger(__name__)

MAX_COLUMNS, DYNAMIC_RANGE = 300, 80.0  # columns of an image; dB below the maximum of the clip
CREDIT_KEYS = ("title", "artist", "licence", "license", "package", "version", "source_path")


def save_worst_errors(run: RunFolder, table: pd.DataFrame, data: MusicData, targets: dict[str, Any]) -> Path | None:
    """Write errors/ of a run folder atomically. The folder of an earlier call is replaced.

    Args:
        run: Folder of the run.
        table: Predictions of the run.
        data: Data module of the run, after setup.
        targets: Kind of each target, by name.

    Returns:
        Path of errors/, or None if there are no errors.
    """
    remove_folder(run.errors_path)
    ids_by_target = [
        [row[0] for row in find_worst_errors(table, name, spec["kind"])["rows"]] for name, spec in targets.items()
    ]
    ids = list(dict.fromkeys(str(clip) for rank in zip_longest(*ids_by_target) for clip in rank if clip is not None))
    rows = {str(clip): row for row, clip in enumerate(data.pack.index["id"])}
    ids = [clip for clip in ids if clip in rows]
    if not ids:
        return None
    draft = draft_folder(run.path, run.errors_path.name)
    try:
        front, files = data.feature.front, clip_files(data.source)
        images, scale = _scale_frames([np.asarray(data.pack.clip(rows[clip])) for clip in ids], front)
        stems = [draft / f"{number:02d}" for number in range(len(ids))]
        with ThreadPoolExecutor(min(4, usable_cores())) as threads:  # encoders release Python's global lock
            excerpts = list(threads.map(lambda clip, stem: _write_excerpt(files.get(clip), front, stem), ids, stems))
        clips = []
        for clip, stem, image, (excerpt, reason) in zip(ids, stems, images, excerpts, strict=True):
            pixels = image.T[::-1] if scale["sound"] else image
            write_bytes(stem.with_suffix(".png"), shaded_png(pixels, (scale["limits"][0], scale["limits"][1])))
            row = data.pack.index.iloc[rows[clip]]
            credit = {
                key: str(row[key]) for key in CREDIT_KEYS if key in row.index and row[key] == row[key] and row[key]
            }
            length = int(data.pack.lengths[rows[clip]])
            entry = {"id": clip, "picture": f"{stem.name}.png", "length": length, "credit": credit, "why": reason}
            clips.append(entry | excerpt)
        text = json.dumps({"version": 1, **scale, "clips": clips}, indent=1, ensure_ascii=False) + "\n"
        write_text(draft / run.errors_index_path.name, text)
        move(draft, run.errors_path)
    finally:
        remove_folder(draft)
    reasons = [entry["why"] for entry in clips if entry["why"]]
    if reasons:
        log.info("%s/ has no audio of %d of %d clips: %s", run.errors_path.name, len(reasons), len(clips), reasons[0])
    return run.errors_path


def _scale_frames(clips: list[np.ndarray], front: FrontEnd) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Return the mel bands of each clip (T, F) in dB relative to its maximum, averaged to at most 300 frames.

    The second result describes the axes and the colour scale, as in errors/index.json.
    """
    if (displayed := front.displayed()) is not front:  # the frames are the samples
        front = displayed
        clips = [front.view(clip[:, 0].astype(np.float32), (0, front.n_mels)) for clip in clips]
    mels = [clip[:, : front.n_mels].astype(np.float32) for clip in clips]
    change_per_db = front.decibel[: front.n_mels]
    is_spectrogram = front.reads_sound and bool(change_per_db.all())
    scale: dict[str, Any] = {"sound": is_spectrogram, "beats": front.sync == "beat", "bins": front.n_mels}
    if not is_spectrogram:
        return mels, scale | {"limits": [min(float(m.min()) for m in mels), max(float(m.max()) for m in mels)]}
    mels = [average_frames(mel / change_per_db, MAX_COLUMNS) for mel in mels]
    scale |= {"rate": front.frames_per_second, "hertz": frequency_ticks(front), "limits": [-DYNAMIC_RANGE, 0.0]}
    return [mel - mel.max() for mel in mels], scale


def _write_excerpt(file: ClipFile | None, front: FrontEnd, stem: Path) -> tuple[dict[str, Any], str]:
    """Write the start of an audio file. Return a description of this excerpt, or {} and the reason if it is missing."""
    if not front.reads_sound:
        return {}, ""  # there is no audio
    if file is None:
        return {}, "the pack does not list its source files"
    if not file.is_audio:
        return {}, "the data are frames and not audio"
    try:
        return write_excerpt(file.locate(front), stem), ""
    except Exception as error:  # an unreadable file must not cause a completed run to fail
        for path in (stem.with_suffix(".ogg"), stem.with_suffix(".mp3")):
            remove(path)
        return {}, " ".join(str(error).split()) or type(error).__name__
