"""The pages of runs in a browser, on trainings as they are started on a command line."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from selenium.webdriver import Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from tests.conftest import SMALL
from tests.runs import make_run

from classifier_training.core.run_dir import RunDir

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from selenium.webdriver import Chrome
    from tests.server import Warm

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("quick_runs")]

PATIENCE_SECONDS = 240

HOSTILE = ("per%2fcent", os.fsdecode(b"byte \xff"), "<img src=x onerror=alert(1)>")


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


@pytest.fixture
def address(outputs: Path, tmp_path: Path, browser: Chrome) -> Iterator[str]:
    """Where `review` without a run answers; the browser has opened what it printed."""
    script = Path(sys.executable).with_name("classifier-training")
    with subprocess.Popen(
        [script, "review", f"output={outputs}"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        printed = server.stdout.readline().strip()
        browser.get(printed)
        WebDriverWait(browser, PATIENCE_SECONDS).until(lambda _: browser.current_url.endswith("/runs"))
        yield printed.partition("/?")[0]
        server.send_signal(signal.SIGINT)
        assert server.wait(PATIENCE_SECONDS) == 0


def start(warm: Warm, pictures: Path, outputs: Path) -> tuple[int, RunDir]:
    """Start a training that would take very long; returns its process and run once it has one."""
    before = set(outputs.glob("*/*/config.yaml"))
    words = ["train", f"data.root={pictures}", f"output={outputs}", *SMALL, "trainer.max_epochs=5000",
             "trainer.compile=false", "callbacks.early_stopping=null", "recipe=none"]  # fmt: skip
    pid = warm.quick().start(words, cwd=outputs.parent)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := set(outputs.glob("*/*/config.yaml")) - before):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return pid, RunDir(found.pop().parent)


def wait_until(browser: Chrome, condition: Callable[[], object]) -> None:
    WebDriverWait(browser, PATIENCE_SECONDS, ignored_exceptions=[Exception]).until(lambda _: condition())


def text_of(browser: Chrome, part: str) -> str:
    return browser.find_element(By.ID, part).text


def epochs_done(browser: Chrome) -> int:
    found = re.search(r"(\d+) of 5000\nepochs", text_of(browser, "state"))
    return int(found[1]) if found else -1


def asked(browser: Chrome) -> int:
    return int(browser.execute_script("return performance.getEntriesByType('resource').length"))


def test_a_training_is_watched_and_stopped_and_ends_with_its_report(
    browser: Chrome, forked_commands: Warm, split_folder: Path, outputs: Path, address: str
) -> None:
    wait_until(browser, lambda: "There is no run yet" in text_of(browser, "rows"))
    pid, run = start(forked_commands, split_folder, outputs)
    # The list shows it by itself.
    wait_until(browser, lambda: "running" in text_of(browser, "rows"))
    browser.find_element(By.CSS_SELECTOR, "#rows a").send_keys(Keys.ENTER)
    wait_until(browser, lambda: epochs_done(browser) >= 1)
    browser.execute_script("window.isTheSamePage = true")
    first = epochs_done(browser)
    wait_until(browser, lambda: epochs_done(browser) > first)
    assert browser.title.startswith("running: ")
    assert browser.find_elements(By.CSS_SELECTOR, "#charts path.line")
    assert "epoch" in text_of(browser, "log")

    button = browser.find_element(By.CSS_SELECTOR, "[data-stop]")
    assert button.text == "Stop after this epoch"
    button.send_keys(Keys.ENTER)
    wait_until(browser, lambda: browser.title.startswith("finished: "))
    assert forked_commands.wait(pid).code == 0
    ended = json.loads(run.result.read_text())["ended"]
    assert re.fullmatch(r"stopped on request after \d+ of 5000 epochs", ended)
    assert ended in text_of(browser, "state")
    assert not run.stop_request.exists()
    assert browser.execute_script("return window.isTheSamePage")

    # A run that has come to its end is asked about no more.
    before = asked(browser)
    time.sleep(5)
    assert asked(browser) == before
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]

    browser.find_element(By.LINK_TEXT, "Report").click()
    wait_until(browser, lambda: browser.current_url.endswith("/report.html"))
    assert "stopped on request" in browser.find_element(By.TAG_NAME, "body").text
    # In its sandbox it has no cookies, and scripts of its own work.
    assert "sandboxed" in browser.execute_script("try { return document.cookie } catch (e) { return String(e) }")
    heading = browser.find_element(By.CSS_SELECTOR, "th button")
    browser.execute_script("arguments[0].click()", heading)
    assert heading.find_element(By.XPATH, "..").get_attribute("aria-sort") == "ascending"


def test_a_training_that_dies_shows_so(
    browser: Chrome, forked_commands: Warm, split_folder: Path, outputs: Path, address: str
) -> None:
    pid, run = start(forked_commands, split_folder, outputs)
    browser.get(f"{address}/runs/{run.path.relative_to(outputs).as_posix()}")
    wait_until(browser, lambda: epochs_done(browser) >= 1)
    os.kill(pid, signal.SIGKILL)
    forked_commands.wait(pid)
    wait_until(browser, lambda: browser.title.startswith("interrupted: "))
    assert f"train resume={run.path}" in text_of(browser, "deeds")
    assert not browser.find_elements(By.CSS_SELECTOR, "[data-stop]")


def test_runs_are_chosen_and_compared_by_keyboard(browser: Chrome, outputs: Path, address: str, tmp_path: Path) -> None:
    for number, name in enumerate(HOSTILE):
        make_run(outputs, f"2026-01-02/1{number}-00-00", score=0.5 + number / 10)
        shutil.copytree(make_run(tmp_path, "2026-01-01/10-00-00", name=str(number)), outputs / name)
    time.sleep(1.1)  # for so long a folder is not looked at again
    for width in (400, 1280):
        metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        try:
            browser.get(f"{address}/runs?sort=oldest")
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width
            assert browser.find_elements(By.CSS_SELECTOR, "img") == []
            links = [str(link.get_attribute("href")) for link in browser.find_elements(By.CSS_SELECTOR, "#rows a")]
            assert len(links) == 2 * len(HOSTILE)
            boxes = browser.find_elements(By.CSS_SELECTOR, "input[name=run]")
            compare = browser.find_element(By.ID, "compare")
            assert not compare.is_enabled()
            boxes[0].send_keys(Keys.SPACE)
            assert not compare.is_enabled()
            boxes[-1].send_keys(Keys.SPACE)
            compare.send_keys(Keys.ENTER)
            wait_until(browser, lambda: "Comparison" in browser.title)
            assert len(browser.find_elements(By.CSS_SELECTOR, "thead tr:first-child th")) >= 3
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width
            for link in links:
                browser.get(link)
                assert browser.title != "No such run", link
                assert browser.find_elements(By.CSS_SELECTOR, "img") == []
            # A filter is sent with Enter.
            browser.get(f"{address}/runs")
            browser.find_element(By.NAME, "words").send_keys("2026-01-02", Keys.ENTER)
            wait_until(browser, lambda: f"{len(HOSTILE)} runs of {2 * len(HOSTILE)}" in text_of(browser, "rows"))
        finally:
            browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
