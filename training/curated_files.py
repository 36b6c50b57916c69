"""Annotation files before and after a curation, with their images."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import numpy as np

from edge.cells import Finding
from training.annotations import LEUKOCYTE_WITHOUT_CLASS, AnnotatedImage, read_pixels
from training.audit.cleaning import Cleaned, CleanRow, parse_all
from training.audit.looking import find_images
from training.audit.tables import Table, read_table
from training.curation import coded, curate_image, painted
from training.errors import AnnotationError
from training.mistakes import Mistake
from training.provenance import SOURCE, Provenance, provenance_of, source_of

Box = tuple[float, ...]


@dataclass(slots=True)
class CuratedFile:
    """One annotation file as it is written.

    Attributes:
        table: its rows that stay, and all changes.
        images: those that still have rows, by NAME.
        black: boxes to paint in some of them, by NAME.
        provenance: rows of provenance.csv.
        shown: what annotations and bundle do not agree in.
    """

    table: Cleaned
    images: dict[str, AnnotatedImage] = field(default_factory=dict)
    black: dict[str, Sequence[Box]] = field(default_factory=dict)
    provenance: list[dict[str, str]] = field(default_factory=list)
    shown: list[Mistake] = field(default_factory=list)

    def links(self) -> dict[str, Path]:
        """The images that stay as they are."""
        return {name: image.path for name, image in self.images.items() if name not in self.black}

    def copies(self) -> Iterator[tuple[str, bytes]]:
        """The painted images, one at a time."""
        kept: dict[str, list[Box]] = {name: [] for name in self.black}
        for row in self.table.rows:
            if row.name in kept:
                kept[row.name].append(row.box_xyxy)
        for name, boxes in self.black.items():
            rgb = painted(read_pixels(self.images[name]), boxes, kept[name])
            yield name, coded(rgb, PurePath(name).suffix)


@dataclass(frozen=True, slots=True)
class GivenFile:
    """One annotation file as it was given.

    Attributes:
        rows: by NAME.
        images: in the order in which the file first names them.
    """

    table: Table
    rows: Mapping[str, Sequence[CleanRow]]
    images: Sequence[AnnotatedImage]
    known: Provenance

    @classmethod
    def read(cls, path: Path, label: str) -> "GivenFile":
        """A file with images/ and perhaps provenance.csv beside it.

        Raises:
            AnnotationError: a row is no box of a known class, or an image is missing.
        """
        table = read_table(path, label, [path.parent / "images"])
        rows: dict[str, list[CleanRow]] = {}
        for row in parse_all(table):
            rows.setdefault(row.name, []).append(row)
        paths = find_images(rows, table.folders)
        if missing := [name for name in rows if name not in paths]:
            raise AnnotationError(
                f"{len(missing)} of {len(rows)} images of {path} are not in {table.folders[0]} (first "
                f"{missing[0]}); put them there."
            )
        known = provenance_of(path, None)
        images = [_image(own, paths[name], known.get(name, {})) for name, own in rows.items()]
        return cls(table, rows, images, known)

    def curated(self, findings: Mapping[str, Sequence[Finding]], **options: bool) -> CuratedFile:
        """What becomes of it; `options` are those of `training.curation.curate_image`."""
        new = CuratedFile(Cleaned(self.table, []))
        for image in self.images:
            one = curate_image(
                self.rows[image.name], findings[image.name], self.table.label, image.source, **options
            )
            new.table.rows += one.rows
            new.table.changes += one.changes
            new.shown += one.shown
            if one.rows:
                new.images[image.name] = image
                told = {**self.known.get(image.name, {}), "NAME": image.name, SOURCE: image.source}
                new.provenance.append(told)
                if one.painted:
                    new.black[image.name] = one.painted
        return new


def _image(rows: Sequence[CleanRow], path: Path, known: Mapping[str, str]) -> AnnotatedImage:
    labels = tuple(None if row.label == LEUKOCYTE_WITHOUT_CLASS else row.label for row in rows)
    boxes = np.array([row.box_xyxy for row in rows], np.float32)
    return AnnotatedImage(rows[0].name, path, boxes, labels, source_of(path, rows[0].name, known))
