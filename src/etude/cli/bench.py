"""Command `etude bench`, which compares the speed with other libraries and checks the required ratios."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from etude.cli.arguments import Json
from etude.cli.runner import CommandResult, ParsedCommand

if TYPE_CHECKING:
    from etude.benchmarks.timing import Section

BENCHMARKS = {
    "audio": "front end: audio to frames",
    "data": "data loading: frames on disk to batches",
    "models": "training step of each backbone",
    "loop": "training step in a run against a minimal loop",
    "startup": "start-up of the command line",
    "predict": "prediction of many audio files",
    "embed": "embeddings of many audio files",
    "sweeps": "sweep with a process per job against one process",
}
EXAMPLES = "Benchmarks:\n" + "\n".join(f"  {name:<9} {title}" for name, title in BENCHMARKS.items())


def _check_names(names: list[str] | None) -> list[str]:
    """Return the names of benchmarks; raise BadParameter if one is unknown."""
    if unknown := [name for name in names or () if name not in BENCHMARKS]:
        raise typer.BadParameter(f"{unknown[0]!r} is not one of {', '.join(BENCHMARKS)}")
    return names or list(BENCHMARKS)


def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            callback=_check_names,
            metavar="NAME",
            help="Benchmarks.",
            show_default="all",
            autocompletion=lambda incomplete: [name for name in BENCHMARKS if name.startswith(incomplete)],
        ),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit with status 1 if a requirement is not met.")] = False,
    json: Json = False,
) -> ParsedCommand:
    """Compare the speed with other libraries in the same run, and check the required ratios."""

    def work() -> CommandResult:
        import torch

        from etude.benchmarks import timing  # heavy: torch
        from etude.experiment.provenance import hardware

        sections = {name: _benchmark(name)() for name in names or ()}
        if not json:
            timing.print_sections([section for group in sections.values() for section in group])
        requirements = [r for group in sections.values() for section in group for r in section.requirements]
        machine = {**hardware(), "python": platform.python_version(), "torch": torch.__version__}
        values = {"machine": machine, "sections": timing.to_plain_values(sections)}
        return CommandResult(values=values, status=int(check and not all(r.met for r in requirements)))

    return ParsedCommand(work, json)


def _benchmark(name: str) -> Callable[[], list[Section]]:
    """Return the function of a benchmark."""
    from etude.benchmarks import audio, loading, training  # heavy: torch and lightning

    functions = {
        "audio": audio.benchmark_audio,
        "data": loading.benchmark_data,
        "models": training.benchmark_models,
        "loop": training.benchmark_loop,
        "startup": loading.benchmark_startup,
        "predict": audio.benchmark_predict,
        "embed": audio.benchmark_embed,
        "sweeps": loading.benchmark_sweeps,
    }
    return functions[name]
