"""Boxes for tests: given, and drawn by hypothesis."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst


def boxes(*corners: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(corners, np.float32).reshape(-1, 4)


@st.composite
def solid_boxes(draw: st.DrawFn, min_size: int = 1, max_size: int = 5) -> np.ndarray:
    n = draw(st.integers(min_size, max_size))
    corner = draw(npst.arrays(np.float32, (n, 2), elements=st.floats(0, 1000, width=32)))
    size = draw(npst.arrays(np.float32, (n, 2), elements=st.floats(1, 500, width=32)))
    return np.concatenate([corner, corner + size], axis=1)
