"""Create the images of docs/gallery.md from the embedded data: python scripts/gallery.py.

The script trains a few small networks (some minutes on two cores, stored in outputs/gallery), writes all their pages,
and takes screenshots in a headless Chromium, which must be installed.
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
RUNS, IMAGES = ROOT / "outputs" / "gallery", ROOT / "docs" / "gallery"
WIDTH, HEIGHT = 1180, 900
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


class Screenshot(NamedTuple):
    """Image of a page.

    Args:
        name: Name of the image.
        page: Glob pattern of the page in the folder of the runs.
        selector: Selector of the first visible element; empty for the top of the page.
        scheme: Colour scheme.
    """

    name: str
    page: str
    selector: str = ""
    scheme: str = "light"


SCREENSHOTS = (
    Screenshot("report", "sweep/0_*/report.html"),
    Screenshot("report-errors", "sweep/0_*/report.html", "text=relative to each clip"),
    Screenshot("report-scalars", "affect/report.html", "text=Predictions and residuals", "dark"),
    Screenshot("compare", "sweep/compare.html"),
    Screenshot("compare-pairs", "sweep/compare.html", "#pairs"),
    Screenshot("sweep", "sweep/report.html"),
    Screenshot("curves", "sweep/curves.html"),
    Screenshot("overfit", "overfit/overfit.html"),
    Screenshot("maps", "sweep/maps.html", "#maps"),
    Screenshot("inspect-cnn", "sweep/0_*/inspect_*.html", "#attributions"),
    Screenshot("inspect-digits", "digits/inspect_*.html", "#layers", "dark"),
    Screenshot("explore", "explore/*/explore.html", "#clips"),
    Screenshot("explore-beats", "explore/*/explore.html", "#examples"),
    Screenshot("explore-classes", "explore/*/explore.html", "#classes"),
)
TABLES = {
    "networks": "{rows: [backbone], cols: [metric]}",
    "classes": "{rows: [class], cols: [backbone, metric]}",
}
PAGE = (
    "{name: report, title: CNN and LSTM on the demo clips, "
    "sections: {networks: {title: Genre by network}, classes: {title: 'Genre, class by class'}}}"
)


def write_pages() -> None:
    """Train missing networks, and write all pages."""
    python = [sys.executable]
    names = ("sweep", "affect", "digits", "overfit", "explore")
    sweep, affect, digits, overfit, dataset = (RUNS / name for name in names)
    tables = [f"+hydra.callbacks.table.tables.{name}={table}" for name, table in TABLES.items()]
    tables.append(f"hydra.callbacks.table.page={PAGE}")
    jobs = [
        (sweep, ["train.py", "-m", "backbone=cnn,lstm", "seed=0,1", *tables, f"hydra.sweep.dir={sweep}"]),
        (affect, ["train.py", "backbone=lstm", "task=multitask", f"hydra.run.dir={affect}"]),
        (digits, ["train.py", "experiment=reproduction/step7/digits", f"hydra.run.dir={digits}"]),
        (overfit, ["train.py", "debug=overfit", "backbone=lstm", f"hydra.run.dir={overfit}"]),
        (dataset, ["scripts/explore.py", "data=demo", f"--out={dataset}"]),
    ]
    for folder, arguments in jobs:
        if not folder.is_dir():
            subprocess.run([*python, *arguments], cwd=ROOT, check=True)
    first = next(sweep.glob("0_*"))
    pages = [["compare.py", str(sweep)], ["maps.py", str(sweep), "--methods=pca,tsne,umap", "--dims=2"]]
    for arguments in [*pages, ["inspect.py", str(first)], ["inspect.py", str(digits)]]:
        subprocess.run([*python, str(ROOT / "scripts" / arguments[0]), *arguments[1:]], cwd=ROOT, check=True)


def take_screenshot(shot: Screenshot, page: Page) -> bytes:
    """Return a screenshot as PNG with 256 colours, which is a third of the size."""
    page.emulate_media(color_scheme=shot.scheme)  # type: ignore[arg-type]
    page.goto(next(RUNS.glob(shot.page)).as_uri())
    if shot.selector:
        box = page.locator(shot.selector).first.bounding_box()
        assert box is not None, f"{shot.page} has no {shot.selector}"
        page.evaluate("y => window.scrollTo({top: y, behavior: 'instant'})", box["y"] - 24)
    return reduce_colours(page.screenshot())


def reduce_colours(png: bytes) -> bytes:
    """Return an image with 256 colours."""
    from PIL import Image

    image, output = Image.open(io.BytesIO(png)), io.BytesIO()
    image.convert("RGB").quantize(256, kmeans=3, dither=Image.Dither.NONE).save(output, "PNG", optimize=True)
    return output.getvalue()


def take_demo_screenshot(folder: Path, page: Page) -> bytes:
    """Return a screenshot of the demo page with the prediction of the first example."""
    command = [sys.executable, str(ROOT / "scripts" / "demo.py"), str(folder), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = re.search(r"http://\S+", server.stdout.readline())
        assert address is not None, f"{folder}: its page was not served"
        page.goto(address[0])
        page.get_by_role("button", name="Predict this clip").first.click()
        page.locator(".neighbours").wait_for()
        page.evaluate("document.querySelector('#prediction').scrollIntoView({behavior: 'instant'})")
        png = reduce_colours(page.screenshot())
        server.send_signal(signal.SIGINT)
    return png


def main() -> int:
    """Create all images and return the exit status, which is 2 without a browser."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    from playwright.sync_api import sync_playwright

    browser = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    if browser is None:
        print(f"gallery: none of {', '.join(CHROMIUM)} is installed; install one", file=sys.stderr)
        return 2
    write_pages()
    IMAGES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as play:
        page = play.chromium.launch(executable_path=browser, args=["--no-sandbox"]).new_page(
            viewport={"width": WIDTH, "height": HEIGHT}
        )
        for shot in SCREENSHOTS:
            (IMAGES / f"{shot.name}.png").write_bytes(take_screenshot(shot, page))
            print(IMAGES / f"{shot.name}.png")
        page.emulate_media(color_scheme="light")
        (IMAGES / "demo.png").write_bytes(take_demo_screenshot(next((RUNS / "sweep").glob("0_*")), page))
        print(IMAGES / "demo.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
