"""The detector trains, resumes, and is judged as its figures say."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from build_engines.checkpoint import Checkpoint, TileGeometry, build_network
from edge.images import decode
from training import yolox
from training.annotations import AnnotatedImage
from training.augment import VARIATIONS
from training.base_weights import facts_of, read_base_weights
from training.detector import detection_figures, main, train_yolox
from training.loop import Schedule

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # From Python 3.12 on. The loader's workers are forked, and do nothing that another thread could hold.
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]
TILE_SIZE = 96
Smears = list[AnnotatedImage]


def train(smears: Smears, folder: Path, **changes: Any) -> Path:
    options: dict[str, Any] = {
        "architecture": yolox.NANO,
        "base": None,
        "geometry": TileGeometry(TILE_SIZE, "top_left"),
        "variation": VARIATIONS["strong"],
        "schedule": Schedule(epochs=2, learning_rate=1e-3),
        "batch_size": 4,
        "tiles_per_epoch": 8,
        "folder": folder,
        "provenance": {"data": ["drawn"]},
        "options": {},
        "workers": 0,
        **changes,
    }
    return train_yolox(smears, smears[:4], **options)


def history(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


class TestTraining:
    @pytest.mark.parametrize("from_base_weights", [False, True])
    def test_goes_through_and_leaves_its_files(
        self, from_base_weights: bool, smears: Smears, tmp_path: Path
    ) -> None:
        base = tmp_path / "base.pth"
        torch.save(build_network("yolox", yolox.NANO, 80).state_dict(), base)
        best = train(smears, tmp_path, base=read_base_weights(base) if from_base_weights else None)
        assert best == tmp_path / "best.pt"
        assert best.exists()
        assert [line["epoch"] for line in history(tmp_path)] == [1, 2]
        assert history(tmp_path)[0].keys() >= {"score", "ap50", "mean_iou", "recall_lab0"}

    def test_learns_boxes_by_the_loss_that_is_asked_for(
        self, smears: Smears, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of two boxes apart, 20 and 10 px wide in one of 40 x 20: GIoU is (400 + 100 - 800) / 800."""
        boxes = torch.tensor([[10.0, 10, 20, 20]]), torch.tensor([[35.0, 5, 10, 10]])  # centre, sides
        losses: list[float] = []

        def loss(network: Any, *batch: Any) -> torch.Tensor:
            losses.append(network.head.iou_loss(*boxes).item())
            return real(network, *batch)

        real = yolox.loss
        monkeypatch.setattr(yolox, "loss", loss)
        for box_loss, expected in (("iou", 1.0), ("giou", 1 + 300 / 800)):
            best = train(smears, tmp_path, box_loss=box_loss, schedule=Schedule(1, 1e-3), tiles_per_epoch=4)
            assert losses.pop() == pytest.approx(expected)
            assert Checkpoint.load(best).provenance["box_loss"] == box_loss

    def test_learns_one_smear_by_heart(self, smears: Smears, tmp_path: Path) -> None:
        best = train(
            smears[:1] * 8, tmp_path, variation=VARIATIONS["none"], tiles_per_epoch=32,
            schedule=Schedule(epochs=6, learning_rate=3e-3, ema_decay=0.8, warmup_epochs=0.5),
        )  # fmt: skip
        losses = [line["loss"] for line in history(best.parent)]
        assert losses[-1] < 0.85 * losses[0]


@pytest.fixture(scope="module")
def command_run(smears_csv: Path, copied_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of two epochs through the command, the second one resumed."""
    out = tmp_path_factory.mktemp("run")
    for epochs, more in ((1, []), (2, ["--resume"])):
        arguments = [
            "--csv", smears_csv, "--validation-csv", copied_csv, "--tile-size", TILE_SIZE, "--batch-size", 4,
            "--tiles-per-epoch", 8, "--box-loss", "giou", "--out", out, "--epochs", epochs,
            "--data-note", "drawn", *more,
        ]  # fmt: skip
        result = CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        assert result.stdout.strip() == str(out / "best.pt")
        assert len(history(out)) == epochs
    return out


def test_the_command_goes_on_where_it_was_stopped(command_run: Path) -> None:
    assert [line["epoch"] for line in history(command_run)] == [1, 2]


def test_the_command_does_not_go_on_with_other_images(
    command_run: Path, smears_csv: Path, copied_csv: Path
) -> None:
    fewer = copied_csv.with_name("fewer.csv")
    fewer.write_text("\n".join(copied_csv.read_text().splitlines()[:-2]) + "\n")
    arguments = [
        "--csv", smears_csv, "--validation-csv", fewer, "--tile-size", TILE_SIZE, "--batch-size", 4,
        "--tiles-per-epoch", 8, "--box-loss", "giou", "--out", command_run, "--epochs", 3, "--resume",
    ]  # fmt: skip
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 78
    said = " ".join(result.output.split())
    assert "began with other validation annotations (8 images, " in said
    assert "than are given now (6 images, " in said
    assert len(history(command_run)) == 2


def test_the_command_does_not_go_on_with_other_options(
    command_run: Path, smears_csv: Path, copied_csv: Path
) -> None:
    arguments = [
        "--csv", smears_csv, "--validation-csv", copied_csv, "--tile-size", 128, "--batch-size", 2,
        "--tiles-per-epoch", 8, "--box-loss", "giou", "--out", command_run, "--epochs", 3, "--resume",
    ]  # fmt: skip
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 78
    said = "began with other --tile-size, --batch-size (96; 4) than are given now (128; 2); resume"
    assert said in " ".join(result.output.split())
    assert len(history(command_run)) == 2


@pytest.mark.parametrize("more", [[], ["--resume"]])
def test_the_command_does_not_begin_with_what_it_writes_over(
    more: list[str], command_run: Path, smears_csv: Path, copied_csv: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(command_run)
    before = {path: path.read_bytes() for path in command_run.iterdir()}
    arguments = [
        "--csv", smears_csv, "--validation-csv", copied_csv, "--tile-size", TILE_SIZE, "--batch-size", 4,
        "--tiles-per-epoch", 8, "--out", command_run, "--pretrained", tmp_path / "link/best.pt", *more,
    ]  # fmt: skip
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 78
    said = "best.pt lies where this training writes its own weights; give another folder as --out"
    assert said in " ".join(result.output.split())
    assert {path: path.read_bytes() for path in command_run.iterdir()} == before


def test_its_checkpoint_answers_and_says_where_it_comes_from(command_run: Path, smears: Smears) -> None:
    checkpoint = Checkpoint.load(command_run / "best.pt")
    assert checkpoint.classes == ()
    assert isinstance(checkpoint.geometry, TileGeometry)
    background = checkpoint.geometry.background
    assert background is not None
    assert checkpoint.geometry == TileGeometry(TILE_SIZE, "top_left", background)
    images = [decode(smear.path.read_bytes()) / 255 for smear in smears]
    norms = [255 * (image**12).mean((0, 1)) ** (1 / 12) for image in images]
    np.testing.assert_allclose(background, np.percentile(norms, 50, axis=0, method="lower"), rtol=0.02)
    assert checkpoint.provenance["background"] == [round(level) for level in background]
    assert checkpoint.provenance["data"] == ["drawn"]
    assert checkpoint.provenance["box_loss"] == "giou"
    assert checkpoint.provenance["base_weights"] == "none"
    assert checkpoint.provenance["variation"] == "strong"
    pixels = decode(smears[0].path.read_bytes())
    [(boxes, scores)] = yolox.predict(checkpoint.network(), [pixels], checkpoint.geometry, least_score=0.0)
    assert boxes.shape == (len(scores), 4)
    assert len(boxes) > 0
    assert (boxes <= (200, 180, 200, 180)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tile-size", "100"], "100 is no multiple of 32; choose one"),
        (["--tile-size", "64"], "a tile of 64 px has fewer places for boxes than a bundle gives; choose 96"),
        (["--tile-size", "0"], "0 is not in the range x>=32"),
        (["--epochs", "0"], "0 is not in the range x>=1"),
        (["--batch-size", "0"], "0 is not in the range x>=1"),
        (["--model", "yolo11n.yaml", "--tiles-per-epoch", "8"], "does not take --tiles-per-epoch; leave"),
        (["--model", "yolo11n.yaml", "--ema-decay", "0.995"], "does not take --ema-decay; leave"),
        (["--model", "yolo11n.yaml", "--pretrained", "."], "does not take --pretrained; leave"),
        (["--model", "yolo11n.yaml", "--box-loss", "giou"], "does not take --box-loss; leave"),
        (["--box-loss", "ciou"], "'ciou' is not one of 'iou', 'giou'"),
        (["--one-stage"], "yolox-nano only finds cells; choose a model of ultralytics"),
        (["--device", "0"], "--device is for models of ultralytics"),
        (["--hue", "1.5"], "1.5 is not in the range 0<=x<=1"),
    ],
)
def test_options_that_cannot_be_followed_are_refused(
    options: list[str], message: str, smears_csv: Path, copied_csv: Path, tmp_path: Path
) -> None:
    files = ["--csv", smears_csv, "--validation-csv", copied_csv, "--out", tmp_path / "run"]
    result = CliRunner().invoke(main, [*map(str, files), *options], env={"COLUMNS": "300"})
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "run").exists()


def test_base_weights_of_another_network_end_the_command_with_one_sentence(
    smears_csv: Path, copied_csv: Path, tmp_path: Path
) -> None:
    torch.save({"another.weight": torch.zeros(1)}, tmp_path / "base.pth")
    arguments = [
        "--csv", smears_csv, "--validation-csv", copied_csv, "--tile-size", TILE_SIZE,
        "--pretrained", tmp_path / "base.pth", "--out", tmp_path / "run",
    ]  # fmt: skip
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 78
    assert "base.pth is of another network than the one to train; give" in result.output


Given = dict[str, Any]


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Given:
    """What the command gives to the training of ultralytics, which does nothing."""
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    from training import ultralytics_yolo

    options: Given = {}
    monkeypatch.setattr(
        ultralytics_yolo, "train_ultralytics", lambda *images, **given: options.update(given) or "best.pt"
    )
    return options


@pytest.fixture
def files(smears_csv: Path, copied_csv: Path, tmp_path: Path) -> list[object]:
    return ["--csv", smears_csv, "--validation-csv", copied_csv, "--out", tmp_path / "run"]


def ultralytics(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_an_ultralytics_run_gets_the_notes_on_its_data(
    files: list[object], smears_csv: Path, given: Given
) -> None:
    more = ["--model", "yolo11n.yaml", "--data-note", "drawn", "--hue", "0", "--device", "0,1"]
    result = ultralytics(*files, *more)
    assert result.exit_code == 0, result.output
    assert given["provenance"] == {
        "data": ["drawn"],
        "sources": {smears_csv.parent.name: 8},
        "variation": "strong",
        "hue": 0.0,
    }
    assert facts_of(given["base"]) == {"base_weights": "none"}
    assert (given["variation"], given["device"]) == (replace(VARIATIONS["strong"], hue=0.0), "0,1")


class TestWeightsOfUltralytics:
    def test_tell_what_their_training_saw(self, files: list[object], tmp_path: Path, given: Given) -> None:
        before = {"sources": {"pbc": 9}, "begun_from": {"sources": {"bccd": 3}}}
        (tmp_path / "provenance.json").write_text(json.dumps(before))
        result = ultralytics(*files, "--model", tmp_path / "best.pt")
        assert result.exit_code == 0, result.output
        facts = facts_of(given["base"])
        assert (facts["base_weights"], facts["begun_from"]) == ("best.pt", before)
        refused = ultralytics(*files, "--model", tmp_path / "best.pt", "--exclude-source", "bccd")
        assert refused.exit_code == 78
        assert "best.pt was trained on images of bccd, which this training leaves out" in refused.output

    def test_of_nobody_knows_what_are_taken_as_they_are(
        self, files: list[object], tmp_path: Path, given: Given
    ) -> None:
        result = ultralytics(*files, "--model", "yolo11n.pt")
        assert result.exit_code == 0, result.output
        assert facts_of(given["base"]) == {"base_weights": "yolo11n.pt"}

    @pytest.mark.parametrize(("content", "said"), [("{", "cannot be read as JSON"), ("[]", "no provenance")])
    def test_with_a_damaged_provenance_are_refused(
        self, content: str, said: str, files: list[object], tmp_path: Path
    ) -> None:
        (tmp_path / "provenance.json").write_text(content)
        result = ultralytics(*files, "--model", tmp_path / "best.pt")
        assert result.exit_code == 78
        assert said in result.output


A, B, C = [0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]
A_SHIFTED = [0, 0, 10, 8]  # IoU 0.8 with A
NEAR_A = [4, 0, 14, 10]  # IoU 0.43 with A


def image(boxes: list[list[int]], source: str = "lab") -> AnnotatedImage:
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    return AnnotatedImage("1.png", Path("1.png"), corners, (None,) * len(boxes), source)


def found(**boxes: float) -> tuple[np.ndarray, np.ndarray]:
    """Predictions by the names above with their scores, best first."""
    corners = np.array([globals()[name] for name in boxes], np.float32).reshape(-1, 4)
    return corners, np.array(list(boxes.values()), np.float32)


@pytest.mark.parametrize(
    ("true", "predicted", "ap50", "mean_iou", "recall"),
    [
        ([A, B], found(A=0.9, B=0.8), 1.0, 1.0, 1.0),
        ([A, B], found(A=0.9), 0.5, 1.0, 0.5),
        ([A], found(A=0.9, B=0.8), 1.0, 1.0, 1.0),  # a false one behind the right one costs nothing
        ([A], found(B=0.9, A=0.8), 0.5, 1.0, 1.0),
        ([A], found(A_SHIFTED=0.9), 1.0, 0.8, 1.0),
        ([A], found(NEAR_A=0.9), 0.0, 0.0, 0.0),  # overlaps too little
        ([A], found(A_SHIFTED=0.9, A=0.8), 1.0, 0.8, 1.0),  # the second on one cell is false
        ([A, B], found(A=0.9, B=0.4), 1.0, 1.0, 0.5),  # recall is at a score of 0.5
        ([A], found(), 0.0, 0.0, 0.0),
        ([], found(), 0.0, 0.0, None),
    ],
)
def test_figures_of_one_image(
    true: list[list[int]],
    predicted: tuple[np.ndarray, np.ndarray],
    ap50: float,
    mean_iou: float,
    recall: float | None,
) -> None:
    others = [] if true else [image([C])]
    figures = detection_figures([image(true), *others], [predicted, *([found()] if others else [])])
    assert figures["ap50"] == pytest.approx(ap50)
    assert figures["mean_iou"] == pytest.approx(mean_iou)
    assert figures["score"] == pytest.approx(ap50 + mean_iou)
    assert figures["recall_lab"] == pytest.approx(recall or 0.0)


def test_figures_rank_predictions_of_all_images_together() -> None:
    images = [image([A], "x"), image([A], "y")]
    figures = detection_figures(images, [found(A=0.7), found(B=0.9, A=0.6)])
    assert figures["ap50"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert (figures["recall_x"], figures["recall_y"]) == (1.0, 1.0)


def test_figures_are_plain_numbers_so_that_a_checkpoint_can_carry_them() -> None:
    figures = detection_figures([image([A, B])], [found(A=0.9, B=0.8)])
    assert {type(figure) for figure in figures.values()} == {float}
