"""What a classifier is trained to do: its loss, and how its samples are mixed."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from build_engines.checkpoint import Activation

Loss = Literal["cross_entropy", "focal", "multi_label"]
LOSSES: tuple[Loss, ...] = get_args(Loss)

_LABEL_SMOOTHING = 0.05
"""Of cross entropy alone."""


@dataclass(frozen=True, slots=True)
class Objective:
    """A loss with its mixing.

    Attributes:
        loss: "cross_entropy" with label smoothing; "focal" (Lin et al. 2017, arXiv 1708.02002, eq. 4), which
            counts what is already sure less; "multi_label", binary cross entropy of every class by itself.
        focal_gamma: how much less, for "focal".
        mixup: alpha of mixup (Zhang et al. 2018, arXiv 1710.09412): batches blended with themselves; 0: none.
        cutmix: alpha of CutMix (Yun et al. 2019, arXiv 1905.04899): rectangles swapped; 0: none. Of both, one
            or the other is drawn for each batch.
    """

    loss: Loss = "cross_entropy"
    focal_gamma: float = 2.0
    mixup: float = 0.0
    cutmix: float = 0.0

    @property
    def activation(self) -> Activation:
        """What makes probabilities of the outputs of a network that was trained so."""
        return "sigmoid" if self.loss == "multi_label" else "softmax"

    def mixed(self, planes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Every sample of a batch mixed with another one, by torch's generator.

        Args:
            planes: float32 [N, 3, S, S].
            targets: float32 [N, C].
        """
        if not (self.mixup or self.cutmix):
            return planes, targets
        from torchvision.transforms import v2

        ways = [v2.MixUp(alpha=self.mixup)] if self.mixup else []
        ways += [v2.CutMix(alpha=self.cutmix)] if self.cutmix else []
        mixed: tuple[Tensor, Tensor] = v2.RandomChoice(ways)(planes, targets)
        return mixed

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch.

        Args:
            logits, targets: float [N, C]; targets are from 0 to 1, and sum to 1 but for "multi_label".
        """
        if self.loss == "multi_label":
            return functional.binary_cross_entropy_with_logits(logits, targets)
        if self.loss == "cross_entropy":
            return functional.cross_entropy(logits, targets, label_smoothing=_LABEL_SMOOTHING)
        surely = logits.log_softmax(1)
        return torch.sum(-targets * (1 - surely.exp()) ** self.focal_gamma * surely, 1).mean()


PLAIN = Objective()
"""Cross entropy, nothing mixed."""
