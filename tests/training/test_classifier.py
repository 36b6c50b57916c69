"""The classifier learns from the crops that the station makes; its checkpoint says what a bundle needs."""

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from click.testing import CliRunner

from build_engines.checkpoint import Checkpoint, CropGeometry, build_network
from build_engines.networks import load_networks, load_recipe
from build_engines.recipe import ClassifierEntry, DetectorEntry, Recipe
from tests.build_engines.small_bundle import TINY, save_detector
from training.annotations import AnnotatedImage
from training.augment import VARIATIONS
from training.base_weights import read_base_weights
from training.classifier import main
from training.classifying import architecture_of, load_base_weights, macro_f1_of_frequent, train_classifier
from training.crops import Cell, CropDataset, normalised
from training.loop import Schedule, TrainingError
from training.targets import targets_of

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # From Python 3.12 on. The loader's workers are forked, and do nothing that another thread could hold.
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]
MODEL = "test_efficientnet"
GEOMETRY = CropGeometry(64)
Smears = list[AnnotatedImage]


def train(cells: Sequence[Cell], validation: Sequence[Cell], folder: Path, **changes: Any) -> Checkpoint:
    options: dict[str, Any] = {
        "model": MODEL,
        "base": None,
        "geometry": GEOMETRY,
        "variation": VARIATIONS["strong"],
        "schedule": Schedule(epochs=1, learning_rate=1e-3),
        "batch_size": 4,
        "folder": folder,
        "provenance": {"data": ["drawn"]},
        "options": {},
        "workers": 0,
        **changes,
    }
    return Checkpoint.load(train_classifier(cells, validation, **options))


@pytest.fixture
def enough(cells: list[Cell]) -> list[Cell]:
    """Validation cells of which each class has the ten that its F1 asks for."""
    return cells * 3


class TestTraining:
    def test_gives_a_checkpoint_that_answers(
        self, cells: list[Cell], enough: list[Cell], tmp_path: Path
    ) -> None:
        checkpoint = train(cells, enough, tmp_path)
        assert checkpoint.classes == ("PNN", "LY")  # in the order of a count, whatever the order of the cells
        assert checkpoint.geometry == GEOMETRY
        assert checkpoint.provenance["data"] == ["drawn"]
        assert checkpoint.provenance["validation"].keys() == {
            "score", "macro_f1", "accuracy", "accuracy_lab0", "accuracy_lab1",
        }  # fmt: skip
        crops = torch.stack(
            [
                CropDataset(cells, targets_of(cells, checkpoint.classes), GEOMETRY)[index][0]
                for index in (0, 1)
            ]
        )
        with torch.inference_mode():
            logits = checkpoint.network()(normalised(crops, GEOMETRY))
        assert logits.shape == (2, 2)
        assert torch.isfinite(logits).all()

    def test_learns_to_tell_two_classes_apart(self, enough: list[Cell], tmp_path: Path) -> None:
        plain = VARIATIONS["none"]
        schedule = Schedule(epochs=12, learning_rate=1e-2, ema_decay=0.7)
        checkpoint = train(enough, enough, tmp_path, variation=plain, schedule=schedule)
        assert checkpoint.provenance["validation"]["accuracy"] > 0.9

    def test_leaves_validation_cells_of_an_unknown_class_out(
        self, cells: list[Cell], enough: list[Cell], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        elsewhere = replace(cells[0].image, source="elsewhere")
        basophils = [replace(cells[0], image=elsewhere, label="BA")] * 3
        with caplog.at_level(logging.WARNING):
            checkpoint = train(cells, [*enough, *basophils], tmp_path)
        assert checkpoint.classes == ("PNN", "LY")
        assert "3 validation cells are of a class without training cells" in caplog.text
        assert "accuracy_elsewhere" not in checkpoint.provenance["validation"]

    def test_takes_over_base_weights(self, cells: list[Cell], enough: list[Cell], tmp_path: Path) -> None:
        base = timm.create_model(MODEL, pretrained=False, num_classes=1000)
        torch.save(base.state_dict(), tmp_path / "base.pth")
        standing_still = Schedule(epochs=1, learning_rate=1e-12)
        weights = train(
            cells, enough, tmp_path, base=read_base_weights(tmp_path / "base.pth"), schedule=standing_still
        ).weights
        assert weights["classifier.weight"].shape[0] == 2
        for name, tensor in base.named_parameters():
            assert name.startswith("classifier.") or torch.allclose(tensor, weights[name], atol=1e-6)


def test_base_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_resnet", pretrained=False).state_dict(), tmp_path / "base.pth")
    with pytest.raises(TrainingError, match=r"base\.pth fits only \d+ of the network's \d+ tensors; give"):
        load_base_weights(
            timm.create_model(MODEL, pretrained=False),
            read_base_weights(tmp_path / "base.pth"),
            (),
            lambda: None,
        )


def test_a_vit_is_built_for_the_crop_and_takes_base_weights_of_another_input_size(tmp_path: Path) -> None:
    base = timm.create_model("test_vit", pretrained=False)  # for 160 px, in patches of 16
    torch.save(base.state_dict(), tmp_path / "base.pth")
    network = build_network(*architecture_of("test_vit", 64), 3).eval()
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
    load_base_weights(network, read_base_weights(tmp_path / "base.pth"), (), lambda: None)
    assert network.pos_embed.shape == (1, 1 + 4 * 4, 64)
    assert torch.equal(network.pos_embed[:, 0], base.pos_embed[:, 0])  # the class token
    assert torch.equal(network.blocks[0].attn.qkv.weight, base.blocks[0].attn.qkv.weight)
    of_base = base.pos_embed[0, 1:].reshape(10, 10, 64)
    assert torch.allclose(network.pos_embed[0, 1:].mean(0), of_base.mean((0, 1)), atol=5e-3)


def test_a_model_that_timm_does_not_have_is_refused(smears_csv: Path, tmp_path: Path) -> None:
    files = ["--csv", str(smears_csv), "--validation-csv", str(smears_csv), "--out", str(tmp_path)]
    result = CliRunner().invoke(main, [*files, "--model", "nosuch"])
    assert result.exit_code == 2
    assert "'nosuch' is no model of timm; choose" in " ".join(result.output.split())


@pytest.mark.usefixtures("ultralytics_imported")
@pytest.mark.parametrize("model", ["yolo11n.yaml", "yolo99n-cls.yaml", "./yolo11n-cls.yaml"])
def test_what_is_no_classifier_of_ultralytics_is_refused(
    model: str, smears_csv: Path, tmp_path: Path
) -> None:
    files = ["--csv", str(smears_csv), "--validation-csv", str(smears_csv), "--out", str(tmp_path)]
    result = CliRunner().invoke(main, [*files, "--model", model], env={"COLUMNS": "300"})
    assert result.exit_code == 2
    assert f"'{model}' is no classifier of ultralytics; give a name such as yolo11l-cls.yaml" in result.output


@pytest.fixture
def many(smears_csv: Path, tmp_path: Path) -> Path:
    """Each drawn smear three times, since a class needs ten cells to be judged: 24 images of a cell each.

    The same lie as other files in judged/.
    """
    header, *rows = smears_csv.read_text().splitlines()
    copies = [f"{copy}-{row}" for row in rows for copy in range(3)]
    for folder in (tmp_path, tmp_path / "judged"):
        (folder / "images").mkdir(parents=True)
        for copy in range(3):
            for image in (smears_csv.parent / "images").iterdir():
                shutil.copy(image, folder / "images" / f"{copy}-{image.name}")
        (folder / "many.csv").write_text("\n".join([header, *copies]) + "\n")
    return tmp_path / "many.csv"


def command(many: Path, out: Path, *more: object) -> Any:
    arguments = [
        "--csv", many, "--validation-csv", many.parent / "judged/many.csv", "--model", MODEL,
        "--crop-size", 32, "--batch-size", 4,        "--out", out, "--data-note", "drawn", *more,
    ]  # fmt: skip
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_trains_and_goes_on_where_it_was_stopped(many: Path, tmp_path: Path) -> None:
    def run(epochs: int, *more: str) -> list[int]:
        result = command(many, tmp_path / "run", "--epochs", epochs, *more)
        assert result.exit_code == 0, result.output
        assert result.stdout.strip() == str(tmp_path / "run/best.pt")
        history = (tmp_path / "run/history.jsonl").read_text().splitlines()
        return [json.loads(line)["epoch"] for line in history]

    assert run(1) == [1]
    assert run(2, "--resume") == [1, 2]
    checkpoint = Checkpoint.load(tmp_path / "run/best.pt")
    assert checkpoint.provenance["base_weights"] == "none"
    assert checkpoint.provenance["cells"] == {"PNN": 12, "LY": 12}


def test_the_command_does_not_go_on_with_weights_that_saw_what_is_now_left_out(
    many: Path, tmp_path: Path
) -> None:
    names = [line.split(",")[0] for line in many.read_text().splitlines()[1:]]
    told = "".join(f"{name},{'other' if name in ('2-0.jpg', '2-1.jpg') else 'lab'}\n" for name in names)
    for folder in (many.parent, many.parent / "judged"):
        (folder / "provenance.csv").write_text(f"NAME,source\n{told}")
    out = tmp_path / "run"
    assert command(many, out, "--epochs", 1).exit_code == 0
    before = (out / "best.pt").read_bytes()
    refused = command(many, out, "--epochs", 2, "--resume", "--exclude-source", "other")
    assert refused.exit_code == 78
    said = " ".join(refused.output.split())
    assert "began with other training annotations, validation annotations (24 images, " in said
    assert "than are given now (22 images, " in said
    assert (out / "best.pt").read_bytes() == before


def test_the_command_goes_on_with_the_options_that_define_its_training_only(
    many: Path, tmp_path: Path
) -> None:
    header, *rows = many.read_text().splitlines()
    header, *rows = header.replace("class", "LY,PNN"), *(f"{row.rsplit(',', 1)[0]},0.9,0.1" for row in rows)
    soft = tmp_path / "soft.csv"
    soft.write_text("\n".join([header, *rows]) + "\n")
    out, kept = tmp_path / "run", ["--soft-labels", soft]
    assert command(many, out, *kept, "--epochs", 1).exit_code == 0
    before = (out / "resume.pt").read_bytes()
    for options, said in (
        (["--crop-size", 64], "other --crop-size (32) than are given now (64); resume it with the same"),
        (["--loss", "focal", "--seed", 3], "--loss, --seed (cross_entropy; 0) than are given now (focal; 3)"),
        (["--variation", "mild", "--hue", 0], "--variation, --hue (extreme; 1.0) than are given now (mild;"),
        (["--normalise-by", "model"], "--normalise-by (crop) than are given now (model)"),
        (["--learning-rate", 0.1, "--bf16"], "--learning-rate, --bf16 (0.001; False) than are given now"),
        (["--model", "test_resnet"], f"--model ({MODEL}) than are given now (test_resnet)"),
    ):
        result = command(many, out, *kept, "--epochs", 2, "--resume", *options)
        assert result.exit_code == 78
        assert said in " ".join(result.output.split())
    soft.write_text("\n".join([header, *rows[::-1], rows[0]]) + "\n")
    result = command(many, out, *kept, "--epochs", 2, "--resume")
    assert result.exit_code == 78
    assert "other --soft-labels (soft.csv, sha256 " in " ".join(result.output.split())
    assert (out / "resume.pt").read_bytes() == before
    soft.write_text("\n".join([header, *rows]) + "\n")
    overwritten = command(many, out, *kept, "--epochs", 2, "--pretrained", out / "best.pt")
    assert overwritten.exit_code == 78
    assert "best.pt lies where this training writes its own weights" in " ".join(overwritten.output.split())
    assert (out / "resume.pt").read_bytes() == before
    may_change = ["--epochs", 2, "--patience", 7, "--workers", 0, "--data-note", "told better"]
    result = command(many, out, *kept, "--resume", *may_change)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("options", "geometry", "activation"),
    [
        (
            "--view tile --shape stretched --loss multi_label --mixup 0.4 --cutmix 1",
            CropGeometry(32, margin_fraction=0.0, shape="stretched", view="tile"),
            "sigmoid",
        ),
        (
            "--view tile --loss focal --focal-gamma 1.5 --soft-labels soft.csv --soft-weight 0.7",
            CropGeometry(32, margin_fraction=0.0, view="tile"),
            "softmax",
        ),
        (
            "--margin 0 --margin-px 16 --shape stretched --cutmix 1 --soft-labels soft.csv",
            CropGeometry(32, margin_px=16.0, margin_fraction=0.0, shape="stretched"),
            "softmax",
        ),
    ],
)
def test_what_a_network_was_trained_for_is_what_a_bundle_shows_it(
    options: str, geometry: CropGeometry, activation: str, many: Path, tmp_path: Path
) -> None:
    header, *rows = many.read_text().splitlines()
    soft = [f"{row.rsplit(',', 1)[0]},{0.9 if row.endswith('LY') else 0.2},0.1" for row in rows]
    (tmp_path / "soft.csv").write_text("\n".join([header.replace("class", "LY,PNN"), *soft]) + "\n")
    options = options.replace("soft.csv", str(tmp_path / "soft.csv"))
    result = command(many, tmp_path / "run", "--epochs", 1, *options.split())
    assert result.exit_code == 0, result.output
    checkpoint = Checkpoint.load(tmp_path / "run/best.pt")
    assert (checkpoint.geometry, checkpoint.activation) == (geometry, activation)
    assert 0 <= checkpoint.provenance["validation"]["accuracy"] <= 1
    entry = ClassifierEntry(checkpoint=tmp_path / "run/best.pt")
    detector = DetectorEntry(checkpoint=tmp_path / "detector.pt")
    save_detector(detector.checkpoint, TINY, 96)
    network = load_recipe(Recipe(detector=(detector,), classifier=(entry,))).classifiers[0]
    assert network.graphs[0].activation == activation
    assert (network.spec.view, network.spec.shape) == (geometry.view, geometry.shape)
    assert (network.spec.margin_px, network.spec.margin_fraction) == (
        geometry.margin_px, geometry.margin_fraction,
    )  # fmt: skip


@pytest.fixture
def yolo_weights(ultralytics_imported: None, tmp_path: Path) -> Path:
    """Base weights of a YOLO11n-cls of 1000 classes as ultralytics gives them, a pickle."""
    from ultralytics import YOLO

    model = YOLO("yolo11n-cls.yaml", verbose=False)
    model.ckpt = {"train_args": {"imgsz": 224, "task": "classify"}}
    model.save(tmp_path / "yolo11n-cls.pt")
    return tmp_path / "yolo11n-cls.pt"


@pytest.mark.filterwarnings("ignore:distutils Version classes:DeprecationWarning")
def test_a_classifier_of_ultralytics_is_trained_with_our_losses_and_goes_into_a_bundle(
    yolo_weights: Path, many: Path, tmp_path: Path
) -> None:
    options = ["--model", "yolo11n-cls.yaml", "--pretrained", yolo_weights, "--normalise-by", "model"]
    options += ["--view", "tile", "--loss", "focal", "--learning-rate", 1e-12, "--epochs", 1]
    options += ["--data-note", "boxes by ultralytics"]  # which makes no pickle of the checkpoint
    result = command(many, tmp_path / "run", *options)
    assert result.exit_code == 0, result.output
    checkpoint = Checkpoint.load(tmp_path / "run/best.pt")
    base = read_base_weights(yolo_weights, pickles=True)
    first = "network.model.0.conv.weight"
    assert torch.allclose(checkpoint.weights[first], base.tensors[first], atol=1e-6)
    assert checkpoint.provenance["base_weights_sha256"]
    assert checkpoint.provenance["objective"]["loss"] == "focal"
    save_detector(tmp_path / "detector.pt", TINY, 96)
    (built_of,) = load_networks(tmp_path / "detector.pt", tmp_path / "run/best.pt").classifiers
    assert (built_of.spec.name, built_of.spec.view, built_of.classes) == (
        "yolo11n-cls",
        "tile",
        ("PNN", "LY"),
    )
    assert "AGPL-3.0" in built_of.facts["framework"]
    tiles = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    with torch.inference_mode():
        expected = checkpoint.network()(tiles.permute(0, 3, 1, 2) / 255).softmax(1)
        assert torch.allclose(built_of.graphs[0](tiles), expected, atol=1e-3)
    further = build_network(checkpoint.family, checkpoint.architecture, 2)
    load_base_weights(further, read_base_weights(tmp_path / "run/best.pt"), ("LY", "PNN"), lambda: None)
    last = "network.model.10.linear.weight"
    assert torch.equal(further.state_dict()[last], checkpoint.weights[last].flip(0))


def test_a_pickle_is_not_opened_for_a_network_of_timm(yolo_weights: Path, many: Path, tmp_path: Path) -> None:
    result = command(many, tmp_path / "run", "--pretrained", yolo_weights)
    assert result.exit_code == 78
    assert "yolo11n-cls.pt cannot be read as weights (UnpicklingError); give" in " ".join(
        result.output.split()
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--view tile --margin 0.1", "--margin is for --view crop only; leave it out."),
        ("--focal-gamma 1", "--focal-gamma is for --loss focal only"),
        ("--soft-weight 1", "--soft-weight is for --soft-labels only"),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(
    options: str, said: str, many: Path, tmp_path: Path
) -> None:
    result = command(many, tmp_path / "run", *options.split())
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("truth", "predicted", "expected"),
    [
        ("aabb", "aabb", 1.0),
        ("aabb", "abbb", (2 / 3 + 4 / 5) / 2),
        ("aabbc", "aabba", (4 / 5 + 1) / 2),  # one cell of class c is too few to count
    ],
)
def test_macro_f1_counts_the_classes_with_enough_cells(truth: str, predicted: str, expected: float) -> None:
    assert macro_f1_of_frequent(truth, predicted, least=2) == pytest.approx(expected)


def test_a_detectors_checkpoint_is_no_classifier(
    cells: list[Cell], enough: list[Cell], tmp_path: Path
) -> None:
    train(cells, enough, tmp_path)
    with pytest.raises(Exception, match="is a classifier's checkpoint; give a detector's"):
        load_networks(tmp_path / "best.pt", None)
