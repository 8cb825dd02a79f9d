"""`predict` as a user types it, on odd files made on the spot."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.bundles import write_bundle
from tests.conftest import COLOURS, draw_picture, read_csv
from tests.server import Ended, Warm
from tests.unit.export.test_export import PREPROCESSING, examples

from classifier_training.core.run_dir import RunDir
from classifier_training.export.bundle import BundleInfo
from classifier_training.models.timm_models import timm_model

pytestmark = pytest.mark.usefixtures("quick_runs")

Command = Callable[..., Ended]
SCRIPT = Path(sys.executable).with_name("classifier-training")
CLASSES = ("", "ü/..", "c")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, but for its training."""
    torch.manual_seed(0)
    made = RunDir(tmp_path_factory.mktemp("run"))
    info = BundleInfo(class_names=CLASSES, preprocessing=PREPROCESSING, architecture="test_resnet")
    pictures = examples(tmp_path_factory.mktemp("images"))
    write_bundle(made, timm_model(3, name="test_resnet", pretrained=False), info, examples=pictures, opset=None)
    return made.path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Five good images, two of them with one name."""
    root = tmp_path / "im"
    for number, name in enumerate(("a.jpg", "b.png", "sub/a.jpg", "sub/c.bmp", "sub/deep/d.webp")):
        draw_picture(root / name, list(COLOURS.values())[number % 3], seed=number, size=(50, 40))
    return root


def rows_of(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def huge_png() -> bytes:
    """A small file that says it is 30,000 x 30,000."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def add_odd_files(root: Path) -> tuple[set[str], set[str]]:
    """Put odd images among the good ones; returns the names of those with an answer, and of those without."""
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    frames[0].save(root / "animated.gif", save_all=True, append_images=frames[1:])
    Image.new("CMYK", (20, 20), (10, 200, 30, 0)).save(root / "cmyk.jpg")
    Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * 160).save(root / "sixteen.png")
    Image.new("RGB", (1, 1), "green").save(root / "pixel.png")
    good = (root / "a.jpg").read_bytes()
    (root / os.fsdecode(b"caf\xe9.jpg")).write_bytes(good)
    (root / "escape\x1b[31m.jpg").write_bytes(good)
    (root / "truncated.jpg").write_bytes(good[: len(good) * 3 // 4])
    (root / "zero.jpg").write_bytes(b"")
    (root / "text.jpg").write_text("hello")
    (root / "huge.png").write_bytes(huge_png())
    (root / "gone.jpg").symlink_to(root / "nowhere.jpg")
    (root / "circle.jpg").symlink_to(root / "circle.jpg")
    os.mkfifo(root / "pipe.jpg")
    answered = {"animated.gif", "cmyk.jpg", "sixteen.png", "pixel.png", "caf\\xe9.jpg", "escape\x1b[31m.jpg"}
    unanswered = {"truncated.jpg", "zero.jpg", "text.jpg", "huge.png", "gone.jpg", "circle.jpg", "pipe.jpg"}
    if os.geteuid() != 0:  # root may read everything
        (root / "locked.jpg").write_bytes(good)
        (root / "locked.jpg").chmod(0)
        unanswered.add("locked.jpg")
    return answered, unanswered


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_odd_files_are_a_row_each_and_leave_the_others_alone(
    command: Command, run: Path, images: Path, tmp_path: Path, batch_size: int
) -> None:
    words = ["predict", f"run={run}", f"source={images}", f"data.batch_size={batch_size}"]
    assert command(*words, "output=before.json").code == 0
    answered, unanswered = add_odd_files(images)
    done = command(*words, "output=after.json", "max_display=0")
    assert done.code == 3, done.err
    assert "Traceback" not in done.err
    before, after = rows_of(tmp_path / "before.json"), rows_of(tmp_path / "after.json")
    by_path = {row["path"]: row for row in after}
    for row in before:
        assert by_path[row["path"]]["label"] == row["label"]
        assert by_path[row["path"]]["confidence"] == pytest.approx(row["confidence"], abs=1e-6)
    errors = {Path(row["path"]).name: row["error"] for row in after if row["error"]}
    assert errors.keys() == unanswered
    assert {Path(row["path"]).name for row in after if not row["error"]} >= answered
    assert len(after) == len(before) + len(answered) + len(unanswered)
    assert errors["huge.png"].startswith("more than 178,956,970 pixels")
    assert errors["gone.jpg"] == "no such file"
    assert "damaged" in errors["truncated.jpg"]
    assert all(row["label"] is None and row["top_k"] == [] for row in after if row["error"])
    assert f"{len(after)} images, {len(unanswered)} errors" in done.out
    assert "\x1b" not in done.out


def test_every_output_says_the_same(command: Command, run: Path, images: Path, tmp_path: Path) -> None:
    words = ["predict", f"run={run}", f"source={images}", "probabilities=true", "quiet=true"]
    for name in ("x.json", "x.jsonl", "x.csv", "folder/"):
        done = command(*words, f"output={name}")
        assert done.code == 0, done.err
        assert f"written to {name.removesuffix('/')}" in done.out
    rows = rows_of(tmp_path / "x.json")
    assert [row["path"] for row in rows] == [
        f"{images}/{name}" for name in ("a.jpg", "b.png", "sub/a.jpg", "sub/c.bmp", "sub/deep/d.webp")
    ]
    assert list(rows[0]) == [
        "path",
        "label",
        "confidence",
        "top_k",
        "rejected",
        "reject_reason",
        "error",
        "probabilities",
    ]
    assert list(rows[0]["probabilities"]) == list(CLASSES)
    assert rows == [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert rows == [
        json.loads((tmp_path / f"folder/{Path(row['path']).relative_to(images)}.json").read_text()) for row in rows
    ]
    table = read_csv(tmp_path / "x.csv")
    assert [row["label"] for row in table] == [row["label"] for row in rows]
    assert [json.loads(row["top_k"]) for row in table] == [row["top_k"] for row in rows]
    assert float(table[0]["prob_ü/.."]) == rows[0]["probabilities"]["ü/.."]
    assert not list(tmp_path.rglob("*.part"))


def test_a_parquet_file_is_written_or_the_extra_is_named(command: Command, run: Path, images: Path) -> None:
    done = command("predict", f"run={run}", f"source={images}", "output=x.parquet")
    try:
        from pyarrow import parquet
    except ImportError:
        assert done.code == 2
        assert "the optional extra 'parquet'" in done.err
    else:
        assert done.code == 0, done.err
        assert parquet.read_table("x.parquet").column_names == [
            "path", "label", "confidence", "top_k", "rejected", "reject_reason", "error",
        ]  # fmt: skip


def test_runs_by_word_and_files_alone_answer_alike(command: Command, run: Path, images: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "outputs/2026-01-01/10-00-00")
    shutil.copy(run / "model.onnx", tmp_path / "lone.onnx")
    outs = set()
    for reference in ("latest", "best", "outputs/2026-01-01/10-00-00", str(run / "model.onnx"), "lone.onnx"):
        done = command("predict", f"run={reference}", f"source={images}")
        assert done.code == 0, done.err
        outs.add(done.out.partition(", average")[0])
    assert len(outs) == 1
    with (tmp_path / "outputs/2026-01-01/10-00-00/model.onnx").open("ab") as file:
        file.write(b"\0")
    done = command("predict", f"source={images}")
    assert done.code == 2
    assert "model.onnx: has changed since it was exported" in done.err


def test_globs_and_lists_are_sources(command: Command, run: Path, images: Path, tmp_path: Path) -> None:
    (images / "list.txt").write_text("a.jpg\n\nsub/deep/d.webp\nnowhere.jpg\n")
    for source, number, code in ((f"{images}/**/*.jpg", 2, 0), (f"{images}/list.txt", 3, 3), (f"{images}/b.png", 1, 0)):
        done = command("predict", f"run={run}", f"source={source}", "output=x.json")
        assert done.code == code, done.err
        assert len(rows_of(tmp_path / "x.json")) == number


def test_a_video_is_read_frame_by_frame(command: Command, run: Path, tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    writer = cv2.VideoWriter("clip.avi", cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for number in range(40):
        writer.write(np.full((48, 64, 3), 6 * number, np.uint8))
    writer.release()
    done = command("predict", f"run={run}", "source=clip.avi", "every_s=1.5", "output=frames/", "data.batch_size=2")
    assert done.code == 0, done.err
    expected = [f"clip.avi#t={seconds}.json" for seconds in ("0.00", "1.50", "3.00")]
    assert sorted(path.name for path in (tmp_path / "frames").iterdir()) == expected


def test_images_are_sorted_by_answer(command: Command, run: Path, images: Path, tmp_path: Path) -> None:
    (images / "broken.jpg").write_text("x")
    words = ["predict", f"run={run}", f"source={images}", "sort_into=sorted", "output=x.json"]
    names = {"": "%empty", "ü/..": "ü%2F.%2E", "c": "c"}
    for _ in range(2):
        done = command(*words)
        assert done.code == 3, done.err
        expected = {
            f"{names[row['label']]}/{Path(row['path']).relative_to(images)}"
            for row in rows_of(tmp_path / "x.json")
            if row["label"] is not None
        }
        found = {
            str(path.relative_to(tmp_path / "sorted")) for path in (tmp_path / "sorted").rglob("*") if path.is_file()
        }
        assert found == expected
        assert len(found) == 5


def test_the_screen_shows_a_table_and_a_summary(command: Command, run: Path, images: Path) -> None:
    words = ["predict", f"run={run}", f"source={images}", "threshold=0"]
    done = command(*words, "max_display=2")
    lines = done.out.splitlines()
    assert lines[0].split() == ["path", "label", "confidence", "others"]
    assert lines[1].startswith(f"{images}/a.jpg")
    assert lines[3] == "… and 3 more (max_display=0 shows all)"
    assert lines[5].startswith("5 images, 0 errors, 5/5 at or above the threshold 0, average confidence ")
    assert "images/s" in lines[5]
    assert "ETA" not in done.err
    assert done.err.count("\n") == 1, "one line says where it computes"
    quiet = command(*words, "quiet=true").out
    assert quiet.startswith("5 images, 0 errors")
    assert str(images) not in quiet


def test_a_screen_without_the_right_letters_gets_escapes(command: Command, run: Path, images: Path) -> None:
    (images / "b.png").rename(images / "grün.png")
    done = command("predict", f"run={run}", f"source={images}", env={"PYTHONIOENCODING": "ascii"})
    assert done.code == 0, done.err
    assert r"gr\xfcn.png" in done.out


def test_a_terminal_gets_a_bar_with_the_time_left(run: Path, images: Path) -> None:
    ours, theirs = pty.openpty()
    words = [str(SCRIPT), "predict", f"run={run}", f"source={images}"]
    env = {**os.environ, "TERM": "xterm-256color"}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=theirs, env=env) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # the other end was closed
                break
            if not piece:
                break
            shown += piece
        out = process.stdout.read() if process.stdout else b""
    os.close(ours)
    assert process.returncode == 0
    assert b"ETA" in shown
    assert b"ETA" not in out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["output=im/a.jpg/x.json"], "output=im/a.jpg/x.json: cannot be written"),
        (["output=x.xlsx"], "output=x.xlsx: .xlsx is no format"),
        (["probabilities=true"], "probabilities=true without an output"),
        (["sort_by=link"], "sort_by=link without sort_into"),
        (["sort_into=im/sorted"], "sort_into=im/sorted: lies in the source"),
        (["every_s=2"], "every_s=2: source=im is no video"),
        (["trainer.accelerator=tpu"], "trainer.accelerator=tpu"),
        (["data=jsonl"], "data=jsonl: there is nothing to choose"),
        (["source=nowhere.jpg"], "source=nowhere.jpg: there is no such file"),
    ],
)
def test_what_cannot_be_is_refused_in_three_lines(
    command: Command, run: Path, images: Path, words: list[str], line: str
) -> None:
    done = command("predict", f"run={run}", "source=im", *words)
    assert done.code == 2
    assert done.out == ""
    assert len(done.err.splitlines()) == 3
    assert done.err.startswith(f"error: {line}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("output", ["x.json", "folder"])
def test_an_interrupted_run_goes_on_where_it_stopped(
    command: Command,
    forked_commands: Warm,
    run: Path,
    images: Path,
    tmp_path: Path,
    number: signal.Signals,
    output: str,
) -> None:
    (tmp_path / "list.txt").write_text("im/a.jpg\nim/b.png\nim/sub/c.bmp\n" * 600)
    words = ["predict", f"run={run}", "source=list.txt", f"output={output}", "data.batch_size=2"]
    part = tmp_path / (".x.json.part" if output == "x.json" else "folder/.predictions.part")
    pid = forked_commands.start(words, cwd=tmp_path)
    while not forked_commands.has_ended(pid) and not (part.is_file() and part.read_bytes().count(b"\n") > 20):
        time.sleep(0.005)
    os.kill(pid, number)
    ended = forked_commands.wait(pid)
    if number is not signal.SIGKILL:
        assert ended.code == 128 + number
        first, remedy = ended.err.splitlines()[-2:]
        assert first == f"interrupted ({number.name})"
        assert remedy.startswith("  to do:    give the same command again; it resumes after the ")
    kept = part.read_bytes().count(b"\n") - 1
    done = command(*words, "quiet=true")
    assert done.code == 0, done.err
    assert f"resuming after the {kept} images" in done.err
    assert done.out.startswith("1,800 images, 0 errors")
    assert not part.exists()
    if output == "x.json":
        rows = rows_of(tmp_path / "x.json")
        assert [Path(row["path"]).name for row in rows] == ["a.jpg", "b.png", "c.bmp"] * 600
        assert len({(row["path"], row["label"]) for row in rows}) == 3


def test_other_settings_start_an_interrupted_output_anew(
    command: Command, run: Path, images: Path, tmp_path: Path
) -> None:
    words = ["predict", f"run={run}", "source=im", "output=x.json"]
    (tmp_path / ".x.json.part").write_text('{"settings": {"model": "another", "top_k": 3}}\n{"path": "im/a.jpg"}\n')
    done = command(*words)
    assert done.code == 0, done.err
    assert "was made with other settings (model, source" in done.err
    assert len(rows_of(tmp_path / "x.json")) == 5


PRELUDE = """
import sys
for name in ("torch", "torchvision", "timm", "pytorch_lightning", "lightning", "sklearn", "matplotlib", "pandas"):
    sys.modules[name] = None  # importing it now fails
from classifier_training.cli import main
sys.exit(main())
"""


def test_the_answers_are_the_same_without_torch_and_the_libraries_of_training(
    command: Command, run: Path, images: Path, tmp_path: Path
) -> None:
    words = ["predict", f"run={run}", f"source={images}", "probabilities=true"]
    assert command(*words, "output=with.json").code == 0
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE, *words, "output=without.json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert rows_of(tmp_path / "without.json") == rows_of(tmp_path / "with.json")


def test_a_safe_table_has_no_formula(images: Path, run: Path, command: Command) -> None:
    draw_picture(images / "=cmd|'!A0.png", (1, 2, 3), seed=9)
    (images / "-broken.png").write_bytes(b"x")
    words = ["predict", f"run={run}", 'source="*.png"', "probabilities=true"]
    for name, more in (("bare.csv", []), ("safe.csv", ["csv_safe=true"])):
        assert command(*words, f"output=../{name}", *more, cwd=images).code == 3
    bare, safe = (read_csv(images.parent / name) for name in ("bare.csv", "safe.csv"))
    assert [row["path"] for row in bare][:2] == ["-broken.png", "=cmd|'!A0.png"]
    assert [row["path"] for row in safe][:2] == ["'-broken.png", "'=cmd|'!A0.png"]
    assert [{**row, "path": ""} for row in bare] == [{**row, "path": ""} for row in safe]
    assert (images.parent / "safe.csv").read_text().startswith('"path","label"')
    for output in ([], ["output=../answers.json"]):
        done = command(*words[:3], *output, "csv_safe=true", cwd=images)
        assert done.code == 2
        assert "csv_safe=true has no effect" in done.err
