"""Everything that a page of exploration says in numbers, as plain values: it is written beside the page as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.audio.front import Front
from etude.data.splits import PARTS
from etude.results.exploration import alike, counts, leaks, levels
from etude.results.exploration.views import hears

if TYPE_CHECKING:
    import pandas as pd

    from etude.data.pack import Pack
    from etude.results.exploration.views import File


@dataclass(frozen=True)
class Parted:
    """How the configured split parts the clips.

    Args:
        assigned: Part of each clip (N,); None when there is no split at all.
        refusal: Why the split was refused; "" when it was not. Then `assigned` is what it would be if it were allowed.
    """

    assigned: np.ndarray | None
    refusal: str = ""


def gather(source: Any, pack: Pack, front: Front, known: dict[str, File], parted: Parted, seed: int) -> dict[str, Any]:
    """Measure a collection.

    Args:
        source: The collection, or what packs like one.
        pack: Its pack.
        front: Front end of the pack.
        known: Files of its clips, as `views.files` gives them.
        parted: Its split.
        seed: Of the clips whose loudness is measured.

    Returns:
        Numbers, names and lists by what they are about; JSON can hold them.
    """
    index, assigned, targets = pack.index, parted.assigned, source.targets
    ids = [str(clip) for clip in index["id"]]
    labels = {name: spec for name, spec in targets.items() if spec["kind"] == "label"}
    scalars = {name: spec for name, spec in targets.items() if spec["kind"] == "scalar"}
    before = source.extra.get("before", {})
    return {
        "data": _data(source, index, front),
        "refusal": parted.refusal,
        "parts": counts.parts(index, assigned),
        "labels": {
            name: counts.label(index, name, spec, assigned)
            | {"note": spec["note"], "before": before.get(name, {})}
            | {"lonely": leaks.lonely(index, name, spec["classes"])}
            for name, spec in labels.items()
        },
        "scalars": {
            name: counts.histogram(index[name].to_numpy(float), spec["low"], spec["high"])
            | {"note": spec["note"], "range": [spec["low"], spec["high"]]}
            for name, spec in scalars.items()
        },
        "correlations": counts.correlations(index, list(scalars)) if len(scalars) > 1 else [],
        "by_class": {
            name: counts.by_class(index, name, spec["classes"], list(scalars))
            for name, spec in labels.items()
            if scalars
        },
        "lengths": levels.lengths(pack.lengths, front),
        "loudness": levels.loudness(known, ids, front, seed),
        "copies": [_row(index, targets, rows, assigned) for rows in alike.same(index)],
        "alike": _alike(pack, targets, front, assigned),
        "sides": leaks.sides(index, assigned),
        "names": leaks.repeated(known, ids),
    }


def _data(source: Any, index: pd.DataFrame, front: Front) -> dict[str, Any]:
    known = index["group"].notna()
    seconds = (
        None if front.sync == "beat" or not hears(front) else float(index["frames"].sum()) / front.frames_per_second
    )
    return {
        "name": source.name,
        "title": source.title,
        "note": source.note,
        "clips": len(index),
        "groups": int(index["group"][known].nunique()),
        "without_group": int((~known).sum()),
        "seconds": seconds,
        "frames": int(index["frames"].sum()),
        "front": front.to_dict(),
        "sound": hears(front),
        "licences": source.extra.get("licences", {}),
    }


def _row(
    index: pd.DataFrame, targets: dict[str, dict[str, Any]], rows: list[int], assigned: np.ndarray | None
) -> dict[str, Any]:
    """Clips side by side: ids, groups, parts; whether these differ, and which labels do."""
    here = index.iloc[rows]
    groups = here["group"].astype(object).where(here["group"].notna(), None)
    parts = [] if assigned is None else [str(assigned[row]) for row in rows]
    return {
        "ids": [str(clip) for clip in here["id"]],
        "groups": [None if group is None else str(group) for group in groups],
        "parts": parts,
        "crosses": len({part for part in parts if part in PARTS}) > 1,
        "differ": [name for name in targets if here[name].dropna().nunique() > 1],
    }  # fmt: skip


def _alike(pack: Pack, targets: dict[str, dict[str, Any]], front: Front, assigned: np.ndarray | None) -> dict[str, Any]:
    """Pairs that sound like one recording, with names; offsets in seconds, or in beats by the beat."""
    found = alike.pairs(pack, front.n_mels) if hears(front) else {"alike": [], "compared": 0, "closest": None}
    unit = 1.0 if front.sync == "beat" else front.frames_per_second

    def named(pair: dict[str, Any]) -> dict[str, Any]:
        said = {"correlation": pair["correlation"], "cosine": pair["cosine"], "offset": pair["offset"] / unit}
        return _row(pack.index, targets, [pair["a"], pair["b"]], assigned) | said

    return {
        "pairs": [named(pair) for pair in found["alike"]],
        "compared": found["compared"],
        "closest": named(found["closest"]) if found["closest"] else None,
        "threshold": alike.ALIKE,
        "unit": "beats" if front.sync == "beat" else "s",
    }
