"""What a training holds in memory is told from shapes alone."""

import pytest
import torch
from click.testing import CliRunner

from benchmarks.training_memory import main, training_bytes

MODEL = "mobilenetv2_100"


def test_activations_grow_with_the_batch_and_halve_in_mixed_precision() -> None:
    activations, weights = training_bytes(MODEL, 64, 4, bf16=False)
    twice, same = training_bytes(MODEL, 64, 8, bf16=False)
    halved, _ = training_bytes(MODEL, 64, 8, bf16=True)
    assert twice == pytest.approx(2 * activations, rel=0.01)
    assert same == weights
    assert 0.5 < halved / twice < 0.6


def test_a_convolution_keeps_what_it_was_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: it keeps its input of 2 x 3 x 8 x 8 numbers of 4 bytes, and nothing of what it gives."""
    monkeypatch.setattr(
        "benchmarks.training_memory.build_network", lambda *_: torch.nn.Conv2d(3, 5, 1, bias=False)
    )
    assert training_bytes(MODEL, 8, 2, bf16=False) == (2 * 3 * 8 * 8 * 4, 5 * 3 * 5 * 4)


def test_the_command_tells_it_in_one_line() -> None:
    told = CliRunner().invoke(main, [MODEL, "--crop-size", "64", "--batch-size", "2", "--bf16"])
    assert told.exit_code == 0
    assert told.output.startswith("0.1 GiB: activations 0.0, weights")
