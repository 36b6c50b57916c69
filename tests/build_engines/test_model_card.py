"""What the model card says of figures and classes; that of a whole build is in test_build.py."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from build_engines.model_card import add_evaluation, main, model_card
from edge.bundle import Bundle, embedded_bundle
from edge.manifest import Manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle of the name demo."""
    return Path(shutil.copytree(embedded_bundle(), tmp_path / "bundle"))


def blended(cells_of: dict[str, dict[str, int]], **detector: Any) -> Manifest:
    """The embedded bundle's with these training cells, and a detector that names classes, too."""
    manifest = Bundle.load(embedded_bundle()).manifest
    spec = manifest.detectors[0].model_copy(update={"names_classes": True, **detector})
    provenance = {part: {"cells": cells} for part, cells in cells_of.items()}
    return manifest.model_copy(update={"detectors": (spec,), "provenance": provenance})


def test_figures_of_a_bundle_of_another_name_go_in_with_a_warning(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    report = {"about": {"bundle": "demo-without-bccd"}, "annotations_sha256": "0", "score": {"score": 0.8}}
    (tmp_path / "report.json").write_text(json.dumps(report))
    arguments = [str(folder), "--evaluation", str(tmp_path / "report.json"), "--name", "BCCD, unseen"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert caplog.messages == [
        "the figures of BCCD, unseen are of demo-without-bccd and go into the card of demo; if that is not "
        "meant, replace them by those of a report of demo under the same --name"
    ]
    assert "- about: bundle demo-without-bccd" in (folder / "MODEL_CARD.md").read_text()


def test_a_bundle_that_cannot_be_written_is_told_in_one_sentence(folder: Path, tmp_path: Path) -> None:
    (folder / "manifest.json.part").mkdir()  # stands in for what may not be written, which root always may
    (tmp_path / "report.json").write_text('{"annotations_sha256": "0", "score": {"score": 0.8}}')
    arguments = [str(folder), "--evaluation", str(tmp_path / "report.json"), "--name", "drawn smears"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert f"{folder} cannot be written (" in result.output


def test_figures_of_the_bundle_itself_need_no_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    about = {"bundle": "demo", "bundle id": "demo-of-another-manifest"}
    add_evaluation(folder, {"about": about, "accuracy": 0.5}, "drawn smears")
    assert not caplog.messages


def test_figures_of_nought_are_in_the_card_and_empty_ones_are_not(folder: Path) -> None:
    figures = {"accuracy": 0.0, "n_boxes": 0, "recommendation": None, "covered_without_cells": []}
    add_evaluation(folder, figures, "nothing that it knows")
    card = (folder / "MODEL_CARD.md").read_text()
    assert "## Accuracy: nothing that it knows\n\n- accuracy: 0\n- n boxes: 0\n\n## " in card


def test_training_cells_are_the_most_of_all_networks_that_name_classes() -> None:
    card = model_card(blended({"detector": {"PNN": 900, "LY": 800}, "classifier": {"PNN": 70, "EO": 60}}))
    assert "| covered | PNN (neutrophil, 900), EO (eosinophil, 60), LY (lymphocyte, 800) |" in card


@pytest.mark.parametrize("unused", [{"names_classes": False}, {"class_weight": 0.0}])
def test_cells_that_a_detector_does_not_name_do_not_count(unused: dict[str, Any]) -> None:
    card = model_card(blended({"detector": {"PNN": 900, "LY": 800}, "classifier": {"PNN": 70}}, **unused))
    assert "| covered | PNN (neutrophil, 70) |" in card
