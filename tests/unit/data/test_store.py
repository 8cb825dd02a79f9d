from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.conftest import draw_picture
from tests.unit.data.conftest import SIZES

from classifier_training.core.errors import UserError
from classifier_training.core.preprocess import Preprocessing
from classifier_training.core.types import SampleKey, SplitTable
from classifier_training.data.augmenting.transforms import Transforms
from classifier_training.data.dataset import ImageDataset
from classifier_training.data.loader import BatchLoader
from classifier_training.data.pixel_format import PixelFormat
from classifier_training.data.samplers import EpochSampler
from classifier_training.data.store import shards
from classifier_training.data.store.folder import StoreFolder, TableStore
from classifier_training.data.store.plan import make_room
from classifier_training.data.store.shards import build_store

FIT: dict[str, Any] = {"size": (16, 16), "mean": (0, 0, 0), "std": (1, 1, 1)}
PREPROCESSING = Preprocessing(**FIT)
PIXEL_FORMAT = PixelFormat(preprocessing=PREPROCESSING)
ARITHMETIC = [("pillow", "bilinear"), ("pillow", "bicubic"), ("pillow", "area"), ("opencv", "area")]


def table_of(paths: list[str]) -> SplitTable:
    return SplitTable("train", paths, np.arange(len(paths)), [""] * len(paths))


def fill(folder: Path, pixel_format: PixelFormat, paths: list[str]) -> StoreFolder:
    store = StoreFolder(folder, pixel_format)
    for path, entry in zip(paths, store.locate(paths), strict=True):
        if entry["shard"] < 0:
            store.add(path, entry, pixel_format.read(path))
    store.commit()
    return store


@pytest.mark.parametrize(("backend", "kernel"), ARITHMETIC)
@pytest.mark.parametrize("policy", ["squash", "crop", "letterbox"])
@pytest.mark.parametrize("crop_scale", [None, 1.0, 0.5])
def test_a_store_changes_no_pixel(
    tmp_path: Path, paths: list[str], policy: Any, backend: Any, kernel: Any, crop_scale: float | None
) -> None:
    fit = Preprocessing(**FIT, policy=policy, backend=backend, kernel=kernel)
    augmentation = None
    if crop_scale is not None:
        augmentation = Transforms(policy=policy, backend=backend, kernel=kernel, crop_scale=crop_scale, hue=0.1)
    pixel_format = PixelFormat(preprocessing=fit, crop_scale=crop_scale or 1.0)
    store = TableStore(fill(tmp_path / "store", pixel_format, paths), paths)
    assert store.has(np.arange(len(paths))).all()
    keys = [SampleKey(1, position, row) for position, row in enumerate([3, 0, 1, 1, 2, 4, 5, 6])]
    seen = [
        ImageDataset(
            table_of(paths), pixel_format=pixel_format, augmentation=augmentation, seed=0, on_error="raise", store=one
        ).load(keys)
        for one in (None, store)
    ]
    assert seen[0].batch.images.contiguous().numpy().tobytes() == seen[1].batch.images.contiguous().numpy().tobytes()
    assert seen[1].decoded == []
    if augmentation is None:
        for position, key in enumerate(keys):
            expected = fit.pixels(Image.open(paths[key.row]))
            assert (seen[1].batch.images[position].permute(1, 2, 0).numpy() == expected).all()


@pytest.mark.parametrize("policy", ["squash", "crop", "letterbox"])
@pytest.mark.parametrize("size", [*SIZES, (1920, 1080), (100, 3000)])
def test_what_is_kept_is_never_enlarged_and_enough_for_the_smallest_crop(policy: Any, size: tuple[int, int]) -> None:
    width, height = size
    pixel_format = PixelFormat(preprocessing=Preprocessing(**FIT, policy=policy), crop_scale=0.5)
    kept_height, kept_width = pixel_format.shape(height, width)
    assert kept_height <= height
    assert kept_width <= width
    shares = 0.5**0.5 * (3 / 4) ** 0.5 * kept_height, 0.5**0.5 * (3 / 4) ** 0.5 * kept_width
    enough = [share >= 15.99 or kept == whole for share, kept, whole in zip(shares, (kept_height, kept_width), (height, width), strict=True)]  # fmt: skip # noqa: E501
    assert any(enough) if policy == "letterbox" else all(enough)


def test_a_changed_file_alone_is_made_again_and_labels_play_no_part(tmp_path: Path, paths: list[str]) -> None:
    store = fill(tmp_path / "store", PIXEL_FORMAT, paths)
    moved = str(tmp_path / "images/other_label.png")
    shutil.move(paths[0], moved)
    assert (store.locate([moved, *paths[1:]])["shard"] >= 0).all()
    assert (store.pixels(store.locate([moved])[0]) == PIXEL_FORMAT.read(moved)).all()
    draw_picture(Path(paths[2]), (1, 2, 3), seed=99)
    os.utime(paths[2], ns=(1, 1))
    built = build_store(store, [moved, *paths[1:]])
    assert (built.num_files, built.num_made) == (len(paths), 1)
    assert (store.pixels(store.locate(paths)[2]) == PIXEL_FORMAT.read(paths[2])).all()


def test_content_is_compared_when_asked(tmp_path: Path, paths: list[str]) -> None:
    plain = [path.replace(".png", ".bmp") for path in paths[:2]]
    for source, path in zip(paths, plain, strict=False):
        Image.open(source).save(path)
    store = fill(tmp_path / "store", PIXEL_FORMAT, plain)
    before = Path(plain[0]).stat()
    Image.new("RGB", SIZES[0], "red").save(plain[0])
    os.utime(plain[0], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert build_store(store, plain).num_made == 0
    assert build_store(store, plain, verify=True).num_made == 1
    assert (store.pixels(store.locate(plain)[0]) == (255, 0, 0)).all()


def test_other_preprocessing_is_another_store(tmp_path: Path) -> None:
    others = [
        PixelFormat(preprocessing=Preprocessing(**{**FIT, "size": (17, 17)})),
        PixelFormat(preprocessing=Preprocessing(**FIT, policy="crop")),
        PixelFormat(preprocessing=Preprocessing(**FIT, kernel="area")),
        PixelFormat(preprocessing=Preprocessing(**FIT, kernel="area", backend="opencv")),
        PixelFormat(preprocessing=PREPROCESSING, crop_scale=0.7),
        PixelFormat(preprocessing=PREPROCESSING, jpeg=True),
    ]
    assert len({pixel_format.fingerprint() for pixel_format in [PIXEL_FORMAT, *others]}) == 1 + len(others)
    # What the network subtracts and divides by is done on the device.
    assert (
        PixelFormat(preprocessing=Preprocessing(**{**FIT, "mean": (1, 1, 1)})).fingerprint()
        == PIXEL_FORMAT.fingerprint()
    )


def test_what_a_killed_writer_left_is_neither_read_nor_kept(tmp_path: Path, paths: list[str]) -> None:
    fill(tmp_path / "store", PIXEL_FORMAT, paths[:3]).close()
    writer = shards.ShardWriter(tmp_path / "store", 7)
    writer.add(np.zeros((), shards.ENTRY), b"half")
    (tmp_path / "store/000008-abc.pixels").write_bytes(b"no list beside it")
    store = StoreFolder(tmp_path / "store", PIXEL_FORMAT)
    assert (store.locate(paths)["shard"] >= 0).tolist() == [True] * 3 + [False] * (len(paths) - 3)
    assert not list((tmp_path / "store").glob("*.tmp"))
    assert not (tmp_path / "store/000008-abc.pixels").exists()


BUILD = """
import sys
from classifier_training.core.preprocess import Preprocessing
from classifier_training.data.pixel_format import PixelFormat
from classifier_training.data.store.shards import build_store
from classifier_training.data.store.folder import StoreFolder
if __name__ == "__main__":
    fit = Preprocessing(size=(16, 16), mean=(0, 0, 0), std=(1, 1, 1))
    store = StoreFolder(__import__("pathlib").Path(sys.argv[1]), PixelFormat(preprocessing=fit), wait=True)
    print(build_store(store, sys.argv[2:]).num_made, flush=True)
"""


def start_build(tmp_path: Path, paths: list[str]) -> subprocess.Popen[str]:
    script = tmp_path / "build.py"
    script.write_text(BUILD)
    words = [sys.executable, str(script), str(tmp_path / "store"), *paths]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True)


@pytest.fixture
def many(tmp_path: Path) -> list[str]:
    first = tmp_path / "many/0.png"
    draw_picture(first, (9, 80, 160), seed=0, size=(400, 400))
    found = [first.with_name(f"{number}.png") for number in range(400)]
    for number, path in enumerate(found[1:]):
        shutil.copy(first, path)
        os.utime(path, ns=(number, number))
    return list(map(str, found))


def test_a_killed_build_goes_on_where_it_was(tmp_path: Path, many: list[str]) -> None:
    process = start_build(tmp_path, many)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "store").glob("*.entries")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    store = StoreFolder(tmp_path / "store", PIXEL_FORMAT)
    done = int((store.locate(many)["shard"] >= 0).sum())
    assert 0 < done < len(many), "the build was to be killed in its middle"
    assert build_store(store, many).num_made == len(many) - done
    for entry in store.locate(many)[::40]:
        assert (store.pixels(entry) == PIXEL_FORMAT.read(many[0])).all()


def test_two_processes_build_it_once(tmp_path: Path, many: list[str]) -> None:
    processes = [start_build(tmp_path, many[:40]) for _ in range(2)]
    made = [int(process.communicate(timeout=120)[0]) for process in processes]
    assert sorted(made) == [0, 40]


class FullFile:
    """A file on a disk with no room for a second image."""

    def __init__(self, file: Any) -> None:
        self._file, self._room = file, 16 * 16 * 3

    def write(self, data: memoryview) -> None:
        self._room -= len(data)
        if self._room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    made = shards.ShardWriter.__init__

    def on_full_disk(self: Any, folder: Path, number: int) -> None:
        made(self, folder, number)
        self._file = FullFile(self._file)

    monkeypatch.setattr(shards.ShardWriter, "__init__", on_full_disk)


def test_a_full_disk_ends_the_writing_and_not_the_training(
    tmp_path: Path, paths: list[str], full_disk: None, caplog: pytest.LogCaptureFixture
) -> None:
    store = TableStore(StoreFolder(tmp_path / "store", PIXEL_FORMAT), paths)
    dataset = ImageDataset(
        table_of(paths), pixel_format=PIXEL_FORMAT, augmentation=None, seed=0, on_error="raise", store=store
    )
    for _ in range(2):
        loader = BatchLoader(dataset, EpochSampler(np.arange(len(paths))), batch_size=2, num_workers=0)
        assert sum(len(batch.targets) for batch in loader) == len(paths)
    assert caplog.text.count("No space left on device") == 1
    assert not store.has(np.arange(len(paths))).any()
    assert not list((tmp_path / "store").glob("*.pixels"))
    assert not list((tmp_path / "store").glob("*.tmp"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_ends_a_build_in_words(tmp_path: Path, paths: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Here:
        """Runs tasks in this process, where the disk is full."""

        def __init__(self, *_: Any, **__: Any) -> None:
            self._pool = __import__("concurrent.futures").futures.ThreadPoolExecutor(1)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._pool, name)

        def __enter__(self) -> Any:
            return self._pool

        def __exit__(self, *_: object) -> None:
            self._pool.shutdown()

    made = shards.ShardWriter.__init__

    def on_full_disk(self: Any, folder: Path, number: int) -> None:
        made(self, folder, number)
        self._file = open("/dev/full", "wb")  # noqa: SIM115, PTH123

    monkeypatch.setattr(shards, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(shards.ShardWriter, "__init__", on_full_disk)
    store = StoreFolder(tmp_path / "store", PIXEL_FORMAT)
    with pytest.raises(UserError, match="No space left on device"):
        build_store(store, paths)
    assert (store.locate(paths)["shard"] < 0).all()
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["build.lock", "use.lock"]


def test_an_unreadable_file_is_counted_and_the_others_stored(tmp_path: Path, paths: list[str]) -> None:
    Path(paths[1]).write_bytes(b"no image")
    store = StoreFolder(tmp_path / "store", PIXEL_FORMAT)
    built = build_store(store, [*paths, str(tmp_path / "gone.png")])
    assert built.num_made == len(paths) - 1
    assert [Path(error.path).name for error in sorted(built.unreadable, key=lambda error: error.path)] == ["gone.png", "1.png"]  # fmt: skip # noqa: E501
    assert (store.locate(paths)["shard"] >= 0).sum() == len(paths) - 1


def test_jpeg_pixels_are_the_same_from_the_first_epoch_on(tmp_path: Path, paths: list[str]) -> None:
    pixel_format = PixelFormat(preprocessing=PREPROCESSING, crop_scale=0.5, jpeg=True)
    store = fill(tmp_path / "store", pixel_format, paths)
    for path, entry in zip(paths, store.locate(paths), strict=True):
        assert (store.pixels(entry) == pixel_format.restored(pixel_format.read(path))).all()


@pytest.mark.parametrize("num_workers", [0, 1, 2])
@pytest.mark.parametrize("loads_ahead", [False, True])
def test_epochs_are_the_same_for_any_workers_while_the_store_fills(
    tmp_path: Path, paths: list[str], num_workers: int, loads_ahead: bool
) -> None:
    def epochs(store: TableStore | None, num_workers: int, *, loads_ahead: bool) -> list[bytes]:
        pixel_format = PixelFormat(preprocessing=PREPROCESSING, crop_scale=0.7)
        augmentation = Transforms(hflip=0.5, hue=0.1)
        dataset = ImageDataset(
            table_of(paths), pixel_format=pixel_format, augmentation=augmentation, seed=3, on_error="raise", store=store
        )
        sampler = EpochSampler(np.arange(len(paths)), seed=3)
        loader = BatchLoader(dataset, sampler, batch_size=3, num_workers=num_workers, loads_ahead=loads_ahead)
        seen = []
        for epoch in range(3):
            sampler.set_epoch(epoch)
            seen.append(b"".join(batch.images.contiguous().numpy().tobytes() for batch in loader))
        return seen

    # Those of loaders that other tests left are not this one's.
    before = set(multiprocessing.active_children())
    store = TableStore(StoreFolder(tmp_path / "store", PixelFormat(preprocessing=PREPROCESSING, crop_scale=0.7)), paths)
    assert epochs(store, num_workers, loads_ahead=loads_ahead) == epochs(None, 0, loads_ahead=False)
    assert store.has(np.arange(len(paths))).all()
    assert set(multiprocessing.active_children()) <= before


def test_an_interrupt_that_meets_a_commit_is_not_lost(
    tmp_path: Path, paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = TableStore(StoreFolder(tmp_path / "store", PIXEL_FORMAT), paths)

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "commit", interrupted)
    dataset = ImageDataset(
        table_of(paths), pixel_format=PIXEL_FORMAT, augmentation=None, seed=0, on_error="raise", store=store
    )
    loader = BatchLoader(dataset, EpochSampler(np.arange(len(paths))), batch_size=2, num_workers=0)
    # As Lightning does: as many batches as there are, and no question whether there is another.
    batches = iter(loader)
    with pytest.raises(KeyboardInterrupt):
        for _ in range(len(loader)):
            next(batches)


def test_a_store_that_cannot_be_removed_is_left(tmp_path: Path, paths: list[str]) -> None:
    fill(tmp_path / "stores" / "old", PIXEL_FORMAT, paths).close()
    (tmp_path / "stores" / "old" / "use.lock").unlink()
    (tmp_path / "stores" / "old" / "use.lock").mkdir()
    assert make_room(tmp_path / "stores", 1.0, 0.0, keep=tmp_path) < 0
    assert list((tmp_path / "stores" / "old").glob("*.entries"))


def test_a_run_keeps_few_bytes_an_image(tmp_path: Path, paths: list[str]) -> None:
    folder = fill(tmp_path / "store", PIXEL_FORMAT, paths)
    store = TableStore(folder, paths)
    kept = [value for owner in (folder, store) for value in vars(owner).values() if isinstance(value, np.ndarray)]
    assert sum(array.nbytes for array in kept) <= 20 * len(paths)
    assert store.has(np.arange(len(paths))).all()
