"""One answer by a process of its own: `python -m build_engines.cold_start BUNDLE BACKEND IMAGE`.

What a station pays between being started and its first result. It prints one line of JSON: `answered_ns` of
the clock that all processes of a machine share, `opened_ms`, `read_ms` and `leukocytes`.
"""

import json
import sys
import time
from pathlib import Path


def main(bundle: str, backend: str, image: str) -> None:
    """Open the bundle as a station does, self-test included, and read the image."""
    from edge.bundle import Bundle
    from edge.images import decode
    from edge.pipeline import open_pipeline

    began = time.monotonic_ns()
    with open_pipeline(Bundle.load(Path(bundle)), backend) as pipeline:
        opened = time.monotonic_ns()
        findings = pipeline.read(decode(Path(image).read_bytes()))
        answered = time.monotonic_ns()
    told = {
        "answered_ns": answered,
        "opened_ms": (opened - began) / 1e6,
        "read_ms": (answered - opened) / 1e6,
        "leukocytes": len(findings),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
