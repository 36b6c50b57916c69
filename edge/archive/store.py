"""The output folder of an archive: parts, each of them whole or not there.

    OUT/archive.json               which bundle reads, into how many partitions, and how samples are named
    OUT/parts/00042-0/             what the first run gave for partition 42: results.parquet,
                                   images.parquet, results.csv, images.csv
    OUT/parts/00042-1/             what a later run added to it
    OUT/.unfinished/               parts that are being written

A part is written beside and gets its name by one rename, which fails where the name is taken. So of two
workers with the same part one is too late, and throws its own away.
"""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from edge.errors import StationError
from edge.locks import as_output_errors, fsync_folder
from edge.records import REASONS_THAT_MAY_PASS, State

MANIFEST = "archive.json"
RESULTS, IMAGES = "results.parquet", "images.parquet"
_PART_NAME = re.compile(r"([0-9]{5,})-([0-9]+)")
_TAKEN = frozenset({errno.ENOTEMPTY, errno.EEXIST})


class ArchiveManifest(BaseModel):
    """`archive.json`: what all runs into one output folder have in common.

    Attributes:
        archive_id: names the workers' scratch folders.
        bundle: its id. Another bundle is another archive.
        partitions: how many; the files of an image's partition are told by `edge.archive.listing`.
        samples_have_folders: as `edge.oneshot.samples_have_folders`. Older versions, which did not write it,
            named all samples without.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    archive_id: str
    bundle: str
    partitions: int
    samples_have_folders: bool = False


@dataclass(frozen=True, slots=True)
class PartName:
    """One part: its partition, and its number among the parts of it, both from 0."""

    partition: int
    number: int

    def __str__(self) -> str:
        return f"{self.partition:05}-{self.number}"

    @classmethod
    def of(cls, text: str) -> "PartName | None":
        """None: no name of a part."""
        found = _PART_NAME.fullmatch(text)
        return found and cls(int(found[1]), int(found[2]))


class ArchiveStore:
    """The output folder. Any number of processes may publish; one at a time plans, and has it locked."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self._parts = out / "parts"
        self._unfinished = out / ".unfinished"

    def manifest(self, bundle: str, partitions: int, samples_have_folders: bool) -> ArchiveManifest:
        """What stands in the folder, or what is given, which then stands there.

        Raises:
            StationError: another bundle reads into this folder, samples are named otherwise in it, or the
                manifest cannot be understood.
            OutputUnwritableError, OutputFullError: the folder cannot be written.
        """
        path = self.out / MANIFEST
        with as_output_errors(self.out):
            self._parts.mkdir(parents=True, exist_ok=True)
            self.sweep()
            self._unfinished.mkdir(exist_ok=True)
            if not path.exists():
                given = ArchiveManifest(
                    archive_id=uuid.uuid4().hex,
                    bundle=bundle,
                    partitions=partitions,
                    samples_have_folders=samples_have_folders,
                )
                _write(self._unfinished / MANIFEST, given.model_dump_json(indent=1).encode() + b"\n")
                (self._unfinished / MANIFEST).rename(path)
                fsync_folder(self.out)
            text = path.read_bytes()
        try:
            found = ArchiveManifest.model_validate_json(text)
        except ValidationError as error:
            raise StationError(
                f"{str(path)!r} is not of this version ({error.errors()[0]['msg']}); give another --out."
            ) from error
        if found.bundle != bundle:
            raise StationError(
                f"{str(self.out)!r} has the answers of the bundle {found.bundle}, not of {bundle}; give "
                "another --out, or the bundle that it was begun with."
            )
        if found.samples_have_folders != samples_have_folders:
            have, would, give = (
                ("begin", "would not", "all folders at once")
                if found.samples_have_folders
                else ("do not begin", "would", "one folder alone")
            )
            raise StationError(
                f"the samples in {str(self.out)!r} {have} with the names of the folders given, those of this "
                f"run {would}; give {give}, or another --out."
            )
        return found

    def sweep(self) -> None:
        """Remove what workers that were killed had begun to write.

        A worker that outlives the driver, or its node's contact with the cluster, may still publish. So first
        all of it goes away at once: what would be published after that has no place, and is never half gone.
        """
        old = self.out / ".unfinished-old"
        shutil.rmtree(old, ignore_errors=True)
        with contextlib.suppress(OSError):
            self._unfinished.rename(old)
        shutil.rmtree(old, ignore_errors=True)

    def parts(self) -> list[PartName]:
        """All that are whole, in order."""
        with as_output_errors(self.out):
            names = [PartName.of(path.name) for path in self._parts.iterdir()]
        found = [name for name in names if name is not None]
        return sorted(found, key=lambda name: (name.partition, name.number))

    def has(self, part: PartName) -> bool:
        """Whether the part is whole."""
        return (self._parts / str(part)).exists()

    def images(self, part: PartName, columns: list[str] | None = None) -> pa.Table:
        """images.parquet of a part."""
        return self._table(part, IMAGES, columns)

    def results(self, part: PartName, columns: list[str] | None = None) -> pa.Table:
        """results.parquet of a part."""
        return self._table(part, RESULTS, columns)

    def settled(self) -> set[bytes]:
        """`version_key` of every file that has its answer and need not be opened again.

        Not so, as in `Journal.knows`, for one that had vanished and one that could not be read for a while.
        """
        keys = set()
        columns = ["path", "status", "reason", "size_bytes", "mtime_ns"]
        for part in self.parts():
            for row in self.images(part, columns).to_pylist():
                if row["status"] != State.VANISHED.value and row["reason"] not in REASONS_THAT_MAY_PASS:
                    keys.add(version_key(row["path"], row["size_bytes"], row["mtime_ns"]))
        return keys

    def publish(self, part: PartName, images: pa.Table, results: pa.Table, csv_files: list[Path]) -> None:
        """Make a part whole, unless another worker has done so in between."""
        building = self._unfinished / f"{part}.{uuid.uuid4().hex}"
        with as_output_errors(self.out):
            building.mkdir()
            try:
                for name, table in ((IMAGES, images), (RESULTS, results)):
                    sink = pa.BufferOutputStream()
                    pq.write_table(table, sink, compression="zstd")
                    _write(building / name, sink.getvalue())
                for path in csv_files:
                    _write(building / path.name, path.read_bytes())
                fsync_folder(building)
                building.rename(self._parts / str(part))
                fsync_folder(self._parts)
            except OSError as error:
                if error.errno not in _TAKEN:
                    raise
            finally:
                shutil.rmtree(building, ignore_errors=True)

    def _table(self, part: PartName, name: str, columns: list[str] | None) -> pa.Table:
        path = self._parts / str(part) / name
        try:
            return pq.read_table(path, columns=columns, partitioning=None)
        except (OSError, pa.ArrowException) as error:
            raise StationError(
                f"{str(path)!r} cannot be read ({' '.join(str(error).split())}); put it back, or remove the "
                "whole part and start again."
            ) from error


def version_key(path: str, size_bytes: int | None, mtime_ns: int | None) -> bytes:
    """16 bytes that stand for one version of a file.

    Args:
        path: escaped, as the tables have it.
    """
    text = f"{size_bytes},{mtime_ns},{path}"
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
