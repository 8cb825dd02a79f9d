from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.data.test_store import PIXEL_FORMAT, PREPROCESSING, fill

from classifier_training.core.errors import UserError
from classifier_training.core.files import WEIGHTS_FACTOR, Room
from classifier_training.core.processes import hold
from classifier_training.core.types import SplitTable
from classifier_training.data.index import SplitData
from classifier_training.data.store.folder import StoreFolder
from classifier_training.data.store.plan import StorePlan, make_room, open_stores, used_bytes


def splits_of(tmp_path: Path, paths: list[str]) -> SplitData:
    tables = {name: SplitTable(name, paths, np.zeros(len(paths), np.int64), [""] * len(paths)) for name in ("train", "val")}  # fmt: skip # noqa: E501
    return SplitData(tmp_path, ("a", "b"), tables)


def test_the_longest_unused_goes_first_and_what_is_in_use_stays(tmp_path: Path, paths: list[str]) -> None:
    stores = [fill(tmp_path / "base" / name, PIXEL_FORMAT, paths) for name in ("a", "b", "c", "d")]
    for age, store in enumerate(stores):
        os.utime(store.folder, (age, age))
    for store in stores[1:]:
        store.close()
    size = used_bytes(tmp_path / "base") // 4
    free = make_room(tmp_path / "base", size * 1.5, used_bytes(tmp_path / "base"), keep=stores[3].folder)
    assert sorted(path.name for path in (tmp_path / "base").iterdir()) == ["a", "d"]
    assert free >= size * 1.5
    stores[0].close()


def test_a_store_that_is_removed_while_another_run_opens_it_is_made_again(tmp_path: Path, paths: list[str]) -> None:
    fill(tmp_path / "base" / "a", PIXEL_FORMAT, paths).close()
    opened = threading.Event()
    shards, use = list((tmp_path / "base" / "a").glob("*.pixels")), tmp_path / "base" / "a" / "use.lock"
    assert shards

    def open_it() -> StoreFolder:
        opened.set()
        return StoreFolder(use.parent, PIXEL_FORMAT)

    with ThreadPoolExecutor(1) as pool:
        with hold(use):
            waiting = pool.submit(open_it)
            opened.wait(20)
            time.sleep(0.2)
            shutil.rmtree(use.parent)
        store = waiting.result(20)
    with hold(use, wait=False) as is_free:
        assert not is_free
    assert (store.locate(paths)["shard"] < 0).all()
    store.close()


def test_beside_a_writer_nothing_is_written(tmp_path: Path, paths: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLASSIFIER_TRAINING_CACHE", str(tmp_path / "cache"))

    def opened() -> StorePlan:
        made = StorePlan(
            splits_of(tmp_path, paths), preprocessing=PREPROCESSING, crop_scale=1.0, store="auto", store_gb=1
        )
        made.open()
        return made

    writer = opened()
    about = [folder.folder / "about.json" for folder in writer.folders.values()]
    assert about
    assert all(path.is_file() for path in about)
    for path in about:
        path.unlink()
    opened().close()
    assert not any(path.exists() for path in about)
    writer.close()


def test_too_little_room_makes_jpeg_of_training_pixels_or_nothing_and_says_so(
    tmp_path: Path, paths: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CLASSIFIER_TRAINING_CACHE", str(tmp_path / "cache"))
    caplog.set_level(logging.INFO)

    def plan(store: Any, store_gb: float) -> StorePlan:
        made = StorePlan(
            splits_of(tmp_path, paths), preprocessing=PREPROCESSING, crop_scale=0.2, store=store, store_gb=store_gb
        )
        made.open()
        made.close()
        return made

    assert len(plan("auto", 1).folders) == 2
    shutil.rmtree(tmp_path / "cache")
    caplog.clear()
    made = plan("auto", 8e-6)
    assert made.pixel_formats["train"].jpeg
    assert not made.pixel_formats["val"].jpeg
    assert "as JPEG, which changes them slightly" in caplog.text
    assert plan("auto", 1e-9).folders == {}
    assert "but only 0.00 GB may be used" in caplog.text
    assert plan("off", 1).folders == {}
    with pytest.raises(UserError, match=r"data\.store=on: not enough disk space"):
        plan("on", 1e-9)


def test_a_store_leaves_the_room_that_the_run_needs(
    tmp_path: Path, paths: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CLASSIFIER_TRAINING_CACHE", str(tmp_path / "cache"))
    caplog.set_level(logging.INFO, "classifier_training")
    settings: dict[str, Any] = {"preprocessing": PREPROCESSING, "crop_scale": 0.2, "store_gb": None}
    data = splits_of(tmp_path, paths)
    free = shutil.disk_usage(tmp_path).free
    room = Room(output=tmp_path / "outputs", weights_bytes=free / 2 / WEIGHTS_FACTOR)
    with open_stores(data, store="auto", room=room, **settings) as stores:
        assert set(stores) == {"train", "val"}
    assert ", and 0.0 MB for its store of decoded pixels" in caplog.text
    room = Room(output=tmp_path / "outputs", weights_bytes=free)
    with (
        pytest.raises(UserError, match=r"data\.store=on: not enough disk space"),
        open_stores(data, store="on", room=room, **settings),
    ):
        pass
    with (
        pytest.raises(UserError, match="free, but the run needs up to") as caught,
        open_stores(data, store="off", room=Room(output=tmp_path, weights_bytes=free), **settings),
    ):
        pass
    assert "output=/some/folder" in caught.value.remedy


def test_without_a_folder_to_keep_pixels_in_auto_keeps_none_and_on_refuses(
    tmp_path: Path, paths: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a file").touch()
    monkeypatch.setenv("CLASSIFIER_TRAINING_CACHE", str(tmp_path / "a file" / "cache"))
    caplog.set_level(logging.INFO, "classifier_training")
    settings: dict[str, Any] = {"preprocessing": PREPROCESSING, "crop_scale": 0.5, "store_gb": None}
    plan = StorePlan(splits_of(tmp_path, paths), store="auto", **settings)
    plan.open()
    assert plan.tables() == {}
    assert "no store is used" in caplog.text
    with pytest.raises(UserError, match="cache folder cannot be written to"):
        StorePlan(splits_of(tmp_path, paths), store="on", **settings).open()
