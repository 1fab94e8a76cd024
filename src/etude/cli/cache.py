"""Command `etude cache`, which lists and clears the stores of embeddings."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from etude.cli.arguments import Json, Packs, greater_than_zero
from etude.cli.runner import CommandResult, ParsedCommand
from etude.errors import UserError
from etude.files import os_errors

if TYPE_CHECKING:
    from etude.embeddings.store import StoreSummary

EXAMPLES = """
Examples:
  etude cache                                    stores with their sizes
  etude cache clear --older-than 30              remove stores that were not used for 30 days
  etude cache clear --model musicnn              remove the stores of one network, with all of its weights
  etude cache clear --model "musicnn msd"        remove the stores of one network with these weights
"""
MB = 1_000_000  # bytes


def cache(
    action: Annotated[
        Literal["list", "clear"], typer.Argument(metavar="list|clear", help="List the stores, or remove them.")
    ] = "list",
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Remove only the stores of this network.", show_default="all")
    ] = None,
    older_than: Annotated[
        float | None,
        typer.Option(
            callback=greater_than_zero,
            metavar="DAYS",
            help="Remove only stores that were not used for this time.",
            show_default="all",
        ),
    ] = None,
    packs: Packs = Path("outputs/packs"),
    json: Json = False,
) -> ParsedCommand:
    """List the stores of embeddings with their networks, read-outs and sizes, or remove them.

    etude embed, etude demo and runs with a frozen network fill the stores in the folder embeddings/ of the packs. Their
    total size is limited to 2 GB; the least recently used embeddings are removed first. Only files that Étude wrote are
    removed, and no store that another process is writing to.
    """

    def work() -> CommandResult:
        from etude.embeddings.store import FOLDER, clear_stores, list_stores  # heavy: numpy

        if action == "list" and (model is not None or older_than is not None):
            raise UserError("--model and --older-than: need the argument clear; add it, or remove the option")
        root = packs / FOLDER
        stores = list_stores(root) if action == "list" else clear_stores(root, model, older_than)
        if not json:
            _print_stores(stores, "removed from" if action == "clear" else "in", root)
        values = {"root": str(root), "stores": [_plain(store) for store in stores]}
        return CommandResult(values=values)

    return ParsedCommand(work, json, os_errors.PACKS_REMEDY)


def _print_stores(stores: Sequence[StoreSummary], relation: str, root: Path) -> None:
    """Print a line for each store, and the total."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    titles = [f"{store.model} {'' if store.readout == 'default' else store.readout}".strip() for store in stores]
    width = max(map(len, titles), default=0)
    for store, title in zip(stores, titles, strict=True):
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(store.last_used))
        line = f"{title:<{width}}  {store.entries:>9,} entries  {store.size / MB:>9,.1f} MB  last used {used}"
        console.print(Text(f"{line}  {store.folder.name}"), soft_wrap=True)
    total = sum(store.size for store in stores) / MB
    noun = "store" if len(stores) == 1 else "stores"
    console.print(Text(f"{len(stores)} {noun} with {total:,.1f} MB {relation} {root}"), soft_wrap=True)


def _plain(store: StoreSummary) -> dict[str, Any]:
    """Return the values of a store for JSON."""
    return {
        "model": store.model, "readout": store.readout, "kind": store.kind, "entries": store.entries,
        "bytes": store.size, "last_used": store.last_used, "folder": str(store.folder),
    }  # fmt: skip
