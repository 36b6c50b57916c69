"""Ultralytics' own training on our images, with our variation and without the network."""

import json
import logging
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from build_engines.checkpoint import Checkpoint, CropGeometry, build_network
from build_engines.networks import load_networks
from edge.images import decode
from training.annotations import AnnotatedImage
from training.augment import VARIATIONS
from training.base_weights import BaseWeights
from training.loop import Schedule, TrainingError

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # ultralytics counts a network's operations with thop, which compares versions as of old.
    pytest.mark.filterwarnings("ignore:distutils Version classes:DeprecationWarning"),
]
TILE_SIZE = 96
Smears = list[AnnotatedImage]


@pytest.fixture(scope="module")
def yolo(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The module under test, with a settings folder of its own so that the user's stays as it is."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("YOLO_CONFIG_DIR", str(tmp_path_factory.mktemp("ultralytics")))
        import training.ultralytics_yolo

        return training.ultralytics_yolo


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """Fails a test that looks up a host, even where the caller swallows the error."""
    asked: list[object] = []

    def refuse(host: object, *_: object, **__: object) -> None:
        asked.append(host)
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("ULTRALYTICS_API_KEY", "a key that the user has for other programs")
    yield asked
    assert asked == []


def train(yolo: ModuleType, smears: Smears, folder: Path, **changes: Any) -> Path:
    options: dict[str, Any] = {
        "model": "yolo11n.yaml",
        "tile_size": TILE_SIZE,
        "one_stage": False,
        "variation": VARIATIONS["strong"],
        "schedule": Schedule(epochs=1, learning_rate=1e-3),
        "batch_size": 4,
        "folder": folder,
        "base": None,
        "provenance": {"data": ["drawn"], "variation": "strong"},
        "options": {"--hue": 1.0},
        "resume": False,
        **changes,
    }
    path = yolo.train_ultralytics(smears, options.pop("validation", smears[:4]), **options)
    assert isinstance(path, Path)
    return path


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """Checkpoint of an untrained classifier of two classes."""
    architecture = {"name": "test_efficientnet"}
    network = build_network("timm", architecture, 2)
    path = tmp_path / "classifier.pt"
    Checkpoint("timm", architecture, ("EO", "MO"), CropGeometry(32), network.state_dict()).save(path)
    return path


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(("one_stage", "classes"), [(False, ("EO", "MO")), (True, ("PNN", "LY"))])
def test_a_trained_detector_goes_into_a_bundle(
    one_stage: bool,
    classes: tuple[str, ...],
    yolo: ModuleType,
    smears: Smears,
    classifier: Path,
    tmp_path: Path,
) -> None:
    best = train(yolo, smears, tmp_path, one_stage=one_stage)
    networks = load_networks(best, None if one_stage else classifier)
    assert networks.classes == classes
    assert networks.detectors[0].spec.names_classes == one_stage
    assert networks.detectors[0].spec.tile_size == TILE_SIZE
    facts = json.loads((best.parent / "provenance.json").read_text())
    assert (facts["data"], facts["variation"]) == (["drawn"], "strong")
    assert (facts["model"], facts["base_weights"]) == ("yolo11n.yaml", "none")
    assert facts["sources"] == {"lab0": 4, "lab1": 4}
    assert facts["schedule"]["epochs"] == 1
    assert not {"began", "--hue"} & facts.keys()  # or the card would state options that were never used
    assert facts.get("cells") == ({"PNN": 4, "LY": 4} if one_stage else None)


@pytest.mark.usefixtures("no_network")
def test_base_weights_are_taken_over(yolo: ModuleType, smears: Smears, tmp_path: Path) -> None:
    base = train(yolo, smears, tmp_path / "base")
    standing_still = Schedule(epochs=1, learning_rate=1e-12, seed=1, mixed_precision=True)
    best = train(yolo, smears, tmp_path / "next", model=str(base), schedule=standing_still)

    def convolutions(path: Path) -> dict[str, torch.Tensor]:
        state = yolo.load_checkpoint(path)[0].state_dict()
        return {name: tensor for name, tensor in state.items() if name.endswith("conv.weight")}

    before, after = convolutions(base), convolutions(best)
    assert len(before) > 50
    assert all(torch.allclose(before[name], after[name], atol=1e-4) for name in before)


@pytest.mark.usefixtures("no_network")
def test_resume_goes_on_where_the_run_was_broken_off(
    yolo: ModuleType,
    smears: Smears,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    schedule = Schedule(epochs=2, learning_rate=1e-3)
    save_metrics = yolo._LeukocyteTraining.save_metrics

    def broken_off(trainer: Any, metrics: dict[str, float]) -> None:
        if trainer.epoch == 1:
            raise KeyboardInterrupt
        save_metrics(trainer, metrics)

    monkeypatch.setattr(yolo._LeukocyteTraining, "save_metrics", broken_off)
    with pytest.raises(KeyboardInterrupt):
        train(yolo, smears, tmp_path, schedule=schedule)
    monkeypatch.undo()
    results = tmp_path / "results.csv"
    assert [line.split(",")[0] for line in results.read_text().splitlines()] == ["epoch", "1"]
    best = train(yolo, smears, tmp_path, schedule=replace(schedule, epochs=3), resume=True)
    assert [line.split(",")[0] for line in results.read_text().splitlines()] == ["epoch", "1", "2"]
    assert json.loads((best.parent / "provenance.json").read_text())["schedule"]["epochs"] == 2
    assert "keeps the 2 epochs that its run began with, not 3 as asked for now" in caplog.text

    trained = best.read_bytes()
    assert train(yolo, smears, tmp_path, schedule=schedule, resume=True).read_bytes() == trained
    with pytest.raises(TrainingError, match=r"other --model \(yolo11n\.yaml\) than .* \(yolo11s\.yaml\)"):
        train(yolo, smears, tmp_path, model="yolo11s.yaml", resume=True)
    for changes, said in (
        ({"smears": smears[:6]}, r"training annotations \(8 images, .*\) than .* \(6 images"),
        ({"validation": smears[2:7]}, r"validation annotations \(4 .*\) than .* \(5 images"),
        ({"base": BaseWeights(Path("a.pt"), {})}, r"base weights \(none\) than .* \(a\.pt, sha256 "),
        ({"options": {"--hue": 0.5}}, r"--hue \(1\.0\) than are given now \(0\.5\)"),
    ):
        with pytest.raises(TrainingError, match=said):
            train(yolo, **{"smears": smears, "folder": tmp_path, "resume": True, **changes})
    began = best.parent / "began.json"
    assert json.loads(began.read_text())["training annotations"].startswith("8 images, sha256 ")
    for damaged in ("{", "3"):
        began.write_text(damaged)
        with pytest.raises(TrainingError, match=r"began\.json cannot be read as a mapping in JSON"):
            train(yolo, smears, tmp_path, schedule=schedule, resume=True)
    began.unlink()
    train(yolo, smears[:6], tmp_path, resume=True)
    assert "does not say with which training annotations, " in caplog.text
    assert best.read_bytes() == trained
    with pytest.raises(TrainingError, match=r"best\.pt lies where this training writes its own weights"):
        train(yolo, smears, tmp_path, model=str(best))

    monkeypatch.setattr(yolo, "_LeukocyteTraining", broken_off_at_once)
    with pytest.raises(KeyboardInterrupt):
        train(yolo, smears, tmp_path)
    assert {path.name for path in best.parent.iterdir()} == {"began.json", "provenance.json"}


def broken_off_at_once(**_: object) -> None:
    raise KeyboardInterrupt


class TestSeveralCards:
    """What ultralytics' launcher does for them, but for the processes that it would start; without a GPU."""

    @pytest.fixture
    def launched(
        self, yolo: ModuleType, smears: Smears, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> tuple[Path, list[list[str]]]:
        """The folder of a training as if for two cards, and the commands that it would have run."""
        from ultralytics.engine import trainer as engine
        from ultralytics.utils import dist

        commands: list[list[str]] = []

        def keep(command: list[str], **_: object) -> None:
            state = Path(command[-1]).with_suffix(".pt").read_bytes()
            (tmp_path / "state.pt").write_bytes(state)
            commands.append(command)

        monkeypatch.setattr(dist, "USER_CONFIG_DIR", tmp_path)
        monkeypatch.setattr(engine.subprocess, "run", keep)
        monkeypatch.setattr(yolo._LeukocyteTraining, "__init__", self._for_two_cards(yolo))
        varied = replace(VARIATIONS["mild"], hue=0.0)
        train(yolo, smears, tmp_path / "run", variation=varied)
        monkeypatch.undo()
        return tmp_path, commands

    @staticmethod
    def _for_two_cards(yolo: ModuleType) -> Any:
        plain = yolo._LeukocyteTraining.__init__

        def made(trainer: Any, *arguments: Any, **options: Any) -> None:
            plain(trainer, *arguments, **options)
            trainer.ddp, trainer.world_size = True, 2

        return made

    def test_each_process_finds_the_data_and_varies_it_as_asked(
        self, yolo: ModuleType, launched: tuple[Path, list[list[str]]]
    ) -> None:
        from ultralytics.utils import DEFAULT_CFG_DICT
        from ultralytics.utils.patches import torch_load

        folder, [command] = launched
        assert command[1:5] == ["-m", "torch.distributed.run", "--nproc_per_node", "2"]
        assert (folder / "run/weights/provenance.json").exists()  # which the launcher would have removed
        state = torch_load(folder / "state.pt", map_location="cpu")
        settings = {**DEFAULT_CFG_DICT, "save_dir": ""}
        again = state["trainer"](cfg=settings, overrides=state["args"], _callbacks=state["callbacks"])
        dataset = again.build_dataset(again.data["train"], batch=4)
        assert len(dataset) == 8
        assert dataset.variation == replace(VARIATIONS["mild"], hue=0.0)
        assert not again.args.resume

    @pytest.mark.parametrize(("rank", "written"), [(-1, True), (0, True), (1, False)])
    def test_only_the_first_process_makes_the_checkpoints_small(
        self, rank: int, written: bool, yolo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made_small: list[Path] = []
        monkeypatch.setattr(yolo, "strip_optimizer", made_small.append)
        monkeypatch.setattr(yolo, "RANK", rank, raising=False)
        trainer = object.__new__(yolo._LeukocyteTraining)
        trainer.last, trainer.best = tmp_path / "last.pt", tmp_path / "best.pt"
        trainer.final_eval()
        assert made_small == ([trainer.last, trainer.best] if written else [])

    @pytest.mark.parametrize("device", ["0,97", "gpu"])
    def test_a_card_that_is_not_there_is_refused(
        self, device: str, yolo: ModuleType, smears: Smears, tmp_path: Path
    ) -> None:
        with pytest.raises(TrainingError, match=rf"The device {device} was asked for and this machine has"):
            train(yolo, smears, tmp_path, device=device)


class TestDataset:
    def test_boxes_come_back_as_they_were_marked(
        self, yolo: ModuleType, smears: Smears, tmp_path: Path
    ) -> None:
        two = replace(
            smears[0], boxes_xyxy=np.float32([[10, 20, 60, 80], [150, 90, 250, 170]]), labels=("LY", None)
        )
        yolo.write_dataset(
            [two],
            smears,
            ("leukocyte",),
            tmp_path / "set",
            longest_side_px=400,
            variation=VARIATIONS["strong"],
        )
        rows = np.loadtxt(tmp_path / "set/labels/train/000000.txt", ndmin=2)
        assert rows[:, 0].tolist() == [0, 0]
        centre, sides = rows[:, 1:3] * (200, 180), rows[:, 3:] * (200, 180)
        corners = np.hstack([centre - sides / 2, centre + sides / 2])
        assert corners == pytest.approx(np.array([[10, 20, 60, 80], [150, 90, 200, 170]]), abs=1e-3)

    def test_labels_are_numbers_of_the_classes(
        self, yolo: ModuleType, smears: Smears, tmp_path: Path
    ) -> None:
        yolo.write_dataset(
            smears,
            smears,
            ("PNN", "LY"),
            tmp_path / "set",
            longest_side_px=400,
            variation=VARIATIONS["strong"],
        )
        numbers = [
            np.loadtxt(path, ndmin=2)[:, 0].astype(int).tolist()
            for path in sorted((tmp_path / "set/labels/train").glob("*.txt"))
        ]
        assert numbers == [[0], [1]] * 4

    def test_images_are_the_pixels_of_the_one_decoder(
        self, yolo: ModuleType, smears: Smears, tmp_path: Path
    ) -> None:
        rgba = np.dstack([decode(smears[0].path.read_bytes()), np.full((180, 200), 128, np.uint8)])
        half_seen = tmp_path / "half.png"
        Image.fromarray(rgba).save(half_seen)
        with_tail = tmp_path / "tail.jpg"
        with_tail.write_bytes(smears[1].path.read_bytes() + b"camera's own notes")
        images = [smears[0], replace(smears[0], path=half_seen), replace(smears[1], path=with_tail)]
        yolo.write_dataset(
            images,
            images,
            ("leukocyte",),
            tmp_path / "set",
            longest_side_px=400,
            variation=VARIATIONS["strong"],
        )
        placed = sorted((tmp_path / "set/images/train").iterdir())
        assert [path.is_symlink() for path in placed] == [True, False, False]
        for path, image in zip(placed, images, strict=True):
            assert np.array_equal(cv2.imread(str(path))[..., ::-1], decode(image.path.read_bytes()))

    def test_large_images_are_written_smaller_and_keep_their_boxes(
        self, yolo: ModuleType, smears: Smears, tmp_path: Path
    ) -> None:
        for side in (100, 400):
            yolo.write_dataset(
                smears,
                smears,
                ("leukocyte",),
                tmp_path / str(side),
                longest_side_px=side,
                variation=VARIATIONS["strong"],
            )
        small = cv2.imread(str(tmp_path / "100/images/train/000000.png"))
        assert small.shape == (90, 100, 3)
        label = "labels/train/000000.txt"
        assert (tmp_path / "100" / label).read_text() == (tmp_path / "400" / label).read_text()

    def test_an_old_dataset_leaves_nothing_behind_and_no_original_is_lost(
        self, yolo: ModuleType, smears: Smears, tmp_path: Path
    ) -> None:
        yolo.write_dataset(
            smears,
            smears,
            ("leukocyte",),
            tmp_path / "set",
            longest_side_px=400,
            variation=VARIATIONS["strong"],
        )
        yolo.write_dataset(
            smears[:1],
            smears[:1],
            ("leukocyte",),
            tmp_path / "set",
            longest_side_px=400,
            variation=VARIATIONS["strong"],
        )
        assert [path.name for path in (tmp_path / "set/images/train").iterdir()] == ["000000.jpg"]
        assert all(image.path.exists() for image in smears)


class TestOneStage:
    @pytest.mark.parametrize("label", [None, "BA"])  # without a class, or of one that was not trained
    def test_images_with_a_leukocyte_that_it_cannot_name_are_left_out_and_counted(
        self, label: str | None, yolo: ModuleType, smears: Smears, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING):
            kept = yolo._usable([replace(smears[0], labels=(label,)), *smears], ("PNN", "LY"), "training")
        assert kept == smears
        assert "1 of 9 training images" in caplog.text

    def test_a_detector_that_only_finds_takes_every_image(self, yolo: ModuleType, smears: Smears) -> None:
        unknown = replace(smears[0], labels=(None,))
        assert yolo._usable([unknown], (yolo.LEUKOCYTE,), "training") == [unknown]

    def test_classes_are_those_present_in_the_order_of_a_count(
        self, yolo: ModuleType, smears: Smears
    ) -> None:
        shuffled = [replace(smears[0], labels=(label,)) for label in ("MO", "LY", "PNN")]
        half_known = replace(smears[0], labels=("BA", None))
        assert yolo._classes_of([*shuffled, half_known]) == ("PNN", "MO", "LY")

    def test_one_class_alone_is_refused(self, yolo: ModuleType, smears: Smears, tmp_path: Path) -> None:
        with pytest.raises(TrainingError, match="at least 2 classes and the training images have 1"):
            train(yolo, smears[::2], tmp_path, one_stage=True)

    def test_images_none_of_which_can_be_used_are_refused(self, yolo: ModuleType, smears: Smears) -> None:
        with pytest.raises(TrainingError, match=r"None of the 8 training images .* BA, MO"):
            yolo._usable(smears, ("BA", "MO"), "training")


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("resnet50", r"'resnet50' is neither .* \.pt"),
        (
            "yolo99z.yaml",
            "'yolo99z.yaml' is no architecture of ultralytics .*, nor a file; give a name such as",
        ),
    ],
)
def test_a_name_that_is_no_model_is_refused(
    model: str, says: str, yolo: ModuleType, smears: Smears, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=says):
        train(yolo, smears, tmp_path, model=model)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("model", ["yolo99z.pt", "nowhere/yolo11n.pt", "folder.pt"])
def test_base_weights_that_are_nowhere_are_refused(
    model: str, yolo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(TrainingError, match=rf"'{model}' is no file, nor the name of base weights that"):
        yolo.require_model(model)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("backbone: [", r"cannot be read as a mapping in YAML \(ValueError\)"),
        ("- backbone", r"cannot be read as a mapping in YAML \(ValueError\)"),
        ("", "has no list of layers named backbone and none named head, so it is no architecture"),
        ("backbone: []\nhead: 3", "has no list of layers named head, so"),
    ],
)
def test_a_file_that_holds_no_architecture_is_refused(
    content: str, says: str, yolo: ModuleType, tmp_path: Path
) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(content)
    with pytest.raises(TrainingError, match=rf"own\.yaml' {says}") as raised:
        yolo.require_model(str(own))
    assert "\n" not in str(raised.value)


def test_models_of_all_sizes_and_architectures_of_ones_own_are_known(
    yolo: ModuleType, tmp_path: Path
) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("nc: 1\nbackbone: []\nhead: []\n")
    weights = tmp_path / "own.pt"
    weights.touch()
    architectures = ("yolo11.yaml", "yolov8x.yaml", "yolo26n.yaml", str(own))
    for model in (*architectures, "yolo11n.pt", "./yolo11n.pt", "yolov5n.pt", str(weights)):
        yolo.require_model(model)


class TestVariation:
    def tile(self) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [64, 64, 3] BGR, a bright blue cell on grey, and its box."""
        bgr = np.full((64, 64, 3), 128, np.uint8)
        bgr[10:30, 40:60] = (255, 20, 20)
        return bgr, np.float32([[40, 10, 60, 30]])

    def test_boxes_stay_on_their_cells(self, yolo: ModuleType) -> None:
        from ultralytics.utils.instance import Instances

        places = set()
        for _ in range(40):
            bgr, boxes = self.tile()
            instances = Instances(boxes, bbox_format="xyxy", normalized=False)
            instances.convert_bbox("xywh")
            instances.normalize(64, 64)
            varied = yolo._AnotherStation(VARIATIONS["none"])({"img": bgr, "instances": instances})
            left, top, right, bottom = varied["instances"].bboxes[0].round().astype(int)
            blue = varied["img"][..., 0] > 200
            assert blue.sum() == 400
            assert blue[top:bottom, left:right].all()
            places.add((left, top))
        assert len(places) == 8  # every way to lay a slide

    def test_goes_on_when_the_mosaics_end_and_leaves_validation_alone(
        self, yolo: ModuleType, smears: Smears, tmp_path: Path
    ) -> None:
        data = yolo.write_dataset(
            smears, smears, (yolo.LEUKOCYTE,), tmp_path, longest_side_px=400, variation=VARIATIONS["strong"]
        )
        from ultralytics.cfg import get_cfg

        options = {
            "img_path": str(data.parent / "images/train"),
            "imgsz": TILE_SIZE,
            "data": {"names": {0: yolo.LEUKOCYTE}, "channels": 3},
            "hyp": get_cfg(overrides={"augmentations": []}),
            "variation": VARIATIONS["strong"],
        }
        dataset = yolo._SmearDataset(augment=True, **options)

        def kinds() -> list[str]:
            return [type(transform).__name__ for transform in dataset.transforms.transforms]

        assert kinds()[-2:] == ["_AnotherStation", "Format"]
        dataset.close_mosaic(get_cfg(overrides={"augmentations": []}))
        assert kinds()[-2:] == ["_AnotherStation", "Format"]
        dataset = yolo._SmearDataset(augment=False, **options)
        assert "_AnotherStation" not in kinds()


def test_the_users_trackers_and_platform_are_not_called(
    yolo: ModuleType, smears: Smears, tmp_path: Path
) -> None:
    data = yolo.write_dataset(
        smears,
        smears,
        (yolo.LEUKOCYTE,),
        tmp_path / "set",
        longest_side_px=400,
        variation=VARIATIONS["strong"],
    )
    settings = {
        "model": "yolo11n.yaml",
        "data": str(data),
        "save_dir": str(tmp_path / "run"),
        "device": "cpu",
    }
    trainer = yolo._LeukocyteTraining(overrides=settings)
    called = {callback.__module__ for callbacks in trainer.callbacks.values() for callback in callbacks}
    assert called == {"ultralytics.utils.callbacks.base", "ultralytics.utils.events"}
    assert not sys.modules["ultralytics.utils.events"].events.enabled
