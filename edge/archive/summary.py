"""What an archive holds, counted from its parts."""

from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from edge.archive.store import ArchiveStore
from edge.cells import leukocytes_in_words


def print_summary(out: Path, pending: int) -> None:
    """Counts by status and by class over all parts, and where the rows are."""
    store = ArchiveStore(out)
    status, engines, cells = Counter[str](), Counter[str](), Counter[str]()
    parts = store.parts()
    for part in parts:
        images = store.images(part, ["status", "engine"])
        status.update(images["status"].to_pylist())
        engines.update(images["engine"].to_pylist())
        cells.update(store.results(part, ["class"])["class"].to_pylist())
    console = Console()
    console.print(f"{status.total()} images, {leukocytes_in_words(cells)}", highlight=False)
    table = Table()
    table.add_column("status")
    table.add_column("images", justify="right")
    for name, count in status.most_common():
        table.add_row(name, str(count))
    if pending:
        table.add_row("no answer yet: start again", str(pending))
    console.print(table)
    if cells:
        console.print(", ".join(f"{label} {count}" for label, count in cells.most_common()))
    if len(engines) > 1:
        several = ", ".join(f"{name} {count}" for name, count in engines.most_common())
        console.print(f"more than one engine: {several}", markup=False, highlight=False)
    where = f"{out / 'parts'}/*/results.parquet, images.parquet, results.csv, images.csv"
    console.print(f"rows: {where} ({len(parts)} parts)", markup=False, highlight=False, soft_wrap=True)
