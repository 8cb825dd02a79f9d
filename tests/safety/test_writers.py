"""One run, one folder, one writer; and the same images whoever loads them."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tests.safety.runs import folder_in, words
from tests.server import Ended, Warm

from classifier_training.core.errors import UserError, system_error
from classifier_training.core.preprocess import Preprocessing
from classifier_training.core.processes import work_in
from classifier_training.core.run_dir import RunDir
from classifier_training.core.types import TRAIN, SplitTable
from classifier_training.data.augmenting.transforms import Transforms
from classifier_training.data.datamodule import ImageFolderDataModule
from classifier_training.data.index import SplitData
from classifier_training.data.loader import BatchLoader, explain_worker_death

pytestmark = pytest.mark.timeout(1200)


def test_a_writer_keeps_all_others_out_until_it_ends(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib; from classifier_training.core.processes import work_in;"
        "from classifier_training.core.run_dir import RunDir\n"
        "with work_in(RunDir(pathlib.Path(sys.argv[1]))): print('held', flush=True); sys.stdin.readline()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"process {other.pid} is writing to this run"), work_in(RunDir(tmp_path)):
        pass
    other.send_signal(signal.SIGKILL)
    other.communicate()
    with work_in(RunDir(tmp_path)):
        with pytest.raises(UserError, match=f"process {os.getpid()}"), work_in(RunDir(tmp_path)):
            pass
        pid = os.fork()
        if pid == 0:
            time.sleep(30)
            os._exit(0)
    # A process that was forked does not hold on to it.
    with work_in(RunDir(tmp_path)):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_second_start_is_refused_before_torch_is_there(
    command: Callable[..., Ended], warm: Warm, pictures: Path, tmp_path: Path
) -> None:
    pid = warm.start(words(pictures, tmp_path / "out", "trainer.max_epochs=5000"), cwd=tmp_path)
    while not list(tmp_path.glob("out/*/*/config.yaml")):
        time.sleep(0.01)
    run = folder_in(tmp_path / "out")
    (tmp_path / "usercustomize.py").write_text(
        "import sys\nclass No:\n def find_spec(self, name, *_):\n"
        "  if name == 'torch': raise RuntimeError('torch was imported')\n  return None\nsys.meta_path.insert(0, No())\n"
    )
    before = os.times()
    second = command("train", f"resume={run}", env={"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"})
    after = os.times()
    assert second.code == 2
    assert f"process {pid} is writing to this run" in second.err
    assert "Traceback" not in second.err
    assert (after.children_user - before.children_user) < 5
    os.kill(pid, signal.SIGKILL)
    warm.wait(pid)


@pytest.mark.parametrize("count", [3, pytest.param(20, marks=pytest.mark.nightly)])
def test_of_many_starts_in_one_folder_one_wins(warm: Warm, pictures: Path, tmp_path: Path, count: int) -> None:
    plan = words(pictures, tmp_path / "out", "trainer.max_epochs=1", "callbacks.checkpoint.every_minutes=10")
    assert warm.run(plan, cwd=tmp_path).code == 0
    run = folder_in(tmp_path / "out")
    pids = [warm.start(["train", f"resume={run}", "trainer.max_epochs=400"], cwd=tmp_path) for _ in range(count)]
    # The winner goes on until all others have given up.
    while sum(warm.has_ended(pid) for pid in pids) < count - 1:
        time.sleep(0.02)
    (winner,) = [pid for pid in pids if not warm.has_ended(pid)]
    losers = [warm.wait(pid) for pid in pids if pid != winner]
    assert [loser.code for loser in losers] == [2] * (count - 1)
    assert all(f"process {winner} is writing" in loser.err for loser in losers)
    os.kill(winner, signal.SIGKILL)
    warm.wait(winner)


def test_twenty_starts_in_one_second_get_twenty_folders(tmp_path: Path) -> None:
    with ThreadPoolExecutor(20) as pool:
        runs = list(pool.map(lambda _: RunDir.create(tmp_path), range(20)))
    assert len({run.path for run in runs}) == 20


def loaded(paths: list[str], *, num_workers: int, start: int = 0) -> tuple[BatchLoader, ImageFolderDataModule]:
    targets = np.arange(len(paths)) % 2
    table = SplitTable(name=TRAIN, paths=paths, targets=targets.astype(np.int64), groups=[""] * len(paths))
    data = SplitData(Path("/"), ("a", "b"), {TRAIN: table})
    module = ImageFolderDataModule(
        data,
        preprocessing=Preprocessing(size=(16, 16), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        augmentation=Transforms(hflip=0.5),
        class_weights=np.array([1.0, 3.0]),
        batch_size=4,
        num_workers=num_workers,
        on_error="raise",
        seed=5,
    )
    loader = module.train_dataloader()
    if start:
        loader.load_state_dict({"num_batches": start, "batch_size": 4})
    return loader, module


def epoch_hash(loader: BatchLoader, module: ImageFolderDataModule, epoch: int) -> list[str]:
    """Hash each batch of an epoch: which samples, and their pixels."""
    iterator = iter(loader)
    # As Lightning does: it asks for the iterator first and says which epoch it is afterwards.
    module.sampler.set_epoch(epoch)
    return [
        hashlib.sha256(batch.indices.numpy().tobytes() + batch.images.contiguous().numpy().tobytes()).hexdigest()
        for batch in iterator
    ]


def test_workers_and_resuming_change_no_pixel(pictures: Path) -> None:
    paths = sorted(str(path) for path in (pictures / "train").rglob("*.png"))
    found = {}
    for num_workers in (0, 1, 2):
        loader, module = loaded(paths, num_workers=num_workers)
        found[num_workers] = [epoch_hash(loader, module, epoch) for epoch in (3, 4)]
        resumed, module = loaded(paths, num_workers=num_workers, start=2)
        assert epoch_hash(resumed, module, 3) == found[num_workers][0][2:]
        assert epoch_hash(resumed, module, 4) == found[num_workers][1]
    assert found[0] == found[1] == found[2]
    assert len(found[0][0]) == 6


def test_a_loader_process_that_dies_is_told_with_its_image(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from classifier_training.data import dataset

    paths = sorted(str(path) for path in (pictures / "train").rglob("*.png"))
    loader, module = loaded(paths, num_workers=1)
    fatal = paths[module.sampler.order(0)[9]]
    read = dataset.ImageDataset._kept

    def kept(self: dataset.ImageDataset, row: int, *, stored: bool) -> object:
        if self.path(row) == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, row, stored=stored)

    monkeypatch.setattr(dataset.ImageDataset, "_kept", kept)
    with pytest.raises(UserError, match="a loader process died") as caught, explain_worker_death():
        list(loader)
    assert fatal in caught.value.came
    assert "data.num_workers=0" in caught.value.remedy


def test_a_full_disk_and_too_many_files_are_told_in_words() -> None:
    import errno

    for number in (errno.ENOSPC, errno.EIO, errno.EMFILE, errno.ENFILE, errno.EROFS):
        told = system_error(OSError(number, os.strerror(number), "/some/file"))
        assert told is not None
        assert told.came == f"/some/file: {os.strerror(number)}"
    assert system_error(FileNotFoundError(2, "No such file")) is None
