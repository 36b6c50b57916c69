"""Any ultralytics YOLO, trained by ultralytics' own loop on images that vary as ours do.

ultralytics keeps its loss, its mosaics and its progress; stain, camera and orientation come from
`training.augment`, so that every family of detectors is prepared for the same stations.
"""

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from build_engines.checkpoint import PROVENANCE
from build_engines.families import import_ultralytics
from training.annotations import AnnotatedImage, digests_of
from training.augment import Variation
from training.base_weights import BaseWeights, digest_of, facts_of, require_elsewhere
from training.loop import Schedule, TrainingError, require_same_beginning
from training.out_folder import writing
from training.ultralytics_data import LEUKOCYTE, SmearDataset, classes_of, usable_images, write_dataset

# Switches its reports off, which it must find switched when it is first imported.
ultralytics = import_ultralytics()
from ultralytics.models.yolo.detect import DetectionTrainer  # noqa: E402
from ultralytics.nn.tasks import load_checkpoint, yaml_model_load  # noqa: E402
from ultralytics.utils import LOCAL_RANK, RANK, YAML  # noqa: E402
from ultralytics.utils.checks import check_yolov5u_filename  # noqa: E402
from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES  # noqa: E402
from ultralytics.utils.torch_utils import strip_optimizer, torch_distributed_zero_first  # noqa: E402

log = logging.getLogger(__name__)

BEGAN = "began.json"
"""Beside `last.pt`: what the run began with, by which `--resume` knows it again."""

_DETECTING = ("Detect", "v10Detect")
"""Last layers of the architectures that find boxes, by ultralytics' names."""

_LONGEST_SIDE_TILES = 2
"""Images are handed to ultralytics no larger than this many tiles, as `training.tiles` keeps them."""


def train_ultralytics(
    training: Sequence[AnnotatedImage],
    validation: Sequence[AnnotatedImage],
    *,
    model: str,
    tile_size: int,
    one_stage: bool,
    variation: Variation,
    schedule: Schedule,
    batch_size: int,
    folder: Path,
    base: BaseWeights | None,
    provenance: dict[str, Any],
    options: Mapping[str, Any],
    device: str | None = None,
    workers: int = 2,
    resume: bool = False,
) -> Path:
    """Train a YOLO and keep the best network as `weights/best.pt` in `folder`; returns its path.

    `PROVENANCE` beside it says what it was made from, as a `Checkpoint.provenance` does.

    Args:
        training: what to train on.
        validation: what the best epoch is chosen by.
        model: an architecture of ultralytics (`yolo11n.yaml`), or base weights (`yolo11n.pt`), which it
            looks for here and downloads where they are missing.
        tile_size: side of a tile in pixels, a multiple of the network's largest stride.
        one_stage: whether the detector names classes: those that the training images have. Images with
            a leukocyte of unknown class are then left out, since it would count as background.
        variation: how far stations differ.
        schedule: see `Schedule`; the moving average is ultralytics' own.
        batch_size: tiles a step.
        folder: gets the dataset, the weights and `results.csv`, a line an epoch.
        base: what is known of the base weights, as of `training.base_weights.begin_from_ultralytics`.
        provenance: of the data, for the model card; `sources` becomes that of the images that can be used.
        options: of the command, with which alone a run goes on, as of `training.options.defining_options`.
        device: "cpu", or the numbers of CUDA cards, "0" or "0,1", over which ultralytics' own launcher
            spreads each batch; None: the first card, or the CPU where there is none.
        resume: go on from `weights/last.pt` if there is one; its number of epochs then holds.
            Without it, the weights of an earlier run are removed.

    Raises:
        TrainingError: the model's name, a card or the data cannot be used, or the run began otherwise.
        OutputUnwritableError: the dataset or a checkpoint cannot be written, as where the disk is full.
    """
    require_model(model)
    _require_cards(device)
    last, best = folder / "weights/last.pt", folder / "weights/best.pt"
    require_elsewhere(Path(model), last, best)
    classes = classes_of(training) if one_stage else (LEUKOCYTE,)
    usable = usable_images(training, classes, "training")
    judged = usable_images(validation, classes, "validation")
    name = Path(model).name
    began = {
        **digests_of(usable, judged), "base weights": digest_of(base), **options, "--model": name,
    }  # fmt: skip
    resume = resume and last.exists()
    if resume:
        require_same_beginning(_read_began(last), began, last)
        state = _read_state(last)
        first = state["train_args"]["epochs"]  # which ultralytics keeps
        if first != schedule.epochs:
            log.warning(
                "%s keeps the %d epochs that its run began with, not %d as asked for now; train into another"
                " folder for these.", last, first, schedule.epochs,
            )  # fmt: skip
            schedule = replace(schedule, epochs=first)
        if state["epoch"] < 0:  # what ultralytics writes when a run has ended
            log.info("%s has been trained to its end", folder)
            return best
    with writing(folder / "dataset"):
        data = write_dataset(
            usable,
            judged,
            classes,
            folder / "dataset",
            longest_side_px=_LONGEST_SIDE_TILES * tile_size,
            variation=variation,
        )
    device = device or ("0" if torch.cuda.is_available() else "cpu")
    on_gpu = device != "cpu"
    settings: dict[str, Any] = {
        "task": "detect",
        "model": model,
        "data": str(data),
        "save_dir": str(folder),
        "imgsz": tile_size,
        "batch": batch_size,
        "nbs": batch_size,  # a step of the optimizer each batch, as in training.loop
        "epochs": schedule.epochs,
        "patience": schedule.patience,
        "seed": schedule.seed,
        "optimizer": "AdamW",
        "lr0": schedule.learning_rate,
        "lrf": 0.01,
        "cos_lr": True,
        "warmup_epochs": schedule.warmup_epochs,
        "warmup_bias_lr": 0.0,  # the default of 0.1 is meant for SGD
        "momentum": 0.9,
        "weight_decay": schedule.weight_decay,
        # ultralytics has bf16 on GPUs only, and for fp16 downloads a network to test itself on.
        "amp": "bf16" if schedule.mixed_precision and on_gpu else False,
        "device": device,
        "workers": workers,
        "plots": False,
        "mosaic": 1.0,
        "close_mosaic": min(10, schedule.epochs // 4),
        # Ours instead, see AnotherStation:
        "augmentations": [],
        "hsv_h": 0.0,
        "hsv_s": 0.0,
        "hsv_v": 0.0,
        "fliplr": 0.0,
        "flipud": 0.0,
    }
    if resume:
        settings["resume"] = str(last)
    else:
        for path in (last, best):
            path.unlink(missing_ok=True)
    facts = {
        **provenance,
        **facts_of(base),
        "model": name,
        "sources": dict(Counter(image.source for image in usable)),
        "schedule": {name: value for name, value in asdict(schedule).items() if name != "ema_decay"},
        **(
            {"cells": dict(Counter(label for image in usable for label in image.labels))} if one_stage else {}
        ),
    }
    best.parent.mkdir(parents=True, exist_ok=True)
    for name, content in ((PROVENANCE, facts), (BEGAN, began)):
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        (best.parent / name).write_text(text, "utf-8")
    _LeukocyteTraining(overrides=settings).train()
    return best


def require_model(model: str) -> None:
    """Refuse a model's name with which ultralytics could do nothing.

    Raises:
        TrainingError: it is none of ultralytics, an architecture or base weights that this release does not
            have, or a file that is not there or holds no architecture.
    """
    if Path(model).suffix not in (".pt", ".yaml"):
        raise TrainingError(
            f"{model!r} is neither a YOLOX nor a model of ultralytics; give a name that ends in .yaml "
            "(an architecture) or .pt (base weights)."
        )
    if Path(model).suffix == ".pt":
        weights = check_yolov5u_filename(model, verbose=False)  # yolov5n.pt is yolov5nu.pt by now
        if not Path(weights).is_file() and str(Path(weights)) not in GITHUB_ASSETS_NAMES:
            raise TrainingError(
                f"{model!r}{'' if weights == model else f', for which {weights!r} is taken,'} is no file, "
                f"nor the name of base weights that ultralytics {ultralytics.__version__} downloads; give a "
                "name such as yolo11n.pt, or the path of your own."
            )
        return
    try:
        architecture = yaml_model_load(model)
    except FileNotFoundError as error:
        raise TrainingError(
            f"{model!r} is no architecture of ultralytics {ultralytics.__version__}, nor a file; give a "
            "name such as yolo11n.yaml, or the path of your own."
        ) from error
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"{model!r} cannot be read as a mapping in YAML ({type(error).__name__}); mend it, or give a "
            "name such as yolo11n.yaml."
        ) from error
    head = architecture.get("head")
    last = map(str, head[-1]) if isinstance(head, list) and head and isinstance(head[-1], list) else ()
    if not architecture.get("backbone") or not set(last) & set(_DETECTING):
        raise TrainingError(
            f"{model!r} has no backbone, or no head whose last layer is one of {', '.join(_DETECTING)}, so "
            "it is no detector; mend it, or give a name such as yolo11n.yaml."
        )


def _read_began(last: Path) -> dict[str, Any]:
    """What the run of `last` began with; nothing where an older version began it."""
    path = last.with_name(BEGAN)
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise TrainingError(
            f"{path} cannot be read as a mapping in JSON ({type(error).__name__}); remove it if the run did "
            "begin with the files and options that are given now, or train into another folder."
        ) from error


def _read_state(last: Path) -> dict[str, Any]:
    """What ultralytics keeps of a run."""
    try:
        state: dict[str, Any] = load_checkpoint(last)[1]
    except Exception as error:  # whatever the unpickler and ultralytics meet
        raise TrainingError(
            f"{last} is damaged or no checkpoint of ultralytics ({type(error).__name__}), so the run cannot "
            "go on; remove it to begin anew, or train into another folder."
        ) from error
    return state


def _require_cards(device: str | None) -> None:
    if device in (None, "cpu"):
        return
    cards = torch.cuda.device_count()
    if missing := [number for number in device.split(",") if not number.isdecimal() or int(number) >= cards]:
        raise TrainingError(
            f"The device {device} was asked for and this machine has {cards} CUDA cards, so none of number "
            f"{', '.join(missing)}; give cpu or numbers from 0 on, such as 0,1."
        )


class _LeukocyteTraining(DetectionTrainer):
    """ultralytics' training of a detector on our images.

    ultralytics reports to its platform and to whatever trackers the user's settings name from classes
    that have "Trainer" in their name; this one has not.
    """

    def train(self) -> None:
        """On several cards by ultralytics' launcher, which builds this trainer anew in each process."""
        if self.ddp:
            self.resume = True  # or the launcher would remove the folder, and our dataset with it
        super().train()

    def get_dataset(self) -> dict[str, Any]:
        """What `data.yaml` says. ultralytics' own reader asks the network for a font besides."""
        data = YAML.load(self.args.data)
        places = {split: str(Path(data["path"], data[split])) for split in ("train", "val")}
        return {**data, **places, "nc": len(data["names"]), "channels": 3}

    def build_dataset(self, img_path: str, mode: str = "train", batch: int | None = None) -> SmearDataset:
        """Varied tiles for training; for validation the square tile that the station makes."""
        return SmearDataset(
            img_path=img_path,
            imgsz=self.args.imgsz,
            batch_size=batch,
            augment=mode == "train",
            hyp=self.args,
            prefix=f"{mode}: ",
            data=self.data,
            task="detect",
            variation=Variation(**self.data["variation"]),
        )

    def save_model(self) -> bool:
        """As ultralytics, each file whole or not at all: a run that is killed meanwhile can go on."""
        last, best = self.wdir / "last.pt", self.wdir / "best.pt"
        self.last, self.best = last.with_suffix(".part"), best.with_suffix(".part")
        self.best.unlink(missing_ok=True)  # of a run that was killed; it is not written in every epoch
        try:
            with writing(self.wdir):
                super().save_model()
                _put_in_place(self.best, best)  # before the epoch counts as done
                _put_in_place(self.last, last)
        finally:
            self.last, self.best = last, best
        return True

    def final_eval(self) -> None:
        """Make the checkpoints small. ultralytics would also read the data anew, font and all."""
        with torch_distributed_zero_first(LOCAL_RANK):  # the other processes wait for the first
            if RANK in {-1, 0}:
                for path in (self.best, self.last):  # a small `last.pt` tells that the run has ended
                    strip_optimizer(path, partial := path.with_suffix(".part"))
                    _put_in_place(partial, path)


def _put_in_place(partial: Path, path: Path) -> None:
    if partial.exists():
        partial.replace(path)
