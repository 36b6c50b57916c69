"""What the command of splits reads and writes: rows of annotation files, pairs of files, a summary."""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from build_engines.markdown_text import table_line
from training.annotations import COLUMNS
from training.audit.cleaning import parse_all
from training.audit.figures import count_classes
from training.audit.looking import find_images
from training.audit.tables import Table
from training.errors import AnnotationError
from training.folds import BoxRow, Pair, SplitError, groups_of, shortfalls
from training.image_links import link_images, require_places
from training.provenance import (
    DUPLICATE_GROUP,
    FILE_NAME,
    SOURCE,
    Provenance,
    file_word,
    source_of,
    together_of,
    write_provenance,
)

SUMMARY = "summary.md"
"""By which a folder is known as that of a former split."""

_PAIR_FILE = re.compile(r"(fold-\d+|without-.+)-(train|val)\.csv")
"""Every name that one of the files of a pair can have."""


def read_rows(table: Table, known: Provenance, marks: Sequence[str]) -> list[BoxRow]:
    """The rows of a file, as they are.

    Raises:
        AnnotationError: a row has no name, or a class that is none.
    """
    paths = find_images((row.name for row in table.rows), table.folders)
    rows = []
    for row, parsed in zip(table.rows, parse_all(table), strict=True):
        cells = known.get(row.name, {})
        given = tuple(row.cells[column].strip() for column in COLUMNS)
        source = source_of(paths.get(row.name), row.name, cells)
        rows.append(BoxRow(given, parsed.label, source, together_of(source, cells, marks)))
    return rows


def write_pairs(
    pairs: Sequence[Pair],
    prefix: str,
    tables: Sequence[Table],
    known: Mapping[Path, Provenance],
    text: str,
    out: Path,
) -> None:
    """All files, with the summary, provenance.csv and images/ beside as the trainers look for them.

    Those of a former split are removed: whoever reads a split takes all folds that are there.

    Args:
        text: of the summary.
        out: an empty folder, or that of a former split.

    Raises:
        AnnotationError: two images have one NAME, or one cannot be linked; nothing was written.
        SplitError: two pairs would have files of one name; nothing was written.
    """
    images: dict[str, Path] = {}
    told: dict[str, dict[str, str]] = {}
    for table in tables:
        for name, path in find_images((row.name for row in table.rows), table.folders).items():
            if images.setdefault(name, path).resolve() != path.resolve():
                raise AnnotationError(
                    f"{images[name]} and {path} are two images of one NAME; rename one of them, or split "
                    "their files apart."
                )
        for name in dict.fromkeys(row.name for row in table.rows):
            cells = known[table.path].get(name, {})
            told[name] = {**cells, "NAME": name, SOURCE: source_of(images.get(name), name, cells)}
    stems = [prefix + file_word(pair.name) for pair in pairs]
    if len(set(stems)) < len(stems):
        raise SplitError(
            f"Two sources would give files of one name, of {', '.join(stems)}; rename one of them."
        )
    require_places(images, out / "images")
    (out / SUMMARY).write_text(text, encoding="utf-8")
    for former in [path for path in out.iterdir() if _PAIR_FILE.fullmatch(path.name)]:
        former.unlink()
    for pair, stem in zip(pairs, stems, strict=True):
        for part, rows in (("train", pair.train), ("val", pair.val)):
            with (out / f"{stem}-{part}.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(COLUMNS)
                writer.writerows(row.cells for row in rows)
    write_provenance(out / FILE_NAME, list(told.values()))
    link_images(images, out / "images")


def summary(
    rows: Sequence[BoxRow],
    pairs: Sequence[Pair],
    files: Sequence[str],
    marks: Sequence[str],
    by_source: bool,
    seed: int,
) -> str:
    """The text of `SUMMARY`: how it was split, boxes by class and pair, and what could not be balanced.

    Args:
        files: names of the annotation files.
        marks: columns of provenance.csv whose images were kept together.
    """
    n_groups = len(set(groups_of(rows).tolist()))
    n_images = len({row.name for row in rows})
    kept = "the same image" + "".join(f", the same {mark}" for mark in marks)
    how = "One source left out at a time" if by_source else f"{len(pairs)} folds, seed {seed}"
    blocks = [
        f"# {how}",
        f"{len(rows):,} boxes on {n_images:,} images of {', '.join(files)}. Never parted: {kept} "
        f"({n_groups:,} groups)."
        + (
            ""
            if DUPLICATE_GROUP in marks
            else " Near-duplicates are not kept together: no duplicate_group of training.audit was used."
        ),
        "Boxes to judge by, by class:",
    ]
    lines = [("class", *(pair.name for pair in pairs), "all")]
    classes = count_classes(row.label for row in rows)
    counts = [count_classes(row.label for row in pair.val) for pair in pairs]
    lines += [
        (label, *(str(one.get(label, 0)) for one in counts), str(total)) for label, total in classes.items()
    ]
    lines.append(("**boxes**", *(str(len(pair.val)) for pair in pairs), str(len(rows))))
    lines.append(("**images**", *(str(len({row.name for row in pair.val})) for pair in pairs), str(n_images)))
    blocks.append(_table(lines))
    notes = _source_notes(pairs) if by_source else shortfalls(rows, pairs)
    title = "By source" if by_source else "What could not be balanced"
    blocks += [f"## {title}", "\n".join(f"- {note}" for note in notes) or "Nothing."]
    return "\n\n".join(blocks) + "\n"


def _source_notes(pairs: Sequence[Pair]) -> list[str]:
    """Per source: what it can judge, and what a model trained without it never saw."""
    notes = []
    for pair in pairs:
        judged = count_classes(row.label for row in pair.val)
        trained = count_classes(row.label for row in pair.train)
        note = f"{pair.name} judges {', '.join(judged)}"
        if unseen := [label for label in judged if label not in trained]:
            note += f"; without it no image to train on has {', '.join(unseen)}"
        if pair.left_out:
            note += f"; {len(pair.left_out)} boxes of other sources belong to its images and are left out"
        notes.append(f"{note}.")
    return notes


def _table(lines: Sequence[Sequence[str]]) -> str:
    header, *rest = map(table_line, lines)
    ruler = f"|---|{'---:|' * (len(lines[0]) - 1)}"
    return "\n".join([header, ruler, *rest])
