"""`python -m training.calibrate`: probabilities that mean what they say, written into a bundle."""

import json
from pathlib import Path

import click

from edge.cli import NumberRange, one_sentence
from edge.names import name_of
from training.options import engine_options, image_options
from training.out_folder import require_writable, writing


@click.command()
@click.option(
    "--bundle",
    "bundle_dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Folder of the model bundle; its manifest and model card are written anew.",
)
@image_options
@click.option(
    "--target-accuracy",
    type=NumberRange(0, 1, min_open=True),
    default=0.95,
    show_default=True,
    help="Accuracy wanted of the cells that are called sure.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for calibration.json, reliability.png and coverage.png.",
)
@engine_options
@one_sentence
def main(
    bundle_dir: Path,
    csvs: tuple[Path, ...],
    folders: tuple[Path, ...],
    provenance: Path | None,
    sources: tuple[str, ...],
    target_accuracy: float,
    out: Path | None,
    backend: str,
    precision: str,
) -> None:
    """Fit a bundle's temperature and class threshold on annotated images that it was not trained on."""
    from rich.console import Console

    from build_engines.model_card import replace_manifest
    from edge.bundle import Bundle
    from edge.pipeline import open_pipeline
    from training.calibration import calibrate, known_cells, uncalibrated, with_calibration
    from training.evaluate import COVERAGE_THRESHOLDS, read_with, select_images
    from training.report import plain
    from training.report_charts import draw_coverage, draw_reliability

    images = select_images(csvs, folders, provenance, sources)
    bundle = Bundle.load(bundle_dir)
    former_id = bundle.id
    require_writable(bundle_dir, *([out] if out else []))
    with open_pipeline(uncalibrated(bundle), backend=backend, precision=precision) as pipeline:
        engine = pipeline.engine_id
        threshold = bundle.manifest.thresholds.detection
        findings, rejected = read_with(pipeline, images, threshold, Console(stderr=True))
    cells = known_cells(images, findings, bundle.manifest.classes)
    found = calibrate(cells, COVERAGE_THRESHOLDS, target_accuracy)
    files = ", ".join(map(name_of, csvs))
    of_sources = f" ({', '.join(sources)})" if sources else ""
    images_are = f"{len(images) - len(rejected)} images of {files}{of_sources}, {engine}"
    if rejected:
        name, reason = next(iter(rejected.items()))
        click.echo(
            f"{len(rejected)} of {len(images)} images cannot be read and were left out (first {name}: "
            f"{reason}).",
            err=True,
        )
    if out is not None:
        with writing(out):
            text = json.dumps(plain(found), indent=2, allow_nan=False)
            (out / "calibration.json").write_text(text + "\n", encoding="utf-8")
            series = {
                f"before, calibration error {found.before.calibration_error:.3f}": found.bins_before,
                f"after, {found.after.calibration_error:.3f}": found.bins_after,
            }
            draw_reliability(series, out / "reliability.png")
            draw_coverage(found.coverage, target_accuracy, found.recommendation, out / "coverage.png")
    with writing(bundle_dir):
        changed = replace_manifest(bundle_dir, with_calibration(bundle.manifest, found, images_are))
    for name, of in (
        ("negative log likelihood", "negative_log_likelihood"),
        ("calibration error", "calibration_error"),
    ):
        before, after, others = (
            getattr(one, of) for one in (found.before, found.after, found.after_on_others)
        )
        click.echo(f"{name}: {before:.4f} before, {after:.4f} after, {others:.4f} fitted on other images")
    unknown = f", {found.n_unknown} of them of classes that it does not know" if found.n_unknown else ""
    click.echo(f"temperature {found.temperature:.4f} from {found.n_cells} cells{unknown}")
    chosen = found.recommendation
    if chosen is None:
        click.echo(f"No class threshold reaches the accuracy {target_accuracy:g}; the bundle has none.")
    else:
        within = chosen.interval
        click.echo(
            f"class threshold {chosen.threshold:.4f}: keeps {chosen.n_kept} of {found.n_cells} cells, "
            f"{chosen.accuracy:.1%} of them right"
            + (f" (95 % CI {within.low:.1%} to {within.high:.1%})" if within else "")
        )
    click.echo(f"{former_id} is now {changed.id}")


if __name__ == "__main__":
    main(prog_name="python -m training.calibrate")
