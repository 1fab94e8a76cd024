"""The command that looks at a collection before anything is trained on it: `etude explore data=demo`."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.errors import UserError

if TYPE_CHECKING:
    from etude.data.module import MusicData
    from etude.data.pack import Pack
    from etude.results.exploration.facts import Parted
    from etude.results.exploration.page import Shown
    from etude.results.exploration.views import File

log = logging.getLogger(__name__)
MOST = 24  # clips on one page
HELP = """explore: look before you train. Clips as pictures, labels as counts, copies and leaks in sentences; one page.

  python scripts/explore.py data=demo                         four random clips of different classes
  python scripts/explore.py source=folder path=music count=8 seed=1
  python scripts/explore.py data=demo clips=<id>,<id>         these clips

  clips=<id,id,...> | count=<1 to 24> seed=<whole number>     which clips are shown
  out=<folder>                                                outputs/explore; a folder per collection is made in it

All other words are those of prepare, and the pack is made when it is not there: python scripts/prepare.py --help"""


@dataclass(frozen=True)
class Wish:
    """What this command alone is told.

    Args:
        clips: Ids with commas between; None for random ones.
        count: How many random ones.
        seed: Of every random choice.
        out: Folder of the results of all collections.
    """

    clips: str | None = None
    count: int = 4
    seed: int = 0
    out: Path = Path("outputs/explore")


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page of a collection.

    Args:
        argv: The words of `prepare`, and clips, count, seed, out.

    Returns:
        0; 2 when the command or the data have to be mended; 130 when interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or "-h" in words or "--help" in words:
        print(HELP)  # noqa: T201
        return 0
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        wish, rest = _own(words)
        page = explore(_module(rest), wish, shlex.join(["python", "scripts/explore.py", *words]))
    except KeyboardInterrupt:
        log.warning("interrupted")
        return 130
    except (UserError, HydraException, OmegaConfBaseException) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    print(page)  # noqa: T201
    return 0


def explore(module: MusicData, wish: Wish, command: str = "") -> Path:
    """Prepare a collection, measure it, and write its page.

    Args:
        module: The data module of a config; it need not be set up.
        wish: Which clips, and where to.
        command: What the page says it was made by.

    Returns:
        Path of the page, `<out>/<collection>/explore.html`.

    Raises:
        UserError: A clip is not there, or the folder cannot be written.
    """
    from etude.data.collection import slug
    from etude.results.exploration import choose, facts, page, views

    source, front = module.source, module.feature.front
    folder = wish.out / slug(source.name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out={wish.out}: cannot be written ({error.strerror})") from error
    pack = source.pack(front, module.rules)
    skipped = _skipped(pack)
    if wish.clips is None:
        rows = choose.random(pack.index, source.targets, wish.count, wish.seed)
    else:
        rows = choose.named(wish.clips, pack.index, dict(skipped))
    parted, known = _parted(module, pack), views.files(source)
    shown = [_shown(row, pack, module, parted, known) for row in rows]
    found = facts.gather(source, pack, front, known, parted, wish.seed)
    return page.write(folder, found | {"skipped": skipped}, shown, front, command, source.card)


def _parted(module: MusicData, pack: Pack) -> Parted:
    """The configured split; when it is refused, why, and what it would be if it were not."""
    from etude.data.collection import DataError
    from etude.results.exploration.facts import Parted

    names = list(module.source.targets)
    try:
        return Parted(module.split.assign(pack.index, names))
    except DataError as error:
        refusal = str(error)
    try:
        return Parted(replace(module.split, allow_shared_groups=True, duplicates="allow").assign(pack.index, names), refusal)
    except DataError:
        return Parted(None, refusal)


def _shown(row: int, pack: Pack, module: MusicData, parted: Parted, known: dict[str, File]) -> Shown:
    """A clip with what is known about it."""
    import pandas as pd

    from etude.results.exploration.page import Shown
    from etude.results.exploration.views import view

    about = pack.index.iloc[row]
    words = [(name, about[name]) for name in module.targets if not pd.isna(about[name])]
    words += [("group", about["group"])] if not pd.isna(about["group"]) else []
    words += [("part", str(parted.assigned[row]))] if parted.assigned is not None else []
    clip = str(about["id"])
    return Shown(clip, words, view(clip, row, pack, module.feature.front, known))


def _skipped(pack: Any) -> list[tuple[str, str]]:
    """Ids of clips that gave no frames, and why; of several packs all of them."""
    import pandas as pd

    from etude.data.draft import SKIPPED

    if not hasattr(pack, "folder"):
        return [row for one in pack.packs for row in _skipped(one)]
    path = pack.folder / SKIPPED
    table = pd.read_csv(path, dtype=str, keep_default_na=False) if path.is_file() else pd.DataFrame()
    return [(str(row["id"]), str(row["reason"])) for _, row in table.iterrows()]


def _own(words: list[str]) -> tuple[Wish, list[str]]:
    """What this command is told, and what prepare's words are."""
    own: dict[str, Any] = {}
    rest = []
    for word in words:
        key, _, value = word.partition("=")
        if key == "clips":
            own["clips"] = value
        elif key in ("count", "seed"):
            if not (value.isascii() and value.isdigit()) or (key == "count" and not 1 <= int(value) <= MOST):
                must = f"a whole number from 1 to {MOST}" if key == "count" else "a whole number of at least 0"
                raise UserError(f"{word}: must be {must}")
            own[key] = int(value)
        elif key == "out":
            own["out"] = Path(value).expanduser()
        else:
            rest.append(word)
    return Wish(**own), rest


def _module(words: list[str]) -> MusicData:
    """The data module that prepare's words describe; the translation is prepare's own."""
    from difflib import get_close_matches

    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from etude import prepare
    from etude.build import conf_dir

    overrides, settings, own = prepare._translate(words)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        known = list(compose("train", overrides=overrides).data.source.keys())
        for key in settings:
            if key not in known:
                near = get_close_matches(key, known, n=1) or [", ".join(k for k in known if k != "_target_")]
                raise UserError(f"{key}: no such setting of this source; there is {near[0] or 'none'}")
        overrides += [f"data.source.{key}={prepare._quoted(value)}" for key, value in settings.items()]
        config = compose("train", overrides=overrides)
    if missing := sorted(OmegaConf.missing_keys(config.data)):
        raise UserError("\n".join(f"data.{key}: needs a value; add {key.split('.')[-1]}=..." for key in missing))
    module = prepare._module(config)
    module.rules = replace(module.rules, **own)
    return module
