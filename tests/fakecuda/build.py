"""Builds the double of the CUDA driver with the system's C compiler."""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

SOURCE = Path(__file__).with_name("libcuda.c")
_NOT_SUPPORTED = 801


def build_libcuda(folder: Path, users: Sequence[Path] = ()) -> Path:
    """Build `libcuda.so.1`.

    Args:
        folder: where to.
        users: libraries that are linked to the driver. They cannot be loaded unless it has all functions that
            they might call; those that the double has not give CUDA_ERROR_NOT_SUPPORTED.
    """
    source = SOURCE.read_text()
    wanted: set[str] = set()
    for user in users:
        listed = subprocess.run(
            ["nm", "-D", "--undefined-only", user], check=True, capture_output=True, text=True
        )
        wanted |= set(re.findall(r" U (cu[A-Z]\w+)", listed.stdout))
    stubs = "".join(
        f"int {name}(void) {{ return {_NOT_SUPPORTED}; }}\n"
        for name in sorted(wanted - set(re.findall(r"^int (\w+)\(", source, re.MULTILINE)))
    )
    target = folder / "libcuda.so.1"
    command = ["cc", "-std=gnu17", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"]
    subprocess.run([*command, "-o", target, "-x", "c", "-"], check=True, input=source + stubs, text=True)
    return target
