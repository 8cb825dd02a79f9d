from __future__ import annotations

import functools
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import COLOURS, draw_picture

from classifier_training.core.errors import UserError
from classifier_training.core.run_dir import RunDir
from classifier_training.inference.batches import Plan
from classifier_training.inference.outputs import Output
from classifier_training.inference.parts import (
    FEWEST_PARTS,
    MOST_IMAGES,
    JobPlan,
    PartFolder,
    digest_of,
    files_only,
    part_name,
    part_number,
)
from classifier_training.inference.predictor import Predictor
from classifier_training.inference.rows import Row, RowSettings, Summary, to_json
from classifier_training.inference.sources import Item
from classifier_training.workflows.serving.predict_ray import PartJob, PartWorker, blocks


def job_plan(*, num_images: int, batch_size: int = 32, **settings: object) -> JobPlan:
    return JobPlan(settings=settings, batch_size=batch_size, num_images=num_images, digest="d")


def row(name: str) -> Row:
    return Row(path=name, label="a", confidence=0.5, top_k=[], rejected=False, reject_reason=None, error=None)


@pytest.mark.parametrize("num_images", [1, 31, 33, 4096, 100_000, 2_000_001])
@pytest.mark.parametrize("batch_size", [1, 7, 32, 5000])
def test_parts_are_whole_batches_and_hold_each_image_once(num_images: int, batch_size: int) -> None:
    plan = job_plan(num_images=num_images, batch_size=batch_size)
    assert sum(map(plan.images_in, range(plan.num_parts))) == num_images
    batches = [number for part in range(plan.num_parts) for number in plan.batches_of(part)]
    assert batches == list(range(-(-num_images // batch_size)))
    assert plan.images_per_part <= max(MOST_IMAGES, batch_size)
    assert plan.num_parts >= min(FEWEST_PARTS, len(batches))


def test_names_of_parts_are_in_their_order() -> None:
    numbers = [0, 9, 10, 12_345_678, 123_456_789]
    assert [part_number(part_name(number)) for number in numbers] == numbers
    assert part_number("part-1.jsonl.tmp") is None
    assert part_number("_plan.json") is None


def test_a_digest_says_paths_errors_and_order() -> None:
    def digest(*items: Item) -> str:
        return digest_of(Plan(items, 2))

    one, two = Item("a\nb", ""), Item(os.fsdecode(b"\xff"), "")
    found = [digest(one, two), digest(two, one), digest(one), digest(one, Item(two.path, "", error="x"))]
    assert len({*found, digest(Item("a", ""), Item("b", "")), digest(Item("a\nb\0", ""))}) == 6
    assert digest(one, two) == found[0]


def test_frames_of_a_video_are_refused() -> None:
    frames = [Item("v.mp4#t=1", "", np.zeros((1, 1, 3), dtype=np.uint8))]
    with pytest.raises(UserError, match="the frames of a video are read by one process"):
        list(files_only(frames))


def test_a_folder_keeps_the_parts_of_one_plan(tmp_path: Path) -> None:
    plan = job_plan(num_images=5, batch_size=2, top_k=3)
    parts = PartFolder(f"{tmp_path}/out/")
    assert parts.open(plan) == frozenset()
    parts.write(1, [row("c"), row("d")])
    parts.write(2, [row("é")])
    assert PartFolder(f"{tmp_path}/out/").open(plan) == {1, 2}
    assert parts.read(0) is None
    assert [one["path"] for one in parts.read(2) or []] == ["é"]
    with pytest.raises(UserError, match=r"part-00000000.jsonl: is missing or damaged"):
        list(parts.rows())
    parts.write(0, [row("a"), row("b")])
    assert [one["path"] for one in parts.rows()] == ["a", "b", "c", "d", "é"]
    for other in (job_plan(num_images=5, batch_size=2, top_k=4), job_plan(num_images=6, batch_size=2, top_k=3)):
        with pytest.raises(UserError, match=r"has predictions made with other settings or images \((top_k|images)\)"):
            PartFolder(f"{tmp_path}/out").open(other)
    cut = tmp_path / "out" / part_name(1)
    cut.write_bytes(cut.read_bytes()[:-20])
    assert parts.read(1) is None
    assert pickle.loads(pickle.dumps(parts)).is_plan_seen()
    (tmp_path / "out" / "_plan.json").unlink()
    assert not parts.is_plan_seen()


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(UserError, match="has files that are no parts of predictions, such as photo") as found:
        PartFolder(f"{tmp_path}/").open(job_plan(num_images=1))
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]
    obeyed = found.value.remedy.removeprefix("output=")
    assert PartFolder(obeyed).open(job_plan(num_images=1)) == frozenset()


@pytest.mark.parametrize("name", ["p.json", "p.jsonl", "p.csv", "p.parquet"])
def test_parts_become_the_file_that_one_process_writes(name: str, tmp_path: Path) -> None:
    rows = [row(f"{number}.png") for number in range(5)]
    with Output(str(tmp_path / "local" / name), settings={}, probabilities=None) as local:
        local.resume([])
        local.add([Item(one["path"], one["path"]) for one in rows], rows)
        local.finish()
    output = str(tmp_path / "ray" / name)
    parts = PartFolder(output)
    parts.open(job_plan(num_images=5, batch_size=2))
    for part in (2, 0, 1):
        parts.write(part, rows[2 * part : 2 * part + 2])
    with Output(output, settings={}, probabilities=None, part=parts) as merged:
        merged.finish()
    assert [path.name for path in (tmp_path / "ray").iterdir()] == [name]
    assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()


def test_a_worker_computes_what_is_missing_in_the_batches_of_one_process(run_dir: RunDir, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    names = [f"{number}.png" for number in range(6)]
    for number, name in enumerate(names):
        draw_picture(tmp_path / name, list(COLOURS.values())[number % 3], seed=number)
    (tmp_path / "3.png").write_bytes(b"no image")
    odd = (tmp_path / "4.png").rename(tmp_path / os.fsdecode(b"\xff.png"))
    items = [Item(str(odd) if name == "4.png" else name, name) for name in names]
    items += [Item("lost.png", "", error="lost")]
    os.chdir(tmp_path)
    settings = RowSettings(top_k=2)
    predictor = Predictor(run_dir.path, accelerator="cpu")
    expected = [row for _, rows in predictor.row_batches(items, settings, batch_size=2) for row in rows]

    plan = Plan(files_only(items), 2)
    parts = PartFolder(f"{tmp_path}/out/")
    done = parts.open(JobPlan(settings={}, batch_size=2, num_images=7, digest=digest_of(plan)))
    job = PartJob(
        open_predictor=functools.partial(Predictor, run_dir.path, accelerator="cpu"),
        model_sha256=predictor.model_sha256,
        settings=settings,
        threshold=0.5,
        parts=parts,
        done=done,
        directory=str(tmp_path),
        witness=str(tmp_path / "0.png"),
    )
    worker, summary = PartWorker(pickle.loads(pickle.dumps(job))), Summary(0.5, 0)
    for block in reversed(list(blocks(plan, parts.plan))):
        found = pickle.loads(worker(block)["found"][0].as_py())
        assert found.is_new
        summary.merge(found.summary)
    assert list(parts.rows()) == expected
    assert (summary.images, summary.errors, summary.labels.total()) == (7, 2, 5)
    lines = b"".join((tmp_path / "out" / part_name(part)).read_bytes() for part in range(4))
    assert lines == "".join(f"{to_json(one)}\n" for one in expected).encode()


@pytest.mark.parametrize("lost", ["directory", "witness", "plan", "model"])
def test_a_machine_that_sees_other_files_stops_the_job(lost: str, run_dir: RunDir, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    draw_picture(tmp_path / "a.png", (200, 0, 0), seed=0)
    plan = Plan([Item(str(tmp_path / "a.png"), "")], 2)
    parts = PartFolder(f"{tmp_path}/out/")
    parts.open(JobPlan(settings={}, batch_size=2, num_images=1, digest=digest_of(plan)))
    job = PartJob(
        open_predictor=functools.partial(Predictor, run_dir.path, accelerator="cpu"),
        model_sha256="other" if lost == "model" else Predictor(run_dir.path).model_sha256,
        settings=RowSettings(),
        threshold=0.5,
        parts=parts,
        done=frozenset(),
        directory=str(tmp_path / "none") if lost == "directory" else str(tmp_path),
        witness=str(tmp_path / "none.png") if lost == "witness" else None,
    )
    if lost == "plan":
        (tmp_path / "out" / "_plan.json").write_text(json.dumps({"model": "other"}))
    (block,) = blocks(plan, parts.plan)
    error = pickle.loads(PartWorker(job)(block)["found"][0].as_py())
    assert isinstance(error, UserError)
    assert ("is another model" if lost == "model" else "does not see") in error.came
    assert not (tmp_path / "out" / part_name(0)).exists()
