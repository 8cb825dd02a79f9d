"""How much memory a process may still take: what is free, and what its control groups leave it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")


def available_memory_bytes(*, proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Main memory that this process can take before the system ends it.

    On Linux the least of what is free and what each control group above the process has left, page cache that can be
    given back counted as free; elsewhere half of the machine's memory, which is all that can be known cheaply.

    Args:
        proc: where the kernel describes itself.
        cgroups: where it describes control groups, of version 1 or 2.
    """
    try:
        found = [_free(proc / "meminfo")]
    except OSError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    for group in _groups(proc / "self/cgroup", cgroups):
        found += _left(group, "memory.max", "memory.current", "inactive_file")
        found += _left(group, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    return max(0, min(found))


def _free(meminfo: Path) -> int:
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    return int(lines["MemAvailable"].split()[0]) * 1024


def _groups(memberships: Path, cgroups: Path) -> list[Path]:
    """Folders of the control groups that hold this process, and of all above them."""
    folders: list[Path] = []
    for line in memberships.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        # Inside a container the path is often the host's, and only the mounted root is there.
        root = cgroups / "memory" if controllers else cgroups
        own = root / path.lstrip("/")
        folders += [own, *(parent for parent in own.parents if parent == root or root in parent.parents)]
    return folders


def _left(group: Path, limit: str, usage: str, reclaimable: str) -> list[int]:
    try:
        most = (group / limit).read_text().strip()
        used = int((group / usage).read_text())
        statistics = (group / "memory.stat").read_text()
    except OSError:
        return []
    # Without a limit the one version says so in a word and the other in a number beyond all memory.
    if most == "max" or int(most) >= sys.maxsize // 2:
        return []
    spare = next((int(line.split()[1]) for line in statistics.splitlines() if line.split()[0] == reclaimable), 0)
    return [int(most) - used + spare]
