"""`predict sketches=` and `watch` on the real command line: nothing, a change, its page, alerts, and what to label."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from tests.conftest import SMALL, make_class_folders, read_csv
from tests.server import Ended, Warm

pytestmark = pytest.mark.usefixtures("quick_runs")

CLASSES = ("blue", "green", "red")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, forked_commands: Warm) -> Path:
    """A folder with images, noisy ones, and a run that was calibrated."""
    folder = tmp_path_factory.mktemp("watch")
    for split, count in (("train", 8), ("val", 12), ("test", 20)):
        make_class_folders(folder / "images" / split, dict.fromkeys(CLASSES, count))
    generator = np.random.default_rng(0)
    for path in sorted((folder / "images/test").glob("*/*.png")):
        pixels = np.asarray(Image.open(path)).astype(float) + generator.normal(0, 60, (30, 40, 3))
        target = folder / "noisy" / f"{path.parent.name}_{path.name}"
        target.parent.mkdir(exist_ok=True)
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(target)
    words = ["train", "data.root=images", *SMALL, "callbacks=[checkpoint,onnx_export]", "output=run", "seed=1"]
    ended = forked_commands.quick().run(words, cwd=folder)
    assert ended.code == 0, ended.err
    return folder


@pytest.fixture(scope="module")
def run(trained: Path) -> Path:
    """The run."""
    return next(trained.glob("run/**/model_info.json")).parent


def predicted(command: Callable[..., Ended], source: Path, run: Path, folder: Path, day: str) -> None:
    """Predict a folder on a day."""
    before = set(folder.glob("*.json"))
    ended = command("predict", str(source), f"run={run}", f"sketches={folder}", "quiet=true")
    assert ended.code == 0, ended.err
    assert f"sketches: {folder}" in ended.out
    (new,) = set(folder.glob("*.json")) - before
    assert new.stat().st_size < 4000
    assert not any(word in new.read_text() for word in (".png", "images/", "noisy"))
    new.rename(folder / f"{day}T10{new.name[13:]}")


def test_a_change_is_found_shown_and_handed_on(
    command: Callable[..., Ended], trained: Path, run: Path, tmp_path: Path, drawn: None
) -> None:
    folder = tmp_path / "sketches"
    for day in ("2026-03-01", "2026-03-02"):
        predicted(command, trained / "images/test", run, folder, day)
    quiet = command("watch", str(folder), f"run={run}")
    assert quiet.code == 0, quiet.out + quiet.err
    assert "120 predictions of 2 days (UTC), 2026-03-01 to 2026-03-02" in quiet.out
    assert "OK: no change was found" in quiet.out

    predicted(command, trained / "noisy", run, folder, "2026-03-03")
    output, alerts = tmp_path / "watched", tmp_path / "alerts.yml"
    found = command(
        # The folder that serve would record in has the sketches in a folder of that name.
        "watch", str(tmp_path), f"run={run}", f"output={output}", f"alerts={alerts}",
        f"images={trained / 'noisy'}", "label_next=5",
    )  # fmt: skip
    assert found.code == 1, found.out + found.err
    assert "SHIFT: the images have changed: noise, since 2026-03-03" in found.out
    values = json.loads((output / "watch.json").read_text())
    assert (values["shift"], values["kind"], values["since"]["day"]) == (True, "noise", "2026-03-03")
    assert [day["shift"] for day in values["days"]] == [False, False, True]
    assert values["days"][2]["num_predictions"] == 60
    page = (output / "report.html").read_text()
    assert page.count("data:image/png") >= 5
    assert "since 2026-03-03" in page
    assert len(read_csv(output / "label_next/label_next.csv")) == 5
    rules = yaml.safe_load(alerts.read_text())["groups"][0]["rules"]
    assert {"ClassifierConfidenceFallen", "ClassifierClassSharesChanged"} <= {rule["alert"] for rule in rules}


def test_what_cannot_be_watched_is_an_error_that_says_what_to_do(
    command: Callable[..., Ended], trained: Path, run: Path, tmp_path: Path, quick_runs: None
) -> None:
    nothing = command("watch", str(tmp_path / "none"), f"run={run}")
    assert nothing.code == 2
    assert "sketches=" in nothing.err

    # A lone file has no validation predictions beside it.
    (tmp_path / "model.onnx").write_bytes((run / "model.onnx").read_bytes())
    lone = command("predict", str(trained / "noisy"), "run=model.onnx", "sketches=there")
    assert lone.code == 2
    assert "no reference sketch" in lone.err
    assert not (tmp_path / "there").exists()

    folder = tmp_path / "sketches"
    predicted(command, trained / "noisy", run, folder, "2026-03-01")
    (file,) = folder.glob("*.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model": "other"}))
    other = command("watch", str(folder), f"run={run}")
    assert other.code == 2
    assert "60 predictions by other models" in other.err


def test_a_number_of_images_without_images_is_refused(command: Callable[..., Ended], tmp_path: Path) -> None:
    done = command("watch", f"source={tmp_path}", "label_next=5")
    assert done.code == 2
    assert "label_next=5 has no effect" in done.err
    assert "images=FOLDER" in done.err


def test_export_gives_an_earlier_run_what_watch_needs(
    command: Callable[..., Ended], trained: Path, run: Path, tmp_path: Path, quick_runs: None
) -> None:
    info = run / "model_info.json"
    before = info.read_text()
    values = json.loads(before)
    del values["calibration"]["reference"]
    info.write_text(json.dumps(values))
    refused = command("predict", str(trained / "noisy"), f"run={run}", f"sketches={tmp_path / 'sketches'}")
    assert refused.code == 2
    advice = refused.err.partition("to do:")[2].partition("(")[0].split()
    assert advice[:2] == ["classifier-training", "export"]
    assert command(*advice[1:], cwd=trained).code == 0
    again = json.loads(info.read_text())["calibration"]["reference"]
    assert again["sketch"]["number"] == 36
    assert len(again["responses"]) == 15
    assert command("predict", str(trained / "noisy"), f"run={run}", f"sketches={tmp_path / 'sketches'}").code == 0
