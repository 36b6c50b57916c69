"""Which commands a recipe becomes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from build_engines.recipe import read_recipe as read_ensemble
from edge.bundle import embedded_bundle
from tests.training.damaged_smears import jpeg, rgb, write_csv, write_images
from training import classifier, detector, recipe
from training.audit.command import main as audit
from training.errors import AnnotationError
from training.loop import TrainingError
from training.options import read_data
from training.recipe_keys import RecipeError
from training.recipe_plan import Job, Plan, plan_recipe, plan_without_each_source
from training.recipe_steps import Run
from training.splits import main as splits

FOLDED = """
folds = 2
[every_detector]
epochs = 1
[detector.a]
folds = true
tta = ["hflip"]
weight = 0.25
windows = { size_px = 512, overlap_px = 128 }
[detector.b]
model = "yolo11n.yaml"
one_stage = true
[classifier.c]
[fusion]
iou = 0.6
"""

ONE_STAGE = "[detector.a]\nmodel = 'yolo11n.yaml'\none_stage = true"


@pytest.fixture
def job(smears_csv: Path, copied_csv: Path, tmp_path: Path) -> Job:
    path = tmp_path / "mine.toml"
    path.write_text(FOLDED)
    return Job(path, "small", (smears_csv,), (copied_csv,), tmp_path / "run")


def judged_by(job: Job, n_cells: int = 50) -> Job:
    """The job with validation files of so many cells with a class, beside which is one without."""
    folder = job.out.with_name("judges")
    folder.mkdir(exist_ok=True)
    if not (folder / "images").exists():
        (folder / "images").symlink_to(job.validation_csvs[0].parent / "images")
    cells = [f"{n % 8}.jpg,{n},0,{n + 30},30,PNN" for n in range(n_cells)]
    (folder / "val.csv").write_text("\n".join(["NAME,x1,y1,x2,y2,class", *cells, "0.jpg,0,9,30,39,WBC\n"]))
    return replace(job, validation_csvs=(folder / "val.csv",))


def typed(plan: Plan) -> dict[str, str]:
    return {step.name: step.typed for step in plan.steps}


def test_every_step_comes_after_what_it_needs_and_ends_in_one_measured_bundle(job: Job) -> None:
    steps = plan_recipe(job).steps
    names = [step.name for step in steps]
    assert names == [
        "folds", "detector-a-fold-1", "detector-a-fold-2", "detector-b", "classifier-c",
        "build", "evaluate", "time", "card",
    ]  # fmt: skip
    for place, step in enumerate(steps):
        assert set(step.needs) <= set(names[:place])


def test_a_network_of_a_fold_is_trained_and_judged_on_that_fold(job: Job) -> None:
    commands, folds = typed(plan_recipe(job)), job.out / "folds"
    assert commands["detector-a-fold-2"] == (
        f"python -m training.detector --csv {folds}/fold-2-train.csv --validation-csv {folds}/fold-2-val.csv "
        f"--epochs 1 --out {job.out}/detector-a-fold-2 --resume"
    )
    assert f"--csv {job.csvs[0]} --validation-csv {job.validation_csvs[0]}" in commands["detector-b"]


def test_the_trainers_take_what_is_planned(job: Job) -> None:
    for step in plan_recipe(job).steps:
        if step.name == "detector-b":
            context = detector.main.make_context("detector", list(step.command[3:]))
            assert context.params["one_stage"]
            assert context.params["model"] == "yolo11n.yaml"


def test_the_ensemble_is_one_that_build_takes(job: Job) -> None:
    [(path, text)] = plan_recipe(job).files.items()
    path.parent.mkdir(parents=True)
    path.write_text(text)
    ensemble = read_ensemble(path)
    assert [(job.out / one.checkpoint).resolve() for one in ensemble.detector] == [
        (job.out / name).resolve()
        for name in (
            "detector-a-fold-1/best.pt", "detector-a-fold-2/best.pt", "detector-b/weights/best.pt",
        )
    ]  # fmt: skip
    first = ensemble.detector[0]
    assert (first.weight, first.tta, first.windows and first.windows.size_px) == (0.25, ("hflip",), 512)
    assert ensemble.fusion.iou == 0.6


def test_a_model_that_is_looked_up_by_name_is_the_same_once_it_was_downloaded(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    (tmp_path / "own/mine.pt").write_bytes(b"weights")
    job.recipe.write_text(
        "[every_detector]\none_stage = true\n[detector.a]\nmodel = 'yolo11n.pt'\n"
        "[detector.b]\nmodel = 'own/mine.pt'"
    )
    before = plan_recipe(job)
    (tmp_path / "yolo11n.pt").write_bytes(b"as ultralytics leaves it here")
    assert plan_recipe(job) == before
    assert [Path("own/mine.pt") in step.inputs for step in before.steps[:2]] == [False, True]


def test_a_source_that_is_left_out_is_left_out_of_all_training(job: Job) -> None:
    source = job.csvs[0].parent.name
    commands = typed(plan_recipe(replace(job, excluded=(source,))))
    assert all(f"--exclude-source {source}" in line for name, line in commands.items() if "detector" in name)
    assert f"--name mine-small-without-{source}" in commands["build"]


class TestASourceOfValidationImagesAlone:
    @pytest.fixture
    def validated(self, job: Job, tmp_path: Path) -> Job:
        """Of images of lab to train on and of field to judge by, one group of near-duplicates of each."""
        (tmp_path / "images").symlink_to(job.csvs[0].parent / "images")
        header, *rows = job.csvs[0].read_text().splitlines()
        for name, part in (("train", rows[:4]), ("val", rows[4:])):
            (tmp_path / f"{name}.csv").write_text("\n".join([header, *part]) + "\n")
        names = [row.split(",")[0] for row in rows]
        (tmp_path / "provenance.csv").write_text(
            "NAME,source,duplicate_group\n"
            + "".join(f"{name},{'lab,1' if n < 4 else 'field,2'}\n" for n, name in enumerate(names))
        )
        files = {"csvs": (tmp_path / "train.csv",), "validation_csvs": (tmp_path / "val.csv",)}
        return replace(job, **files, excluded=("field",))

    def test_is_told_to_folds_and_knowledge_by_the_files_that_have_it(self, validated: Job) -> None:
        validated.recipe.write_text(FOLDED + "[likeness]\n")
        commands = typed(plan_recipe(validated))
        left_out = {name for name, line in commands.items() if "--exclude-source field" in line}
        assert left_out == {
            "detector-a-fold-1", "detector-a-fold-2", "detector-b", "classifier-c", "likeness"
        }  # fmt: skip
        held_out = f"--held-out-csv {validated.validation_csvs[0]}"
        told = {name for name, line in commands.items() if held_out in line}
        assert told == {"detector-a-fold-1", "detector-a-fold-2", "likeness"}

    def test_is_no_matter_where_nothing_is_left_out(self, validated: Job) -> None:
        commands = typed(plan_recipe(replace(validated, excluded=())))
        assert not any("--held-out-csv" in line for line in commands.values())

    def test_that_nobody_has_is_refused(self, validated: Job) -> None:
        with pytest.raises(AnnotationError, match=r"is of the source clinic .* choose from field, lab\."):
            plan_recipe(replace(validated, excluded=("clinic",)))


def test_cleaned_annotations_are_what_is_trained_on_and_the_users_own_what_is_judged_by(job: Job) -> None:
    job.recipe.write_text("[audit]\nmin_side = 12\n[likeness]\n[calibration]\n" + ONE_STAGE)
    job = judged_by(job)
    validation = job.validation_csvs[0]
    plan = plan_recipe(job)
    commands = typed(plan)
    cleaned = job.out / "audit/cleaned"
    audited = f"training.audit {validation} {job.csvs[0]} --min-side 12"  # of two like images the first stays
    assert audited in commands["audit"]
    assert f"--csv {cleaned}/smears.csv --validation-csv {cleaned}/val.csv" in commands["detector-a"]
    assert f"--csv {cleaned}/smears.csv" in commands["likeness"]
    assert f"--csv {validation}" in commands["calibration"]
    assert f"--csv {validation}" in commands["evaluate"]
    inputs = {step.name: step.inputs for step in plan.steps}
    assert (inputs["likeness"], inputs["calibration"]) == ((), (validation,))


def test_faults_that_an_audit_mends_for_training_are_refused_before_it_where_they_are_judged_by(
    job: Job,
) -> None:
    job.recipe.write_text("[audit]\n[likeness]\n" + ONE_STAGE)
    job = judged_by(job)
    (job.out.with_name("trained")).mkdir()
    (job.out.with_name("trained") / "images").symlink_to(job.csvs[0].parent / "images")
    damaged = job.out.with_name("trained") / "train.csv"
    damaged.write_text(job.validation_csvs[0].read_text() + "0.jpg,left,0,30,30,PNN\n")
    assert plan_recipe(replace(job, csvs=(damaged,)))
    with pytest.raises(AnnotationError, match=r"train\.csv has 1 rows .* not a number, .* line 53; mend or"):
        plan_recipe(replace(job, validation_csvs=(damaged,)))


def test_what_is_judged_by_is_kept_apart_from_what_is_trained_on(job: Job, tmp_path: Path) -> None:
    """Where every network has its folds, no trainer sees the validation files."""
    job.recipe.write_text("folds = 2\n[detector.a]\nfolds = true\n[classifier.b]\nfolds = true\n")
    with pytest.raises(
        TrainingError, match=r"8 of 8 validation images are trained on, too \(.*0\.jpg\); take"
    ):
        plan_recipe(replace(job, validation_csvs=job.csvs))
    (tmp_path / "images").symlink_to(job.validation_csvs[0].parent / "images")
    judges = Path(shutil.copy(job.validation_csvs[0], tmp_path / "val.csv"))
    told = "NAME,source,duplicate_group\n0.jpg,lab,same\n1.jpg,lab,other\n"
    (tmp_path / "provenance.csv").write_text(told)
    (tmp_path / "train").mkdir()
    (tmp_path / "train/provenance.csv").write_text("NAME,source,duplicate_group\n7.jpg,clinic,same\n")
    (tmp_path / "train/images").symlink_to(job.csvs[0].parent / "images")
    trained = Path(shutil.copy(job.csvs[0], tmp_path / "train"))
    job = replace(job, csvs=(trained,), validation_csvs=(judges,))
    [note] = plan_recipe(job).notes
    assert note.startswith("1 of 8 validation images share a patient or a duplicate_group with images that")
    assert plan_recipe(replace(job, excluded=("clinic",))).notes == []
    given = ["--csv", str(trained), "--validation-csv", str(judges), "--out", str(job.out), "--plan"]
    assert note in CliRunner().invoke(recipe.main, [str(job.recipe), *given]).stderr


def test_too_few_cells_to_calibrate_by_are_refused_before_anything_trains(job: Job) -> None:
    job.recipe.write_text("[calibration]\n" + ONE_STAGE)
    assert plan_recipe(judged_by(job))
    says = r"have 49 cells with a class, .* \(50 needed\); give more, or leave \[calibration\] out of .*mine"
    with pytest.raises(RecipeError, match=says):
        plan_recipe(judged_by(job, 49))
    job.recipe.write_text(ONE_STAGE)
    assert plan_recipe(judged_by(job, 49))


def test_annotations_that_are_cleaned_and_curated_are_planned_before_they_are_there(job: Job) -> None:
    job.recipe.write_text(
        "folds = 2\n[audit]\n[detector.b]\n[curation.detector.a]\n"
        "[every_detector]\nmodel = 'yolo11n.yaml'\none_stage = true"
    )
    commands = typed(plan_recipe(judged_by(job)))
    assert f"--csv {job.out}/audit/cleaned/smears.csv" in commands["curate"]
    assert f"--csv {job.out}/curated/smears.csv" in commands["detector-b"]


def test_a_bundle_is_told_its_training_images_and_calibrated_before_it_is_measured(job: Job) -> None:
    job.recipe.write_text("[likeness]\n[calibration]\ntarget_accuracy = 0.9\n" + ONE_STAGE)
    source = job.csvs[0].parent.name
    plan = plan_recipe(replace(judged_by(job), excluded=(source,)))
    assert [step.name for step in plan.steps][1:5] == ["build", "likeness", "calibration", "evaluate"]
    commands = typed(plan)
    assert f"training.likeness --bundle {job.out}/bundle --csv {job.csvs[0]}" in commands["likeness"]
    assert f"--exclude-source {source}" in commands["likeness"]
    assert "training.calibrate" in commands["calibration"]
    assert "--target-accuracy 0.9" in commands["calibration"]


def test_a_bundle_that_is_no_longer_told_something_is_built_anew(job: Job) -> None:
    """What a bundle was told is in it, so leaving that out takes another bundle."""
    network = ONE_STAGE
    job, run, stamps = judged_by(job), Run(job.out), []
    for told in ("[likeness]\n[calibration]\n", "[likeness]\n", "", "[likeness]\n"):
        job.recipe.write_text(told + network)
        plan = plan_recipe(job)
        for path, text in plan.files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        [build] = [step for step in plan.steps if step.name == "build"]
        assert len(build.changed_by) == told.count("[")
        stamps.append(run._of(build))
    assert stamps[1] == stamps[3]
    assert len({str(stamp) for stamp in stamps}) == 3


def test_each_source_is_left_out_once_and_all_are_judged_together(job: Job) -> None:
    job.recipe.write_text(ONE_STAGE)
    job = replace(job, validation_csvs=job.csvs)
    (job.csvs[0].parent / "provenance.csv").write_text(
        "NAME,source\n" + "".join(f"{n}.jpg,{'a b' if n < 4 else 'c'}\n" for n in range(8))
    )
    plan = plan_without_each_source(job)
    (job.csvs[0].parent / "provenance.csv").unlink()
    assert [step.name for step in plan.steps] == [
        "sources", "without-a_b/detector-a", "without-a_b/build", "without-c/detector-a", "without-c/build",
        "unseen",
    ]  # fmt: skip
    with pytest.raises(RecipeError, match="--exclude-source c does not go with --leave-one-source-out"):
        plan_without_each_source(replace(job, excluded=("c",)))
    commands = typed(plan)
    assert "--exclude-source 'a b'" in commands["without-a_b/detector-a"]
    assert f"--out {job.out}/without-c/bundle" in commands["without-c/build"]
    assert f"--splits {job.out}/sources --bundles {job.out}" in commands["unseen"]


@pytest.mark.usefixtures("no_charts")
def test_folds_leave_out_copies_of_validation_images_that_only_their_own_audit_finds(tmp_path: Path) -> None:
    """South exported one of north's validation images anew, and has it among the images to train on."""
    parts = {"train": range(8), "val": range(8, 12)}
    files = {part: {f"{part}{n}": jpeg(rgb(n)) for n in numbers} for part, numbers in parts.items()}
    files["train"]["copy1"] = jpeg(rgb(8), quality=40)
    csvs = []
    for part, own in files.items():
        write_images(tmp_path / part / "images", **own)
        names = [f"{name}.jpg" for name in own]
        told = [f"{name},{'south' if int(name[-5]) % 2 else 'north'}" for name in names]
        write_csv(tmp_path / part / "provenance.csv", *told, header="NAME,source")
        csvs.append(
            write_csv(tmp_path / part / f"{part}.csv", *(f"{name},10,20,90,100,LY" for name in names))
        )
    recipe_file = tmp_path / "mine.toml"
    recipe_file.write_text("folds = 2\n[audit]\n[detector.a]\nfolds = true\n[classifier.b]\nfolds = true")
    job = Job(recipe_file, "small", (csvs[0],), (csvs[1],), tmp_path / "run")
    commands = {step.name: list(step.command[3:]) for step in plan_without_each_source(job).steps}
    for name, command in (("audit", audit), ("folds", splits)):
        done = CliRunner().invoke(command, commands[f"without-north/{name}"])
        assert done.exit_code == 0, done.output
    for trainer, name in ((detector.main, "detector-a"), (classifier.main, "classifier-b")):
        context = trainer.make_context(name, commands[f"without-north/{name}-fold-1"])
        training, validation, _ = read_data(context.params)
        used = {image.name for image in (*training, *validation)}
        assert used == {"train1.jpg", "train3.jpg", "train5.jpg", "train7.jpg"}


class TestATeacherOfAnotherRun:
    """Its bundles are the embedded one, which never saw a source of the name lab0."""

    @pytest.fixture
    def taught(self, job: Job, tmp_path: Path) -> Job:
        job.recipe.write_text(
            "[distillation]\nteacher = 't.toml'\n[detector.a]\n[classifier.b]\nsoft_weight = 0.5"
        )
        sources = "NAME,source\n" + "".join(f"{n}.jpg,lab{n // 4}\n" for n in range(8))
        csvs = []
        for part, csv in (("train", job.csvs[0]), ("val", job.validation_csvs[0])):
            (tmp_path / part).mkdir()
            (tmp_path / part / "provenance.csv").write_text(sources)
            (tmp_path / part / "images").symlink_to(csv.parent / "images")
            csvs.append(Path(shutil.copy(csv, tmp_path / part)))
        return replace(
            job, csvs=(csvs[0],), validation_csvs=(csvs[1],), teacher=tmp_path / "teacher", excluded=("lab0",)
        )

    def trained_on(self, bundle: Path, *sources: str, before: tuple[str, ...] = ()) -> None:
        shutil.copytree(embedded_bundle(), bundle)
        manifest = json.loads((bundle / "manifest.json").read_text())
        for told in manifest["provenance"].values():
            told["sources"] = dict.fromkeys(sources, 9)
            told["begun_from"] = {"sources": dict.fromkeys(before, 9)}
        (bundle / "manifest.json").write_text(json.dumps(manifest))

    def asked(self, job: Job) -> str:
        return typed(plan_recipe(job))["soft-labels"]

    def test_is_taken_where_the_whole_run_left_the_source_out(self, taught: Job, tmp_path: Path) -> None:
        self.trained_on(tmp_path / "teacher/bundle", "lab1")
        assert f"--bundle {tmp_path}/teacher/bundle --csv" in self.asked(taught)

    def test_is_that_without_the_source_where_the_runs_own_bundle_saw_it(
        self, taught: Job, tmp_path: Path
    ) -> None:
        self.trained_on(tmp_path / "teacher/bundle", "lab0", "lab1")
        self.trained_on(tmp_path / "teacher/without-lab0/bundle", "lab1")
        assert f"--bundle {tmp_path}/teacher/without-lab0/bundle --csv" in self.asked(taught)
        whole = self.asked(replace(taught, excluded=()))
        assert f"--bundle {tmp_path}/teacher/bundle --csv" in whole

    def test_is_refused_where_what_it_began_from_saw_the_source(self, taught: Job, tmp_path: Path) -> None:
        self.trained_on(tmp_path / "teacher/bundle", "lab1", before=("lab0",))
        says = r"trained without lab0 \(.*/bundle saw lab0, .*without-lab0/bundle is not there\); train it"
        with pytest.raises(RecipeError, match=says):
            plan_recipe(taught)

    def test_is_refused_where_nobody_learns_from_it(self, taught: Job) -> None:
        taught.recipe.write_text("[detector.a]\n[classifier.b]")
        with pytest.raises(RecipeError, match=r"has no \[distillation\], so .*/teacher; leave --teacher out"):
            plan_recipe(taught)

    def test_is_refused_where_it_does_not_tell_what_it_saw(self, taught: Job, tmp_path: Path) -> None:
        self.trained_on(tmp_path / "teacher/bundle", "lab1")
        manifest = json.loads((tmp_path / "teacher/bundle/manifest.json").read_text())
        del manifest["provenance"]["classifier"]
        (tmp_path / "teacher/bundle/manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(RecipeError, match="/bundle saw sources that it does not name"):
            plan_recipe(taught)


def test_the_plan_can_be_read_without_anything_being_written(job: Job) -> None:
    files = ["--csv", str(job.csvs[0]), "--validation-csv", str(job.validation_csvs[0])]
    shown = CliRunner().invoke(recipe.main, [str(job.recipe), *files, "--out", str(job.out), "--plan"])
    assert shown.exit_code == 0
    assert shown.output.endswith("".join(f"{step.typed}\n" for step in plan_recipe(job).steps))
    assert not job.out.exists()
