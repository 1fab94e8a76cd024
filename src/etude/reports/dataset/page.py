"""Page about a collection.

The page is one file that asks nothing of any network. Every name from the data is escaped by the template; only the
figures and the card, which escape their own text, are marked as safe.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.audio.frontend import FrontEnd
from etude.data.collection import slug
from etude.data.pack_writer import SKIPPED
from etude.errors import DataError
from etude.files import os_errors, ownership
from etude.files.atomic import write_text
from etude.reports import clip_frames, html
from etude.reports.clip_frames import ClipFile, files, load_view
from etude.reports.dataset import pictures, statistics
from etude.reports.dataset.leakage import findings
from etude.reports.dataset.pictures import ShownClip
from etude.reports.dataset.statistics import SplitAssignment
from etude.reports.html import load_template

if TYPE_CHECKING:
    from etude.data.datamodule import MusicData
    from etude.data.pack import Pack


MOST_ROWS = 50  # of a table of pairs or files; explore.json has them all


@dataclass(frozen=True)
class ExploreOptions:
    """Options of the dataset page.

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


def explore(module: MusicData, wish: ExploreOptions, command: str = "") -> Path:
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
    with os_errors.explain_errors(folder, "name another folder with out=<folder>", f"out={wish.out}"):
        ownership.open_folder(folder)
    ownership.check_names(folder, ("explore.html", "explore.json"))
    pack = module.open_pack()
    skipped = _skipped(pack)
    if wish.clips is None:
        rows = clip_frames.random_clips(pack.index, source.targets, wish.count, wish.seed)
    else:
        rows = clip_frames.named_clips(wish.clips, pack.index, dict(skipped))
    split, known = _split(module, pack), files(source)
    shown = [_shown(row, pack, module, split, known) for row in rows]
    found = statistics.gather(source, pack, front, known, split, wish.seed)
    return write(folder, found | {"skipped": skipped}, shown, front, command, source.card)


def write(
    folder: Path, facts: dict[str, Any], shown: Sequence[ShownClip], front: FrontEnd, command: str, card: str
) -> Path:
    """Write the page and what lies beside it.

    Args:
        folder: An existing folder; figures of an earlier call for the same collection are replaced.
        facts: As `statistics.gather` returns them, with `skipped`: ids and reasons.
        shown: Clips that are shown.
        front: Parameters of their frames.
        command: That made this.
        card: The data card, in Markdown.

    Returns:
        Path of the page.
    """
    pictures.clear_figures(folder)
    page = load_template("explore.html.j2").render(
        **facts,
        names_twice=facts["names"],
        findings=findings(facts),
        clips=pictures.clip_figures(folder, shown, front),
        class_figures=pictures.class_figures(folder, facts),
        figures=pictures.histogram_figures(folder, facts),
        card=html.markdown_to_html(card),
        command=command,
        most=MOST_ROWS,
    )
    write_text(folder / "explore.json", json.dumps(facts, indent=1, ensure_ascii=False))
    return write_text(folder / "explore.html", page)


def _split(module: MusicData, pack: Pack) -> SplitAssignment:
    """Return the configured split; when it is refused, why, and what it would be if it were not."""
    names = list(module.source.targets)
    try:
        return SplitAssignment(module.split.assign(pack.index, names))
    except DataError as error:
        refusal = str(error)
    try:
        return SplitAssignment(
            replace(module.split, allow_shared_groups=True, duplicates="allow").assign(pack.index, names), refusal
        )
    except DataError:
        return SplitAssignment(None, refusal)


def _shown(row: int, pack: Pack, module: MusicData, split: SplitAssignment, known: dict[str, ClipFile]) -> ShownClip:
    """Return a clip with what is known about it."""
    import pandas as pd

    about = pack.index.iloc[row]
    words = [(name, about[name]) for name in module.targets if not pd.isna(about[name])]
    words += [("group", about["group"])] if not pd.isna(about["group"]) else []
    words += [("part", str(split.assigned[row]))] if split.assigned is not None else []
    clip = str(about["id"])
    return ShownClip(clip, words, load_view(clip, row, pack, module.feature.front, known))


def _skipped(pack: Any) -> list[tuple[str, str]]:
    """Return ids of clips that gave no frames, and why; of several packs all of them."""
    import pandas as pd

    if not hasattr(pack, "folder"):
        return [row for one in pack.packs for row in _skipped(one)]
    path = pack.folder / SKIPPED
    table = pd.read_csv(path, dtype=str, keep_default_na=False) if path.is_file() else pd.DataFrame()
    return [(str(row["id"]), str(row["reason"])) for _, row in table.iterrows()]
