"""How many CPUs this process may use: its affinity mask, the CPU quotas of its control groups, and physical cores.

Reads /proc and /sys alone. What is not there (no control groups, no topology) limits nothing.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path


def available_cpus(root: Path = Path("/")) -> int:
    """CPUs that this process may keep busy at once: those of its affinity mask, or fewer if a control group has a
    quota. A part of a CPU counts as one.
    """
    return math.ceil(min([len(os.sched_getaffinity(0)), *quotas(root)]))


def default_threads(root: Path = Path("/")) -> int:
    """Threads that a model computes with if its caller does not say: one for each CPU that this process may keep busy,
    and one for two CPUs of the same core, which share its arithmetic units.
    """
    return min(available_cpus(root), physical_cores(os.sched_getaffinity(0), root))


def physical_cores(cpus: set[int], root: Path = Path("/")) -> int:
    """Cores that the CPUs belong to; a CPU of which nothing is known is one by itself."""

    def siblings(cpu: int) -> str:
        try:
            topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
            return (topology / "thread_siblings_list").read_text().strip()
        except OSError:
            return str(cpu)

    return len({siblings(cpu) for cpu in cpus})


def quotas(root: Path = Path("/")) -> list[float]:
    """In CPUs, the quotas that limit this process: of its own control group and of every one that this is in, as far
    as they can be seen.
    """
    found = []
    for folder in _groups(root):
        try:
            if (folder / "cpu.max").exists():  # version 2
                quota, period = (folder / "cpu.max").read_text().split()
            else:
                quota = (folder / "cpu.cfs_quota_us").read_text()
                period = (folder / "cpu.cfs_period_us").read_text()
            if quota.strip() != "max" and int(quota) > 0 and int(period) > 0:
                found.append(int(quota) / int(period))
        except (OSError, ValueError):
            continue
    return found


def _groups(root: Path) -> Iterator[Path]:
    """The folders of the control groups that may limit this process, its own group's first, then those above."""
    try:
        memberships = (root / "proc/self/cgroup").read_text().splitlines()
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return
    for membership in memberships:
        _, _, rest = membership.partition(":")
        controllers, _, group = rest.partition(":")
        if not group.startswith("/") or (controllers and "cpu" not in controllers.split(",")):
            continue
        for mount in mounts:
            fields, _, kind = mount.partition(" - ")
            file_system, _, options = kind.split(" ", 2)
            of_version_2 = file_system == "cgroup2" and not controllers
            of_version_1 = file_system == "cgroup" and bool(controllers) and "cpu" in options.split(" ")[-1].split(",")
            if of_version_1 or of_version_2:
                mounted, point = (name.replace("\\040", " ") for name in fields.split(" ")[3:5])
                yield from _upwards(root / point.lstrip("/"), mounted, group)


def _upwards(point: Path, mounted: str, group: str) -> Iterator[Path]:
    """From the group's folder up to the mount point, which shows the tree from the group `mounted` on. A group that is
    not below that, as in some containers, is taken for that one.
    """
    below = os.path.relpath(group, mounted)
    folder = point if below.startswith("..") else point / below
    while True:
        yield folder
        if folder == point:
            return
        folder = folder.parent
