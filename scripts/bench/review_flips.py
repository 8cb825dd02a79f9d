"""Flip labels of photos, correct them by keyboard in the page of `review`, train again by its button, and compare.

    python scripts/bench/review_flips.py --photos FOLDER --work WORK --flips 30

FOLDER holds train, val and test, each with a folder for every class; WORK gets links to some of its photos, of which
--flips training and test images (three in five of them training images) stand in the folder of another class. A run is
trained and its labels are analyzed; then every image of the lists of `review` is decided on, as by one who sees what is
on it, the doubtful ones first and all others last. Printed are the flipped labels that were found before the list of
all images, and what the page shows after the training.
"""

from __future__ import annotations

import argparse
import csv
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from review import open_browser, wait
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from classifier_training.core.run_dir import write_csv

if TYPE_CHECKING:
    from collections.abc import Mapping

    from selenium.webdriver import Chrome

RANDOM = random.Random(1)  # noqa: S311 - no secret
SIZES = {"train": 60, "val": 25, "test": 60}
"""Photos of each class."""

LISTS = ("doubtful", "mistakes", "unsure", "unlike", "copies")
PATH = "return document.getElementById('path').textContent"
ENDED = "return !document.getElementById('end').hidden"
STATE = "return document.getElementById('retrain-state').textContent"
FINISHED = "return ['done', 'failed: see the log'].includes(document.getElementById('retrain-state').textContent)"


def flip(photos: Path, work: Path, number: int) -> dict[str, str]:
    """Link photos, some under another class; returns the right classes of these by path."""
    file = work / "flips.csv"
    if not file.exists():
        classes = sorted(path.name for path in (photos / "train").iterdir())
        found = []
        for split, size in SIZES.items():
            files = [(path, name) for name in classes
                     for path in RANDOM.sample(sorted((photos / split / name).iterdir()), size)]  # fmt: skip
            share = {"train": 0.6, "val": 0.0, "test": 0.4}[split]
            flipped = set(RANDOM.sample(range(len(files)), round(share * number)))
            for place, (path, name) in enumerate(files):
                label = RANDOM.choice([other for other in classes if other != name]) if place in flipped else name
                link = work / "photos" / split / label / f"{place}_{path.name}"
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(path.resolve())
                if label != name:
                    found.append((link.relative_to(work / "photos").as_posix(), label, name))
        write_csv(file, ("path", "label", "right"), found)
    with file.open(newline="") as opened:
        return {row["path"]: row["right"] for row in csv.DictReader(opened)}


def command(work: Path, *words: str) -> None:
    """Run a verb in the work folder."""
    subprocess.run([sys.executable, "-m", "classifier_training", *words], cwd=work, check=True, stdout=sys.stderr)


def review_list(browser: Chrome, base: str, name: str, right: Mapping[str, str]) -> int:
    """Decide on every open image of a list as a person would; returns how many there were."""
    browser.get(f"{base}/look?queue={name}&state=open")
    if not wait(browser, "return Boolean(document.getElementById('count')?.textContent)", seconds=5):
        return 0
    wait(browser, f"{PATH} !== '' || !document.getElementById('end').hidden")
    classes = "return JSON.parse(document.getElementById('look').dataset.classes).map((one) => [one.name, one.key])"
    keys = dict(browser.execute_script(classes))
    number = 0
    while not browser.execute_script(ENDED):
        path = browser.execute_script(PATH)
        ActionChains(browser, duration=0).send_keys(keys[right[path]] if path in right else Keys.ENTER).perform()
        if not wait(browser, f"{PATH} !== {path!r} || !document.getElementById('end').hidden"):
            sys.exit(f"{path}: {browser.execute_script('return state.textContent')}")
        number += 1
    return number


def corrected(work: Path, right: Mapping[str, str]) -> int:
    """Return how many labels are corrected; ends when one is corrected wrongly."""
    with (work / "photos/corrections.csv").open(newline="") as file:
        done = {row["path"]: row["new"] for row in csv.DictReader(file) if row["action"] == "relabel"}
    wrong = [path for path, label in done.items() if right.get(path) != label]
    if wrong:
        sys.exit(f"corrected wrongly: {wrong}")
    return len(done)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--flips", type=int, default=30)
    parser.add_argument("--settings", nargs="*", default=["trainer.max_epochs=3", "data.image_size=128"])
    given = parser.parse_args()
    work = given.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    right = flip(given.photos, work, given.flips)
    if not (work / "outputs").exists():
        command(work, "train", "photos", "data.follow_links=true", *given.settings)
        command(work, "analyze", "run=latest")
    words = [sys.executable, "-m", "classifier_training", "review", "latest", "by=bench"]
    server = subprocess.Popen(words, cwd=work, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    address = server.stdout.readline().strip()
    base = address.partition("/?")[0]
    browser = open_browser()
    try:
        browser.get(address)
        wait(browser, "return location.search === ''")
        for name in LISTS:
            print(f"{name}: {review_list(browser, base, name, right)} images decided on")
        print(f"{len(right)} labels flipped, {corrected(work, right)} of them found in the lists and corrected")
        print(f"all others: {review_list(browser, base, 'all', right)} images decided on")
        print(f"{corrected(work, right)} corrected in all")
        browser.get(base)
        wait(browser, "return Boolean(document.getElementById('retrain'))")
        browser.execute_script("document.querySelector('#retrain button').click()")
        wait(browser, FINISHED, seconds=1200)
        print(browser.execute_script(STATE))
        print(browser.execute_script("return document.getElementById('retrain-result').innerText"))
        browser.save_screenshot(str(work / "after.png"))
    finally:
        browser.quit()
        server.send_signal(signal.SIGINT)
        print(server.communicate()[0])


if __name__ == "__main__":
    main()
