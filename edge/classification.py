"""One classifier at work on one image: crop each cell or take the whole image, run, average its views."""

import numpy as np
from numpy.typing import NDArray

from edge.backends.base import Session
from edge.blending import ClassOrder
from edge.geometry import Boxes, crop, letterbox, stretched
from edge.manifest import ClassifierSpec
from edge.stopwatch import Stopwatch
from edge.views import turned

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]


def inputs_of(rgb: Image, boxes_xyxy: Boxes, spec: ClassifierSpec) -> Image:
    """What a classifier is shown of an image.

    Args:
        rgb: uint8 [H, W, 3].
        boxes_xyxy: float32 [n, 4] of its cells, at least one.
        spec: the classifier.

    Returns:
        uint8 [n, S, S, 3], each cell; or [1, S, S, 3], the whole image.
    """
    if spec.view == "tile":
        if spec.shape == "stretched":
            return stretched(rgb, spec.crop_size)[None]
        return letterbox(rgb, spec.crop_size)[0][None]
    return np.stack(
        [
            crop(rgb, box, spec.crop_size, spec.margin_px, spec.margin_fraction, spec.shape)
            for box in boxes_xyxy
        ]
    )


class Classifier:
    """A classifier of a bundle on an engine. Several threads may use it if the session has lanes for them.

    Args:
        spec: what the bundle says of it.
        session: its graph.
        classes: the bundle's.
    """

    def __init__(self, spec: ClassifierSpec, session: Session, classes: tuple[str, ...]) -> None:
        self.spec = spec
        self._session = session
        self._order = ClassOrder.of(spec.classes, classes)

    def classify(self, rgb: Image, boxes_xyxy: Boxes, watch: Stopwatch) -> Floats:
        """Probabilities float32 [n, C] of cells, in the bundle's order of classes.

        Args:
            rgb: uint8 [H, W, 3].
            boxes_xyxy: float32 [n, 4] of its cells, at least one.
            watch: gets the laps crop and classify.

        Raises:
            BackendError: the engine failed.
        """
        inputs = inputs_of(rgb, boxes_xyxy, self.spec)
        watch.lap("crop")
        probabilities: Floats = self._session.run(inputs)["probabilities"]
        if self.spec.tta:
            probabilities = probabilities.copy()  # the session's own memory, and the next run's
            for turn in self.spec.tta:
                probabilities += self._session.run(turned(inputs, turn))["probabilities"]
            probabilities /= 1 + len(self.spec.tta)
        probabilities = self._order.mapped(probabilities)
        if self.spec.view == "tile":
            probabilities = np.repeat(probabilities, len(boxes_xyxy), axis=0)
        watch.lap("classify")
        return probabilities
