"""Fixtures of the tests of audio."""

from __future__ import annotations

import numpy as np
import pytest

from etude.audio.decode import decode
from etude.data.sources.demo import HOME


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    """Return three seconds of a real clip, below full scale so that no codec clips it."""
    audio = decode(sorted((HOME / "clips" / "orchestral").iterdir())[0], 22050)[: 3 * 22050]
    return (0.8 * audio / np.abs(audio).max()).astype(np.float32)
