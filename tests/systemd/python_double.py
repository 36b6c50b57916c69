#!/usr/bin/env python3
"""A double for the interpreter given to systemd/install-station: quick, and without the package index.

Its environments are real ones of the interpreter that runs the tests, but with a double for pip, which puts
the commands there and no packages. It says that it lies where a service can see it, whether or not it does.
"""

import subprocess
import sys
from pathlib import Path

_REAL = sys.executable
_PIP = """
import os, sys
from pathlib import Path

if os.environ.get("DOUBLE_PIP_FAILS"):
    sys.exit("ERROR: the double for pip fails, as asked")
command = Path(sys.executable).with_name("edge-watch")
command.write_text(f"#!{sys.executable}\\nimport sys\\nfrom edge.cli import watch\\nsys.exit(watch())\\n")
command.chmod(0o755)
(command.parent.parent / "pip-was-given").write_text("\\n".join(sys.argv[1:]))
"""


def main() -> None:
    match sys.argv[1:]:
        case ["-m", "venv", folder]:
            subprocess.run([_REAL, "-m", "venv", "--without-pip", folder], check=True)
            pip = next(Path(folder).glob("lib/python3*/site-packages")) / "pip"
            pip.mkdir()
            (pip / "__main__.py").write_text(_PIP)
        case ["-c", code] if "base_prefix" in code:
            print(f"{sys.version_info[0]}.{sys.version_info[1]}\n/usr/bin/python-double\n/usr")
        case ["-c", _]:
            pass
        case other:
            raise SystemExit(f"the double for the interpreter does not know {other}")


main()
