"""Jobs of a sweep over rows, which are sets of overrides that belong together, such as those of one encoder."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from hydra.errors import HydraException

from etude.config.override_errors import format_errors, override_errors
from etude.config.overrides import parse_overrides, quote_value
from etude.errors import UserError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

ROWS = "hydra.sweeper.rows"  # of the sweeper in the config


def rows_key(sweeper: DictConfig) -> str:
    """Return the config key of the rows, to which the config of the sweeper may refer, as `${sweep.encoders}`."""
    reference = re.fullmatch(r"\$\{([\w.]+)\}", str(sweeper._get_node("rows")))
    return reference[1] if reference else ROWS


@dataclass(frozen=True)
class RowJob:
    """Job of a row.

    Args:
        row: Name of the row.
        overrides: Overrides of the job.
    """

    row: str
    overrides: list[str]


def combine_rows(
    rows: Mapping[str, Any],
    params: Mapping[str, Any],
    arguments: Sequence[str],
    name_key: str | None = None,
    loader: Any = None,
    source: str = ROWS,
) -> list[RowJob]:
    """Return the jobs of all combinations of rows with the values of the other keys.

    A row replaces the values in `params` of its keys and of the groups of its keys. The values of the first key vary
    slowest and the rows fastest, so that jobs that run at the same time have different rows.

    Args:
        rows: Overrides of each row in one text, by the name of the row. None leaves a row out.
        params: Values of other keys. Overrides of the command line take precedence.
        arguments: Overrides of the command line.
        name_key: Config key that contains the name of the row in each job.
        loader: Hydra's config loader, for a glob over the options of a group.
        source: Config key of the rows, for error messages.

    Raises:
        UserError: There is no row, a row is invalid or repeated, or the command line sets a key of a row.
    """
    if not isinstance(rows, Mapping):
        raise UserError(f"{source}: must be a mapping of rows by name, such as {{small: backbone=cnn}}; got {rows}")
    parsed = {
        str(name): _parse_row(f"{source}.{name}", text, loader) for name, text in rows.items() if text is not None
    }
    if not parsed:
        raise UserError(f"{source}: contains no row; add one, such as \"+{source}.small='backbone=cnn'\"")
    _refuse_equal_rows(parsed, source)
    given = {override.get_key_element(): _values(override) for override in parse_overrides(list(arguments), loader)}
    for name, row in parsed.items():
        if shared := [key for key in row if key in given]:
            both = f"{given[shared[0]][0]}: the row {name} of this sweep sets {shared[0]} too"
            raise UserError(f"{both}; remove it, or leave the row out with {source}.{name}=null")
    texts = [f"{key}={value}" for key, value in params.items()]
    varied = {override.get_key_element(): _values(override) for override in parse_overrides(texts, loader)}
    varied = {key: given.get(key, values) for key, values in varied.items()} | given
    jobs: dict[tuple[str, ...], RowJob] = {}
    for combination in product(*varied.values()):
        for name, row in parsed.items():
            values = zip(varied, combination, strict=True)
            overrides = [value for key, value in values if key in given or not _is_replaced(key, row)]
            overrides += [*row.values(), *([f"{name_key}={quote_value(name, 'str')}"] if name_key else [])]
            jobs.setdefault(tuple(overrides), RowJob(name, overrides))  # a row may replace values that vary
    for alternatives in varied.values():
        if twice := [value for value in alternatives if alternatives.count(value) > 1]:
            raise UserError(f"{twice[0]}: is in the sweep more than once; each job of a sweep needs different values")
    return list(jobs.values())


def check_rows(jobs: Sequence[RowJob], config: DictConfig, loader: Any, source: str = ROWS) -> None:
    """Compose the first job of each row.

    Args:
        jobs: Jobs of all rows.
        config: Config of the sweep, including Hydra's node.
        loader: Hydra's config loader.
        source: Config key of the rows, for error messages.

    Raises:
        UserError: A row cannot be composed.
    """
    sources = config.hydra.runtime.config_sources
    folder = next((source.path for source in sources if source.provider == "command-line"), None)
    for job in {job.row: job for job in reversed(jobs)}.values():
        try:
            loader.load_sweep_config(config, job.overrides)
        except Exception as error:  # of any type, see Composer.compose
            if messages := override_errors(job.overrides, folder=folder, error=error):
                raise UserError(f"{source}.{job.row}: {format_errors(messages)}") from error
            raise


def _parse_row(key: str, text: Any, loader: Any) -> dict[str, str]:
    """Return the overrides of a row by key.

    Raises:
        UserError: The text is not a list of overrides with one value each.
    """
    example = "such as 'backbone=cnn optim.lr=1e-3'"
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{key}: must be a text of overrides, {example}; got {text!r}")
    try:
        overrides = parse_overrides(shlex.split(text), loader)
    except (ValueError, HydraException) as error:
        raise UserError(f"{key}: {text!r} is not a text of overrides, {example}") from error
    for override in overrides:
        if override.is_sweep_override():
            raise UserError(f"{key}: {override.input_line} has several values; write a row for each of them")
        if override.is_hydra_override() or override.key_or_group in ("sweep", "resume"):
            raise UserError(f"{key}: {override.input_line} cannot differ between jobs; remove it from the row")
    return {override.get_key_element(): str(override.input_line) for override in overrides}


def _refuse_equal_rows(rows: Mapping[str, Mapping[str, str]], source: str) -> None:
    """Raise UserError if two rows have the same overrides."""
    names: dict[frozenset[str], str] = {}
    for name, row in rows.items():
        if (first := names.setdefault(frozenset(row.values()), name)) != name:
            raise UserError(f"{source}: {first} and {name} have the same overrides; remove one of them")


def _values(override: Override) -> list[str]:
    """Return an override for each of its values.

    Raises:
        UserError: The override is an interval, which only a search can sample.
    """
    if not override.is_sweep_override():
        return [str(override.input_line)]
    if not override.is_discrete_sweep():
        raise UserError(f"{override.input_line}: an interval needs a search, such as sweep=random_cnn; list the values")
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]


def _is_replaced(key: str, row: Mapping[str, str]) -> bool:
    """Return whether a row sets a key, or a key inside it."""
    return any(given.lstrip("+~") == key or given.lstrip("+~").startswith(f"{key}.") for given in row)
