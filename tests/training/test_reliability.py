"""Calibration and selective classification on probabilities whose truth is known."""

import numpy as np
import pytest

from edge.pipeline import tempered
from training.bootstrap import wilson_interval
from training.metric import calibration_error
from training.reliability import (
    coverage_curve,
    cross_fitted,
    fit_temperature,
    negative_log_likelihood,
    recommend,
    reliability_bins,
)


def overconfident(n: int, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities float32 [n, 4] that are sharper by a temperature than the classes drawn by them."""
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 1.5, (n, 4))
    honest = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = (generator.random((n, 1)) > honest.cumsum(1)).sum(1)
    return tempered(honest.astype(np.float32), 1 / temperature), truth


def test_the_temperature_by_which_probabilities_were_sharpened_is_found() -> None:
    for temperature in (0.6, 2.5):
        probabilities, truth = overconfident(6000, temperature)
        assert fit_temperature(probabilities, truth) == pytest.approx(temperature, rel=0.06)


def test_no_other_temperature_has_a_lower_likelihood_loss() -> None:
    probabilities, truth = overconfident(500, 2.0)
    best = fit_temperature(probabilities, truth)
    loss = negative_log_likelihood(tempered(probabilities, best), truth)
    for other in (0.5, 0.9 * best, 1.1 * best, 10.0):
        assert negative_log_likelihood(tempered(probabilities, other), truth) > loss


def test_likelihood_loss_worked_out_by_hand() -> None:
    assert negative_log_likelihood([[0.5, 0.5], [0.25, 0.75]], [0, 1]) == pytest.approx(
        -(np.log(0.5) + np.log(0.75)) / 2
    )
    assert negative_log_likelihood([[1 - 1e-9, 1e-9]], [1]) == pytest.approx(-np.log(1e-9))
    assert np.isfinite(negative_log_likelihood([[1.0, 0.0]], [1]))


def test_calibration_brings_the_error_down_on_images_it_was_not_fitted_on() -> None:
    probabilities, truth = overconfident(3000, 2.5)
    images = [str(number // 2) for number in range(3000)]
    fitted = cross_fitted(probabilities, truth, images)
    before, after = (calibration_error(one.max(1), one.argmax(1) == truth) for one in (probabilities, fitted))
    assert before > 0.1
    assert after < 0.03
    # cells of one image have one temperature, of which there are five
    logits = np.log(fitted[:, 0] / fitted[:, 1]) / np.log(probabilities[:, 0] / probabilities[:, 1])
    assert len(np.unique(np.round(1 / logits, 2))) <= 6


def test_a_cell_gets_the_temperature_of_the_cells_of_other_images() -> None:
    probabilities, truth = overconfident(400, 2.5)
    images = np.array([str(number // 10) for number in range(400)])
    fitted = cross_fitted(probabilities, truth, images.tolist())
    before, after = (np.log(one[:, 0] / one[:, 1]) for one in (probabilities, fitted))
    told = np.abs(after) > 0.5  # elsewhere the quotient is of rounding
    temperature = {image: round(float(np.median((before / after)[told & (images == image)])), 4)
                   for image in dict.fromkeys(images)}  # fmt: skip
    of_cell = np.array([temperature[image] for image in images])
    assert len(set(temperature.values())) == 5
    for one in set(temperature.values()):
        own = of_cell == one
        assert own.sum() == 80
        np.testing.assert_allclose((before / after)[told & own], one, rtol=1e-3)
        assert one == pytest.approx(fit_temperature(probabilities[~own], truth[~own]), rel=1e-3)


def test_of_one_image_nothing_can_be_fitted_without_it() -> None:
    probabilities, truth = overconfident(60, 2.5)
    np.testing.assert_array_equal(cross_fitted(probabilities, truth, ["one"] * 60), probabilities)
    two = cross_fitted(probabilities, truth, ["one"] * 30 + ["two"] * 30)
    other = fit_temperature(probabilities[30:], truth[30:])
    np.testing.assert_allclose(two[:30], tempered(probabilities[:30], other), rtol=1e-5)


def test_bins_are_closed_on_the_right() -> None:
    """As those of the calibration error: 0.6 is the upper end of the bin in which 0.55 lies."""
    (one,) = reliability_bins([0.6, 0.55], [True, False])
    assert (one.low, one.high, one.n) == (8 / 15, 9 / 15, 2)


def test_bins_hold_the_cells_of_their_confidence() -> None:
    low, high = reliability_bins([0.6, 0.6, 0.85, 1.0, 1.0], [True, False, True, True, True])[::2]
    assert (low.n, low.confidence, low.accuracy) == (2, pytest.approx(0.6), 0.5)
    assert (high.low, high.high, high.n, high.accuracy) == (pytest.approx(14 / 15), 1.0, 2, 1.0)
    assert reliability_bins([], []) == ()


def test_bins_add_up_to_the_calibration_error() -> None:
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.3, 1, 200)
    correct = generator.random(200) < confidence**2
    bins = reliability_bins(confidence, correct)
    assert sum(one.n for one in bins) == 200
    by_hand = sum(one.n * abs(one.accuracy - one.confidence) for one in bins) / 200
    assert calibration_error(confidence, correct) == pytest.approx(by_hand)


def test_coverage_and_accuracy_at_each_threshold() -> None:
    curve = coverage_curve([0.9, 0.8, 0.6, 0.4], [True, True, False, True], [0.0, 0.6, 0.7, 0.95])
    assert [(one.threshold, one.n_kept, one.coverage) for one in curve] == [
        (0.0, 4, 1.0),
        (0.6, 3, 0.75),
        (0.7, 2, 0.5),
    ]  # at 0.95 nothing is kept
    assert [one.accuracy for one in curve] == [0.75, pytest.approx(2 / 3), 1.0]


def test_the_threshold_that_keeps_most_cells_of_those_that_reach_the_accuracy_is_recommended() -> None:
    confidences = [0.95, 0.9, 0.8, 0.7, 0.6, 0.5]
    correct = [True, True, True, False, True, False]
    found = recommend(confidences, correct, 0.75)
    assert found is not None
    assert (found.threshold, found.n_kept, found.accuracy) == (0.6, 5, 0.8)
    perfect = recommend(confidences, correct, 1.0)
    assert perfect is not None
    assert (perfect.threshold, perfect.coverage) == (0.8, 0.5)
    assert perfect.interval is not None
    assert perfect.interval == wilson_interval(3, 3)
    assert perfect.interval.low < 0.5  # three of three is not much
    everything = recommend(confidences, correct, 0.5)
    assert everything is not None
    assert (everything.threshold, everything.coverage) == (0.0, 1.0)


def test_a_threshold_has_four_decimals_and_keeps_the_cell_that_it_is_of() -> None:
    for confidence in (0.87654, 0.87656):
        found = recommend([confidence, 0.5], [True, False], 1.0)
        assert found is not None
        assert (found.threshold, found.n_kept) == (0.8765, 1)


def test_an_accuracy_that_is_out_of_reach_has_no_threshold() -> None:
    assert recommend([0.9, 0.8], [False, True], 0.9) is None
    assert recommend([], [], 0.9) is None
