"""Embedded collection of 196 freely licensed ten-second clips in three genres by fourteen artists."""

from __future__ import annotations

from pathlib import Path

from etude.data.collection import Collection

HOME = Path(__file__).parents[1] / "demo"
DERIVED = "computed from the signal, not rated by listeners"


def collection() -> Collection:
    """Return the demo clips with their genre and three descriptors of the signal.

    Returns:
        The collection. `demo/CARD.md` beside the clips describes their origin, licences and descriptors.
    """
    import pandas as pd

    table = pd.read_csv(HOME / "clips.csv", dtype={"id": str, "group": str})
    table["path"] = [str(HOME / path) for path in table["path"]]
    scalar = {"kind": "scalar", "low": 0.0, "high": 1.0, "note": DERIVED}
    return Collection(
        name="demo",
        title="Étude demo: 196 clips of freely licensed game music",
        table=table,
        targets={
            "genre": {"kind": "label", "classes": sorted(table["genre"].unique()), "note": ""},
            **{name: dict(scalar) for name in ("valence", "energy", "danceability")},
        },
        card=(HOME / "CARD.md").read_text(encoding="utf-8"),
        note="Valence, energy and danceability of this collection are computed from the signal. The "
        "collection has no listener ratings.",
        extra={"licences": {str(k): int(v) for k, v in table["licence"].value_counts().items()}},
    ).check()
