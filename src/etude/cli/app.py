"""Command `etude` with its subcommands, such as `etude train backbone=ast` and `etude report outputs/<run>`."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from etude import __version__
from etude.cli import (
    bench,
    cache,
    compare,
    dashboard,
    demo,
    embed,
    ensemble,
    explore,
    export,
    inspect,
    maps,
    predict,
    prepare,
    report,
)
from etude.cli import train as train_command
from etude.cli.arguments import complete_override, exists
from etude.cli.runner import CommandResult, ParsedCommand, guard_command
from etude.config import stored
from etude.errors import UserError
from etude.system.machine import use_utf8

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 120}


def _empty_option(args: list[str]) -> str:
    """Return the first option with an empty value, such as `--out=`, or "" if there is none."""
    options = args[: args.index("--")] if "--" in args else args
    for previous, argument in zip(["", *options], options, strict=False):
        if argument.startswith("--") and argument.endswith("=") and argument.count("=") == 1:
            return argument
        if not argument and previous.startswith("--"):
            return f"{previous} ''"
    return ""


class CommandGroup(TyperGroup):
    """Group of all commands, which prints its help for an unknown command."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the name, the command and its arguments.

        Raises:
            UserError: There is no such command. The message contains the help and the nearest name.
        """
        name = args[0]
        if self.get_command(ctx, name) is None and not ctx.resilient_parsing:
            if name in stored.COMMANDS:
                raise UserError(f"{name}: was renamed; use etude {stored.COMMANDS[name]}")
            near = get_close_matches(name, self.list_commands(ctx), n=1)
            hint = f"did you mean {near[0]}?" if near else "the commands are listed above"
            raise UserError(f"{ctx.get_help()}\n\n{name}: there is no such command; {hint}")
        return super().resolve_command(ctx, args)


class OptionsCommand(TyperCommand):
    """Command whose options are written with dashes. It explains the `key=value` form that version 0.1 used."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for param in self.params:
            if param.param_type_name == "argument":  # the help would add types of Python, such as <list[str]>
                vars(param)["display_type_rich"] = lambda ctx: None

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse arguments.

        Raises:
            UserError: An argument is an option in the old form, or an option is empty.
        """
        if ctx.resilient_parsing:  # a shell completes an unfinished command
            return super().parse_args(ctx, args)
        names = {name for param in self.params for name in (*param.opts, *param.secondary_opts)}
        values, positional, _ = self.make_parser(ctx).parse_args(args=list(args))
        for param in self.params:
            if param.param_type_name == "argument" and (value := values.get(param.name)):
                positional += [value] if isinstance(value, str) else value
        for argument in positional:  # the value of an option, such as --where axis=value, is none of them
            key, equals, value = argument.lstrip("+").partition("=")
            if equals and not exists(argument):
                option = stored.renamed_command_option(key, value, names)
                if option:
                    raise UserError(f"{argument}: options of etude {self.name} have dashes; use {option}")
        if empty := _empty_option(args):
            raise UserError(f"{empty}: empty value; remove the option or give it a value")
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=CommandGroup,
    rich_markup_mode=None,  # plain help, which is the same in a terminal, a file and a pipe
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings=CONTEXT,
    epilog="`etude COMMAND --help` shows the arguments of a command. Exit statuses: 0 done, 1 failed, 2 input must be "
    "corrected, 130 interrupted, 143 terminated.",
)


def _print_version(value: bool) -> None:
    if value:
        print(f"etude {__version__}")  # noqa: T201
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Run experiments in music understanding."""


COMMANDS = {
    prepare: ("prepare", "Create the pack of a collection without training."),
    explore: ("explore", "Write a page about a collection."),
    predict: ("predict", "Predict audio files with a trained network."),
    embed: ("embed", "Write the embeddings of audio files."),
    export: ("export", "Export a trained network for other programs."),
    demo: ("demo", "Serve a web page to try a trained network."),
    inspect: ("inspect", "Show activations, gradients and attributions of clips."),
    report: ("report", "Rebuild metrics.json and report.html of runs."),
    compare: ("compare", "Compare runs in tables."),
    ensemble: ("ensemble", "Average runs in one run folder."),
    maps: ("maps", "Draw maps of the embeddings of runs."),
    cache: ("cache", "List or clear the stored embeddings."),
    dashboard: ("dashboard", "Lay out the panels of a Weights & Biases project."),
    bench: ("bench", "Compare the speed with other libraries."),
}
"""Name and summary of each command by its module, which has a function of the same name and EXAMPLES."""


@app.command(
    short_help="Train one experiment, or a sweep with -m.",
    add_help_option=False,  # the help of the command lists the config groups
    context_settings={"ignore_unknown_options": True},
)
def train(
    overrides: Annotated[list[str] | None, typer.Argument(metavar="OVERRIDE", autocompletion=complete_override)] = None,
) -> ParsedCommand:
    """Train one experiment, or every job of a sweep with -m. The arguments are overrides and flags of Hydra."""
    return ParsedCommand(lambda: CommandResult(status=train_command.main(overrides or [])), level=None)


for module, (name, summary) in COMMANDS.items():
    app.command(name, cls=OptionsCommand, short_help=summary, epilog=f"\b\n{module.EXAMPLES.strip()}")(
        getattr(module, name)
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command whose name is the first argument.

    Args:
        argv: Arguments. None uses the arguments of this process.

    Returns:
        The exit status; 2 if there is no such command.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    return guard_command(lambda: _run(arguments), is_last=argv is None)


def run_command(name: str, argv: Sequence[str] | None = None) -> int:
    """Run a command, as `python scripts/<name>.py` does.

    Args:
        name: Name of the command.
        argv: Its arguments. None uses the arguments of this process.

    Returns:
        The exit status.
    """
    arguments = [name, *(sys.argv[1:] if argv is None else argv)]
    return guard_command(lambda: _run(arguments), is_last=argv is None)


def _run(arguments: list[str]) -> int:
    """Parse the arguments, and run the command, or print the help or the version."""
    use_utf8()
    command = typer.main.get_command(app)
    # Lightning starts further processes with the overrides only
    if "LOCAL_RANK" in os.environ and (not arguments or arguments[0] not in command.commands):  # type: ignore[attr-defined]
        arguments = ["train", *arguments]
    try:
        parsed = command.main(
            arguments, prog_name="etude", standalone_mode=False, obj={"command": shlex.join(["etude", *arguments])}
        )
    except typer.TyperException as error:
        if not arguments:
            print(error.format_message(), file=sys.stderr)  # noqa: T201  # the help
            return error.exit_code
        raise UserError(_usage_message(error, arguments)) from error
    return parsed.run() if isinstance(parsed, ParsedCommand) else int(parsed or 0)


def _usage_message(error: typer.TyperException, arguments: list[str]) -> str:
    """Return the message of invalid arguments, with the command that lists the valid ones."""
    message = error.format_message().replace("Value error, ", "").rstrip(".")
    command = "etude" if arguments[0].startswith("-") else f"etude {arguments[0]}"
    return f"{message}; {command} --help lists the arguments"
