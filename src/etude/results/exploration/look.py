"""From the data module of a config to a page about its collection."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude import disk
from etude.data.collection import slug
from etude.data.draft import SKIPPED
from etude.errors import DataError
from etude.files import ownership
from etude.results.exploration import choose, facts, page
from etude.results.exploration.facts import Parted
from etude.results.exploration.pictures import Shown
from etude.results.exploration.views import File, files, view

if TYPE_CHECKING:
    from etude.data.module import MusicData
    from etude.data.pack import Pack


@dataclass(frozen=True)
class Wish:
    """What is to be shown, and where it goes.

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


def look(module: MusicData, wish: Wish, command: str = "") -> Path:
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
    source, front = module.source, module.feature.front
    folder = wish.out / slug(source.name)
    with disk.explained(folder, "name another folder with out=<folder>", f"out={wish.out}"):
        ownership.open_folder(folder)
    ownership.check_names(folder, ("explore.html", "explore.json"))
    pack = source.pack(front, module.rules)
    skipped = _skipped(pack)
    if wish.clips is None:
        rows = choose.random(pack.index, source.targets, wish.count, wish.seed)
    else:
        rows = choose.named(wish.clips, pack.index, dict(skipped))
    parted, known = _parted(module, pack), files(source)
    shown = [_shown(row, pack, module, parted, known) for row in rows]
    found = facts.gather(source, pack, front, known, parted, wish.seed)
    return page.write(folder, found | {"skipped": skipped}, shown, front, command, source.card)


def _parted(module: MusicData, pack: Pack) -> Parted:
    """The configured split; when it is refused, why, and what it would be if it were not."""
    names = list(module.source.targets)
    try:
        return Parted(module.split.assign(pack.index, names))
    except DataError as error:
        refusal = str(error)
    try:
        return Parted(
            replace(module.split, allow_shared_groups=True, duplicates="allow").assign(pack.index, names), refusal
        )
    except DataError:
        return Parted(None, refusal)


def _shown(row: int, pack: Pack, module: MusicData, parted: Parted, known: dict[str, File]) -> Shown:
    """A clip with what is known about it."""
    import pandas as pd

    about = pack.index.iloc[row]
    words = [(name, about[name]) for name in module.targets if not pd.isna(about[name])]
    words += [("group", about["group"])] if not pd.isna(about["group"]) else []
    words += [("part", str(parted.assigned[row]))] if parted.assigned is not None else []
    clip = str(about["id"])
    return Shown(clip, words, view(clip, row, pack, module.feature.front, known))


def _skipped(pack: Any) -> list[tuple[str, str]]:
    """Ids of clips that gave no frames, and why; of several packs all of them."""
    import pandas as pd

    if not hasattr(pack, "folder"):
        return [row for one in pack.packs for row in _skipped(one)]
    path = pack.folder / SKIPPED
    table = pd.read_csv(path, dtype=str, keep_default_na=False) if path.is_file() else pd.DataFrame()
    return [(str(row["id"]), str(row["reason"])) for _, row in table.iterrows()]
