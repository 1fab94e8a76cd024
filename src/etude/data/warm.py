"""Imported by the process that others are forked from, so that what they all need is imported once.

Torch costs a core more than a second, and each process would pay that again.
"""

from __future__ import annotations

import gc

import soundfile  # noqa: F401
import soxr  # noqa: F401
import threadpoolctl  # noqa: F401
import torch  # noqa: F401

import etude.audio.spectral
import etude.data.batch
import etude.data.read  # noqa: F401

gc.collect()
gc.freeze()  # what is there stays; a worker that looked through it would copy it
