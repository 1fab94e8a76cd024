"""What a run's task monitors, of the validation part."""

from __future__ import annotations

import json
from pathlib import Path


def monitored(folder: Path) -> float | None:
    """Stand-in until the real one is merged."""
    try:
        t = json.loads((folder / "metrics.json").read_text())["targets"]
        return sum(v["splits"]["val"]["macro_f1"]["value"] for v in t.values()) / len(t)
    except Exception:
        return None
