"""Data source with an existing pack, for tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from etude.audio.log_mel import LogMelChroma
from etude.data.pack import Pack


@dataclass
class PackedSource:
    """Source with an existing pack."""

    opened: Pack
    targets: dict[str, dict[str, Any]]

    def pack(self, front: LogMelChroma, options: Any) -> Pack:
        return self.opened
