"""One run by torchrun: on one node, on two, and started in ways in which it cannot be one."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from tests.safety.runs import folder_in
from tests.safety.test_processes import train, words
from tests.server import Warm

from classifier_training.core.run_dir import RunDir
from classifier_training.workflows.training.heartbeat import SILENT_SECONDS

pytestmark = pytest.mark.timeout(900)

PORT = 29_877


def torchrun(
    settings: Sequence[str], *flags: str, before: Sequence[str] = (), **variables: str
) -> subprocess.Popen[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen(
        [*before, sys.executable, "-m", "torch.distributed.run", *flags, "-m", "classifier_training", *settings],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env,
    )  # fmt: skip


def ended(*processes: subprocess.Popen[str]) -> tuple[list[int], str]:
    said = [process.communicate(timeout=600)[0] for process in processes]
    return [process.returncode for process in processes], "\n".join(said)


def weights(run: RunDir) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run.last_checkpoint, weights_only=True)["state_dict"]
    return state


def sha256(state: dict[str, torch.Tensor]) -> str:
    return hashlib.sha256(b"".join(state[name].contiguous().numpy().tobytes() for name in sorted(state))).hexdigest()


def is_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return all(float((found[name] - expected[name]).abs().max()) <= 1e-5 for name in expected)


@pytest.mark.slow
def test_torchrun_trains_one_run_with_the_weights_of_one_process(warm: Warm, pictures: Path, tmp_path: Path) -> None:
    alone = train(warm, pictures, tmp_path / "alone")
    settings = words(pictures, tmp_path / "together", "trainer=ddp")
    codes, said = ended(torchrun(settings, "--standalone", "--nproc-per-node=2"))
    assert codes == [0], said
    # One process speaks.
    assert said.count("run folder: ") == said.count("data: ") == 1
    run = RunDir(folder_in(tmp_path / "together"))
    assert run.result.exists()
    assert not list(run.path.glob("process-*.log"))
    assert is_close(weights(run), weights(alone))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((), "torchrun started 2 processes, and each would train a run of its own"),
        pytest.param(
            ("trainer=ddp", "trainer.num_devices=3"),
            "trainer.num_devices=3: torchrun started 2 processes",
            marks=pytest.mark.nightly,
        ),
        pytest.param(
            ("trainer=ddp", "data.batch_size=1"),
            "of the 1 images of a batch a process would have 0, as there are 2",
            marks=pytest.mark.nightly,
        ),
        (("trainer=ddp", "data.root=/not/here"), "/not/here"),
    ],
)
def test_wrong_starts_are_refused_once(pictures: Path, tmp_path: Path, settings: tuple[str, ...], message: str) -> None:
    given = words(pictures, tmp_path / "out", *settings)
    keys = [word.partition("=")[0] for word in settings]
    given = [word for place, word in enumerate(given) if word.partition("=")[0] not in keys or word in settings]
    codes, said = ended(torchrun(given, "--standalone", "--nproc-per-node=2"))
    assert codes != [0]
    assert said.count("error: ") == said.count("  to do:    ") == 1, said
    assert message in said
    assert "classifier_training/" not in said  # no traceback of ours
    assert not list((tmp_path / "out").glob("*/*"))


def test_another_verb_is_refused(warm: Warm, tmp_path: Path) -> None:
    env = {
        "TORCHELASTIC_RUN_ID": "any", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0",
    }  # fmt: skip
    given = warm.run(["analyze"], cwd=tmp_path, env=env)
    assert given.code == 2
    assert "analyze: torchrun started 2 processes" in given.err


@contextlib.contextmanager
def two_machines() -> Iterator[list[list[str]]]:
    """Give what runs a command on each of two machines: network namespaces that a cable connects."""
    names = [f"tr{os.getpid()}-{node}" for node in range(2)]
    # The name of the device is the same on both, as gloo wants to know it.
    steps = [
        *(f"ip netns add {name}" for name in names),
        f"ip link add cable0 netns {names[0]} type veth peer name cable0 netns {names[1]}",
        *(f"ip -n {name} addr add 10.77.0.{node + 1}/24 dev cable0" for node, name in enumerate(names)),
        *(f"ip -n {name} link set {device} up" for name in names for device in ("cable0", "lo")),
    ]
    try:
        for step in steps:
            subprocess.run(step.split(), check=True, capture_output=True)
        yield [["ip", "netns", "exec", name] for name in names]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def on_two(
    settings: Sequence[Sequence[str]], *, machines: Sequence[Sequence[str]], before: Sequence[str] = ()
) -> tuple[list[int], str]:
    """Run a command on two machines; the last words stand before that of the second."""
    return ended(*started_on_two(settings, machines=machines, before=before))


def started_on_two(
    settings: Sequence[Sequence[str]], *, machines: Sequence[Sequence[str]], before: Sequence[str] = ()
) -> list[subprocess.Popen[str]]:
    flags = ("--nnodes=2", "--nproc-per-node=1", "--master-addr=10.77.0.1", f"--master-port={PORT}")
    return [
        torchrun(
            settings[node], *flags, f"--node-rank={node}", before=[*machines[node], *(before if node else ())],
            GLOO_SOCKET_IFNAME="cable0",
        )
        for node in range(2)
    ]  # fmt: skip


@pytest.mark.cluster
def test_two_nodes_give_the_bits_of_two_processes(warm: Warm, pictures: Path, tmp_path: Path) -> None:
    near = train(warm, pictures, tmp_path / "near", "trainer=ddp", "trainer.num_devices=2")
    settings = words(pictures, tmp_path / "far", "trainer=ddp")
    with two_machines() as machines:
        codes, said = on_two([settings, settings], machines=machines)
    assert codes == [0, 0], said
    assert sha256(weights(RunDir(folder_in(tmp_path / "far")))) == sha256(weights(near))


@pytest.mark.cluster
def test_a_cut_link_is_noticed_and_the_run_resumed(warm: Warm, pictures: Path, tmp_path: Path) -> None:
    near = train(warm, pictures, tmp_path / "near", "trainer=ddp", "trainer.num_devices=2", "trainer.max_epochs=60")
    settings = words(pictures, tmp_path / "far", "trainer=ddp", "trainer.max_epochs=60")
    with two_machines() as machines:
        running = started_on_two([settings, settings], machines=machines)
        while not list(tmp_path.glob("far/*/*/checkpoints/last.ckpt")):
            assert [process.poll() for process in running] == [None, None]
            time.sleep(0.05)
        subprocess.run(["ip", "-n", machines[0][-1], "link", "set", "cable0", "down"], check=True)
        cut = time.monotonic()
        codes, said = ended(*running)
        assert time.monotonic() - cut < SILENT_SECONDS + 60
        assert 0 not in codes
        assert "nothing was heard from node 1 for" in said
        run = folder_in(tmp_path / "far")
        assert "nothing was heard from node 0 for" in (run / "process-1.log").read_text()
        subprocess.run(["ip", "-n", machines[0][-1], "link", "set", "cable0", "up"], check=True)
        codes, said = on_two([["train", f"resume={run}"]] * 2, machines=machines)
    assert codes == [0, 0], said
    assert sha256(weights(RunDir(run))) == sha256(weights(near))


@pytest.mark.cluster
def test_two_nodes_without_a_shared_folder_or_with_other_settings_are_refused(pictures: Path, tmp_path: Path) -> None:
    assert shutil.which("unshare")
    out = tmp_path / "out"
    out.mkdir()
    settings = words(pictures, out, "trainer=ddp")
    private = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs none {out} && exec "$@"', "sh"]
    with two_machines() as machines:
        codes, said = on_two([settings, settings], machines=machines, before=private)
        assert 0 not in codes
        assert f"{out}: process 1 of 2, on another node, cannot see what process 0 writes there" in said
        codes, said = on_two([settings, [*settings, "seed=1"]], machines=machines)
        assert 0 not in codes
        assert "process 0 was started with seed=0, process 1 with seed=1" in said
    assert not list(out.iterdir())
