"""Boxes and classes of smear images, read from CSV files in the format of the CytologIA challenge."""

import hashlib
import json
import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from edge.cells import cell_class
from edge.errors import ImageRejected
from edge.images import decode
from training.csv_files import read_csv
from training.errors import AnnotationError
from training.groups import groups_sharing
from training.image_links import find_image
from training.provenance import FILE_NAME, read_provenance, source_of, together_of

log = logging.getLogger(__name__)

LEUKOCYTE_WITHOUT_CLASS = "WBC"
"""Written in the class column where only the box is known."""

_CORNERS = ("x1", "y1", "x2", "y2")
COLUMNS = ("NAME", *_CORNERS, "class")
"""Of an annotation file; others are ignored."""


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedImage:
    """One smear image and every leukocyte that somebody marked in it.

    Attributes:
        name: the file's name as the CSV has it.
        path: where the file is.
        boxes_xyxy: float32 [n, 4], pixels of the decoded image, x1 < x2 and y1 < y2, none negative. The
            size of the image is not known here, so a box may cross its right or lower border.
        labels: n class codes; None for a leukocyte without a class.
        source: the collection that the image comes from.
        together: what it must not be parted from: all images that share one of these texts.
    """

    name: str
    path: Path
    boxes_xyxy: NDArray[np.float32]
    labels: tuple[str | None, ...]
    source: str
    together: tuple[str, ...] = ()


def read_annotations(
    csv_paths: Sequence[Path], images_dirs: Sequence[Path], provenance_csv: Path | None = None
) -> list[AnnotatedImage]:
    """The annotated images of several CSV files, in the order in which the files first name them.

    Args:
        csv_paths: files with the columns NAME, x1, y1, x2, y2, class; rows of one NAME are put together.
        images_dirs: folders searched in this order for each NAME.
        provenance_csv: what `training.provenance` reads of each NAME.

    Raises:
        AnnotationError: a file or column is missing, a coordinate is no number, a class is none of the 23,
            or an image is in none of the folders.
    """
    boxes = read_boxes(csv_paths)
    known = {} if provenance_csv is None else read_provenance(provenance_csv)
    paths = _find_images(boxes["NAME"].unique(maintain_order=True).to_list(), images_dirs)
    images = []
    for (name,), rows in boxes.group_by("NAME", maintain_order=True):
        cells = known.get(name, {})
        source = source_of(paths[name], name, cells)
        images.append(
            AnnotatedImage(
                name=name,
                path=paths[name],
                boxes_xyxy=rows.select(_CORNERS).to_numpy().astype(np.float32, copy=False),
                labels=tuple(rows["class"].to_list()),
                source=source,
                together=together_of(source, cells),
            )
        )
    return images


def read_beside(csvs: Sequence[Path]) -> list[AnnotatedImage]:
    """As `read_annotations`, with images/ and, where it exists, provenance.csv beside each CSV file."""
    images = []
    for folder in dict.fromkeys(path.parent for path in csvs):
        provenance = folder / FILE_NAME
        images += read_annotations(
            [path for path in csvs if path.parent == folder],
            [folder / "images"],
            provenance if provenance.exists() else None,
        )
    return images


def read_pixels(image: AnnotatedImage) -> NDArray[np.uint8]:
    """The decoded image, uint8 [H, W, 3] RGB.

    Raises:
        ImageRejected: as `edge.images.decode`, and the message names the file.
        AnnotationError: the file is away, or nobody may read it.
    """
    try:
        return decode(image.path.read_bytes())
    except OSError as error:
        raise AnnotationError(
            f"{image.path} cannot be read ({error.strerror}); put it back, then run the same command again."
        ) from error
    except ImageRejected as error:
        raise ImageRejected(error.reason, f"{image.path}: {error.detail}") from error


def digests_of(training: Iterable[AnnotatedImage], validation: Iterable[AnnotatedImage]) -> dict[str, str]:
    """By which a run knows its images again: how many, and a sha256 over source, NAME, boxes and classes.

    The order does not count, nor how often an image comes.
    """
    digests = {}
    for purpose, images in (("training", training), ("validation", validation)):
        known = sorted(
            json.dumps([image.source, image.name, image.labels, image.boxes_xyxy.tolist()])
            for image in set(images)
        )
        digest = hashlib.sha256(json.dumps(known).encode()).hexdigest()
        digests[f"{purpose} annotations"] = f"{len(known)} images, sha256 {digest[:16]}"
    return digests


def read_boxes(csv_paths: Sequence[Path]) -> pl.DataFrame:
    """All rows of the files, cleaned: NAME, x1, y1, x2, y2 (float32) and class (null for WBC).

    Corners given the wrong way round are swapped, negative coordinates become 0, boxes without an area and
    repeated rows are left out; each is counted in the log. Either spelling of LH_lyAct is read.

    Raises:
        AnnotationError: as `read_annotations`, but for missing images.
    """
    if not csv_paths:
        raise AnnotationError("No annotation file was given; name at least one CSV file.")
    every = pl.concat([_clean(_read_table(path), path) for path in csv_paths])
    distinct = every.unique(maintain_order=True)
    _log_count(every.height - distinct.height, "rows repeat an earlier one and were left out", *csv_paths)
    return distinct


def _read_table(path: Path) -> pl.DataFrame:
    """`COLUMNS` as text without spaces around it, null where it is blank, and the number of each line."""
    _, records = read_csv(path, COLUMNS)
    if not records:
        raise AnnotationError(f"{path} has a header and no rows; give a file with at least one box.")
    if broken := [one for one in records if any(cell.strip() for cell in one.surplus)]:
        raise AnnotationError(
            f"{path} has {len(broken)} rows with more cells than its first line names columns, the first on "
            f"line {broken[0].line}; mend or remove them."
        )
    cells = {column: [one.cells[column].strip() or None for one in records] for column in COLUMNS}
    return pl.DataFrame({"line": [one.line for one in records], **cells}, strict=False)


def _clean(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    numbers = table.with_columns(pl.col(corner).cast(pl.Float32, strict=False) for corner in _CORNERS)
    readable = pl.all_horizontal(pl.col(corner).is_finite().fill_null(False) for corner in _CORNERS)
    unreadable = numbers.filter(~readable | pl.col("NAME").fill_null("").eq(""))
    if unreadable.height:
        raise AnnotationError(
            f"{path} has {unreadable.height} rows without a NAME or with a coordinate that is not a number, "
            f"the first on line {unreadable['line'][0]}; mend or remove them."
        )
    numbers = numbers.with_columns(_normalised_classes(numbers["class"], path))

    x1, y1, x2, y2 = (pl.col(corner) for corner in _CORNERS)
    turned = (x1 > x2) | (y1 > y2)
    _log_count(numbers.filter(turned).height, "boxes had their corners the wrong way round", path)
    numbers = numbers.with_columns(
        x1=pl.min_horizontal(x1, x2),
        y1=pl.min_horizontal(y1, y2),
        x2=pl.max_horizontal(x1, x2),
        y2=pl.max_horizontal(y1, y2),
    )
    negative = (x1 < 0) | (y1 < 0)
    _log_count(numbers.filter(negative).height, "boxes had a negative coordinate, now 0", path)
    numbers = numbers.with_columns(pl.col(corner).clip(lower_bound=0) for corner in _CORNERS)

    solid = numbers.filter((x2 > x1) & (y2 > y1))
    _log_count(numbers.height - solid.height, "boxes had no area and were left out", path)
    lost = numbers["NAME"].n_unique() - solid["NAME"].n_unique()
    _log_count(lost, "images were left out because none of their boxes has an area", path)
    return solid.select(COLUMNS)


def _normalised_classes(classes: pl.Series, path: Path) -> pl.Series:
    codes: dict[str | None, str | None] = {LEUKOCYTE_WITHOUT_CLASS: None}
    for written in classes.unique(maintain_order=True):
        if written == LEUKOCYTE_WITHOUT_CLASS:
            continue
        try:
            codes[written] = cell_class(written or "").code
        except ValueError as error:
            raise AnnotationError(
                f"{path}: {str(error).rstrip('.')}, or {LEUKOCYTE_WITHOUT_CLASS} where the class is unknown."
            ) from error
    return pl.Series("class", [codes[written] for written in classes], dtype=pl.String)


def _find_images(names: Sequence[str], images_dirs: Sequence[Path]) -> dict[str, Path]:
    found = {name: path for name in names if (path := find_image(name, images_dirs)) is not None}
    missing = [name for name in names if name not in found]
    if missing:
        folders = ", ".join(str(folder) for folder in images_dirs) or "no folder at all"
        raise AnnotationError(
            f"{len(missing)} of {len(names)} annotated images are not in {folders} (first {missing[0]}); "
            "pass the folders that hold them."
        )
    return found


def _log_count(count: int, what: str, *paths: Path) -> None:
    if count:
        log.warning("%s: %d %s", ", ".join(str(path) for path in paths), count, what)


def require_known_sources(excluded: Collection[str], known: Collection[str]) -> None:
    """Refuse to leave out what is not there.

    Raises:
        AnnotationError: no image is of such a source.
    """
    if unknown := sorted(set(excluded) - set(known)):
        raise AnnotationError(
            f"No image is of the source {', '.join(unknown)} that is to be left out; choose from "
            f"{', '.join(sorted(known))}."
        )


def read_without_sources(
    excluded: Collection[str], held_out_csvs: Sequence[Path], *groups: Sequence[Path]
) -> tuple[list[AnnotatedImage], ...]:
    """The images of each group of annotation files as `without_sources` leaves them.

    Args:
        held_out_csvs: files of further images, of which some may be of the sources left out.

    Raises:
        AnnotationError: as `read_beside` and `without_sources`, or nothing is to be left out for their sake.
    """
    if held_out_csvs and not excluded:
        raise AnnotationError(
            "--held-out-csv tells what else belongs together with a source that is left out; name one with "
            "--exclude-source, or leave it out."
        )
    return without_sources(excluded, *map(read_beside, (*groups, held_out_csvs)))[:-1]


def without_sources(
    excluded: Collection[str], *groups: Sequence[AnnotatedImage]
) -> tuple[list[AnnotatedImage], ...]:
    """Each group of images without those of some sources, and without what belongs together with these.

    Raises:
        AnnotationError: no image of any group is of such a source.
    """
    every = [image for images in groups for image in images]
    require_known_sources(excluded, {image.source for image in every})
    joined = groups_sharing([image.together for image in every]).tolist()
    held = {group for image, group in zip(every, joined, strict=True) if image.source in excluded}
    stays = iter([group not in held for group in joined])
    kept = tuple([image for image in images if next(stays)] for images in groups)
    others = sum(image.source not in excluded for image in every) - sum(map(len, kept))
    if others:
        log.warning(
            "%d images of other sources belong together with those of %s and were left out",
            others,
            ", ".join(excluded),
        )
    return kept
