"""One audit: tables and looked-at images in, cleaned tables and every fault out. Writes nothing."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edge.cells import cell_class
from edge.names import as_text
from training.audit.cleaning import MIN_SIDE_PX, Cleaned, CleanRow, KnownImage, clean, parse
from training.audit.duplicates import Pair, near_duplicates
from training.audit.faults import Action, Change, Fault
from training.audit.looking import LookedAt
from training.audit.overlaps import drop_copies, settle_overlaps, tell_lost_boxes
from training.audit.tables import Table
from training.groups import group_of_each


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit found.

    Attributes:
        changes: in the order of the files and lines, those of whole images behind the lines of their file.
        images: everything looked at, by path; those that no row names too.
        names: the NAME of each of them: the first that a row gives it, else its path from its folder.
        pairs: near-duplicates, with their changes.
        groups: the images that look alike, by path: the path of the first of their group.
        paths: where the images are, by NAME, by path of the table; empty for tables without images.
    """

    tables: list[Cleaned]
    changes: list[Change]
    images: Mapping[Path, LookedAt]
    names: Mapping[Path, str]
    pairs: Mapping[Change, tuple[Path, Path]]
    groups: Mapping[Path, Path]
    paths: Mapping[Path, Mapping[str, Path]]


def audit(
    tables: Sequence[Table],
    paths: Mapping[Path, Mapping[str, Path]],
    images: Mapping[Path, LookedAt],
    sizes_wh: Mapping[Path, Mapping[str, tuple[int, int]]],
    min_side_px: float = MIN_SIDE_PX,
) -> Audit:
    """Hold rows and images against each other.

    Args:
        paths: as `Audit.paths`.
        images: every file that was looked at, by path.
        sizes_wh: sizes that somebody wrote down, by NAME, by path of the table.
    """
    known = {
        table.path: {name: _known(images[path]) for name, path in paths[table.path].items()}
        for table in tables
        if table.folders
    }
    cleaned = [
        clean(table, known.get(table.path), sizes_wh.get(table.path, {}), min_side_px) for table in tables
    ]
    for one in cleaned:
        settle_overlaps(one)
    drop_copies(cleaned, known)
    for one in cleaned:
        tell_lost_boxes(one)
    labels = {one.table.path: one.table.label for one in cleaned}
    named = _named(cleaned, paths)
    unnamed = _unnamed(images, named, tables)
    pairs, groups = _look_alikes(images, {**named, **unnamed})
    changes = [
        *(change for one in cleaned for change in sorted(one.changes, key=_by_line)),
        *_in_two_files(tables, paths, labels),
        *_repaired(images, named),
        *pairs,
        *unnamed.values(),
    ]
    names = {path: change.name for path, change in {**named, **unnamed}.items()}
    return Audit(cleaned, changes, images, names, pairs, groups, paths)


def given_rows(tables: Sequence[Table]) -> list[tuple[str, CleanRow]]:
    """The rows that can be read, with the label of their file and nothing mended."""
    rows = []
    for table in tables:
        for row in table.rows:
            try:
                rows.append((table.label, parse(row)))
            except ValueError:
                continue
    return rows


def _known(image: LookedAt) -> KnownImage:
    return KnownImage(
        image.path, image.sha256, image.size_wh, image.refusal if image.repaired is None else None
    )


def _by_line(change: Change) -> tuple[bool, int]:
    return change.line is None, change.line or 0


def _named(cleaned: Sequence[Cleaned], paths: Mapping[Path, Mapping[str, Path]]) -> dict[Path, Change]:
    """The first row of each image as a change to start from, by path of the image."""
    named: dict[Path, Change] = {}
    for one in cleaned:
        for row in one.table.rows:
            path = paths.get(one.table.path, {}).get(row.name)
            if path is not None:
                start = Change(one.table.label, None, row.name, Action.KEPT, Fault.NO_ROWS, "", row.text)
                named.setdefault(path, start)
    return named


def _in_two_files(
    tables: Sequence[Table], paths: Mapping[Path, Mapping[str, Path]], labels: Mapping[Path, str]
) -> list[Change]:
    """Images that several files name: the same file, or the same NAME where no files were looked for."""
    files: dict[Path | str, list[tuple[Path, str]]] = defaultdict(list)
    for table in tables:
        for name in dict.fromkeys(row.name for row in table.rows):
            where = paths.get(table.path, {}).get(name) if table.folders else name
            if where:
                files[where].append((table.path, name))
    return [
        Change(
            labels[places[0][0]],
            None,
            places[0][1],
            Action.KEPT,
            Fault.IN_TWO_FILES,
            f"it is named by {' and '.join(labels[path] for path, _ in places)}",
        )
        for places in files.values()
        if len(places) > 1
    ]


def _repaired(images: Mapping[Path, LookedAt], named: Mapping[Path, Change]) -> list[Change]:
    return [
        replace(
            one,
            action=Action.MENDED,
            fault=Fault.REPAIRED,
            reason=images[path].repair or "",
            after=one.before,
        )
        for path, one in named.items()
        if images[path].repaired is not None
    ]


def _unnamed(
    images: Mapping[Path, LookedAt], named: Mapping[Path, Change], tables: Sequence[Table]
) -> dict[Path, Change]:
    """That no row names an image, by its path."""
    folders = [folder for table in tables for folder in table.folders]
    told = {}
    for image in images.values():
        if image.path not in named:
            folder = next(folder for folder in folders if image.path.is_relative_to(folder))
            name = as_text(image.path.relative_to(folder).as_posix())
            reason = f"no row names it{f'; {image.refusal}' if image.refusal else ''}"
            told[image.path] = Change(as_text(folder.name), None, name, Action.KEPT, Fault.NO_ROWS, reason)
    return told


def _look_alikes(
    images: Mapping[Path, LookedAt], told_of: Mapping[Path, Change]
) -> tuple[dict[Change, tuple[Path, Path]], dict[Path, Path]]:
    readable = [image for image in images.values() if image.thumbnail is not None]
    found = near_duplicates([image.thumbnail for image in readable if image.thumbnail is not None])
    places: dict[str, int] = {}
    same_bytes = [(places.setdefault(one.sha256, place), place) for place, one in enumerate(readable)]
    joined = [(one.first, one.second) for one in found] + same_bytes
    numbers = group_of_each(len(readable), joined).tolist()
    first_of: dict[int, Path] = {}
    for image, number in zip(readable, numbers, strict=True):
        first_of.setdefault(number, image.path)
    sizes = Counter(numbers)
    groups = {
        image.path: first_of[number]
        for image, number in zip(readable, numbers, strict=True)
        if sizes[number] > 1
    }
    told = {}
    for pair in found:
        first, second = readable[pair.first], readable[pair.second]
        if first.sha256 != second.sha256:
            change = _near_duplicate(pair, told_of[first.path], told_of[second.path])
            told[change] = (first.path, second.path)
    return told, groups


def _near_duplicate(pair: Pair, a: Change, b: Change) -> Change:
    turned = f", {pair.turned}" if pair.turned else ""
    where = f" of {a.file}" if a.file != b.file else ""
    reason = (
        f"it looks like {a.name}{where}{turned} "
        f"({pair.distance} of 64 bits differ, correlation {pair.correlation:.3f})"
    )
    classes = [_class_of(one) for one in (a, b) if one.before]
    if len(classes) == 2 and classes[0] != classes[1]:
        reason += f"; the first boxes say {classes[0]} and {classes[1]}"
    return replace(b, fault=Fault.NEAR_DUPLICATE, reason=reason)


def _class_of(change: Change) -> str:
    written = change.before.rsplit(",", 1)[-1].strip()
    try:
        return cell_class(written).code
    except ValueError:
        return written
