"""Imported by the process that others are forked from, so that what they all need is imported once.

Torch and librosa's filters cost a core four seconds; a process for each core would pay that each.
"""

from __future__ import annotations

import gc

import threadpoolctl  # noqa: F401
import torch  # noqa: F401

import etude.audio.decode
import etude.audio.spectral
import etude.data.batch
import etude.data.read  # noqa: F401
from etude.audio.compiled import first_use

with first_use("filters"):
    from librosa import filters

    filters.chroma(sr=22050, n_fft=2048)  # imports the rest of librosa
gc.collect()
gc.freeze()  # what is there stays; a worker that looked through it would copy it
