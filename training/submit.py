"""`python -m training.submit`: a submission to the CytologIA challenge from any bundle."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge.cli import one_sentence
from training.options import engine_options

if TYPE_CHECKING:
    from edge.pipeline import Pipeline
    from training.submission import Reading


@click.command()
@click.argument(
    "folders",
    metavar="IMAGES...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
)
@click.option(
    "--bundle",
    "bundle_dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Folder of the model bundle.",
)
@click.option(
    "--csv",
    "test_csv",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The challenge's test.csv, trustii_id,NAME, one row a box that is wanted. Without trustii_id, or "
    "without the file, every finding gets a row, and every image one at least.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="submission.csv to write; one that is there is replaced.",
)
@engine_options
@one_sentence
def main(
    folders: tuple[Path, ...],
    bundle_dir: Path,
    test_csv: Path | None,
    out: Path,
    backend: str,
    precision: str,
) -> None:
    """Read the images in IMAGES and write trustii_id,NAME,x1,y1,x2,y2,class, a valid row for each wanted."""
    from rich.console import Console
    from rich.progress import track

    from edge.bundle import Bundle
    from edge.pipeline import open_pipeline
    from edge.walking import images_below
    from training.errors import AnnotationError
    from training.image_links import find_image
    from training.out_folder import require_writable, writing
    from training.submission import csv_text, expected_from, fill, read_test

    expected, names = read_test(test_csv) if test_csv is not None else (None, [])
    if test_csv is None:
        lying = [path.relative_to(folder) for folder in folders for path in images_below(folder)]
        names = list(dict.fromkeys(path.as_posix() for path in lying))
    path_of = {name: find_image(name, folders) for name in names}
    if not any(path_of.values()):
        raise AnnotationError(
            f"None of the {len(names)} images is in {', '.join(map(str, folders))}; give the folders that "
            "hold them."
        )
    wanted = Counter(one.name for one in expected or ())
    bundle = Bundle.load(bundle_dir)
    threshold = bundle.manifest.thresholds.detection
    require_writable(out.parent)
    with open_pipeline(bundle, backend=backend, precision=precision) as pipeline:
        bar = track(path_of.items(), description="Reading images", console=Console(stderr=True))
        readings = {name: _read(pipeline, path, max(wanted[name], 1)) for name, path in bar}
    if expected is None:
        expected = expected_from(readings, threshold)
    found = fill(expected, readings, threshold)
    partial = out.with_name(f".{out.name}.part")
    with writing(out.parent):
        partial.write_text(csv_text(found.rows), encoding="utf-8")
        partial.replace(out)
    click.echo(f"{len(found.rows)} rows for {len(names)} images in {out}")
    if found.n_weak:
        click.echo(f"{found.n_weak} rows are of findings below the detection threshold {threshold:g}.")
    if found.n_repeated:
        click.echo(f"{found.n_repeated} rows repeat the surest finding of their image.")
    for why, count in Counter(found.guessed.values()).most_common():
        first = next(name for name, one in found.guessed.items() if one == why)
        click.echo(
            f"{count} images got their whole area and the commonest class ({why}), first {first}.", err=True
        )


def _read(pipeline: "Pipeline", path: Path | None, wanted: int) -> "Reading":
    """Findings from the bundle's threshold on; all that there are where these are fewer than wanted."""
    from edge.errors import ImageRejected
    from edge.images import decode
    from training.submission import Reading

    if path is None:
        return Reading(None, (), "not in the folders")
    try:
        rgb = decode(path.read_bytes())
    except ImageRejected as error:
        return Reading(_header_size(path), (), error.reason)
    except OSError as error:
        return Reading(None, (), error.strerror or "cannot be opened")
    findings = pipeline.read(rgb)
    if len(findings) < wanted:
        findings = pipeline.read(rgb, least_score=0.0)
    return Reading((rgb.shape[1], rgb.shape[0]), tuple(findings))


def _header_size(path: Path) -> tuple[int, int] | None:
    """Width and height of a damaged file, if its header still tells."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.size
    except Exception:  # the decoders fail with a dozen types, and the size is only a convenience
        return None


if __name__ == "__main__":
    main(prog_name="python -m training.submit")
