"""The model card of a bundle: what it was made from, what it reaches, what it must not be used for."""

import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from build_engines.errors import BuildError, writing
from build_engines.markdown_text import one_line, table_line
from edge.bundle import MANIFEST, Bundle
from edge.cells import CELL_CLASSES, cell_class
from edge.cli import show_any_name
from edge.errors import EdgeError
from edge.locks import fsync_folder
from edge.manifest import ClassifierSpec, DetectorSpec, Manifest, NetworkSpec

log = logging.getLogger(__name__)

CARD = "MODEL_CARD.md"
_COVERED_CELLS = 50
"""A class with fewer training cells is experimental."""

_NOT_IN_THE_CARD = ("mistakes", "curve", "confusion", "reliability", "coverage", "annotations_sha256")
"""Parts of an evaluation that only its own report shows."""

_CHOSEN = """\
The epochs that were kept were chosen on the validation images, so the figures of those flatter a little.
Precision, recall and GIoU are of boxes at IoU 0.5, one-to-one; F1 and accuracy as the CytologIA challenge
pairs boxes; a report of `python -m training.evaluate` tells each exactly.
"""

_NOT_FOR = """\
This software is no medical device. The bundle must not be used to diagnose, to monitor or to treat, to
release a differential count that no qualified person has checked cell by cell, or to judge cells of a
class that it does not know: it will give them a name all the same. It knows nothing of bone marrow, of
other stains than Romanowsky's, or of animals.
"""


def write_model_card(folder: Path) -> None:
    """Write the card from the manifest in the same folder."""
    manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    (folder / CARD).write_text(model_card(manifest), "utf-8")


def add_evaluation(folder: Path, evaluation: dict[str, Any], figures_of: str) -> Bundle:
    """Put the figures of an evaluation into a bundle's manifest and card.

    Figures of a bundle of another name go in with a warning: one that was trained without a source may speak
    for another. Ids are not compared, since every figure changes them.

    Args:
        folder: the bundle.
        evaluation: as `training.report.to_json` gives it.
        figures_of: what it was evaluated on, in words; figures of other data in the manifest stay.
    """
    bundle = Bundle.load(folder)
    own = bundle.manifest.name
    measured = evaluation.get("about", {}).get("bundle", own)
    if measured != own:
        log.warning(
            "the figures of %s are of %s and go into the card of %s; if that is not meant, replace them by "
            "those of a report of %s under the same --name",
            *(figures_of, measured, own, own),
        )
    kept = {key: value for key, value in evaluation.items() if key not in _NOT_IN_THE_CARD}
    if within := kept.pop("intervals", None):
        kept[f"intervals_of_{100 * within['confidence']:g}_%"] = {
            name: f"{ends['low']:.3f} to {ends['high']:.3f}"
            for name, ends in within["measures"].items()
            if ends is not None
        }
    accuracy = {**bundle.manifest.accuracy, figures_of: kept}
    return replace_manifest(folder, bundle.manifest.model_copy(update={"accuracy": accuracy}))


def read_evaluation(path: Path) -> dict[str, Any]:
    """A report of `training.evaluate`.

    Raises:
        BuildError: the file is something else.
    """
    try:
        report = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        report = None
    if not isinstance(report, dict) or not {"annotations_sha256", "score"} <= report.keys():
        raise BuildError(
            f"{path} is no report of an evaluation; give the report.json that "
            "`python -m training.evaluate` wrote."
        )
    return report


def replace_manifest(folder: Path, manifest: Manifest) -> Bundle:
    """Give a bundle another manifest, at once and durably, and the card that goes with it."""
    partial = folder / f"{MANIFEST}.part"
    with partial.open("w", encoding="utf-8") as stream:
        stream.write(manifest.dump())
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(folder / MANIFEST)
    fsync_folder(folder)
    write_model_card(folder)
    return Bundle.load(folder)


def model_card(manifest: Manifest) -> str:
    """The card as Markdown."""
    sections = [
        f"# Model card: {one_line(manifest.name)}",
        f"Built {manifest.created}. {_networks(manifest)}",
        "## Must not be used for\n\n" + _NOT_FOR,
        "## Classes\n\n" + _classes(manifest),
        "## Made from\n\n" + _provenance(manifest),
        *([_CHOSEN] if manifest.accuracy else []),
        *(
            f"## Accuracy: {one_line(name)}\n\n{_accuracy(figures)}"
            for name, figures in manifest.accuracy.items()
        ),
        "## Engines against FP32 torch when it was built\n\n" + _gates(manifest),
    ]
    return "\n\n".join(section.rstrip() for section in sections) + "\n"


def _networks(manifest: Manifest) -> str:
    text = [
        *(_of_detector(one, len(manifest.detectors) > 1) for one in manifest.detectors),
        *(_of_classifier(one, len(manifest.networks) > 2) for one in manifest.classifiers),
        f"A finding has a detection score of {manifest.thresholds.detection} or more.",
    ]
    if manifest.temperature != 1.0:
        text.append(
            f"Probabilities of classes are calibrated with the temperature {manifest.temperature:.4g}."
        )
    if (sure := manifest.thresholds.classification) is not None:
        text.append(f"A finding is unsure of its class where that has a probability under {sure:g}.")
    return " ".join(text)


def _of_detector(spec: DetectorSpec, is_weighed: bool) -> str:
    told = [f"tiles of {spec.tile_size} px"]
    if spec.windows is not None:
        told.append(f"fields in windows of {spec.windows.size_px} px")
    return f"Detector: {spec.name}, {', '.join(told + _counts(spec, is_weighed))}."


def _of_classifier(spec: ClassifierSpec, is_weighed: bool) -> str:
    told = [f"{'crops' if spec.view == 'crop' else 'whole tiles'} of {spec.crop_size} px"]
    if spec.only_when_alone:
        told.append("only where one cell was found")
    return f"Classifier: {spec.name}, {', '.join(told + _counts(spec, is_weighed))}."


def _counts(spec: NetworkSpec, is_weighed: bool) -> list[str]:
    views = [f"also seen {' and '.join(spec.tta)}"] if spec.tta else []
    return [*views, *([f"weight {spec.weight:g}"] if is_weighed else [])]


def _classes(manifest: Manifest) -> str:
    cells = _training_cells(manifest)
    covered = [code for code in manifest.classes if cells.get(code, 0) >= _COVERED_CELLS]
    experimental = [code for code in manifest.classes if code not in covered]
    missing = [cell.code for cell in CELL_CLASSES if cell.code not in manifest.classes]
    rows = ["| | classes |", "|---|---|"]
    rows.append(f"| covered | {_named(covered, cells)} |")
    rows.append(f"| experimental, under {_COVERED_CELLS} training cells | {_named(experimental, cells)} |")
    rows.append(f"| unknown to it | {_named(missing, {})} |")
    rows.append("\nNumbers are training cells, drawn ones among them.")
    return "\n".join(rows)


def _training_cells(manifest: Manifest) -> dict[str, int]:
    """The most that any network which names cells was trained on: they may share their images."""
    cells: dict[str, int] = {}
    for spec in manifest.networks:
        if isinstance(spec, DetectorSpec) and not (spec.names_classes and spec.class_weight > 0):
            continue
        for code, count in manifest.training_of(spec).get("cells", {}).items():
            cells[code] = max(cells.get(code, 0), count)
    return cells


def _named(codes: Iterable[str], cells: dict[str, int]) -> str:
    parts = (
        f"{code} ({cell_class(code).english}{f', {cells[code]}' if code in cells else ''})" for code in codes
    )
    return ", ".join(parts) or "none"


def _provenance(manifest: Manifest) -> str:
    text = []
    for part, facts in manifest.provenance.items():
        text += [f"**{part}**\n", *_facts(facts), ""]
    return "\n".join(text)


def _facts(facts: dict[str, Any], indent: str = "") -> Iterator[str]:
    """A line for each; the facts of other trainings stand under the line that names them."""
    for key, value in facts.items():
        if key == "begun_from":
            yield f"{indent}- an earlier training, from which it began:"
            yield from _facts(value, indent + "  ")
        elif key == "mean_of":
            for place, one in enumerate(value, 1):
                yield f"{indent}- training {place} of {len(value)}, of whose weights it is the mean:"
                yield from _facts(one, indent + "  ")
        else:
            yield f"{indent}- {key}: {_flat(value)}"


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{one_line(key)} {_flat(item)}" for key, item in value.items())
    if isinstance(value, list):
        return " ".join(map(_flat, value))
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return one_line(str(value))


def _accuracy(figures: dict[str, Any]) -> str:
    lines = []
    for key, value in figures.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            lines += ["", f"{key.replace('_', ' ')}:", "", *_table(value), ""]
        elif value or value == 0:
            lines.append(f"- {key.replace('_', ' ')}: {_flat(value)}")
    return "\n".join(lines)


def _table(rows: Sequence[dict[str, Any]]) -> list[str]:
    columns = list(rows[0])
    return [
        table_line(column.replace("_", " ") for column in columns),
        "|" + "---|" * len(columns),
        *(table_line(_flat(row[column]) for column in columns) for row in rows),
    ]


def _gates(manifest: Manifest) -> str:
    return "\n".join(_table([gate.model_dump() for gate in manifest.gates]))


@click.command()
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--evaluation",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="report.json of `python -m training.evaluate`.",
)
@click.option("--name", required=True, help="What was evaluated on, in words.")
def main(bundle: Path, evaluation: Path, name: str) -> None:
    """Write the figures of an evaluation into a bundle's manifest and model card."""
    show_any_name()
    logging.basicConfig(format="%(message)s")
    try:
        figures = read_evaluation(evaluation)
        with writing(bundle, BuildError):
            changed = add_evaluation(bundle, figures, name)
    except EdgeError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{changed.id}: figures of {name} are in {bundle / CARD}")


if __name__ == "__main__":
    main()
