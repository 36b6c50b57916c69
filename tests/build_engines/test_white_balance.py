"""Tiles of other lamps and cameras come to the same background, and nothing else is changed."""

from typing import Any

import torch

from build_engines.checkpoint import yolox_network
from build_engines.graphs import detector_graph
from build_engines.white_balance import WhiteBalance
from edge.geometry import LETTERBOX_PAD
from tests.build_engines.untrained import run, spread_yolox_outputs


def field(background: tuple[float, ...], height: int = 64) -> torch.Tensor:
    """A tile with a dark cell on a background and padding below, float32 [1,64,64,3]."""
    tile = torch.full((64, 64, 3), float(LETTERBOX_PAD))
    tile[:height] = torch.tensor(background)
    tile[8:24, 8:24] = torch.tensor([88.0, 40, 112])
    return tile[None]


def test_the_estimate_goes_by_bright_pixels_and_not_by_padding() -> None:
    for height in (64, 32):
        estimate = WhiteBalance.estimate(field((240, 200, 180), height)).flatten()
        assert torch.allclose(estimate, torch.tensor([240.0, 200, 180]), rtol=0.02)
    nothing = torch.full((1, 64, 64, 3), float(LETTERBOX_PAD))
    assert WhiteBalance.estimate(nothing).tolist() == [[0, 0, 0]]


def test_the_estimate_is_of_the_whole_tile_and_only_what_is_grey_is_padding() -> None:
    dark_side = field((240, 200, 180))
    dark_side[:, :, :8] = 20
    dark_side[:, :8] = 20
    estimate = WhiteBalance.estimate(dark_side).flatten()
    assert torch.allclose(estimate, torch.tensor([240.0, 200, 180]), rtol=0.04)
    one_level = (240.0, 200.0, float(LETTERBOX_PAD))
    estimate = WhiteBalance.estimate(field(one_level, 32)).flatten()
    assert torch.allclose(estimate, torch.tensor(one_level), rtol=0.02)


def test_brings_tiles_of_other_lamps_to_the_same_colours() -> None:
    balance = WhiteBalance((200.0, 180, 160))
    shown = field((210, 190, 170))
    lamp = torch.tensor([1.2, 0.8, 1.1])
    one, other = balance(shown), balance(shown * lamp)
    assert torch.allclose(one, other, atol=0.01)
    assert torch.allclose(WhiteBalance.estimate(one).flatten(), torch.tensor([200.0, 180, 160]), atol=0.01)


def test_no_channel_is_more_than_doubled_or_halved_or_gets_beyond_255() -> None:
    balance = WhiteBalance((240.0, 215, 191))
    dark = field((10, 10, 10))
    assert torch.equal(balance(dark)[:, 40:, 40:], 2 * dark[:, 40:, 40:])
    assert WhiteBalance((60.0, 60, 60))(field((240, 240, 240)))[:, 40:, 40:].unique().tolist() == [120]
    assert balance(field((150, 150, 150))).max() <= 255
    speck = field((150, 150, 150))
    speck[:, 60, 60] = 250
    assert balance(speck).max() == 255


def test_each_tile_of_a_batch_is_balanced_by_itself() -> None:
    balance = WhiteBalance((240.0, 215, 191))
    fields = [field((210, 190, 170)), field((130, 140, 150))]
    assert torch.allclose(balance(torch.cat(fields)), torch.cat([balance(one) for one in fields]))


def test_a_detector_that_has_it_finds_the_same_by_another_lamp() -> None:
    torch.manual_seed(3)
    network = yolox_network(0.33, 0.125, False, 1).eval()
    tiles = field((200, 180, 160))
    spread_yolox_outputs(network, tiles.to(torch.uint8))
    options: dict[str, Any] = {"family": "yolox", "tile_size": 64, "max_detections": 10}
    dimmer = (tiles * 0.75).to(torch.uint8)
    balanced = detector_graph(network, **options, background=(240.0, 215, 191))
    one, other = (run(balanced, shown)[1] for shown in (tiles.to(torch.uint8), dimmer))
    assert torch.allclose(one, other, atol=1e-4)
    plain = detector_graph(network, **options)
    one, other = (run(plain, shown)[1] for shown in (tiles.to(torch.uint8), dimmer))
    assert not torch.allclose(one, other, atol=1e-4)
