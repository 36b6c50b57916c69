"""The background of a tile, estimated and brought to one level inside a detector's graph."""

import torch
from torch import Tensor, nn

from edge.geometry import LETTERBOX_PAD

_ORDER = 12
_SAMPLED = 4
"""Every so many pixels, in both directions."""
_MOST_GAIN = 2.0


class WhiteBalance(nn.Module):
    """Brings the background of a tile to one level, channel by channel, as if lamp and camera were others.

    The background is estimated by the norm of order 12 of the pixels (Finlayson and Trezzi, "Shades of gray
    and colour constancy", CIC 2004), which goes by the bright ones; padding does not count.
    """

    background: Tensor

    def __init__(self, background: tuple[float, float, float]) -> None:
        """Args:
        background: that of the training images as `estimate` gives it, RGB 0 to 255.
        """
        super().__init__()
        self.register_buffer("background", torch.tensor([background]), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """float32 [B,S,S,3] RGB 0 to 255 → the same; each channel is at most doubled or halved."""
        gain = (self.background / self.estimate(pixels).clamp(min=1)).clamp(1 / _MOST_GAIN, _MOST_GAIN)
        # What it adds, not the gain, may be rounded: of a gain near 1 bfloat16 keeps two decimals only.
        added = gain - 1
        # Whole rows at once: OpenVINO takes a hundred times as long for three values after three values.
        rows = pixels.flatten(2)
        rows = rows + rows * added.repeat(1, pixels.shape[2]).unsqueeze(1)
        return rows.clamp(max=255).view_as(pixels)

    @staticmethod
    def estimate(pixels: Tensor) -> Tensor:
        """The background of tiles float32 [B,S,S,3] RGB 0 to 255, [B,3]; 0 where all is padding."""
        sample = pixels[:, ::_SAMPLED, ::_SAMPLED].permute(0, 3, 1, 2)
        is_image = ((sample - LETTERBOX_PAD).abs().amax(1, keepdim=True) > 0).to(torch.float32)
        # Means, not sums: a sum over a tile of 1024 px is beyond float16, in which OpenVINO may calculate.
        powers = ((sample / 255) ** _ORDER * is_image).mean((2, 3))
        mean = powers / is_image.mean((2, 3)).clamp(min=1e-6)
        return 255 * mean ** (1 / _ORDER)
