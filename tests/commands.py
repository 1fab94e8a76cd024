"""Commands of `etude` as functions of their arguments, which return the exit status."""

from __future__ import annotations

from functools import partial

from etude.cli.app import run_command

cache = partial(run_command, "cache")
compare = partial(run_command, "compare")
dashboard = partial(run_command, "dashboard")
demo = partial(run_command, "demo")
embed = partial(run_command, "embed")
explore = partial(run_command, "explore")
export = partial(run_command, "export")
inspect = partial(run_command, "inspect")
ensemble = partial(run_command, "ensemble")
maps = partial(run_command, "maps")
predict = partial(run_command, "predict")
prepare = partial(run_command, "prepare")
report = partial(run_command, "report")
bench = partial(run_command, "bench")
