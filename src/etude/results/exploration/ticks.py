"""What stands at the side of a picture: frequencies for mel bands, and names for pitch classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from etude.audio.front import Front
from etude.audio.spectral import FrontEnd
from etude.results.exploration.canvas import Colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HZ = (100, 500, 1000, 2000, 4000, 8000, 16000)
APART = 0.06  # least distance between two labels, as a share of the height
PITCHES = ("C", "C♯", "D", "D♯", "E", "F", "F♯", "G", "G♯", "A", "A♯", "B")


def hertz(axes: Axes, front: Front, colours: Colours) -> None:
    """Mel bands by the frequency at their centre; by number where they are none."""
    axes.tick_params(axis="x", labelbottom=front.n_chroma == 0)
    if mel_centres(front) is None:
        axes.set_ylabel("bin", fontsize=10)
        return
    shown = bands(front)
    axes.set_yticks([place for place, _ in shown], [words for _, words in shown])
    axes.set_ylabel("frequency (Hz)", fontsize=10)


def bands(front: Front) -> list[tuple[float, str]]:
    """Round frequencies, by the mel band in which they lie and in words, in Hz; not nearer than labels can be."""
    centres = mel_centres(front)
    if centres is None:
        return []
    shown = [hertz for hertz in HZ if centres[0] <= hertz <= centres[-1]]
    places = np.interp(shown, centres, np.arange(front.n_mels))
    spaced = [k for k, place in enumerate(places) if not k or place - places[k - 1] >= APART * front.n_mels]
    return [(float(places[k]), f"{shown[k]:,}") for k in spaced]


def mel_centres(front: Front) -> np.ndarray | None:
    """Frequency at the centre of each mel band (n_mels,), in Hz; none where the bands are no frequencies."""
    from librosa import mel_frequencies

    fmin, fmax = getattr(front, "fmin", None), getattr(front, "fmax", None)
    if fmin is None:
        return None
    htk = not isinstance(front, FrontEnd)  # ours are of Slaney's scale, those of Kaldi of HTK's
    return mel_frequencies(front.n_mels + 2, fmin=fmin, fmax=fmax or front.rate / 2, htk=htk)[1:-1]


def pitches(axes: Axes, front: Front, colours: Colours) -> None:
    """Pitch classes as on a keyboard: the sharps stand back."""
    each, rest = divmod(front.n_chroma, len(PITCHES))
    if rest:
        axes.set_ylabel("pitch class", fontsize=10)
        return
    places = [k * each for k in range(len(PITCHES))]
    naturals = [k for k in range(len(PITCHES)) if len(PITCHES[k]) == 1]
    sharps = [k for k in range(len(PITCHES)) if len(PITCHES[k]) > 1]
    axes.set_yticks([places[k] for k in naturals], [PITCHES[k] for k in naturals])
    axes.set_yticks([places[k] for k in sharps], [PITCHES[k] for k in sharps], minor=True)
    axes.tick_params(axis="y", which="minor", pad=13, labelsize=8.5, length=2.5, labelcolor=colours["muted"])
    axes.set_ylabel("pitch class", fontsize=10)
