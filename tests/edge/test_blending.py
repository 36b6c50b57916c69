"""Probabilities of networks with orders of classes of their own, averaged."""

import numpy as np

from edge.blending import ClassOrder, blend

BUNDLE = ("PNN", "LY", "MO", "EO")


def test_a_networks_own_order_becomes_the_bundles_and_what_it_does_not_know_is_0() -> None:
    rows = np.array([[0.7, 0.2, 0.1]], np.float32)
    np.testing.assert_array_equal(
        ClassOrder.of(("MO", "PNN", "LY"), BUNDLE).mapped(rows), np.array([[0.2, 0.1, 0.7, 0]], np.float32)
    )


def test_the_bundles_own_order_costs_nothing() -> None:
    rows = np.full((2, 4), 0.25, np.float32)
    assert ClassOrder.of((), BUNDLE).mapped(rows) is rows
    assert ClassOrder.of(BUNDLE, BUNDLE).mapped(rows) is rows


def test_the_mean_is_over_the_weights_that_each_cell_has() -> None:
    ours = np.array([[1, 0], [1, 0]], np.float32)
    theirs = np.array([[0, 1], [0, 1]], np.float32)
    mean = blend([(ours, 0.457), (theirs, np.array([0.543, 0], np.float32))])
    np.testing.assert_allclose(mean, [[0.457, 0.543], [1, 0]], rtol=1e-6)
    assert mean.dtype == np.float32
