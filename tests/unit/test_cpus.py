"""The default number of threads: affinity, quotas of control groups in both versions and at every level, cores."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyllama_mtp import cpus

V1 = "33 32 0:30 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
V1_OTHER = "34 32 0:31 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
V2 = "31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
DISK = "23 1 254:0 / / rw,relatime - ext4 /dev/root rw\n"


def machine(root: Path, cgroup: str, mounts: str, files: dict[str, str]) -> Path:
    """A tree with what /proc and /sys would say."""
    files = {"proc/self/cgroup": cgroup, "proc/self/mountinfo": DISK + mounts, **files}
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def v1(folder: str, quota: int, period: int = 100_000) -> dict[str, str]:
    folder = f"sys/fs/cgroup/cpu/{folder}".rstrip("/")
    return {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": f"{period}\n"}


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))


@pytest.mark.parametrize(
    "cgroup, mounts, files, expected",
    [
        ("0::/\n", V2, {}, 8),  # the root group has no cpu.max
        ("0::/user/app\n", V2, {"sys/fs/cgroup/user/app/cpu.max": "max 100000\n"}, 8),
        ("0::/user/app\n", V2, {"sys/fs/cgroup/user/app/cpu.max": "50000 100000\n"}, 1),
        ("0::/user/app\n", V2, {"sys/fs/cgroup/user/app/cpu.max": "250000 100000\n"}, 3),
        (
            "0::/a/b/c\n",
            V2,
            {"sys/fs/cgroup/a/cpu.max": "200000 100000\n", "sys/fs/cgroup/a/b/c/cpu.max": "max 1\n"},
            2,
        ),
        ("4:cpu,cpuacct:/app\n3:memory:/app\n0::/\n", V1 + V1_OTHER, v1("app", 150_000), 2),
        ("4:cpu,cpuacct:/app\n", V1, v1("app", -1), 8),
        ("4:cpu,cpuacct:/a/b\n", V1, v1("a/b", -1) | v1("a", 30_000, 10_000), 3),
        ("4:cpuset:/app\n", V1, v1("app", 10_000), 8),  # another controller's group
        # A container sees its own group as the mount's root, whatever its name outside.
        ("4:cpu,cpuacct:/docker/12ab\n", V1.replace("0:30 /", "0:30 /docker/12ab"), v1("", 400_000), 4),
        ("4:cpu,cpuacct:/docker/12ab\n", V1.replace("0:30 /", "0:30 /other"), v1("", 400_000), 4),
        ("0::/../../app\n", V2, {"sys/fs/cgroup/cpu.max": "100000 100000\n"}, 1),
        ("0::/app\n", V2, {"sys/fs/cgroup/app/cpu.max": "lots\n"}, 8),
        ("nonsense\n", V2, {}, 8),
    ],
)
def test_quotas(tmp_path, cgroup, mounts, files, expected):
    """A container's quota does not show in the affinity mask, so that more threads spun than could run."""
    assert cpus.available_cpus(machine(tmp_path, cgroup, mounts, files)) == expected


def test_without_proc_the_affinity_mask_counts(tmp_path):
    assert cpus.available_cpus(tmp_path) == cpus.default_threads(tmp_path) == 8


def test_two_cpus_of_one_core_are_one(tmp_path):
    names = {f"sys/devices/system/cpu/cpu{i}/topology/thread_siblings_list": f"{i % 4},{i % 4 + 4}\n" for i in range(6)}
    root = machine(tmp_path, "0::/app\n", V2, names)
    assert cpus.physical_cores({0, 1, 4}, root) == 2
    assert cpus.default_threads(root) == 6  # of cores 0 to 3, and two CPUs of which nothing is known
    (root / "sys/fs/cgroup/app").mkdir(parents=True)
    (root / "sys/fs/cgroup/app/cpu.max").write_text("200000 100000\n")
    assert cpus.default_threads(root) == 2


def test_the_quota_of_a_real_control_group():
    """Half a CPU gives one thread; needs a control group that can be written to."""
    first, second = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")
    group = (first if (first / "cpu.cfs_quota_us").exists() else second) / f"pyllama-mtp-{os.getpid()}"
    try:
        group.mkdir()
        if group.parent == first:
            (group / "cpu.cfs_quota_us").write_text("50000")
        else:
            (group / "cpu.max").write_text("50000 100000")
    except OSError as error:
        pytest.skip(f"no control group to write to: {error}")
    code = "import os, pyllama_mtp.cpus as c; open('{}', 'w').write(str(os.getpid())); print(c.default_threads())"
    try:
        command = [sys.executable, "-P", "-c", code.format(group / "cgroup.procs")]
        output = subprocess.run(command, capture_output=True, text=True, timeout=60)
    finally:
        group.rmdir()
    assert output.stdout.strip() == "1", output.stderr
