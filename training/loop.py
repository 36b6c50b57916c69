"""One training loop for every network: schedule, moving average, early stopping, resume, progress."""

import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from build_engines.checkpoint import save_whole
from edge.errors import EdgeError
from training.out_folder import writing

log = logging.getLogger(__name__)


class TrainingError(EdgeError):
    """There is nothing to learn from or nothing to judge by, or a file to begin with does not fit."""


@contextmanager
def memory_that_suffices() -> Iterator[None]:
    """For a command that trains, as its decorator.

    Raises:
        TrainingError: in place of torch's own error where the memory of a card is full.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        told = ", ".join(str(error).rstrip(".").split(". ")[:3])
        raise TrainingError(
            f"The memory of the card does not suffice ({told}); give a smaller --batch-size, or --bf16."
        ) from error


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        epochs: at most; the learning rate falls to a hundredth over them along a cosine.
        learning_rate: of AdamW, reached after `warmup_epochs`.
        weight_decay: of AdamW, on weights with two or more dimensions only.
        ema_decay: of the moving average of the weights, which is what is judged and kept.
        patience: epochs without a better score after which training stops.
        seed: of the weights' and the samples' random numbers.
        mixed_precision: compute in bfloat16 where torch finds it safe. On a CPU without bf16 units
            it brings nothing.
    """

    epochs: int
    learning_rate: float
    weight_decay: float = 0.02
    warmup_epochs: float = 1.0
    ema_decay: float = 0.998
    patience: int = 10
    seed: int = 0
    mixed_precision: bool = False


class Batches(Sized, Iterable[Any], Protocol):
    """The batches of one epoch."""


@dataclass(slots=True)
class _Progress:
    epoch: int = 0
    best_score: float = -math.inf
    best_epoch: int = -1


def fit(
    network: nn.Module,
    *,
    batches: Callable[[int], Batches],
    loss: Callable[[nn.Module, Any], Tensor],
    score: Callable[[nn.Module], dict[str, float]],
    keep: Callable[[nn.Module, dict[str, float]], None],
    schedule: Schedule,
    folder: Path,
    began: Mapping[str, Any],
    resume: bool = False,
) -> None:
    """Train a network in place.

    Args:
        network: what to train.
        batches: the batches of an epoch; must depend on nothing but its number, so that a resumed run
            sees what an unbroken one would have.
        loss: scalar loss of the network on a batch.
        score: figures of the averaged network on the validation images; "score" decides.
        keep: called with the averaged network each time that it is the best so far.
        schedule: see `Schedule`.
        folder: gets `resume.pt` after every epoch and `history.jsonl`, a line an epoch.
        began: what defines the training, by name: annotations, base weights, options, each as a text or
            number by which it is known again; a run goes on with the same ones.
        resume: go on from `resume.pt` if there is one; without it, those of an earlier run are removed.

    Raises:
        TrainingError: there is nothing to learn from, nothing to judge by, or `resume.pt` does not fit.
        OutputUnwritableError: the disk is full; the run can go on after its last whole epoch.
    """
    if not len(batches(0)):
        raise TrainingError(
            "An epoch has no whole batch, so nothing can be learnt; give more images or a smaller batch."
        )
    folder.mkdir(parents=True, exist_ok=True)
    device = next(network.parameters()).device
    averaged = AveragedModel(network, avg_fn=_moving_average(schedule.ema_decay), use_buffers=True)
    optimizer = torch.optim.AdamW(
        _parameter_groups(network, schedule.weight_decay), lr=schedule.learning_rate
    )
    progress = _Progress()
    last = folder / "resume.pt"
    if resume and last.exists():
        progress = _load(last, network, averaged, optimizer, began)
        log.info("going on after epoch %d of %d", progress.epoch, schedule.epochs)
    else:
        for path in (last, folder / "history.jsonl"):
            path.unlink(missing_ok=True)

    for epoch in range(progress.epoch, schedule.epochs):
        if epoch - progress.best_epoch > schedule.patience and progress.best_epoch >= 0:
            log.info("stopping: no better score since epoch %d", progress.best_epoch + 1)
            break
        started = time.monotonic()
        torch.manual_seed(schedule.seed * 1000 + epoch)  # a resumed run draws what an unbroken one would
        epoch_batches = batches(epoch)
        losses = []
        network.train()
        for step, batch in enumerate(_shown(epoch_batches, f"epoch {epoch + 1}/{schedule.epochs}")):
            position = epoch + step / len(epoch_batches)
            for group in optimizer.param_groups:
                group["lr"] = schedule.learning_rate * learning_rate_factor(position, schedule)
            with torch.autocast(device.type, torch.bfloat16, enabled=schedule.mixed_precision):
                value = loss(network, batch)
            value.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
            optimizer.zero_grad()
            averaged.update_parameters(network)
            losses.append(value.item())
        figures = score(averaged.module)
        if figures["score"] > progress.best_score:
            progress.best_score, progress.best_epoch = figures["score"], epoch
            keep(averaged.module, figures)
        progress.epoch = epoch + 1
        _save(last, network, averaged, optimizer, progress, began)
        line = {
            "epoch": epoch + 1,
            "loss": float(np.mean(losses)),
            **figures,
            "seconds": round(time.monotonic() - started, 1),
        }
        with writing(folder), (folder / "history.jsonl").open("a") as history:
            history.write(json.dumps(line) + "\n")
        log.info(" ".join(f"{key}={value:.4g}" for key, value in line.items()))
    if progress.best_epoch < 0:
        raise TrainingError(
            "No epoch had a score that is a number, so no network was kept; give more validation cells."
        )


def learning_rate_factor(epoch: float, schedule: Schedule) -> float:
    """Share of the learning rate at a (broken) epoch: linear warm-up, then a cosine down to 0.01."""
    if epoch < schedule.warmup_epochs:
        return max(epoch / schedule.warmup_epochs, 0.01)
    done = (epoch - schedule.warmup_epochs) / max(schedule.epochs - schedule.warmup_epochs, 1e-9)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * min(done, 1.0))) / 2


def _moving_average(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """Exponential, with a short memory at first so that the untrained weights are soon forgotten."""

    def average(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        share = 1 - min(decay, (1 + float(count)) / (10 + float(count)))
        return averaged + (current - averaged) * share

    return average


def _parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _shown(epoch_batches: Batches, what: str) -> Iterable[Any]:
    """With a bar on a terminal; a journal gets the epoch's one line instead."""
    console = Console(stderr=True)
    return track(
        epoch_batches, what, total=len(epoch_batches), console=console, disable=not console.is_terminal
    )


def _save(
    path: Path,
    network: nn.Module,
    averaged: AveragedModel,
    optimizer: torch.optim.Optimizer,
    progress: _Progress,
    began: Mapping[str, Any],
) -> None:
    state = {
        "network": network.state_dict(),
        "averaged": averaged.state_dict(),
        "optimizer": optimizer.state_dict(),
        "progress": [progress.epoch, progress.best_score, progress.best_epoch],
        "began": dict(began),
    }
    save_whole(state, path)


def _load(
    path: Path,
    network: nn.Module,
    averaged: AveragedModel,
    optimizer: torch.optim.Optimizer,
    began: Mapping[str, Any],
) -> _Progress:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        require_same_beginning(state.get("began", {}), began, path)
        network.load_state_dict(state["network"])
        averaged.load_state_dict(state["averaged"])
        optimizer.load_state_dict(state["optimizer"])
        return _Progress(*state["progress"])
    except TrainingError:
        raise
    except Exception as error:  # torch has no kind of its own for a damaged file or for other tensors
        raise TrainingError(
            f"{path} is damaged or of another network than the one to train ({type(error).__name__}); resume "
            "with the model and the classes that it was trained with, or train into another folder."
        ) from error


def require_same_beginning(began: Mapping[str, Any], now: Mapping[str, Any], last: Path) -> None:
    """Refuse to go on with a run that began otherwise, of which its provenance would then not tell.

    Args:
        began: what the run began with, by name; what it did not keep is logged.
        now: what is given now, by the same names.
        last: the file from which the run would go on.

    Raises:
        TrainingError: one of them differs.
    """
    if unknown := [name for name in now if name not in began]:
        log.warning("%s does not say with which %s its run began.", last, ", ".join(unknown))
    # As JSON, in which ultralytics' runs keep them: it makes lists of tuples.
    if other := [name for name in now if name in began and json.dumps(began[name]) != json.dumps(now[name])]:
        before, after = ("; ".join(str(one[name]) for name in other) for one in (began, now))
        raise TrainingError(
            f"The run of {last} began with other {', '.join(other)} ({before}) than are given now ({after}); "
            "resume it with the same files and options, such as --exclude-source and --drawn, or train into "
            "another folder."
        )
