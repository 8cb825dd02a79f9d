"""The demo page in a browser against Python."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from tests.bundles import CLASS_NAMES, write_small_bundle

from classifier_training.core.errors import UserError
from classifier_training.core.images import read_rgb
from classifier_training.core.run_dir import RunDir
from classifier_training.export.sharing import write_demo

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from selenium.webdriver import Chrome

pytestmark = pytest.mark.browser

PATIENCE_SECONDS = 60


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    run_dir = write_small_bundle(tmp_path_factory.mktemp("bundle"))
    try:
        write_demo(run_dir)
    except UserError as error:
        if not shutil.which("npm"):
            pytest.skip(f"npm is not installed, and neither is onnxruntime-web: {error}")
        raise
    return run_dir


@pytest.fixture(scope="module")
def address(run_dir: RunDir, serve: Callable[[Path], str]) -> str:
    return f"{serve(run_dir.path)}/demo.html"


def status(browser: Chrome) -> str:
    return browser.find_element(By.ID, "status").text


def wait_for(browser: Chrome, beginning: str) -> None:
    WebDriverWait(browser, PATIENCE_SECONDS).until(
        lambda _: status(browser).startswith(beginning), message=f"the page never said {beginning!r}"
    )


def open_page(browser: Chrome, address: str) -> None:
    browser.get(address)
    wait_for(browser, "Ready")


def choose(browser: Chrome, picture: Path) -> None:
    browser.find_element(By.ID, "file").send_keys(str(picture))


def answer(browser: Chrome, picture: Path) -> list[float]:
    """Put an image into the page; returns the probabilities it shows."""
    choose(browser, picture)
    wait_for(browser, "Classified")
    assert picture.name in browser.find_element(By.ID, "caption").text
    rows = browser.find_elements(By.CSS_SELECTOR, "#shares li")
    shown = {row.get_attribute("data-class-name"): float(row.get_attribute("data-probability") or "") for row in rows}
    shares = [shown[name] for name in CLASS_NAMES]
    assert list(shown.values()) == sorted(shares, reverse=True)
    return shares


def test_the_page_answers_the_golden_pictures_as_python_does(browser: Chrome, address: str, run_dir: RunDir) -> None:
    open_page(browser, address)
    for entry in json.loads((run_dir.golden / "golden.json").read_text())["images"]:
        shares = answer(browser, run_dir.golden / entry["image"])
        assert np.abs(np.array(shares) - entry["probabilities"]).max() < 1e-3
        assert CLASS_NAMES[int(np.argmax(shares))] == entry["label"]
        heading = browser.find_element(By.ID, "answer").text
        assert heading == f"{entry['label'] or '(empty name)'}: {100 * max(shares):.1f} %"


def test_the_page_says_what_the_model_is(browser: Chrome, address: str) -> None:
    open_page(browser, address)
    assert browser.title == "test_resnet"
    assert "3 classes; sees 48 x 48 pixels" in browser.find_element(By.ID, "about").text
    browser.find_element(By.TAG_NAME, "summary").click()
    assert browser.find_element(By.CSS_SELECTOR, "#classes p").text == '(empty name), ü, a "b"'


@pytest.mark.parametrize("kind", ["turned", "transparent", "grey", "palette", "jpeg", "profile"])
def test_pixels_are_those_that_python_reads(
    browser: Chrome, address: str, run_dir: RunDir, tmp_path: Path, kind: str
) -> None:
    image = Image.open(run_dir.golden / "0.png")
    path = tmp_path / f"{kind}.png"
    if kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        path = path.with_suffix(".jpg")
        image.save(path, exif=exif, quality=90)
    elif kind == "transparent":
        alpha = np.tile(np.linspace(0, 255, image.width).astype(np.uint8), (image.height, 1))
        image.putalpha(Image.fromarray(alpha))
        image.save(path)
    elif kind == "grey":
        image.convert("L").save(path)
    elif kind == "palette":
        image.quantize(64).save(path, transparency=3)
    elif kind == "jpeg":
        path = path.with_suffix(".jpg")
        image.save(path, quality=90)
    else:
        # A profile that swaps nothing but whose gamma is far from sRGB's: a browser that applied it would change all.
        image.save(path, icc_profile=linear_profile())
    open_page(browser, address)
    session = onnxruntime.InferenceSession(run_dir.pipeline)
    read = read_rgb(path)
    (expected,) = session.run(None, {"image": np.asarray(read)})
    assert np.abs(np.array(answer(browser, path)) - expected).max() < 1e-3
    assert f"{read.width} x {read.height} pixels" in browser.find_element(By.ID, "caption").text


def linear_profile() -> bytes:
    """sRGB's ICC profile with its tone curves made straight."""
    from PIL import ImageCms

    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    number = int.from_bytes(profile[128:132], "big")
    for entry in range(132, 132 + 12 * number, 12):
        if bytes(profile[entry : entry + 4]) in (b"rTRC", b"gTRC", b"bTRC"):
            start = int.from_bytes(profile[entry + 4 : entry + 8], "big")
            # A `para` curve of type 0 is a power alone; 1.0 in 16.16 bits.
            profile[start + 8 : start + 16] = b"\0\0\0\0\0\1\0\0"
    return bytes(profile)


def test_what_is_no_picture_is_named_and_the_next_one_still_goes(
    browser: Chrome, address: str, run_dir: RunDir, tmp_path: Path
) -> None:
    open_page(browser, address)
    (tmp_path / "words.png").write_text("no image")
    choose(browser, tmp_path / "words.png")
    wait_for(browser, "words.png is not an image that this browser can read.")
    assert not browser.find_element(By.ID, "result").is_displayed()
    answer(browser, run_dir.golden / "0.png")


def test_the_keyboard_reaches_the_file_chooser(browser: Chrome, address: str) -> None:
    open_page(browser, address)
    ActionChains(browser).send_keys(Keys.TAB).perform()
    assert browser.switch_to.active_element.get_attribute("id") == "file"


def test_a_picture_can_be_dropped(browser: Chrome, address: str, run_dir: RunDir) -> None:
    open_page(browser, address)
    browser.execute_async_script(
        """
        const [address, done] = arguments;
        fetch(address).then((response) => response.blob()).then((blob) => {
          const carried = new DataTransfer();
          carried.items.add(new File([blob], "dropped.png", { type: "image/png" }));
          const how = { dataTransfer: carried, bubbles: true, cancelable: true };
          document.body.dispatchEvent(new DragEvent("drop", how));
          done();
        });
        """,
        address.replace("demo.html", "golden/0.png"),
    )
    wait_for(browser, "Classified")
    assert "dropped.png" in browser.find_element(By.ID, "caption").text


@pytest.mark.parametrize("missing", ["pipeline.onnx", "demo/classifier.js", "demo/ort-wasm-simd-threaded.wasm"])
def test_a_file_that_the_server_lacks_is_named(
    browser: Chrome, run_dir: RunDir, serve: Callable[[Path], str], tmp_path: Path, missing: str
) -> None:
    incomplete = RunDir(tmp_path / "incomplete")
    shutil.copytree(run_dir.path, incomplete.path)
    (incomplete.path / missing).unlink()
    browser.get(f"{serve(incomplete.path)}/demo.html")
    wait_for(browser, "The model cannot be loaded.")
    assert missing.rpartition("/")[2] in status(browser)


def test_a_page_opened_as_a_file_says_how_to_serve_it(browser: Chrome, run_dir: RunDir) -> None:
    browser.get(run_dir.demo.as_uri())
    assert "http.server" in status(browser)


def test_the_page_fits_a_phone(browser: Chrome, address: str, run_dir: RunDir) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True},
    )
    try:
        open_page(browser, address)
        answer(browser, run_dir.golden / "0.png")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_page_asks_for_nothing_but_its_own_files(browser: Chrome, address: str, run_dir: RunDir) -> None:
    browser.get_log("browser")  # type: ignore[no-untyped-call]  # takes away what earlier pages said
    open_page(browser, address)
    answer(browser, run_dir.golden / "0.png")
    asked = browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    own = address.removesuffix("demo.html")
    assert f"{own}pipeline.onnx" in asked
    assert [name for name in asked if not name.startswith((own, "data:", "blob:"))] == []
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []  # type: ignore[no-untyped-call]
