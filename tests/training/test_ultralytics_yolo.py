"""Ultralytics' own training on our images, with our variation and without the network."""

import json
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from build_engines.checkpoint import Checkpoint, CropGeometry, build_network
from build_engines.networks import load_networks
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


@pytest.fixture
def yolo(ultralytics_imported: None) -> ModuleType:
    """The module under test."""
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
def test_a_run_that_is_killed_while_a_checkpoint_is_written_goes_on(
    yolo: ModuleType, smears: Smears, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = Schedule(epochs=2, learning_rate=1e-3)
    write_bytes, written = Path.write_bytes, list[str]()

    def killed(path: Path, data: bytes) -> int:
        written.append(path.stem)
        is_killed = written.count("last") == 2
        write_bytes(path, data[: len(data) // 2] if is_killed else data)
        if is_killed:
            raise KeyboardInterrupt
        return len(data)

    monkeypatch.setattr(Path, "write_bytes", killed)
    with pytest.raises(KeyboardInterrupt):
        train(yolo, smears, tmp_path, schedule=schedule)
    monkeypatch.undo()
    last = tmp_path / "weights/last.pt"
    assert yolo.load_checkpoint(last)[1]["epoch"] == 0
    best = train(yolo, smears, tmp_path, schedule=schedule, resume=True)
    assert yolo.load_checkpoint(last)[1]["epoch"] == -1
    assert sorted(path.name for path in best.parent.glob("*.p*t")) == ["best.pt", "last.pt"]
    last.write_bytes(last.read_bytes()[:1000])  # as a version of before, or a disk, may leave it
    with pytest.raises(TrainingError, match=r"last\.pt is damaged .*, so the run cannot go on; remove it"):
        train(yolo, smears, tmp_path, schedule=schedule, resume=True)


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
        monkeypatch.setattr(yolo, "strip_optimizer", lambda path, partial: made_small.append(path))
        monkeypatch.setattr(yolo, "RANK", rank, raising=False)
        trainer = object.__new__(yolo._LeukocyteTraining)
        trainer.last, trainer.best = tmp_path / "last.pt", tmp_path / "best.pt"
        trainer.final_eval()
        assert made_small == ([trainer.best, trainer.last] if written else [])

    @pytest.mark.parametrize("device", ["0,97", "gpu"])
    def test_a_card_that_is_not_there_is_refused(
        self, device: str, yolo: ModuleType, smears: Smears, tmp_path: Path
    ) -> None:
        with pytest.raises(TrainingError, match=rf"The device {device} was asked for and this machine has"):
            train(yolo, smears, tmp_path, device=device)


def test_one_class_alone_is_refused(yolo: ModuleType, smears: Smears, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="at least 2 classes and the training images have 1"):
        train(yolo, smears[::2], tmp_path, one_stage=True)


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
    (tmp_path / "folder.pt/yolov5n.pt").touch()
    with pytest.raises(TrainingError, match=r"v5n\.pt', for which 'folder\.pt/yolov5nu\.pt' is taken, is no"):
        yolo.require_model("folder.pt/yolov5n.pt")
    with pytest.raises(TrainingError, match=rf"'{model}' is no file, nor the name of base weights that"):
        yolo.require_model(model)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("backbone: [", r"cannot be read as a mapping in YAML \(ValueError\)"),
        ("- backbone", r"cannot be read as a mapping in YAML \(ValueError\)"),
        ("", "has no backbone, or no head whose last layer is one of Detect, v10Detect, so it is no"),
        ("backbone: []\nhead: []", "has no backbone, or no head"),
        ("backbone: [[-1, 1, Conv, [64]]]\nhead: [[-1, 1, Classify, [nc]]]", "has no backbone, or no head"),
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
    own.write_text("nc: 1\nbackbone: [[-1, 1, Conv, [64]]]\nhead: [[[0], 1, Detect, [nc]]]\n")
    weights = tmp_path / "own.pt"
    weights.touch()
    architectures = ("yolo11.yaml", "yolov8x.yaml", "yolo26n.yaml", str(own))
    for model in (*architectures, "yolo11n.pt", "./yolo11n.pt", "yolov5n.pt", str(weights)):
        yolo.require_model(model)


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
