"""The pictures of docs/gallery.md, from the embedded data: python scripts/gallery.py.

It trains a few small networks (some minutes on two cores, kept in outputs/gallery), makes every page of them, and takes
pictures of these in a headless Chromium, which has to be on the machine.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parents[1]
RUNS, PICTURES = ROOT / "outputs" / "gallery", ROOT / "docs" / "gallery"
WIDTH, HEIGHT = 1180, 900
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


class Shot(NamedTuple):
    """A picture: its name, the page, and from which part of the page on; none from the top."""

    name: str
    page: str
    part: str = ""
    scheme: str = "light"


SHOTS = (
    Shot("report", "sweep/0_*/report.html"),
    Shot("report-errors", "sweep/0_*/report.html", "text=relative to each clip"),
    Shot("report-scalars", "affect/report.html", "text=Predictions and residuals", "dark"),
    Shot("compare", "sweep/compare.html"),
    Shot("compare-pairs", "sweep/compare.html", "#pairs"),
    Shot("latent", "sweep/latent.html", "#maps"),
    Shot("inspect-cnn", "sweep/0_*/inspect_*.html", "#attributions"),
    Shot("inspect-digits", "digits/inspect_*.html", "#layers", "dark"),
    Shot("explore", "explore/*/explore.html", "#clips"),
)


def work() -> None:
    """Train what is not there yet, and make all pages."""
    python = [sys.executable]
    sweep, affect, digits, look = (RUNS / name for name in ("sweep", "affect", "digits", "explore"))
    jobs = [
        (sweep, ["train.py", "-m", "backbone=cnn,lstm", "seed=0,1", f"hydra.sweep.dir={sweep}"]),
        (affect, ["train.py", "backbone=lstm", "task=multitask", f"hydra.run.dir={affect}"]),
        (digits, ["train.py", "experiment=reproduction/step7/digits", f"hydra.run.dir={digits}"]),
        (look, ["scripts/explore.py", "data=demo", f"out={look}"]),
    ]
    for folder, words in jobs:
        if not folder.is_dir():
            subprocess.run([*python, *words], cwd=ROOT, check=True)
    first = next(sweep.glob("0_*"))
    pages = [["compare.py", str(sweep)], ["latent.py", str(sweep), "methods=pca,tsne,umap", "dims=2"]]
    for words in [*pages, ["inspect.py", str(first)], ["inspect.py", str(digits)]]:
        subprocess.run([*python, str(ROOT / "scripts" / words[0]), *words[1:]], cwd=ROOT, check=True)


def take(shot: Shot, page: Page) -> bytes:
    """A picture of what a window shows, as PNG of 256 colours, which is a third of its size."""
    page.emulate_media(color_scheme=shot.scheme)  # type: ignore[arg-type]
    page.goto(next(RUNS.glob(shot.page)).as_uri())
    if shot.part:
        box = page.locator(shot.part).first.bounding_box()
        assert box is not None, f"{shot.page} has no {shot.part}"
        page.evaluate("y => window.scrollTo({top: y, behavior: 'instant'})", box["y"] - 24)
    return small(page.screenshot())


def small(shot: bytes) -> bytes:
    """A picture in 256 colours."""
    from PIL import Image

    picture, made = Image.open(io.BytesIO(shot)), io.BytesIO()
    picture.convert("RGB").quantize(256, kmeans=3, dither=Image.Dither.NONE).save(made, "PNG", optimize=True)
    return made.getvalue()


def tried(folder: Path, page: Page) -> bytes:
    """A picture of the page to try a network, after its first example was heard."""
    command = [sys.executable, str(ROOT / "scripts" / "demo.py"), str(folder), "browser=false"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as served:
        assert served.stdout is not None
        address = re.search(r"http://\S+", served.stdout.readline())
        assert address is not None, f"{folder}: its page was not served"
        page.goto(address[0])
        page.get_by_role("button", name="Hear this").first.click()
        page.locator(".near").wait_for()
        page.evaluate("document.querySelector('#heard').scrollIntoView({behavior: 'instant'})")
        shot = small(page.screenshot())
        served.send_signal(signal.SIGINT)
    return shot


def main() -> int:
    """Make all pictures; exit status 2 where there is no browser."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    from playwright.sync_api import sync_playwright

    browser = next((found for name in CHROMIUM if (found := shutil.which(name))), None)
    if browser is None:
        print(f"gallery: none of {', '.join(CHROMIUM)} is on this machine", file=sys.stderr)
        return 2
    work()
    PICTURES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as play:
        page = play.chromium.launch(executable_path=browser, args=["--no-sandbox"]).new_page(
            viewport={"width": WIDTH, "height": HEIGHT}
        )
        for shot in SHOTS:
            (PICTURES / f"{shot.name}.png").write_bytes(take(shot, page))
            print(PICTURES / f"{shot.name}.png")
        page.emulate_media(color_scheme="light")
        (PICTURES / "demo.png").write_bytes(tried(next((RUNS / "sweep").glob("0_*")), page))
        print(PICTURES / "demo.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
