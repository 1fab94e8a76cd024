"""Pictures and sounds of the worst errors, from a run's errors/ into its page.

The page is one file, so they go into it as data, and for as many clips as there is room: pictures first, then sounds,
the worst errors first.
"""

from __future__ import annotations

import base64
import json
import os
import re
from pathlib import Path
from typing import Any

from etude.results.axis import round_ticks
from etude.results.panel import Panel
from etude.results.text import duration

FOLDER, INDEX = "errors", "index.json"
PAGE = 4_800_000  # bytes of a whole page
MIME = {".png": "image/png", ".ogg": "audio/ogg", ".mp3": "audio/mpeg"}
LICENCE = re.compile(r"CC[- ](BY(?:-(?:NC|ND|SA))*)[- ](\d\.\d)", re.IGNORECASE)


def read(folder: Path) -> dict[str, Any]:
    """What a run kept of its worst errors.

    Returns:
        `scale`, what is said once for all pictures; `clips` by id, with `size`, the bytes of picture and sound in the
        page; both empty where nothing was kept. `fault` says what is wrong with what is there.
    """
    found: dict[str, Any] = {"scale": {}, "clips": {}, "fault": ""}
    path = folder / FOLDER / INDEX
    if not path.is_file():
        return found
    if not is_inside(path, folder):
        return found | {"fault": f"{FOLDER}/{INDEX} is a link that leads out of the run"}
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        for clip in kept.pop("clips"):
            for kind in ("picture", "audio"):
                name = clip.get(kind)
                if name and (Path(name).name != name or Path(name).suffix not in MIME):
                    raise ValueError(f"{name!r} is no name of a picture or a sound")
                if name and not is_inside(path.parent / name, folder):
                    raise ValueError(f"{name!r} is a link that leads out of the run")
                if name and not (path.parent / name).is_file():
                    clip[kind] = None
            _check_clip(clip)
            found["clips"][str(clip["id"])] = clip
        _check_scale(kept)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        return {"scale": {}, "clips": {}, "fault": f"what is in {FOLDER}/{INDEX} cannot be read ({error})"}
    return found | {"scale": kept}


def _check_clip(clip: dict[str, Any]) -> None:
    """Raise what the drawing of a clip would raise for values of other types."""
    float(clip.get("heard", 0)), float(clip.get("seconds", 0)), credit(clip)
    if clip.get("picture"):
        int(clip["length"])


def _check_scale(scale: dict[str, Any]) -> None:
    """Raise what the drawing of pictures would raise for values of other types."""
    float(scale["limits"][0]), float(scale["limits"][1]), int(scale["bins"])
    if scale.get("sound"):
        1 / float(scale["rate"]), [(float(place), str(words)) for place, words in scale["hertz"]]


def is_inside(path: Path, folder: Path) -> bool:
    """Return whether a path stays in a folder when its links are followed.

    A run folder may come from somebody else: a link in it must not bring other files of this machine into a page.
    """
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))  # does not raise for a loop of links


def cards(folder: Path, kept: dict[str, Any], sections: list[dict[str, Any]], room: int) -> dict[str, int]:
    """Put pictures and sounds beside the errors that a page lists, in place, while there is room.

    Args:
        folder: The run's.
        kept: What `read` found.
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
            path = folder / FOLDER / name
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
    heard, seconds = float(clip.get("heard", 0)), float(clip.get("seconds", 0))
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
