from __future__ import annotations

from pathlib import Path

import pytest

from classifier_training.training.batch_size import available_memory_bytes

GB = 2**30


def machine(root: Path, memberships: str, groups: dict[str, dict[str, object]]) -> int:
    proc, cgroups = root / "proc", root / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal: {16 * GB // 1024} kB\nMemAvailable:  {8 * GB // 1024} kB\nHugePages: 0\n")
    (proc / "self/cgroup").write_text(memberships)
    for folder, files in groups.items():
        (cgroups / folder).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (cgroups / folder / name).write_text(f"{content}\n")
    return available_memory_bytes(proc=proc, cgroups=cgroups)


def version_2(most: object, used: int, cache: int = 0) -> dict[str, object]:
    return {"memory.max": most, "memory.current": used, "memory.stat": f"anon 5\ninactive_file {cache}"}


def version_1(most: object, used: int, cache: int = 0) -> dict[str, object]:
    return {
        "memory.limit_in_bytes": most, "memory.usage_in_bytes": used, "memory.stat": f"total_inactive_file {cache}",
    }  # fmt: skip


def test_what_is_free_counts_where_no_group_sets_a_limit(tmp_path: Path) -> None:
    assert machine(tmp_path, "0::/\n", {}) == 8 * GB
    assert machine(tmp_path / "b", "0::/job\n", {"job": version_2("max", GB)}) == 8 * GB
    unlimited = {"memory/job": version_1(9223372036854771712, GB)}
    assert machine(tmp_path / "c", "4:memory:/job\n", unlimited) == 8 * GB


def test_the_narrowest_group_above_the_process_counts_and_its_cache_can_be_given_back(tmp_path: Path) -> None:
    groups = {"outer": version_2(3 * GB, GB), "outer/inner": version_2("max", GB)}
    assert machine(tmp_path, "0::/outer/inner\n", groups) == 2 * GB
    groups = {"": version_2(4 * GB, 2 * GB, cache=GB)}
    assert machine(tmp_path / "b", "0::/docker/of/the/host\n", groups) == 3 * GB
    groups = {"memory/job": version_1(2 * GB, GB)}
    assert machine(tmp_path / "c", "5:devices:/\n4:cpu,memory:/\n4:memory:/job\n0::/\n", groups) == GB


def test_a_machine_that_does_not_describe_itself_gives_half(tmp_path: Path) -> None:
    assert available_memory_bytes(proc=tmp_path, cgroups=tmp_path) == pytest.approx(
        available_memory_bytes(proc=tmp_path), rel=0
    )
    assert available_memory_bytes(proc=tmp_path) > 0
