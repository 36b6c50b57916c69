"""`edge-bench`: whether a station is fit, what an engine brings, and whether an upgrade made it slower."""

from edge.bench.about import machine
from edge.bench.estimates import PERCENTILES

__all__ = ["PERCENTILES", "machine"]
