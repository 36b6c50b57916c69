"""The files of an audit: cleaned annotations, the log of changes, the list of images."""

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from edge.names import as_text
from training.annotations import COLUMNS
from training.audit.cleaning import Cleaned, number_text
from training.audit.faults import Change
from training.audit.run import Audit
from training.errors import AnnotationError
from training.groups import groups_sharing
from training.image_links import link_images, require_places
from training.provenance import (
    DUPLICATE_GROUP,
    FILE_NAME,
    PATIENT,
    SOURCE,
    Provenance,
    source_of,
    together_of,
    write_provenance,
)


def write_changes(changes: Iterable[Change], path: Path) -> None:
    """The log: one line for every fault of a row or image, in words."""
    header = ("file", "line", "NAME", "action", "fault", "reason", "before", "after")
    _write(
        path,
        header,
        (
            (one.file, one.line or "", one.name, one.action, one.fault, one.reason, one.before, one.after)
            for one in changes
        ),
    )


def duplicate_groups(found: Audit, provenance: Mapping[Path, Provenance]) -> dict[Path | str, str]:
    """The duplicate_group of each image that has one, by its path, by NAME where it was not looked at.

    Images that look alike and those of one given group are of one group. It is called as it was given (of
    several names the first), else by the NAME of its first image. An image of which no row stays, as a copy,
    can no longer tell that its patient is that of the image it looks like: the patient's others do.
    """
    names: dict[Path | str, str] = {}
    given: dict[Path | str, list[str]] = {}
    patients: dict[Path | str, tuple[str, ...]] = {}
    for one in found.tables:
        paths, known = found.paths.get(one.table.path, {}), provenance.get(one.table.path, {})
        for name in dict.fromkeys(row.name for row in one.table.rows):
            at, cells = paths.get(name, name), known.get(name, {})
            names.setdefault(at, name)
            patients.setdefault(at, together_of(source_of(paths.get(name), name, cells), cells, (PATIENT,)))
            if group := cells.get(DUPLICATE_GROUP):
                given.setdefault(at, []).append(group)
    names |= {at: name for at, name in found.names.items() if at not in names}
    untold = _untold_patients(found, patients)
    marks: list[list[Path | str]] = [[*given.get(at, ())] for at in names]
    for own, at in zip(marks, names, strict=True):
        own += [patient for patient in patients.get(at, ()) if patient in untold]
        if isinstance(at, Path) and at in found.groups:
            own.append(found.groups[at])
    numbers = dict(zip(names, groups_sharing(marks).tolist(), strict=True))
    called = [(numbers[at], group) for at in names for group in given.get(at, ())]
    called += [(numbers[at], name) for at, name in names.items() if at in found.groups]
    first = dict(reversed(called))
    return {at: first[number] for at, number in numbers.items() if number in first}


def _untold_patients(found: Audit, patients: Mapping[Path | str, tuple[str, ...]]) -> set[str]:
    """Those that only images without rows that stay tell to be in a group of images that look alike."""
    kept = {found.paths.get(one.table.path, {}).get(row.name) for one in found.tables for row in one.rows}
    alike = [
        (first, patient, at in kept) for at, first in found.groups.items() for patient in patients.get(at, ())
    ]
    told = {(first, patient) for first, patient, stays in alike if stays}
    return {patient for first, patient, stays in alike if not stays and (first, patient) not in told}


def write_images(found: Audit, groups: Mapping[Path | str, str], path: Path) -> None:
    """One line for every image that was looked at.

    Args:
        groups: as of `duplicate_groups`.
    """
    given: Counter[Path] = Counter()
    kept: Counter[Path] = Counter()
    for one in found.tables:
        paths = found.paths.get(one.table.path, {})
        given.update(paths[row.name] for row in one.table.rows if row.name in paths)
        kept.update(paths[row.name] for row in one.rows if row.name in paths)
    header = (
        "NAME",
        "path",
        "sha256",
        "width",
        "height",
        "status",
        "reason",
        "rows",
        "kept",
        DUPLICATE_GROUP,
    )
    rows = []
    for at, image in found.images.items():
        status = "repaired" if image.repaired else "unreadable" if image.refusal else "whole"
        rows.append(
            (
                found.names[at],
                as_text(str(at)),
                image.sha256,
                *(image.size_wh or ("", "")),
                status,
                image.repair or image.refusal or "",
                given[at],
                kept[at],
                groups.get(at, ""),
            )
        )
    _write(path, header, rows)


def kept_images(found: Audit, folder: Path) -> dict[str, Path]:
    """Where each image is that was kept, by NAME.

    Args:
        folder: of the cleaned files; nothing is written.

    Raises:
        AnnotationError: two of them share a NAME, or another file has it in the folder.
    """
    images: dict[str, Path] = {}
    for one in found.tables:
        paths = found.paths.get(one.table.path, {})
        for name in dict.fromkeys(row.name for row in one.rows):
            at = paths.get(name)
            if at and images.setdefault(name, at) != at:
                raise AnnotationError(
                    f"{images[name]} and {at} are two images of one NAME; rename one of them, or audit "
                    "their files apart."
                )
    require_places(_links(found, images), folder / "images")
    return images


def write_cleaned(
    found: Audit,
    provenance: Mapping[Path, Provenance],
    groups: Mapping[Path | str, str],
    images: Mapping[str, Path],
    folder: Path,
) -> None:
    """The cleaned files, with provenance.csv and images/ as the trainers look for them.

    Args:
        groups: as of `duplicate_groups`.
        images: as of `kept_images`.
    """
    told: dict[str, dict[str, str]] = {}
    for one in found.tables:
        paths, known = found.paths.get(one.table.path, {}), provenance.get(one.table.path, {})
        for name in dict.fromkeys(row.name for row in one.rows):
            at = paths.get(name)
            group = groups.get(at or name)
            cells = {**known.get(name, {}), "NAME": name, SOURCE: source_of(at, name, known.get(name, {}))}
            told[name] = cells | ({DUPLICATE_GROUP: group} if group else {})
    repaired = {name: data for name, at in images.items() if (data := found.images[at].repaired) is not None}
    write_folder(found.tables, list(told.values()), _links(found, images), repaired.items(), folder)


def _links(found: Audit, images: Mapping[str, Path]) -> dict[str, Path]:
    return {name: at for name, at in images.items() if found.images[at].repaired is None}


def write_folder(
    tables: Iterable[Cleaned],
    provenance: Sequence[Mapping[str, str]],
    links: Mapping[str, Path],
    copies: Iterable[tuple[str, bytes]],
    folder: Path,
) -> None:
    """Annotation files with what the trainers look for beside them.

    Args:
        provenance: rows of provenance.csv.
        links: images as they are, by NAME.
        copies: bytes of the other images, with their NAME.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for one in tables:
        _write_table(one, folder / one.table.label)
    write_provenance(folder / FILE_NAME, provenance)
    link_images(links, folder / "images")
    for name, data in copies:
        copy = folder / "images" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if copy.is_symlink():  # of a former run, to the original, which is not to be written to
            copy.unlink()
        copy.write_bytes(data)


def _write_table(cleaned: Cleaned, path: Path) -> None:
    further = [column for column in cleaned.table.columns if column not in COLUMNS]
    _write(
        path,
        (*COLUMNS, *further),
        (
            (row.name, *map(number_text, row.box_xyxy), row.label, *(row.cells[column] for column in further))
            for row in cleaned.rows
        ),
    )


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
