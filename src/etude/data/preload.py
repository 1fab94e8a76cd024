"""Modules that the fork server imports before it forks worker processes.

Importing torch takes more than a second of CPU time. Without the server, each worker process would repeat the import.
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

signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process handles Ctrl-C
for name in MODULES:
    import_module(name)
gc.collect()
gc.freeze()  # a garbage collection in a worker would copy the pages of the imported modules
