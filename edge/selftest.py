"""Known answers: how far an engine strays from the FP32 reference, and how far it may."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge.backends.base import Outputs, Session
from edge.bundle import Golden, Known
from edge.errors import BackendError
from edge.geometry import iou_matrix


@dataclass(frozen=True, slots=True)
class Deviation:
    """Largest differences between an engine's answers and the reference's, over all inputs.

    Attributes:
        box_px: of a coordinate of a box above the threshold, in tile pixels, of a box with a longer side than
            100 px by as much less; infinite where a box has no partner.
        score: of a box's score.
        probability: of a class's probability.
        classes_differ: cells whose class differs although the reference's choice was clear by more than twice
            the probability that is tolerated.
    """

    box_px: float
    score: float
    probability: float
    classes_differ: int = 0

    def worst(self, other: "Deviation") -> "Deviation":
        """The greater of each."""
        return Deviation(
            max(self.box_px, other.box_px),
            max(self.score, other.score),
            max(self.probability, other.probability),
            self.classes_differ + other.classes_differ,
        )


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What may be between two engines that compute the same network."""

    box_px: float
    score: float
    probability: float

    def allows(self, found: Deviation) -> bool:
        """Whether all differences are inside."""
        return (
            found.box_px <= self.box_px
            and found.score <= self.score
            and found.probability <= self.probability
            and not found.classes_differ
        )


TOLERANCES = {
    "f32": Tolerance(box_px=0.1, score=1e-3, probability=1e-3),
    "f16": Tolerance(box_px=2.0, score=0.02, probability=0.05),
    "bf16": Tolerance(box_px=3.0, score=0.06, probability=0.15),
}
"""By precision. bfloat16 has 8 bits of significand: a coordinate of 400 px is known to 2 px in it. Below
FP32, of two boxes of one cell that score alike the other one may win, and lie a pixel or two off."""


_LARGE_BOX_PX = 100.0
"""Networks give sides as logarithms or in parts of a grid's cell, so a larger box strays by more pixels."""


def compare_detections(reference: Outputs, found: Outputs, threshold: float, slack: float) -> Deviation:
    """Compare the detector's answers for one batch.

    A reference box counts where its score is above `threshold + slack`; it must have a partner of IoU 0.5 or
    more. A found box above `threshold + slack` must have a partner in the reference, whatever its score.
    """
    deviation = Deviation(0, 0, 0)
    for image in range(len(reference["scores"])):
        for ours, theirs in ((reference, found), (found, reference)):
            sure = ours["scores"][image] > threshold + slack
            if not sure.any():
                continue
            boxes, others = ours["boxes"][image][sure], theirs["boxes"][image]
            ious = iou_matrix(boxes, others) * (theirs["scores"][image] > 0)
            partner = ious.argmax(1)
            if (ious.max(1) < 0.5).any():
                return Deviation(float("inf"), 1, 1)
            largeness = np.maximum((boxes[:, 2:] - boxes[:, :2]).max(1) / _LARGE_BOX_PX, 1)
            deviation = deviation.worst(
                Deviation(
                    float((np.abs(boxes - others[partner]).max(1) / largeness).max()),
                    float(np.abs(ours["scores"][image][sure] - theirs["scores"][image][partner]).max()),
                    float(
                        np.abs(
                            ours["probabilities"][image][sure] - theirs["probabilities"][image][partner]
                        ).max()
                    )
                    if "probabilities" in ours
                    else 0.0,
                )
            )
    return deviation


def compare_probabilities(reference: Outputs, found: Outputs, slack: float) -> Deviation:
    """Compare the classifier's answers for one batch of crops."""
    ours, theirs = reference["probabilities"], found["probabilities"]
    ranked = np.sort(ours, axis=1)
    clear = ranked[:, -1] - ranked[:, -2] > 2 * slack
    differ = clear & (ours.argmax(1) != theirs.argmax(1))
    return Deviation(0, 0, float(np.abs(ours - theirs).max()), int(differ.sum()))


def compare_answers(reference: Outputs, found: Outputs, threshold: float, tolerance: Tolerance) -> Deviation:
    """Compare a network's answers for one batch: a detector's or a classifier's, as they are."""
    if "boxes" in reference:
        return compare_detections(reference, found, threshold, tolerance.score)
    return compare_probabilities(reference, found, tolerance.probability)


def deviation_of(session: Session, known: Known, threshold: float, tolerance: Tolerance) -> Deviation:
    """Put the known inputs of a network to an engine and compare.

    They come in full batches of each size that something of its own was built ahead for, where there is such,
    and else one tile at a time or all crops.

    Raises:
        BackendError: the engine failed, or gives answers of another shape.
    """
    count = len(known.inputs)
    sizes = session.built_for or [1 if "boxes" in known.outputs else count]
    worst = Deviation(0, 0, 0)
    for places in (
        np.arange(start, start + size) % count for size in sizes for start in range(0, count, size)
    ):
        reference = {name: values[places] for name, values in known.outputs.items()}
        found = session.run(known.inputs[places])
        for name, values in reference.items():
            gives, known_shape = list(found[name].shape) if name in found else "nothing", list(values.shape)
            if gives != known_shape:
                raise BackendError(
                    f"{session.name} gives {name} as {gives}, but the known answers are {known_shape}; "
                    "rebuild the bundle."
                )
        worst = worst.worst(compare_answers(reference, found, threshold, tolerance))
    return worst


def require_known_answers(
    sessions: Sequence[Session], golden: Golden, threshold: float, precision: str
) -> Deviation:
    """The self-test of all networks before an engine is used.

    Args:
        sessions: in the order of `Manifest.networks`.
        golden: what they must answer.
        threshold: of a finding.
        precision: of the engine.

    Returns:
        The largest differences of all.

    Raises:
        BackendError: the answers of one are outside the tolerance of the precision.
    """
    tolerance = TOLERANCES[precision]
    worst = Deviation(0, 0, 0)
    for session, known in zip(sessions, golden.networks, strict=True):
        found = deviation_of(session, known, threshold, tolerance)
        if not tolerance.allows(found):
            raise BackendError(
                f"{session.name} does not give the known answers (boxes {found.box_px:.3g} px off, "
                f"{tolerance.box_px} allowed; scores {found.score:.3g}, {tolerance.score} allowed; "
                f"probabilities {found.probability:.3g}, {tolerance.probability} allowed; "
                f"{found.classes_differ} classes differ); choose another precision or backend."
            )
        worst = worst.worst(found)
    return worst
