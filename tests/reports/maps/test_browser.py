"""Tests of hovering, marking, colouring and rotating on the page, in a browser without network."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.commands import maps as main

DRAWN = "drawnPanels.length > 0 && drawnPanels.length === selectedMaps().filter(map => !map.problem).length"
POSITION = """([panel, clip]) => {
  const { plot, rowOf } = drawnPanels[panel], { xaxis, yaxis } = plot._fullLayout, box = plot.getBoundingClientRect();
  const { x, y } = plot._fullData[0], i = rowOf.get(clip);
  return [box.x + xaxis._offset + xaxis.l2p(x[i]), box.y + yaxis._offset + yaxis.l2p(y[i])];
}"""
MARKED = (
    "([panel, clip]) => drawnPanels[panel].markedClip === clip"
    " && drawnPanels[panel].plot._fullData[1].x.length === Number(clip !== null)"
)


@pytest.fixture(scope="module")
def address(run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a page of two runs with different embeddings."""
    other = shutil.copytree(run, tmp_path_factory.mktemp("other") / "other")
    table = pd.read_parquet(other / "predictions.parquet")
    table["embedding"] = [row**2 for row in table["embedding"]]
    table.to_parquet(other / "predictions.parquet")
    folder = tmp_path_factory.mktemp("page")
    assert main([str(run), str(other), "--methods=pca,mds", f"--out={folder}"]) == 0
    return (folder / "maps.html").as_uri()


@pytest.fixture
def page(browser, address: str) -> Iterator:
    """Page with drawn maps. A logged error or a network request fails the test."""
    context = browser.new_context(offline=True, viewport={"width": 1440, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(120_000)
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "request",
        lambda request: None if request.url.startswith(("file:", "data:", "blob:")) else errors.append(request.url),
    )
    page.goto(address)
    page.wait_for_function(DRAWN)
    yield page
    assert errors == []
    context.close()


def hover(page, panel: int, clip: int) -> None:
    page.locator(".plot").nth(panel).scroll_into_view_if_needed()
    page.mouse.move(*page.evaluate(POSITION, [panel, clip]))
    page.wait_for_function("clip => hovered?.clip === clip", arg=clip)


def test_hovering_describes_a_clip_and_marks_it_in_the_other_run(page) -> None:
    assert page.evaluate("data.clips[0]").startswith("<script>")
    hover(page, 0, 0)
    page.wait_for_function("document.querySelector('.hoverlayer').textContent.includes('</script>')")
    label = page.evaluate("document.querySelector('.hoverlayer').textContent")
    assert "<script>alert('clip')</script>" in label
    assert "group: artist 0" in label and "genre: true" in label and "predicted" in label
    page.wait_for_function(MARKED, arg=[1, 0])
    assert page.inner_text("#marked-clip").startswith("<script>alert('clip')</script> · group artist 0 · genre: true")
    page.mouse.move(2, 2)
    page.wait_for_function(MARKED, arg=[1, None])


def test_selected_clip_stays_marked_and_can_be_changed_by_keyboard(page) -> None:
    hover(page, 1, 7)
    page.mouse.down()
    page.mouse.up()
    page.wait_for_function("selectedClip === 7")
    page.mouse.move(2, 2)
    for panel in (0, 1):
        page.wait_for_function(MARKED, arg=[panel, 7])
    assert page.input_value("#clip-id") == page.evaluate("data.clips[7]")
    page.focus("#next")
    page.keyboard.press("Enter")
    for panel in (0, 1):
        page.wait_for_function(MARKED, arg=[panel, 8])
    page.fill("#clip-id", page.evaluate("data.clips[3]"))
    page.keyboard.press("Tab")
    page.wait_for_function(MARKED, arg=[0, 3])
    page.click("#clear")
    page.wait_for_function(MARKED, arg=[0, None])


def test_colour_can_show_classes_numbers_errors_and_groups(page) -> None:
    colours = "() => JSON.stringify(drawnPanels.map(({plot}) => plot.data[0].marker.color))"
    seen = {page.evaluate(colours)}
    assert page.inner_text("#legend").split() == ["ambient", "folk", "jazz", "rock"]
    for option, text in [
        ("error:0", "incorrect"),
        ("true:1", "unknown"),
        ("error:2", "too low by"),
        ("group", "artist 5"),
    ]:
        page.select_option("#colour", option)
        page.wait_for_function(f"before => ({colours})() !== before", arg=list(seen)[-1])
        assert text in page.inner_text("#legend")
        seen.add(page.evaluate(colours))
    assert len(seen) == 5
    page.focus("#colour")
    page.keyboard.press("Home")
    page.wait_for_function("document.querySelector('#legend').textContent.includes('jazz')")


def test_marks_have_the_colours_of_the_legend(page, table: pd.DataFrame) -> None:
    test = table[table["split"] == "test"]
    drawn = page.evaluate("drawnPanels[0].plot.data[0].marker.color")
    legend = page.evaluate(
        "[...document.querySelectorAll('#legend path')].map(path => path.style.stroke || path.style.fill)"
    )
    rgb = page.evaluate(
        "colours => colours.map(c => Object.assign(document.createElement('i').style, {color: c}).color)", drawn
    )
    names = sorted(test["genre.true"].unique())
    assert [legend[names.index(name)] for name in test["genre.true"]] == rgb


def test_3d_map_is_drawn_on_demand_and_rotates(page) -> None:
    assert page.locator("canvas").count() == 0
    page.check("input[name=dims][value='3']")
    page.wait_for_function(f"{DRAWN} && drawnPanels.every(({{map}}) => map.dims === 3)")
    camera = "() => JSON.stringify(drawnPanels[0].plot._fullLayout.scene._scene.getCamera().eye)"
    before = page.evaluate(camera)
    plot = page.locator(".plot").first
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 220, box["y"] + 150, steps=6)
    page.mouse.up()
    page.wait_for_function(f"before => ({camera})() !== before", arg=before)
    page.click("#next")
    page.wait_for_function(MARKED, arg=[1, 0])


def test_methods_of_one_run_are_shown_together(page) -> None:
    page.select_option("#view", "run:1")
    page.wait_for_function(f"{DRAWN} && drawnPanels.every(({{map}}) => map.run === 'other')")
    assert page.locator(".panel h3").all_inner_texts() == ["other · PCA", "other · MDS"]
    assert page.locator(".panel table").first.inner_text().count("\n") >= 9


def test_coordinates_on_the_page_equal_those_of_the_file(page, address: str) -> None:
    written = pd.read_csv(Path(address.removeprefix("file://")).with_name("maps.csv"))
    for panel, name in enumerate(page.evaluate("data.runs.map(run => run.name)")):
        rows = written[(written["run"] == name) & (written["method"] == "pca") & (written["dims"] == 2)]
        x, y = (np.array(page.evaluate(f"[...drawnPanels[{panel}].plot._fullData[0].{axis}]")) for axis in "xy")
        scale = 30_000 / np.abs(rows[["x", "y"]] - rows[["x", "y"]].mean()).to_numpy().max()
        np.testing.assert_allclose(x, scale * (rows["x"] - rows["x"].mean()), atol=0.51)
        np.testing.assert_allclose(y, scale * (rows["y"] - rows["y"].mean()), atol=0.51)


def test_page_on_a_small_screen_and_in_dark_mode(browser, address: str) -> None:
    colours_by_scheme = []
    for scheme in ("light", "dark"):
        context = browser.new_context(offline=True, viewport={"width": 390, "height": 800}, color_scheme=scheme)
        page = context.new_page()
        page.goto(address)
        page.wait_for_function(DRAWN, timeout=120_000)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        colours_by_scheme.append(page.evaluate("drawnPanels[0].plot.data[0].marker.color"))
        context.close()
    assert colours_by_scheme[0] != colours_by_scheme[1]
