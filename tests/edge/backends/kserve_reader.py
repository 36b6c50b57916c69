"""Reads images through a server, in a process of its own: the tests' own process may open no network.

python kserve_reader.py URL BUNDLE < paths    one line of JSON for each path
"""

import json
import logging
import sys
from dataclasses import astuple
from pathlib import Path

from edge import pipeline
from edge.backends.kserve import KServeBackend
from edge.bundle import Bundle
from edge.errors import EdgeError
from edge.images import decode


def main() -> None:
    url, folder = sys.argv[1:]
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    pipeline.find_backend = lambda *args, **options: KServeBackend(url)  # type: ignore[assignment]
    try:
        with pipeline.open_pipeline(Bundle.load(Path(folder)), "kserve") as opened:
            print(json.dumps([opened.engine_id, opened.why]), flush=True)
            for line in sys.stdin:
                findings = opened.read(decode(Path(line.removesuffix("\n")).read_bytes()))
                print(json.dumps([astuple(finding) for finding in findings]), flush=True)
    except EdgeError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
