"""Losses as their papers have them, and mixing that mixes pixels and targets alike."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from training.objective import Objective

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]])
ONE_HOT = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


def test_focal_loss_counts_the_sure_less() -> None:
    probabilities = LOGITS.softmax(1)
    right = [float(probabilities[0, 0]), float(probabilities[1, 2])]
    expected = sum(-((1 - p) ** 1.5) * math.log(p) for p in right) / 2
    assert Objective("focal", focal_gamma=1.5)(LOGITS, ONE_HOT).item() == pytest.approx(expected, rel=1e-5)


def test_focal_loss_of_gamma_0_is_cross_entropy_also_of_soft_targets() -> None:
    soft = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4]])
    expected = functional.cross_entropy(LOGITS, soft).item()
    assert Objective("focal", focal_gamma=0)(LOGITS, soft).item() == pytest.approx(expected, rel=1e-5)


def test_cross_entropy_of_targets_is_that_of_class_numbers() -> None:
    numbers = functional.cross_entropy(LOGITS, torch.tensor([0, 2]), label_smoothing=0.05)
    assert Objective()(LOGITS, ONE_HOT).item() == pytest.approx(numbers.item(), rel=1e-6)


def test_multi_label_judges_every_class_by_itself() -> None:
    objective = Objective("multi_label")
    both = torch.tensor([[1.0, 0.0, 1.0]])
    expected = sum(math.log1p(math.exp(-sign * x)) for sign, x in ((1, 2.0), (-1, -1.0), (1, 0.5))) / 3
    assert objective(LOGITS[:1], both).item() == pytest.approx(expected, rel=1e-5)
    assert (objective.activation, Objective().activation) == ("sigmoid", "softmax")


class TestMixing:
    PLANES = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 16, 16)  # the pixels of a sample are its number
    TARGETS = torch.eye(4)

    def mixed(self, objective: Objective) -> tuple[Tensor, Tensor]:
        torch.manual_seed(3)
        planes, targets = objective.mixed(self.PLANES.clone(), self.TARGETS.clone())
        assert targets.sum(1).tolist() == pytest.approx([1.0] * 4)
        # Whatever is mixed, the mean number of the pixels is the mean number of the targets.
        assert planes.mean((1, 2, 3)).tolist() == pytest.approx((targets @ torch.arange(4.0)).tolist())
        assert not torch.equal(targets, self.TARGETS)
        return planes, targets

    def test_of_mixup_blends_all_pixels(self) -> None:
        planes, _ = self.mixed(Objective(mixup=0.8))
        assert planes.flatten(1).std(1).tolist() == pytest.approx([0.0] * 4, abs=1e-6)

    def test_of_cutmix_swaps_a_rectangle(self) -> None:
        planes, _ = self.mixed(Objective(cutmix=1.0))
        assert set(planes.unique().tolist()) == {0.0, 1.0, 2.0, 3.0}

    def test_of_both_draws_one_for_each_batch(self) -> None:
        objective = Objective(mixup=1.0, cutmix=1.0)
        torch.manual_seed(0)
        whole = [
            (objective.mixed(self.PLANES.clone(), self.TARGETS)[0].frac() == 0).all().item()
            for _ in range(12)
        ]
        assert set(whole) == {True, False}

    def test_of_none_leaves_a_batch_alone(self) -> None:
        planes, targets = Objective().mixed(self.PLANES, self.TARGETS)
        assert planes is self.PLANES
        assert targets is self.TARGETS
