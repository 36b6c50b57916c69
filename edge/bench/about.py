"""What a figure was measured on, so that it can be traced: processor, system, versions, governor."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edge.mounts import filesystem_of, read_mountinfo

_PACKAGES = (
    *("cytologia-edge", "numpy", "opencv-python-headless", "pillow", "simplejpeg"),
    *("openvino", "onnxruntime", "tensorrt", "tensorrt-rtx-cu13", "pycuda"),
)
_CPUS = Path("/sys/devices/system/cpu")

IN_MEMORY = frozenset({"tmpfs", "ramfs"})
"""File systems that lie on no disk."""


def machine() -> dict[str, Any]:
    """Processor, cores, memory, system and versions."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": versions,
    }


def disk(folder: Path) -> str:
    """The type of the file system that a folder lies on, like "ext4"; "unknown" where none is told."""
    return filesystem_of(os.path.realpath(folder), read_mountinfo()) or "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def governor(cpus: Path = _CPUS) -> str:
    """What sets the clocks of the cores, like "powersave"; "not told" where the kernel does not."""
    found = set()
    for file in cpus.glob("cpu[0-9]*/cpufreq/scaling_governor"):
        try:
            found.add(file.read_text().strip())
        except OSError:
            continue
    return ", ".join(sorted(found)) or "not told"
