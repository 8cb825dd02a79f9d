"""`launcher.nodes=2`: one run of two nodes, of Slurm and of Ray."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from tests.e2e.test_launchers import start as start_command
from tests.e2e.test_launchers import two_nodes, wait_for
from tests.e2e.test_slurm import cluster
from tests.e2e.test_slurm import start as start_on_slurm
from tests.safety.runs import folder_in
from tests.safety.test_processes import train, words
from tests.safety.test_torchrun import sha256, weights
from tests.server import Warm

from classifier_training.core.run_dir import RunDir

NODES = ("launcher.nodes=2", "launcher.partition=all")


@pytest.mark.cluster
def test_two_nodes_of_slurm_give_the_bits_of_two_processes(warm: Warm, pictures: Path, tmp_path: Path) -> None:
    near = train(warm, pictures, tmp_path / "near", "trainer=ddp", "trainer.num_devices=2")
    with cluster(tmp_path / "slurm"):
        running = start_on_slurm(*words(pictures, tmp_path / "far", "trainer=ddp", *NODES))
        out, err = running.communicate(timeout=600)
    assert running.returncode == 0, out + err
    (folder,) = (tmp_path / "far/jobs").iterdir()
    assert json.loads((folder / "job.json").read_text())["exit_code"] == 0
    assert (folder / "job-1.log").exists()
    assert sha256(weights(RunDir(folder_in(folder)))) == sha256(weights(near))


@pytest.mark.cluster
def test_two_nodes_of_slurm_save_on_ctrl_c_and_say_whose_fault_it_was(pictures: Path, tmp_path: Path) -> None:
    with cluster(tmp_path / "slurm"):
        alone = start_on_slurm(*words(pictures, tmp_path / "alone", *NODES))
        out, err = alone.communicate(timeout=300)
        assert alone.returncode == 2, out + err
        assert "launcher.nodes=2: the run has one process, on one machine" in out
        long = [word for word in words(pictures, tmp_path, *NODES) if not word.startswith("trainer.max_epochs")]
        running = start_on_slurm(*long, "trainer=ddp", "trainer.max_epochs=100000")
        wait_for(lambda: list(tmp_path.glob("jobs/*/*/*/checkpoints/last.ckpt")), seconds=300)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=200)
    assert running.returncode == 130, err
    (log,) = tmp_path.glob("jobs/*/job.log")
    assert "the run is saved at the end of this step" in log.read_text()


@pytest.mark.nightly
@pytest.mark.usefixtures("quick_runs")
def test_two_nodes_of_ray_give_the_bits_of_two_processes(warm: Warm, pictures: Path, tmp_path: Path) -> None:
    near = train(warm, pictures, tmp_path / "near", "trainer=ddp", "trainer.num_devices=2")
    with two_nodes() as address:
        far = words(pictures, tmp_path / "far", "trainer=ddp", "launcher=ray", f"launcher.address={address}")
        running = start_command(*far, "launcher.nodes=2")
        out, err = running.communicate(timeout=600)
        assert running.returncode == 0, out + err
        (folder,) = (tmp_path / "far/jobs").iterdir()
        too_many = start_command(*far, "launcher.nodes=3")
        _, err = too_many.communicate(timeout=100)
        assert too_many.returncode == 2
        assert "launcher.nodes=3: the cluster has 2 with what a job asks for" in err
    assert sha256(weights(RunDir(folder_in(folder)))) == sha256(weights(near))
