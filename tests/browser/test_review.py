"""The pages of `review` in a browser, served by the command as a user starts it."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait
from tests.conftest import SMALL
from tests.reviewed import CLASSES, make_reviewed

from classifier_training.data.corrections import LabelCorrection, append_corrections, read_corrections

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from selenium.webdriver import Chrome
    from tests.server import Ended

    from classifier_training.core.run_dir import RunDir

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
WIDTHS = (400, 1280)

READY = """
return Boolean(document.querySelector("#tiles li") || document.getElementById("path")?.textContent
               || document.getElementById("end")?.hidden === false)"""


@contextmanager
def served(*words: object, cwd: Path | None = None) -> Iterator[str]:
    """Start the command; gives the printed address, and ends it as Ctrl-C does."""
    server = subprocess.Popen(
        [sys.executable, "-m", "classifier_training", "review", *map(str, words)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=cwd,
    )
    assert server.stdout is not None
    try:
        address = server.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), address
        yield address
        server.send_signal(signal.SIGINT)
        assert server.wait(20) == 0
        assert "corrections.csv" in server.stdout.read()
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return make_reviewed(tmp_path)


@pytest.fixture
def page(browser: Chrome, run: RunDir) -> Iterator[Page]:
    with served(run.path, "by=ana") as address:
        yield Page(browser, address, run.path.parent / "images/corrections.csv")
        bad = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]  # type: ignore[no-untyped-call]
        assert not bad


class Page:
    """Drives the pages by keyboard."""

    def __init__(self, browser: Chrome, address: str, file: Path) -> None:
        self.browser = browser
        self.base = address.partition("/?")[0]
        self.file = file
        browser.get_log("browser")  # type: ignore[no-untyped-call]  # takes away what earlier pages said
        browser.get(address)
        self.until(lambda: browser.current_url == f"{self.base}/" and self.all("h1"))

    def until(self, condition: Callable[[], object]) -> None:
        WebDriverWait(self.browser, 20, poll_frequency=0.02).until(lambda _: condition())

    def open(self, path: str) -> None:
        self.browser.get(self.base + path)
        self.until(lambda: self.text("count") and self.browser.execute_script(READY))

    def text(self, name: str) -> str:
        return self.browser.find_element(By.ID, name).text

    def all(self, selector: str) -> list[Any]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def press(self, *keys: str) -> None:
        for key in keys:
            ActionChains(self.browser, duration=0).send_keys(key).perform()

    def decide(self, key: str) -> str:
        """Press a key and wait for the next image; returns the path of the one that was decided on."""
        path = self.path
        self.press(key)
        self.until(lambda: self.path != path)
        return path

    @property
    def path(self) -> str:
        return str(self.browser.execute_script("return document.getElementById('path').textContent"))

    @property
    def lines(self) -> list[tuple[str, str, str]]:
        found = read_corrections(self.file) if self.file.exists() else ()
        return [(line.path, line.action, line.new) for line in found]


@contextmanager
def wide(browser: Chrome, width: int, scheme: str = "light") -> Iterator[None]:
    """Give the window a width and a colour scheme."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    try:
        yield
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_labels_are_corrected_by_keyboard(page: Page) -> None:
    page.open("/look?queue=all")
    number = len(
        page.browser.execute_script("return fetch('/api/list?queue=all').then((found) => found.json())")["ids"]
    )
    assert page.text("count") == f"0 of {number} looked at"
    first = page.decide("2")
    assert page.lines == [(first, "relabel", CLASSES[1])]
    second = page.decide(Keys.ENTER)
    third = page.decide("d")
    skipped = page.decide("s")
    assert page.lines[1:] == [(second, "keep", ""), (third, "drop", "")]
    assert page.text("count") == f"3 of {number} looked at"
    page.decide("u")
    assert page.path == third
    assert page.lines[3:] == [(third, "keep", "")]
    assert page.text("count") == f"2 of {number} looked at"
    page.press(Keys.ARROW_RIGHT)
    page.until(lambda: page.path == skipped)
    page.press("/")
    page.press(*"brand new", Keys.ENTER)
    page.until(lambda: page.path != skipped)
    assert page.lines[4:] == [(skipped, "relabel", "brand new")]
    # A page that is loaded again goes on where nobody has decided.
    page.open("/look?queue=all")
    page.until(lambda: page.path == third)
    assert page.text("count") == f"3 of {number} looked at"


def test_the_suggested_label_is_accepted_by_a_key(page: Page) -> None:
    page.open("/look?queue=mistakes")
    assert "the model says" in page.text("reasons")
    first = page.decide("a")
    ((path, action, new),) = page.lines
    assert (path, action) == (first, "relabel")
    assert new in CLASSES
    page.press("a")
    page.until(lambda: page.text("end").startswith("This was the last image"))
    assert page.text("count") == "2 of 2 looked at"


def test_a_page_that_is_behind_is_told_who_decided(page: Page) -> None:
    page.open("/look?queue=all")
    path = page.path
    append_corrections(
        page.file, [LabelCorrection(path=path, old=path.split("/")[1], action="drop", who="ben", when="")]
    )
    page.press(Keys.ENTER)
    page.until(lambda: "Already decided: dropped (ben" in page.text("state"))
    assert page.path == path
    assert len(page.lines) == 1
    page.decide(Keys.ENTER)
    assert page.lines[1] == (path, "keep", "")


def test_a_server_that_is_gone_is_no_saved_decision(browser: Chrome, run: RunDir) -> None:
    with served(run.path) as address:
        page = Page(browser, address, run.path.parent / "images/corrections.csv")
        page.open("/look?queue=all")
    path = page.path
    page.press("2")
    page.until(lambda: "does not answer" in page.text("state"))
    assert page.path == path
    browser.get("about:blank")


def test_many_images_are_labelled_at_once(page: Page) -> None:
    page.open("/grid?queue=all&label=%3Dcat")
    tiles = page.all("[role=option]")
    page.press(" ", Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, " ")
    assert page.text("selected") == "2 selected"
    wanted = [tiles[0].get_attribute("data-id"), tiles[2].get_attribute("data-id")]
    chosen = [tile.get_attribute("data-id") for tile in page.all("[aria-selected=true]")]
    assert chosen == wanted
    page.press("3")
    page.until(lambda: "saved: 2" in page.text("state"))
    assert [line[1:] for line in page.lines] == [("relabel", CLASSES[2])] * 2
    page.press("u")
    page.until(lambda: "taken back: 2" in page.text("state"))
    assert [line[1] for line in page.lines[2:]] == ["keep", "keep"]
    ActionChains(page.browser).key_down(Keys.CONTROL).send_keys("a").key_up(Keys.CONTROL).perform()
    page.press(Keys.ENTER)
    page.until(lambda: f"saved: {len(tiles)}" in page.text("state"))
    assert page.text("count") == f"{len(tiles)} of {len(tiles)} looked at"


def test_a_cell_of_the_matrix_opens_its_images(page: Page) -> None:
    cell = page.all(".matrix .wrong a")[0]
    number = int(cell.text)
    cell.click()
    page.until(lambda: "/look" in page.browser.current_url and page.text("count"))
    assert page.text("count") == f"0 of {number} looked at"


def test_hostile_names_are_text(page: Page, run: RunDir) -> None:
    title = page.browser.title
    with run.splits.open(encoding="utf-8", newline="") as file:
        paths = {row["path"] for row in csv.DictReader(file)}
    page.open("/look?queue=all")
    seen = {page.path}
    for _ in range(len(paths) - 1):
        seen.add(page.path if page.decide("s") else "")
    seen.add(page.path)
    assert seen >= paths
    page.open("/grid?queue=all")
    shown = {picture.get_attribute("alt") for picture in page.all("[role=option] img")}
    assert {path for path in paths if "test" in path} <= shown
    assert page.browser.title != "1"
    assert page.all("img[src=x], #tiles script, #look script") == []
    assert title == "Review"


def test_zoom_and_help_open_and_close(page: Page) -> None:
    page.open("/look?queue=all")
    path = page.path
    for key, name in (("z", "zoomed"), ("?", "help")):
        page.press(key)
        assert page.browser.find_element(By.ID, name).is_displayed()
        page.press("2")
        page.press(Keys.ESCAPE)
        page.until(lambda name=name: not page.browser.find_element(By.ID, name).is_displayed())  # type: ignore[misc]
    assert page.path == path
    assert page.lines == []
    page.press("g")
    page.until(lambda: "/grid?queue=all" in page.browser.current_url)


def test_flipped_labels_are_corrected_and_a_click_trains_again(
    browser: Chrome, command: Callable[..., Ended], tmp_path: Path, split_folder: Path, quick_runs: None
) -> None:
    flips = {f"{split}/red/wrong{number}.png": (split, number) for split in ("train", "test") for number in (0, 1)}
    for path, (split, number) in flips.items():
        (split_folder / split / f"blue/{number:02d}.png").rename(split_folder / path)
    done = command("train", "images", *SMALL, cwd=tmp_path)
    assert done.code == 0, done.err
    with served("latest", f"data.root={split_folder}", "by=ana", cwd=tmp_path) as address:
        page = Page(browser, address, split_folder / "corrections.csv")
        page.open("/look?queue=all&label=%3Dred&text=wrong")
        decided = [page.decide("1") for _ in range(len(flips) - 1)]
        decided.append(page.path)
        page.press("1")
        page.until(lambda: len(page.lines) == len(flips))
        assert page.lines == [(path, "relabel", "blue") for path in decided]
        assert set(decided) == set(flips)
        browser.get(page.base)
        page.until(lambda: page.all("#retrain button"))
        page.all("#retrain button")[0].click()
        WebDriverWait(browser, 300).until(lambda _: page.text("retrain-state") in ("done", "failed: see the log"))
        assert page.text("retrain-state") == "done", page.text("retrain-log")
        rows = [row.text.split() for row in page.all("#retrain-result tbody tr")]
        assert [row[0] for row in rows] == ["accuracy", "balanced"]
        assert page.lines == [(path, "relabel", "blue") for path in decided]
    (effect,) = tmp_path.glob("outputs/*/*/evaluation/corrections_effect.json")
    found = json.loads(effect.read_text())
    assert found["corrections"]["new"]["relabel"] == len(flips)
    assert found["labels_corrected"] == 2
    expected = found["corrected_labels"]["accuracy"]
    assert rows[0][1:3] == [f"{expected['before']:.4f}", f"{expected['after']:.4f}"]


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The script that checks a page's accessibility: the checkout's own, else one that npm gets."""
    script = "node_modules/axe-core/axe.min.js"
    folder = ROOT / "clients/js"
    if not (folder / script).is_file():
        if shutil.which("npm") is None:
            pytest.skip("npm is not installed")
        folder = tmp_path_factory.mktemp("axe")
        words = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "axe-core@^4.10.0"]
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"axe-core is not installed: {done.stderr}")
    return (folder / script).read_text(encoding="utf-8")


@pytest.mark.parametrize("width", WIDTHS)
def test_pages_fit_and_are_accessible(page: Page, axe: str, width: int) -> None:
    for path in ("/", "/look?queue=mistakes", "/grid?queue=all"):
        for scheme in ("light", "dark"):
            with wide(page.browser, width, scheme):
                if path == "/":
                    page.browser.get(page.base + path)
                else:
                    page.open(path)
                assert page.browser.execute_script("return document.documentElement.scrollWidth") <= width
                # The page's own policy forbids scripts in it; the driver's are outside of it.
                page.browser.execute_script(axe)
                found = page.browser.execute_async_script("const done = arguments[0]; axe.run().then(done)")
                problems = [(one["id"], [node["html"] for node in one["nodes"]][:2]) for one in found["violations"]]
                assert problems == [], (path, scheme)
