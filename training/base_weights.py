"""Weights from elsewhere that a training begins with."""

from pathlib import Path

import torch
from torch import Tensor

from training.loop import TrainingError


def read_base_weights(path: Path) -> dict[str, Tensor]:
    """A state dict: plain, under the key "model", or that of a checkpoint of this project.

    Raises:
        TrainingError: the file holds something else.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the unpickler meets
        raise TrainingError(
            f"{path} cannot be read as weights ({type(error).__name__}); give a state dict of PyTorch."
        ) from error
    weights = None
    if isinstance(content, dict):
        weights = content.get("model", content.get("weights", content))
    if not isinstance(weights, dict) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise TrainingError(f"{path} holds more or other things than weights; give a state dict of PyTorch.")
    return weights
