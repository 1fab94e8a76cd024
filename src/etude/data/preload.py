"""Modules that the fork server of worker processes imports once.

Torch costs a core more than a second, and each process would pay that again.
"""

from __future__ import annotations

import gc
import signal
from importlib import import_module

MODULES = (
    "soundfile",
    "soxr",
    "threadpoolctl",
    "torch",
    "etude.audio.log_mel",
    "etude.data.batches",
    "etude.data.readers",
)

signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the first process's to answer, from here on
for name in MODULES:
    import_module(name)
gc.collect()
gc.freeze()  # what is there stays; a worker that looked through it would copy it
