"""The page in a real browser without a network: pointing, marking, colouring, turning."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from etude.cli.maps import main

DRAWN = "shown.length > 0 && shown.length === wanted().filter(map => !map.why).length"
WHERE = """([panel, clip]) => {
  const { plot, at } = shown[panel], { xaxis, yaxis } = plot._fullLayout, box = plot.getBoundingClientRect();
  const { x, y } = plot._fullData[0], i = at.get(clip);
  return [box.x + xaxis._offset + xaxis.l2p(x[i]), box.y + yaxis._offset + yaxis.l2p(y[i])];
}"""
MARKED = (
    "([panel, clip]) => shown[panel].mark === clip && shown[panel].plot._fullData[1].x.length === Number(clip !== null)"
)


@pytest.fixture(scope="module")
def address(run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page of two runs, one of which has its clips elsewhere."""
    other = shutil.copytree(run, tmp_path_factory.mktemp("other") / "other")
    table = pd.read_parquet(other / "predictions.parquet")
    table["embedding"] = [row**2 for row in table["embedding"]]
    table.to_parquet(other / "predictions.parquet")
    to = tmp_path_factory.mktemp("page")
    assert main([str(run), str(other), "methods=pca,mds", f"to={to}"]) == 0
    return (to / "latent.html").as_uri()


@pytest.fixture
def page(browser, address: str) -> Iterator:
    """The page, drawn; whatever it logs as an error or asks of a network fails the test."""
    context = browser.new_context(offline=True, viewport={"width": 1440, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(120_000)
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request",
        lambda request: None if request.url.startswith(("file:", "data:", "blob:")) else wrong.append(request.url),
    )
    page.goto(address)
    page.wait_for_function(DRAWN)
    yield page
    assert wrong == []
    context.close()


def point(page, panel: int, clip: int) -> None:
    page.locator(".plot").nth(panel).scroll_into_view_if_needed()
    page.mouse.move(*page.evaluate(WHERE, [panel, clip]))
    page.wait_for_function("clip => pointed?.clip === clip", arg=clip)


def test_pointing_at_a_clip_tells_of_it_and_marks_it_in_the_other_run(page) -> None:
    assert page.evaluate("data.clips[0]").startswith("<script>")
    point(page, 0, 0)
    page.wait_for_function("document.querySelector('.hoverlayer').textContent.includes('</script>')")
    hover = page.evaluate("document.querySelector('.hoverlayer').textContent")
    assert "<script>alert('clip')</script>" in hover
    assert "group: artist 0" in hover and "genre: truth" in hover and "prediction" in hover
    page.wait_for_function(MARKED, arg=[1, 0])
    assert page.inner_text("#clip").startswith("<script>alert('clip')</script> · group artist 0 · genre: truth")
    page.mouse.move(2, 2)
    page.wait_for_function(MARKED, arg=[1, None])


def test_a_chosen_clip_stays_marked_in_every_map_and_by_keyboard(page) -> None:
    point(page, 1, 7)
    page.mouse.down()
    page.mouse.up()
    page.wait_for_function("chosen === 7")
    page.mouse.move(2, 2)
    for panel in (0, 1):
        page.wait_for_function(MARKED, arg=[panel, 7])
    assert page.input_value("#find") == page.evaluate("data.clips[7]")
    page.focus("#next")
    page.keyboard.press("Enter")
    for panel in (0, 1):
        page.wait_for_function(MARKED, arg=[panel, 8])
    page.fill("#find", page.evaluate("data.clips[3]"))
    page.keyboard.press("Tab")
    page.wait_for_function(MARKED, arg=[0, 3])
    page.click("#clear")
    page.wait_for_function(MARKED, arg=[0, None])


def test_the_colour_can_be_that_of_classes_numbers_errors_and_groups(page) -> None:
    colours = "() => JSON.stringify(shown.map(({plot}) => plot.data[0].marker.color))"
    seen = {page.evaluate(colours)}
    assert page.inner_text("#legend").split() == ["ambient", "folk", "jazz", "rock"]
    for choice, said in [("fault:0", "wrong"), ("true:1", "unknown"), ("fault:2", "too low by"), ("group", "artist 5")]:
        page.select_option("#colour", choice)
        page.wait_for_function(f"before => ({colours})() !== before", arg=list(seen)[-1])
        assert said in page.inner_text("#legend")
        seen.add(page.evaluate(colours))
    assert len(seen) == 5
    page.focus("#colour")
    page.keyboard.press("Home")
    page.wait_for_function("document.querySelector('#legend').textContent.includes('jazz')")


def test_classes_have_the_colours_of_the_legend(page, table: pd.DataFrame) -> None:
    test = table[table["split"] == "test"]
    drawn = page.evaluate("shown[0].plot.data[0].marker.color")
    legend = page.evaluate(
        "[...document.querySelectorAll('#legend path')].map(path => path.style.stroke || path.style.fill)"
    )
    rgb = page.evaluate(
        "colours => colours.map(c => Object.assign(document.createElement('i').style, {color: c}).color)", drawn
    )
    names = sorted(test["genre.true"].unique())
    assert [legend[names.index(name)] for name in test["genre.true"]] == rgb


def test_a_map_in_space_turns_and_is_made_when_it_is_asked_for(page) -> None:
    assert page.locator("canvas").count() == 0
    page.check("input[name=dims][value='3']")
    page.wait_for_function(f"{DRAWN} && shown.every(({{map}}) => map.dims === 3)")
    camera = "() => JSON.stringify(shown[0].plot._fullLayout.scene._scene.getCamera().eye)"
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


def test_methods_of_one_run_side_by_side(page) -> None:
    page.select_option("#view", "run:1")
    page.wait_for_function(f"{DRAWN} && shown.every(({{map}}) => map.run === 'other')")
    assert page.locator(".panel h3").all_inner_texts() == ["other · PCA", "other · MDS"]
    assert page.locator(".panel table").first.inner_text().count("\n") >= 9


def test_coordinates_on_the_page_are_those_of_the_file(page, address: str) -> None:
    kept = pd.read_csv(Path(address.removeprefix("file://")).with_name("latent.csv"))
    for panel, name in enumerate(page.evaluate("data.runs.map(run => run.name)")):
        here = kept[(kept["run"] == name) & (kept["method"] == "pca") & (kept["dims"] == 2)]
        x, y = (np.array(page.evaluate(f"[...shown[{panel}].plot._fullData[0].{axis}]")) for axis in "xy")
        scale = 30_000 / np.abs(here[["x", "y"]] - here[["x", "y"]].mean()).to_numpy().max()
        np.testing.assert_allclose(x, scale * (here["x"] - here["x"].mean()), atol=0.51)
        np.testing.assert_allclose(y, scale * (here["y"] - here["y"].mean()), atol=0.51)


def test_small_and_dark(browser, address: str) -> None:
    looks = []
    for scheme in ("light", "dark"):
        context = browser.new_context(offline=True, viewport={"width": 390, "height": 800}, color_scheme=scheme)
        page = context.new_page()
        page.goto(address)
        page.wait_for_function(DRAWN, timeout=120_000)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        looks.append(page.evaluate("shown[0].plot.data[0].marker.color"))
        context.close()
    assert looks[0] != looks[1]
