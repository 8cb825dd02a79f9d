from __future__ import annotations

import logging
import os
import platform
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from classifier_training.core.errors import InterruptedRunError, UserError
from classifier_training.core.runtime import (
    LOGGER_NAME,
    RunLog,
    cache_dir,
    command,
    cores_by_quota,
    derive_seed,
    num_cores,
    setting,
    versions,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc is not glibc's")
def test_large_blocks_are_kept_unless_the_environment_sets_malloc() -> None:
    code = (
        "import ctypes, resource\n"
        "from classifier_training.core.runtime import keep_large_blocks\n"
        "keep_large_blocks()\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.malloc.restype = ctypes.c_void_p\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(20):\n"
        "    block = ctypes.c_void_p(libc.malloc(2**26))\n"
        "    ctypes.memset(block, 1, 2**26)\n"
        "    libc.free(block)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    own = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    kept, mapped = (
        int(subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout)
        for env in (own, {**own, "MALLOC_ARENA_MAX": "4"})
    )
    # Page faults: a block that is kept has them once, one that is mapped anew each time.
    assert 5 * kept < mapped


def test_derived_seeds_are_stable_distinct_and_fit_torch() -> None:
    assert derive_seed(0, 1, 2) == derive_seed(0, 1, 2)
    seeds = {derive_seed(seed, epoch, step) for seed in range(3) for epoch in range(10) for step in range(100)}
    assert len(seeds) == 3000
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLASSIFIER_TRAINING_CACHE", str(tmp_path / "mine"))
    assert cache_dir() == tmp_path / "mine"
    monkeypatch.delenv("CLASSIFIER_TRAINING_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "classifier-training"


def test_a_cache_folder_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CLASSIFIER_TRAINING_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot be written"):
        cache_dir()


def test_a_run_log_holds_what_was_said_before_it_was_opened(tmp_path: Path) -> None:
    logger = logging.getLogger(f"{LOGGER_NAME}.test")
    logging.getLogger(LOGGER_NAME).setLevel(logging.INFO)
    with RunLog() as run_log:
        logger.info("before")
        run_log.open(tmp_path / "train.log")
        logger.warning("after")
    logger.info("too late")
    text = (tmp_path / "train.log").read_text()
    assert "before" in text
    assert "WARNING" in text
    assert "too late" not in text


@pytest.mark.parametrize(
    ("error", "words", "has_origin"),
    [
        (UserError("no room", "some", "make some"), "ERROR classifier_training: the run has failed: no room", False),
        (ZeroDivisionError("by 0"), "ERROR classifier_training: the run has failed: by 0", True),
        (InterruptedRunError(2, "resume"), "WARNING classifier_training: the run was interrupted: ", False),
        (SystemExit(143), "WARNING classifier_training: the run was interrupted: 143", False),
    ],
)
def test_a_run_log_ends_with_the_error_that_ends_the_run(
    error: BaseException, words: str, has_origin: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(type(error)), RunLog() as run_log:
        run_log.open(tmp_path / "train.log")
        raise error
    text = (tmp_path / "train.log").read_text()
    assert words in text
    assert ("Traceback" in text) is has_origin
    assert capsys.readouterr().err == ""


def test_commands_to_paste_are_started_as_this_process_was(monkeypatch: pytest.MonkeyPatch) -> None:
    assert command("predict") == "classifier-training predict"
    monkeypatch.setenv("PIXI_PROJECT_MANIFEST", "pixi.toml")
    assert command("predict") == "pixi run predict"
    monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")
    assert command("predict") == "uv run classifier-training predict"


def test_versions_name_python_and_the_package() -> None:
    assert {"python", "torch", "classifier-training"} <= versions().keys()
    assert num_cores() >= 1


@pytest.mark.parametrize(
    "module",
    [
        "classifier_training",
        "classifier_training.cli",
        "classifier_training.conf.compose",
        "classifier_training.inference.predictor",
        "classifier_training.export.bundle",
    ],
)
def test_importing_needs_neither_torch_nor_matplotlib(module: str) -> None:
    code = (
        f"import sys, {module}\n"
        "heavy = {'torch', 'torchvision', 'timm', 'pytorch_lightning', 'matplotlib', 'sklearn', 'onnxruntime'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "value",
    [
        "/plain/path-1.0_x",
        "a b",
        "a,b",
        "it's",
        'say "so"',
        "back\\slash\\",
        'a\\"b',
        "x=(1)[2]{3}",
        "${nothing}",
        "~/ü",
        "a#b",
    ],
)
def test_a_setting_to_be_pasted_reads_back_as_it_was(value: str) -> None:
    import shlex

    from classifier_training import cli  # noqa: F401 - fills the register
    from classifier_training.conf.command_line import read_words
    from classifier_training.conf.compose import compose
    from classifier_training.core.register import entry

    train = entry("verb", "train")
    assert compose(train, read_words(train, shlex.split(setting("data.root", value))))["data"].root.endswith(
        value.removeprefix("~/")
    )


SCRIPT = """
from multiprocessing import get_context
from classifier_training.core.runtime import main_hidden

print("the script runs")
with main_hidden():
    child = get_context("spawn").Process(target=print, args=["the process runs"])
    child.start()
    child.join()
print(__file__, child.exitcode)
"""


def test_a_script_without_a_guard_can_start_processes(tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, check=True)
    assert sorted(done.stdout.splitlines()) == sorted(["the script runs", "the process runs", f"{path} 0"])


def test_a_limit_of_processor_time_counts_as_cores(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    group = tmp_path / "groups/pod/container"
    group.mkdir(parents=True)
    (tmp_path / "self/cgroup").write_text("0::/pod/container\n")
    (group / "cpu.max").write_text("max 100000\n")
    assert cores_by_quota.__wrapped__(proc=tmp_path, cgroups=tmp_path / "groups") == ()
    (group.parent / "cpu.max").write_text("150000 100000\n")
    assert cores_by_quota.__wrapped__(proc=tmp_path, cgroups=tmp_path / "groups") == (2,)
    (tmp_path / "self/cgroup").write_text("3:cpu,cpuacct:/a\n2:memory:/b\n")
    (tmp_path / "groups/cpu/a").mkdir(parents=True)
    (tmp_path / "groups/cpu/a/cpu.cfs_quota_us").write_text("-1\n")
    (tmp_path / "groups/cpu/a/cpu.cfs_period_us").write_text("100000\n")
    assert cores_by_quota.__wrapped__(proc=tmp_path, cgroups=tmp_path / "groups") == ()
    (tmp_path / "groups/cpu/a/cpu.cfs_quota_us").write_text("400000\n")
    assert cores_by_quota.__wrapped__(proc=tmp_path, cgroups=tmp_path / "groups") == (4,)
    assert cores_by_quota.__wrapped__(proc=tmp_path / "none", cgroups=tmp_path) == ()


STARTS_A_POOL = """
import os, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from classifier_training.core.runtime import leave_interrupts, starts_quietly

if __name__ == "__main__":
    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=leave_interrupts)
    with starts_quietly():
        found = pool.submit(os.getpid)
    try:
        print("started", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print("the pool works:", found.result() > 0, flush=True)
"""


def test_ctrl_c_does_not_reach_a_pool_that_is_being_started(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(STARTS_A_POOL)
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.communicate()[0] == "the pool works: True\n"
    assert process.returncode == 0
