"""The page of an analysis in a browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from selenium.webdriver import Keys
from selenium.webdriver.common.by import By
from tests.pages import HOSTILE as HOSTILE_NAMES
from tests.pages import write_evaluation

from classifier_training.evaluation import report

if TYPE_CHECKING:
    from pathlib import Path

    from selenium.webdriver import Chrome

pytestmark = pytest.mark.browser

HOSTILE = '<img src=x onerror="document.title=1">\n"ü"'


def test_the_page_escapes_sorts_and_fits_a_phone(browser: Chrome, tmp_path: Path) -> None:
    rows = [(HOSTILE, 9, 0.5), ("b", 100, 0.25), ("c", 20, 0.125)]
    body = [
        report.header(HOSTILE, HOSTILE, [("3", HOSTILE)]),
        report.card("error", HOSTILE, HOSTILE * 20, HOSTILE, report.thumbnails([report.Thumbnail("", HOSTILE)])),
        report.section("Table", report.table(("name", "number", "share"), rows)),
    ]
    report.write_page(tmp_path / "report.html", title="the title", body=body)
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        browser.get((tmp_path / "report.html").as_uri())
        assert browser.title == "the title"
        assert browser.find_elements(By.CSS_SELECTOR, "img[src=x]") == []
        assert HOSTILE.partition("\n")[0] in browser.find_element(By.TAG_NAME, "h1").text
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
        button = browser.find_elements(By.CSS_SELECTOR, "th button")[1]
        for expected in (["9", "20", "100"], ["100", "20", "9"]):
            button.click()
            cells = browser.find_elements(By.CSS_SELECTOR, "tbody td:nth-child(2)")
            assert [cell.text for cell in cells] == expected
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("width", [400, 1200])
def test_the_page_of_an_evaluation_shows_cells_sorts_and_fetches_nothing(
    browser: Chrome, tmp_path: Path, width: int
) -> None:
    write_evaluation(tmp_path, HOSTILE_NAMES, list(range(5)) * 8)
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get_log("browser")  # type: ignore[no-untyped-call]  # takes away what earlier pages said
    try:
        browser.get((tmp_path / "report.html").as_uri())
        assert browser.title == "Model on test images"
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        cells = browser.find_elements(By.CSS_SELECTOR, ".matrix .wrong button")
        cells[0].click()
        panel = browser.find_element(By.ID, cells[0].get_attribute("aria-controls") or "")
        assert panel.is_displayed()
        pictures = panel.find_elements(By.TAG_NAME, "img")
        assert len(pictures) == int(cells[0].text)
        assert all(browser.execute_script("return arguments[0].naturalWidth", picture) for picture in pictures)
        assert all(picture.get_attribute("alt") for picture in pictures)
        cells[1].send_keys(Keys.ENTER)
        assert not panel.is_displayed()
        assert [cell.get_attribute("aria-expanded") for cell in cells[:2]] == ["false", "true"]
        cells[1].send_keys(Keys.SPACE)
        assert cells[1].get_attribute("aria-expanded") == "false"
        # The recall of each class, the worst first and then the best.
        heading = browser.find_element(By.XPATH, "//th[button='recall']")
        values = """return [...arguments[0].closest('table').querySelectorAll('tbody td:nth-child(4)')]
            .map(cell => +cell.dataset.value)"""
        for order in ("ascending", "descending"):
            heading.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
            assert heading.get_attribute("aria-sort") == order
            found = browser.execute_script(values, heading)[:5]
            assert found == sorted(found, reverse=order == "descending")
        asked = browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
        assert [name for name in asked if not name.startswith("data:")] == []
        assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


NAMES = {
    "two": ("cat", "dog"),
    "hundred": tuple(f"species {number:03d} black-capped chickadee" for number in range(100)),
    "long": ("Commercial_building_without_visible_damage_but_scaffolding_present", "x" * 300, "a long name " * 9, "b"),
    "scripts": ("日本語のとても長いクラス名はどう表示されるのか", "قطة صغيرة", "बिल्ली", "고양이", "🐈"),
}


@pytest.mark.parametrize("kind", NAMES)
def test_a_phone_shows_the_verdict_first_and_never_scrolls_sideways(browser: Chrome, tmp_path: Path, kind: str) -> None:
    names = NAMES[kind]
    evaluation, _ = write_evaluation(tmp_path, names, list(range(len(names))) * 12, accuracy=0.6)
    assert evaluation.verdict is not None
    metrics = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        for scheme in ("light", "dark"):
            feature = {"name": "prefers-color-scheme", "value": scheme}
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
            browser.get((tmp_path / "report.html").as_uri())
            status = browser.find_element(By.CSS_SELECTOR, ".banner .status")
            assert status.text.casefold() == evaluation.verdict.status
            assert status.location["y"] < 300
            browser.execute_script("for (const part of document.querySelectorAll('details')) part.open = true")
            assert browser.execute_script("return document.documentElement.scrollWidth") <= 400
            # Nothing runs out of what it stands in, unless that can be scrolled.
            wide = """return [...document.querySelectorAll('p, h3, li, figcaption, dd, .card, .thumb, .matrix th')]
                .filter(item => item.scrollWidth > item.clientWidth + 1 && item.clientWidth > 0)
                .map(item => item.outerHTML.slice(0, 200))"""
            assert browser.execute_script(wide) == []
            outside = """return [...document.querySelectorAll('main *')].filter(item => !item.closest('.scroll, pre')
                && item.getBoundingClientRect().right > 400).map(item => item.outerHTML.slice(0, 200))"""
            assert browser.execute_script(outside) == []
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_images_are_filtered_by_their_kind(browser: Chrome, tmp_path: Path) -> None:
    kinds = (["wrong"], ["wrong", HOSTILE], [HOSTILE], ["wrong"])
    shown = [(report.Thumbnail("", f"image {number}"), kind) for number, kind in enumerate(kinds)]
    report.write_page(tmp_path / "report.html", title="t", body=[report.filtered(shown)])
    browser.get((tmp_path / "report.html").as_uri())
    buttons = browser.find_elements(By.CSS_SELECTOR, "button[data-filter]")
    assert [button.text.split("(")[-1] for button in buttons] == ["4)", "3)", "2)"]
    for button, expected in zip((buttons[1], buttons[2], buttons[0]), ([0, 1, 3], [1, 2], [0, 1, 2, 3]), strict=True):
        button.click()
        images = browser.find_elements(By.TAG_NAME, "figure")
        assert [number for number, image in enumerate(images) if image.is_displayed()] == expected
        assert [one.get_attribute("aria-pressed") == "true" for one in buttons] == [one == button for one in buttons]
