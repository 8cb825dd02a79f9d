"""The page of an analysis in a browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from selenium.webdriver.common.by import By

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
