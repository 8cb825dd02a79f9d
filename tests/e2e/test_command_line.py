"""Commands as a person types them, through a shell, on paths that are legal and odd."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tests.conftest import SMALL, make_class_folders
from tests.server import Ended

import classifier_training as ct

pytestmark = pytest.mark.usefixtures("quick_runs")

PHOTOS = "My Photos, 2026 (ü)"
OUTPUT = 'it\'s "here" $HOME'


def typed(line: str, folder: Path) -> list[str]:
    """The words that a shell makes of a line."""
    shown = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {line}"], cwd=folder, capture_output=True, text=True, check=True
    )
    return shown.stdout.split("\0")[:-1]


@pytest.fixture
def trained(tmp_path: Path, command: Callable[..., Ended]) -> Path:
    """A folder with odd names, in which a run was trained by natural words."""
    for split, count in (("train", 6), ("val", 3), ("test", 3)):
        make_class_folders(tmp_path / PHOTOS / split, dict.fromkeys(("blue", "green", "red"), count))
    words = [
        "train",
        PHOTOS,
        "--epochs",
        "1",
        *(word for word in SMALL if "max_epochs" not in word),
        f"output={OUTPUT}",
    ]
    done = command(*words)
    assert done.code == 0, done.err
    return tmp_path


def test_what_is_typed_is_trained_on_predicted_and_pasted(trained: Path, command: Callable[..., Ended]) -> None:
    (run,) = (trained / OUTPUT).glob("*/*/result.json")
    odd = trained / "a=b"
    odd.mkdir()
    for number, path in enumerate(sorted((trained / PHOTOS / "test").glob("*/*.png"))[:3]):
        shutil.copy(path, odd / f"[{number}], {{x}} #1.png")
    to_run = shlex.quote(str(run.parent.relative_to(trained)))

    # Completed by the shell, with backslashes.
    words = typed(rf"predict a=b/\[1\]\,\ \{{x\}}\ #1.png --run {to_run} --quiet", trained)
    done = command(*words)
    assert done.code == 0, done.err
    assert done.out.startswith("1 image, 0 errors")

    # A glob that the shell expands, and one that it leaves.
    for glob, output in (("a=b/*", "[1] {a,b}.json"), ("'a=b/*'", "~x.json")):
        done = command(*typed(f"predict {glob} run={to_run} --output={shlex.quote(output)}", trained))
        assert done.code == 0, done.err
        rows = json.loads((trained / output).read_text())
        assert sorted(Path(row["path"]).name for row in rows) == [f"[{number}], {{x}} #1.png" for number in range(3)]

    # What is printed as the next command can be pasted.
    log = (run.parent / "train.log").read_text()
    assert "data: " in log
    done = command(*typed(f"evaluate {to_run} --split val 'output=${{HOME}} (1), x'", trained))
    assert done.code == 0, done.err
    assert (trained / "${HOME} (1), x/report.html").is_file()
    done = command(*typed(f"export {to_run} output=$'b\\\\ck \\'1\\''", trained))
    assert done.code == 0, done.err
    assert (trained / "b\\ck '1'/model.onnx").is_file()


def test_the_next_commands_of_a_run_can_be_pasted(tmp_path: Path, command: Callable[..., Ended]) -> None:
    root = tmp_path / "a, b (1)"
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        make_class_folders(root / split, dict.fromkeys(("blue", "red"), count))
    done = command("train", "./a, b (1)", *SMALL, "output=[x] ${seed")
    assert done.code == 0, done.err
    pasted = [line.strip() for line in done.out.splitlines() if line.startswith("  classifier-training ")]
    assert len(pasted) >= 2
    for line in pasted:
        done = command(*typed(line, tmp_path)[1:])
        assert done.code == 0, (line, done.err)


def test_several_runs_have_paths_with_commas(tmp_path: Path, command: Callable[..., Ended]) -> None:
    for name in ("a, b", "c"):
        make_class_folders(tmp_path / name, dict.fromkeys(("blue", "red"), 8))
    done = command("train", "--multirun", "data.root=a, b,c", *SMALL, "callbacks=[checkpoint]", "--epochs", "1")
    assert done.code == 0, done.err
    configs = [yaml.safe_load(path.read_text()) for path in (tmp_path / "outputs").glob("2*/*/config.yaml")]
    assert sorted(Path(config["data"]["root"]).name for config in configs) == ["a, b", "c"]


@pytest.mark.parametrize("name", [PHOTOS, "[1]", "a=b", "${x} \\", "2026"])
def test_python_takes_the_same_paths(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("classifier_training.api.log_to_screen", lambda: None)
    with pytest.raises(ct.UserError, match=r"no class folder|empty|no image") as caught:
        Path(name).mkdir()
        ct.train(name)
    assert str(tmp_path / name) in caught.value.came
