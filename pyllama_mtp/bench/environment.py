"""The machine that a benchmark ran on."""

import importlib.metadata
import os
import platform
from pathlib import Path

from pyllama_mtp.cpus import available_cpus


def environment() -> dict[str, object]:
    """For the JSON report. load_average: over one minute, before the benchmark; another program's work shows there."""
    return {
        "pyllama_mtp": importlib.metadata.version("pyllama-mtp") if _installed() else "from a checkout",
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cpu": cpu_name(Path("/proc/cpuinfo").read_text(encoding="utf-8")),
        "cpus": available_cpus(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load_average": os.getloadavg()[0],
        "products": os.environ.get("PYLLAMA_MTP_PRODUCTS", "1") != "0",
    }


def _installed() -> bool:
    try:
        importlib.metadata.version("pyllama-mtp")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def cpu_name(cpuinfo: str) -> str:
    """The model name in the text of /proc/cpuinfo, or the architecture where it has none."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
