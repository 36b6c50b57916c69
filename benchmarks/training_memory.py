"""`python -m benchmarks.training_memory`: how much of a card's memory the training of a classifier holds.

Nothing is computed and no card is needed: tensors have shapes and no contents. Counted are the activations
that wait for the gradients, and for each weight itself, its gradient, two moments of AdamW and the moving
average. What the libraries of a card take for themselves comes on top.
"""

from typing import Any

import click
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from build_engines.checkpoint import build_network
from edge.cells import CELL_CLASSES
from training.classifying import architecture_of

_COPIES_OF_WEIGHTS = 5


def training_bytes(model: str, side_px: int, batch_size: int, *, bf16: bool) -> tuple[int, int]:
    """Bytes of activations, and of weights with all that belongs to them.

    Args:
        model: a name of timm or ultralytics.
        side_px: of the square input.
        bf16: whether the network is computed in mixed precision, as by --bf16.
    """
    network = build_network(*architecture_of(model, side_px), len(CELL_CLASSES)).train()
    without_contents = FakeTensorMode()
    tensors: dict[str, torch.Tensor] = {
        name: without_contents.from_tensor(tensor)
        for name, tensor in (*network.named_parameters(), *network.named_buffers())
    }
    own = {tensor.untyped_storage()._cdata for tensor in tensors.values()}
    kept: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with (
        without_contents,
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        batch = torch.zeros(batch_size, 3, side_px, side_px)
        torch.func.functional_call(network, tensors, (batch,))
        activations = sum(storage.nbytes() for storage in kept.values())
    weights = sum(one.numel() * one.element_size() for one in network.parameters())
    return activations, _COPIES_OF_WEIGHTS * weights


@click.command()
@click.argument("model")
@click.option("--crop-size", type=click.IntRange(1), default=160, show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True)
@click.option("--bf16", is_flag=True)
def main(model: str, crop_size: int, batch_size: int, bf16: bool) -> None:
    """Tell what training the classifier MODEL holds in memory; options as of training.classifier."""
    activations, weights = (
        count / 2**30 for count in training_bytes(model, crop_size, batch_size, bf16=bf16)
    )
    click.echo(
        f"{activations + weights:.1f} GiB: activations {activations:.1f}, weights with gradients, moments "
        f"and moving average {weights:.1f}"
    )


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.training_memory")
