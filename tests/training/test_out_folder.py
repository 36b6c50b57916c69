"""A folder that cannot be written is told before the images are read, not after hours of it."""

import shutil
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from edge.bundle import embedded_bundle
from edge.exit_codes import ExitCode
from training import calibrate, cross_evaluate, curate, evaluate, likeness, soft_labels, submit


@pytest.fixture
def nowhere(tmp_path: Path) -> Path:
    (tmp_path / "file").touch()
    return tmp_path / "file" / "out"


@pytest.fixture
def nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        pytest.fail("an engine was opened")

    # The last one last: those before import it, and would keep what stands there for other tests.
    for module in ("training.evaluate", "training.out_of_fold", "edge.pipeline"):
        monkeypatch.setattr(f"{module}.open_pipeline", fail)


@pytest.mark.usefixtures("nothing_is_read")
class TestIsToldBeforeAnythingIsRead:
    def refused(self, command: ModuleType, *given: object) -> None:
        result = CliRunner().invoke(command.main, [str(one) for one in given])
        assert result.exit_code == ExitCode.OUTPUT, result.output
        assert "cannot be written (Not a directory); mend its rights or make space" in result.stderr

    @pytest.mark.parametrize("command", [evaluate, calibrate, likeness, soft_labels, submit])
    def test_by_what_asks_one_bundle(
        self, command: ModuleType, nowhere: Path, smears_csv: Path, tmp_path: Path
    ) -> None:
        bundle = shutil.copytree(embedded_bundle(), tmp_path / "bundle")
        given = ["--bundle", bundle, "--csv", smears_csv, "--out", nowhere]
        if command in (soft_labels, submit):
            given[-1] = nowhere / "file.csv"
        self.refused(command, *given, *([smears_csv.parent / "images"] if command is submit else []))

    @pytest.mark.parametrize("command", [cross_evaluate, curate])
    def test_by_what_asks_the_bundles_of_folds(
        self, command: ModuleType, nowhere: Path, folders: tuple[Path, Path], smears_csv: Path
    ) -> None:
        given = ["--splits", folders[0], "--bundles", folders[1], "--out", nowhere]
        self.refused(command, *given, *(["--csv", smears_csv] if command is curate else []))
