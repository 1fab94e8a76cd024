"""Command `etude bench`, which compares the speed with other libraries and checks the required ratios."""

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

BENCHMARKS = {
    "audio": "front end: audio to frames",
    "data": "data loading: frames on disk to batches",
    "models": "training step of each backbone",
    "loop": "training step in a run against a minimal loop",
    "startup": "start-up of the command line",
    "predict": "prediction of many audio files",
    "sweeps": "sweep with a process per job against one process",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run benchmarks and print their tables.

    Returns:
        0; 1 with `--check` if a requirement is not met.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    return guard_command(lambda: _bench(arguments))


def _bench(arguments: list[str]) -> int:
    """Run the benchmarks that are named on the command line, or all."""
    parser = argparse.ArgumentParser(
        prog="python scripts/bench.py",
        description="Compare the speed with other libraries in the same run, and check the required ratios.",
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="benchmarks to run (default: all). " + ", ".join(f"{k} ({v})" for k, v in BENCHMARKS.items()),
    )
    parser.add_argument("--check", action="store_true", help="exit with status 1 if a requirement is not met")
    parser.add_argument("--json", action="store_true", help="print a JSON object instead of tables")
    if asks_for_help(arguments):
        parser.print_help()
        return 0
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in BENCHMARKS]:
        parser.error(f"{unknown[0]}: there is no such benchmark; available: {', '.join(BENCHMARKS)}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    import torch

    from etude.benchmarks import timing  # heavy: torch

    sections = {name: _benchmark(name)() for name in options.names or BENCHMARKS}
    if options.json:
        machine = {**hardware(), "python": platform.python_version(), "torch": torch.__version__}
        result = {"machine": machine, "sections": timing.to_plain_values(sections)}
        print(json.dumps(result, indent=1))  # noqa: T201
    else:
        timing.print_sections([section for group in sections.values() for section in group])
    requirements = [r for group in sections.values() for section in group for r in section.requirements]
    return int(options.check and not all(requirement.met for requirement in requirements))


def _benchmark(name: str) -> Callable[[], list[Section]]:
    """Return the function of a benchmark."""
    from etude.benchmarks import audio, data, loop, models, predict, startup  # heavy: torch and lightning

    functions = {
        "audio": audio.benchmark_audio,
        "data": data.benchmark_data,
        "models": models.benchmark_models,
        "loop": loop.benchmark_loop,
        "startup": startup.benchmark_startup,
        "predict": predict.benchmark_predict,
        "sweeps": startup.benchmark_sweeps,
    }
    return functions[name]
