"""Imported by the process that others are forked from, so that what they all need is imported once.

Torch costs a core more than a second, and each process would pay that again.
"""

from __future__ import annotations

import gc
import signal
from importlib import import_module

MODULES = ("soundfile", "soxr", "threadpoolctl", "torch", "etude.audio.spectral", "etude.data.batch", "etude.data.read")

signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the first process's to answer, from here on
for name in MODULES:
    import_module(name)
gc.collect()
gc.freeze()  # what is there stays; a worker that looked through it would copy it
