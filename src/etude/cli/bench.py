"""Command `etude bench`: speed against peers, with the bars that it has to hold."""

from __future__ import annotations

import argparse
import json
import logging
import platform
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from etude.cli.runner import guard_command
from etude.config.options import asks_for_help
from etude.experiment.provenance import hardware

if TYPE_CHECKING:
    from etude.benchmarks.timing import Section

BENCHES = {
    "audio": "sound to frames",
    "data": "frames on disk to batches",
    "models": "a training step of each backbone",
    "loop": "a run's step against a bare loop",
    "startup": "how soon the command line answers",
    "predict": "predictions on a folder against a file at a time",
    "sweeps": "a process for each job of a sweep against one for all",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run benchmarks and print their tables.

    Returns:
        0; 1 with `--check` if a bar does not hold.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    return guard_command(lambda: _bench(words))


def _bench(words: list[str]) -> int:
    """Run the benchmarks that the command line names."""
    parser = argparse.ArgumentParser(
        prog="bench", description="Speed against peers that are timed in the same run, and the bars it has to hold."
    )
    parser.add_argument("what", nargs="*", metavar="WHAT", help=", ".join(f"{k} ({v})" for k, v in BENCHES.items()))
    parser.add_argument("--check", action="store_true", help="exit status 1 when a bar does not hold")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    if asks_for_help(words):
        parser.print_help()
        return 0
    options = parser.parse_args(words)
    if unknown := [name for name in options.what if name not in BENCHES]:
        parser.error(f"there is no bench {unknown[0]}; there are {', '.join(BENCHES)}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    import torch

    from etude.benchmarks import timing  # heavy: torch

    sections = {name: _benchmark(name)() for name in options.what or BENCHES}
    if options.json:
        machine = {**hardware(), "python": platform.python_version(), "torch": torch.__version__}
        print(json.dumps({"machine": machine, "sections": timing.plain(sections)}, indent=1))  # noqa: T201
    else:
        timing.print_sections([section for several in sections.values() for section in several])
    failed = [bar for several in sections.values() for section in several for bar in section.bars if not bar.holds]
    return int(options.check and bool(failed))


def _benchmark(name: str) -> Callable[[], list[Section]]:
    """Return the function that runs a benchmark."""
    from etude.benchmarks import audio, data, loop, models, predict, startup  # heavy: torch and lightning

    functions = {
        "audio": audio.run,
        "data": data.run,
        "models": models.run,
        "loop": loop.run,
        "startup": startup.run,
        "predict": predict.run,
        "sweeps": startup.run_sweeps,
    }
    return functions[name]
