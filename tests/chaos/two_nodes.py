"""`edge-archive` on a Ray cluster of two nodes on this machine, one of which is lost on the way:

    python -m tests.chaos.two_nodes IMAGES OUT MARKS

The workers die as `tests.edge.archive.dying_workers` has it. When a third of the parts are there, the second
node is killed with all that runs on it, and another one joins.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from edge.archive.cluster import ENVIRONMENT, LOOPBACK_ONLY

os.environ |= ENVIRONMENT | LOOPBACK_ONLY
from ray.cluster_utils import Cluster  # Ray reads its environment now

_NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20}


def main(images: str, out: str, marks: str) -> int:
    cluster = Cluster(initialize_head=True, head_node_args={**_NODE, "include_dashboard": False})
    second = cluster.add_node(**_NODE)
    command = [sys.executable, "-m", "tests.edge.archive.dying_workers", images, out, marks, cluster.address]
    process = subprocess.Popen(command)
    while process.poll() is None and len(list(Path(out).glob("parts/*"))) < 20:
        time.sleep(0.05)
    if process.poll() is None:
        cluster.remove_node(second, allow_graceful=False)
        (Path(marks) / "node").touch()
        cluster.add_node(**_NODE)
    code = process.wait()
    cluster.shutdown()
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
