"""Time decisions in the page of `review` by keyboard in a Chromium, and kill its server while they are made.

    python scripts/bench/review.py --work WORK --images 50000 --decisions 500 --kills 20

WORK gets drawn images of four classes, or links to those of --photos FOLDER over and over, and the folder of a run on
them with made-up predictions. Printed are the seconds until the server answers; the milliseconds from a key to the next
image, decoded, with the decision on the disk (median, 95th percentile, largest); and, after the server was killed by
SIGKILL at random moments, how many of the decisions that the page showed as saved are not in corrections.csv.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml
from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from classifier_training import cli  # noqa: F401 - fills the register
from classifier_training.core.register import entry

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from selenium.webdriver import Chrome

CLASSES = ("bathroom", "bedroom", "frontal", "kitchen")
RANDOM = random.Random(0)  # noqa: S311 - no secret
KEYS = ("1", "2", "3", "4", Keys.ENTER, "d")

WATCH = """
window.times = []; window.saved = []; let began = 0;
document.addEventListener("keydown", () => { began = performance.now(); }, true);
document.addEventListener("shown", async (event) => {
  const start = began;
  await event.target.decode();
  await new Promise((done) => requestAnimationFrame(done));
  window.times.push(performance.now() - start);
});
new MutationObserver(() => {
  const state = document.getElementById("state");
  if (state.className === "good") window.saved.push(state.textContent);
}).observe(document.getElementById("state"), { childList: true, attributes: true });
"""


def make_data(work: Path, number: int, photos: Path | None) -> tuple[Path, Path]:
    """Write images and a run on them, unless they are there."""
    images, run = work / "images", work / "run"
    if run.exists():
        return images, run
    rng = np.random.default_rng(0)
    sources = sorted(photos.rglob("*.jpg")) if photos else []
    rows = []
    for place in range(number):
        split = "train" if place % 5 else "test"
        label = CLASSES[(place // 5) % len(CLASSES)]
        path = images / split / label / f"{place:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if sources:
            path.symlink_to(sources[place % len(sources)].resolve())
        else:
            small = Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8))
            small.resize((256, 256), Image.Resampling.BICUBIC).save(path, quality=60)
        rows.append((path.relative_to(images).as_posix(), label, split, ""))
    (run / "evaluation").mkdir(parents=True)
    defaults = {option.name: option.default for option in entry("data", "image_folder").options.values()}
    node = {**defaults, "type": "image_folder", "root": str(images), "follow_links": True}
    (run / "config.yaml").write_text(yaml.safe_dump({"data": node}))
    write(run / "splits.csv", ("path", "label", "split", "group"), rows)
    scored = []
    for name, label, split, _ in rows:
        if split == "test":
            shares = rng.dirichlet([0.5] * len(CLASSES))
            best = int(shares.argmax())
            loss = -np.log(max(shares[CLASSES.index(label)], 1e-9))
            scored.append((images / name, label, CLASSES[best], shares[best], loss, "", *shares))
    header = ("path", "true", "predicted", "confidence", "loss", "group", *(f"prob_{name}" for name in CLASSES))
    write(run / "evaluation/predictions.csv", header, scored)
    (run / "result.json").write_text("{}")
    return images, run


def write(path: Path, header: tuple[str, ...], rows: Iterable[Sequence[object]]) -> None:
    """Write a table."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def start(run: Path, corrections: Path) -> tuple[subprocess.Popen[str], str, float]:
    """Start the server; returns it, its address, and the seconds that it took."""
    words = ["review", str(run), f"data.corrections={corrections}", "by=bench"]
    began = time.perf_counter()
    server = subprocess.Popen([sys.executable, "-m", "classifier_training", *words], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    address = server.stdout.readline().strip()
    if not address:
        sys.exit("the server did not start")
    return server, address, time.perf_counter() - began


def open_list(browser: Chrome, address: str) -> None:
    """Open the list of all images at the first that is not decided."""
    browser.get(address)
    wait(browser, "return location.search === ''")
    browser.get(f"{address.partition('/?')[0]}/look?queue=all")
    wait(browser, "return Boolean(document.getElementById('image')?.complete && document.getElementById('image').src)")
    browser.execute_script(WATCH)


def wait(browser: Chrome, condition: str, *, seconds: float = 20) -> bool:
    """Wait until a script returns true; whether it did."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if browser.execute_script(condition):
            return True
        time.sleep(0.003)
    return False


def time_decisions(browser: Chrome, number: int) -> list[float]:
    """Decide on images one after the other; returns the milliseconds of each."""
    for done in range(number):
        ActionChains(browser, duration=0).send_keys(RANDOM.choice(KEYS)).perform()
        if not wait(browser, f"return window.times.length > {done}"):
            sys.exit(f"decision {done} was not answered: {browser.execute_script('return state.textContent')}")
    return list(browser.execute_script("return window.times"))


def decide_until_killed(browser: Chrome, server: subprocess.Popen[str], seconds: float) -> list[str]:
    """Decide while the server is killed after some seconds; returns what the page showed as saved."""
    killer = subprocess.Popen(["sh", "-c", f"sleep {seconds}; kill -9 {server.pid}"])
    while browser.execute_script("return document.getElementById('state').className") != "bad":
        try:
            ActionChains(browser, duration=0).send_keys(RANDOM.choice(KEYS)).perform()
        except WebDriverException:
            break
    killer.wait()
    server.wait()
    return list(browser.execute_script("return window.saved"))


def missing(saved: list[str], corrections: Path) -> list[str]:
    """Decisions that were shown as saved and are in no line of the file."""
    words = {"relabel": "now {new}", "keep": "right", "drop": "dropped"}
    with corrections.open(newline="") as file:
        written = {f"saved: {row['path']}: {words[row['action']].format(**row)}" for row in csv.DictReader(file)}
    return [text for text in saved if text not in written]


def open_browser() -> Chrome:
    """Open a headless Chromium."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,900"):
        options.add_argument(flag)
    return webdriver.Chrome(options, Service(shutil.which("chromedriver")))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--decisions", type=int, default=500)
    parser.add_argument("--kills", type=int, default=20)
    given = parser.parse_args()
    _, run = make_data(given.work, given.images, given.photos)
    corrections = given.work / "corrections.csv"
    corrections.unlink(missing_ok=True)
    browser = open_browser()
    try:
        server, address, seconds = start(run, corrections)
        print(f"{given.images:,} images: the server answers after {seconds:.1f} s")
        open_list(browser, address)
        times = np.array(time_decisions(browser, given.decisions))
        server.send_signal(signal.SIGINT)
        server.wait()
        with corrections.open(newline="") as file:
            lines = sum(1 for _ in csv.DictReader(file))
        print(f"{len(times)} decisions, {lines} lines: median {np.median(times):.0f} ms, "
              f"95th percentile {np.percentile(times, 95):.0f} ms, largest {times.max():.0f} ms")  # fmt: skip
        lost, shown = [], 0
        for _ in range(given.kills):
            server, address, _ = start(run, corrections)
            open_list(browser, address)
            saved = decide_until_killed(browser, server, RANDOM.uniform(0.2, 2.0))
            shown += len(saved)
            lost += missing(saved, corrections)
        print(f"{given.kills} kills: {shown} decisions shown as saved, {len(lost)} of them lost")
        print(json.dumps({"load": os.getloadavg()[0], "cores": os.cpu_count()}))
    finally:
        browser.quit()


if __name__ == "__main__":
    main()
