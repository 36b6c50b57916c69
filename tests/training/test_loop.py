"""The loop learns, keeps the best, stops in time, and goes on after a break as if there had been none."""

import json
import math
import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from edge.locks import OutputUnwritableError
from training import classifier, detector
from training.loop import Schedule, TrainingError, fit, learning_rate_factor

pytestmark = pytest.mark.usefixtures("one_thread")
SCHEDULE = Schedule(epochs=6, learning_rate=0.02, ema_decay=0.9)
Score = Callable[[nn.Module], dict[str, float]]


def tiny_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))


def batches(epoch: int) -> list[tuple[Tensor, Tensor]]:
    """Five batches of a sum to learn, of this epoch alone."""
    random = torch.Generator().manual_seed(epoch)
    numbers = torch.rand(5, 16, 4, generator=random)
    return [(batch, batch.sum(1, keepdim=True)) for batch in numbers]


def loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.mse_loss(network(batch[0]), batch[1])


def judged(network: nn.Module) -> dict[str, float]:
    network.eval()
    with torch.inference_mode():
        errors = [loss(network, batch).item() for batch in batches(1000)]
    return {"score": -sum(errors)}


def given(scores: Sequence[float]) -> Score:
    """A score that gives these figures, an epoch each."""
    remaining = iter(scores)
    return lambda network: {"score": next(remaining)}


def run(folder: Path, network: nn.Module | None = None, **changes: Any) -> nn.Module:
    network = network or tiny_network()
    options: dict[str, Any] = {
        "batches": batches, "loss": loss, "score": judged, "keep": lambda network, figures: None,
        "schedule": SCHEDULE, "folder": folder, "began": {}, **changes,
    }  # fmt: skip
    fit(network, **options)
    return network


def history(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@contextmanager
def full_disk(largest_bytes: int) -> Iterator[None]:
    """No file grows beyond that size, which is told as a full disk is."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_bytes, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_ends_a_training_in_one_sentence_and_it_goes_on_afterwards(tmp_path: Path) -> None:
    run(tmp_path, schedule=replace(SCHEDULE, epochs=2))
    before = (tmp_path / "resume.pt").read_bytes()
    said = r"resume\.pt cannot be written whole, and \d+ MiB are free there \(.+\); make space or mend"
    with full_disk(len(before) // 2), pytest.raises(OutputUnwritableError, match=said):
        run(tmp_path, resume=True)
    assert (tmp_path / "resume.pt").read_bytes() == before
    assert not list(tmp_path.glob("*.part"))
    run(tmp_path, resume=True)
    assert [line["epoch"] for line in history(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_the_loss_falls(tmp_path: Path) -> None:
    run(tmp_path, schedule=replace(SCHEDULE, epochs=15))
    losses = [line["loss"] for line in history(tmp_path)]
    assert losses[-1] < losses[0] / 5


def test_history_has_a_line_an_epoch(tmp_path: Path) -> None:
    run(tmp_path, schedule=replace(SCHEDULE, epochs=3), score=lambda network: {"score": 0.5, "recall": 0.25})
    lines = history(tmp_path)
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    for line in lines:
        assert line.keys() == {"epoch", "loss", "score", "recall", "seconds"}
        assert (line["score"], line["recall"]) == (0.5, 0.25)
        assert math.isfinite(line["loss"])
        assert line["seconds"] >= 0


class TestResume:
    @pytest.mark.parametrize("broken_after", [1, 4])
    def test_equals_an_unbroken_run(self, broken_after: int, tmp_path: Path) -> None:
        kept: dict[str, dict[str, Tensor]] = {}

        def keeping(name: str) -> Callable[[nn.Module, dict[str, float]], None]:
            def keep(network: nn.Module, figures: dict[str, float]) -> None:
                kept[name] = {key: tensor.clone() for key, tensor in network.state_dict().items()}

            return keep

        def breaking(epoch: int) -> list[tuple[Tensor, Tensor]]:
            if epoch == broken_after:
                raise KeyboardInterrupt
            return batches(epoch)

        unbroken = run(tmp_path / "unbroken", keep=keeping("unbroken"))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "broken", keep=keeping("broken"), batches=breaking)
        assert len(history(tmp_path / "broken")) == broken_after
        torch.manual_seed(99)  # whatever a new process starts with
        other = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
        resumed = run(tmp_path / "broken", other, keep=keeping("broken"), resume=True)

        assert same(resumed.state_dict(), unbroken.state_dict())
        assert same(kept["broken"], kept["unbroken"])
        figures = [
            [{name: line[name] for name in ("epoch", "loss", "score")} for line in history(tmp_path / name)]
            for name in ("unbroken", "broken")
        ]
        assert figures[0] == figures[1]

    def test_remembers_the_best_score(self, tmp_path: Path) -> None:
        kept: list[float] = []
        options: dict[str, Any] = {"keep": lambda network, figures: kept.append(figures["score"])}
        run(tmp_path, schedule=replace(SCHEDULE, epochs=2), score=given([0.7, 0.3]), **options)
        run(tmp_path, schedule=replace(SCHEDULE, epochs=4), score=given([0.6, 0.8]), resume=True, **options)
        assert kept == [0.7, 0.8]

    def test_without_anything_to_go_on_from_starts_afresh(self, tmp_path: Path) -> None:
        fresh = run(tmp_path / "a")
        assert same(run(tmp_path / "b", resume=True).state_dict(), fresh.state_dict())

    def test_of_a_finished_run_changes_nothing(self, tmp_path: Path) -> None:
        run(tmp_path)
        before = (tmp_path / "resume.pt").read_bytes(), history(tmp_path)
        run(tmp_path, resume=True)
        assert ((tmp_path / "resume.pt").read_bytes(), history(tmp_path)) == before

    def test_in_the_folder_of_another_network_is_refused(self, tmp_path: Path) -> None:
        run(tmp_path, schedule=replace(SCHEDULE, epochs=2))
        wider = nn.Sequential(nn.Linear(4, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 1))
        with pytest.raises(
            TrainingError, match=r"resume\.pt is damaged or of another network .*; resume with"
        ):
            run(tmp_path, wider, resume=True)

    def test_from_a_damaged_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "resume.pt").write_bytes(b"half a file")
        with pytest.raises(TrainingError, match=r"resume\.pt is damaged or of another network"):
            run(tmp_path, resume=True)

    @pytest.mark.parametrize(
        ("now", "said"),
        [
            ({"base weights": "none"}, r"other base weights \(a\.pt\) than are given now \(none\)"),
            ({"--crop-size": 192}, r"other --crop-size \(160\) than are given now \(192\)"),
            (
                {"training annotations": "6 images", "--bf16": False},
                r"other training annotations, --bf16 \(8 images; True\) than .* \(6 images; False\)",
            ),
        ],
    )
    def test_of_a_run_that_began_otherwise_is_refused(
        self, now: dict[str, Any], said: str, tmp_path: Path
    ) -> None:
        began = {
            "training annotations": "8 images", "base weights": "a.pt", "--crop-size": 160, "--bf16": True,
            "--mean": (0.5, 0.5),
        }  # fmt: skip
        run(tmp_path, schedule=replace(SCHEDULE, epochs=2), began=began)
        before = (tmp_path / "resume.pt").read_bytes()
        with pytest.raises(TrainingError, match=f"{said}; resume it with the same files and options"):
            run(tmp_path, resume=True, began={**began, **now})
        assert (tmp_path / "resume.pt").read_bytes() == before
        run(tmp_path, resume=True, began=began)
        assert len(history(tmp_path)) == SCHEDULE.epochs

    def test_with_another_network_tells_the_option_that_makes_it_another(self, tmp_path: Path) -> None:
        run(tmp_path, schedule=replace(SCHEDULE, epochs=2), began={"--model": "narrow"})
        wider = nn.Sequential(nn.Linear(4, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 1))
        with pytest.raises(TrainingError, match=r"other --model \(narrow\) than are given now \(wide\)"):
            run(tmp_path, wider, resume=True, began={"--model": "wide"})

    def test_of_a_run_that_does_not_tell_how_it_began_goes_on(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        run(tmp_path, schedule=replace(SCHEDULE, epochs=2))
        state = torch.load(tmp_path / "resume.pt", weights_only=True)
        del state["began"]
        torch.save(state, tmp_path / "resume.pt")
        run(tmp_path, resume=True, began={"base weights": "a.pt", "--loss": "focal"})
        assert "does not say with which base weights, --loss its run began" in caplog.text
        assert len(history(tmp_path)) == SCHEDULE.epochs

    def test_of_a_run_that_broke_off_at_once_is_not_of_the_one_before_it(self, tmp_path: Path) -> None:
        def breaking(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            raise KeyboardInterrupt

        run(tmp_path / "a")
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "a", loss=breaking)
        other = replace(SCHEDULE, learning_rate=0.01)
        resumed = run(tmp_path / "a", resume=True, schedule=other)
        assert same(resumed.state_dict(), run(tmp_path / "b", schedule=other).state_dict())

    def test_is_not_done_unasked(self, tmp_path: Path) -> None:
        run(tmp_path, schedule=replace(SCHEDULE, epochs=2))
        run(tmp_path, schedule=replace(SCHEDULE, epochs=2))
        assert [line["epoch"] for line in history(tmp_path)][-2:] == [1, 2]


class TestStopping:
    @pytest.mark.parametrize(
        ("patience", "scores", "epochs"),
        [
            (2, [0.1, 0.5, 0.4, 0.3, 0.9, 0.9], 4),  # two epochs without a better one
            (3, [0.1, 0.5, 0.4, 0.3, 0.9, 0.9], 6),
            (1, [0.5, 0.5, 0.5, 0.5, 0.5, 0.5], 2),  # as good is not better
            (1, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 6),
        ],
    )
    def test_comes_after_as_many_epochs_without_a_better_score(
        self, patience: int, scores: list[float], epochs: int, tmp_path: Path
    ) -> None:
        run(tmp_path, schedule=replace(SCHEDULE, patience=patience), score=given(scores))
        assert [line["score"] for line in history(tmp_path)] == scores[:epochs]


class TestKeep:
    def test_is_called_for_each_score_better_than_all_before(self, tmp_path: Path) -> None:
        kept: list[dict[str, float]] = []
        scores = [0.2, 0.1, 0.4, 0.4, 0.3, 0.5]
        run(tmp_path, score=given(scores), keep=lambda network, figures: kept.append(figures))
        assert kept == [{"score": 0.2}, {"score": 0.4}, {"score": 0.5}]

    def test_gets_the_network_that_was_judged_and_it_is_the_averaged_one(self, tmp_path: Path) -> None:
        seen: list[Tensor] = []
        trained: list[Tensor] = []

        def score(network: nn.Module) -> dict[str, float]:
            seen.append(network[0].weight.detach().clone())  # type: ignore[index, union-attr, operator]
            return {"score": float(len(seen))}

        def keep(network: nn.Module, figures: dict[str, float]) -> None:
            trained.append(network[0].weight.detach().clone())  # type: ignore[index, union-attr, operator]

        last = run(tmp_path, score=score, keep=keep)
        assert all(torch.equal(one, other) for one, other in zip(seen, trained, strict=True))
        assert not torch.equal(seen[-1], last[0].weight)  # type: ignore[index, arg-type]

    def test_without_averaging_it_is_the_trained_one(self, tmp_path: Path) -> None:
        states: list[dict[str, Tensor]] = []
        last = run(
            tmp_path,
            schedule=replace(SCHEDULE, ema_decay=0.0),
            score=lambda network: {"score": float(len(states))},
            keep=lambda network, figures: states.append(
                {name: tensor.clone() for name, tensor in network.state_dict().items()}
            ),
        )
        trained = last.state_dict()
        assert all(torch.allclose(states[-1][name], trained[name], atol=1e-6) for name in trained)


class TestLearningRate:
    schedule = Schedule(epochs=10, learning_rate=1.0, warmup_epochs=2.0)

    @pytest.mark.parametrize(
        ("epoch", "factor"),
        [(0.0, 0.01), (0.5, 0.25), (1.0, 0.5), (2.0, 1.0), (6.0, 0.505), (10.0, 0.01), (11.0, 0.01)],
    )
    def test_warms_up_then_falls_along_a_cosine_to_a_hundredth(self, epoch: float, factor: float) -> None:
        assert learning_rate_factor(epoch, self.schedule) == pytest.approx(factor)

    def test_rises_once_and_falls_once(self) -> None:
        factors = [learning_rate_factor(step / 20, self.schedule) for step in range(201)]
        assert factors[:41] == sorted(factors[:41])
        assert factors[40:] == sorted(factors[40:], reverse=True)

    def test_may_start_without_warming_up(self) -> None:
        assert learning_rate_factor(0.0, replace(self.schedule, warmup_epochs=0.0)) == 1.0


def test_batch_norms_and_biases_are_not_decayed(tmp_path: Path) -> None:
    """With losses that pull at nothing, only what is decayed moves."""
    before = {name: tensor.clone() for name, tensor in tiny_network().named_parameters()}
    after = run(tmp_path, loss=lambda network, batch: 0 * loss(network, batch)).named_parameters()
    moved = {name for name, tensor in after if not torch.equal(tensor, before[name])}
    assert moved == {"0.weight", "3.weight"}


@pytest.mark.parametrize(
    ("command", "trainer"),
    [
        (classifier.main, "training.classifier.train_classifier"),
        (detector.main, "training.detector.train_yolox"),
    ],
)
def test_a_full_memory_of_the_card_ends_a_training_in_one_sentence(
    command: click.Command,
    trainer: str,
    smears_csv: Path,
    copied_csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The double says what torch 2.14 says of a card; not run on a GPU."""

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 24 GiB of which "
            "1.20 GiB is free. Including non-PyTorch memory, this process has 22.40 GiB memory in use."
        )

    monkeypatch.setattr(trainer, full)
    files = ["--csv", smears_csv, "--validation-csv", copied_csv, "--out", tmp_path / "run"]
    result = CliRunner().invoke(command, [*map(str, files)])
    assert result.exit_code == 78
    assert result.output.endswith(
        "Error: The memory of the card does not suffice (CUDA out of memory, Tried to allocate 2.00 GiB, "
        "GPU 0 has a total capacity of 24 GiB of which 1.20 GiB is free); give a smaller --batch-size, or "
        "--bf16.\n"
    )
