"""A graph that was compiled for some batches answers all of them."""

import numpy as np
import pytest

from edge.backends.base import find_backend
from edge.bundle import Bundle


@pytest.mark.parametrize("in_lanes", [False, True])
def test_a_batch_of_any_size_has_the_answers_of_its_crops(bundle: Bundle, in_lanes: bool) -> None:
    spec = bundle.classifier
    assert spec is not None
    side_px = spec.crop_size
    crops = np.random.default_rng(5).integers(0, 256, (7, side_px, side_px, 3), np.uint8)
    session = find_backend("openvino").open(bundle.path, spec, "f32", in_lanes=in_lanes)
    try:
        alone = np.concatenate([session.run(crop[None])["probabilities"].copy() for crop in crops])
        for size in range(1, len(crops) + 1):
            together = session.run(crops[:size])["probabilities"]
            assert together.shape == alone[:size].shape
            assert abs(together - alone[:size]).max() < 1e-5
    finally:
        session.close()
