"""One detector at work on one image: letterbox, run, map the boxes back, in all its windows and views."""

import numpy as np
from numpy.typing import NDArray

from edge.backends.base import Outputs, Session
from edge.blending import ClassOrder
from edge.fusion import Detections
from edge.geometry import Letterbox, letterbox
from edge.manifest import DetectorSpec
from edge.stopwatch import Stopwatch
from edge.views import Flip, flipped_back, turned
from edge.windows import counted_once, windows_over

Image = NDArray[np.uint8]


class Detector:
    """A detector of a bundle on an engine. Several threads may use it if the session has lanes for them.

    Args:
        spec: what the bundle says of it.
        session: its graph.
        classes: the bundle's.
    """

    def __init__(self, spec: DetectorSpec, session: Session, classes: tuple[str, ...]) -> None:
        self._spec = spec
        self._session = session
        self._order = ClassOrder.of(spec.classes, classes)
        self._class_weight = spec.class_weight if spec.names_classes else 0.0
        self._views: tuple[Flip | None, ...] = (None, *spec.tta)
        self.weights = [spec.weight / len(self._views)] * len(self._views)
        """Of what is found in each view, for the fusion; together the detector's own weight."""

    def find(
        self, rgb: Image, least_score: float, watch: Stopwatch, threshold: float = 0.0
    ) -> list[Detections]:
        """The cells of an image, once for each view.

        Args:
            rgb: uint8 [H, W, 3].
            least_score: of a detection, above 0.
            watch: gets the laps letterbox and detect.
            threshold: what scores less changes nothing of what has it.

        Raises:
            BackendError: the engine failed.
        """
        spec = self._spec
        size_wh = (rgb.shape[1], rgb.shape[0])
        if spec.windows is None:
            tile, placement = letterbox(rgb, spec.tile_size, spec.anchor, spec.pad)
            watch.lap("letterbox")
            found = [self._find_in([tile], [placement], view, least_score)[0] for view in self._views]
            watch.lap("detect")
            return found
        windows = windows_over(size_wh, spec.windows.size_px, spec.windows.overlap_px)
        parts = [rgb[top:bottom, left:right] for left, top, right, bottom in (one.region for one in windows)]
        placed = [letterbox(part, spec.tile_size, spec.anchor, spec.pad) for part in parts]
        tiles, placements = [tile for tile, _ in placed], [placement for _, placement in placed]
        watch.lap("letterbox")
        found = [
            counted_once(windows, self._find_in(tiles, placements, view, least_score), threshold)
            for view in self._views
        ]
        watch.lap("detect")
        return found

    def _find_in(
        self, tiles: list[Image], placements: list[Letterbox], view: Flip | None, least_score: float
    ) -> list[Detections]:
        """The cells of each tile, in pixels of the image part that it shows."""
        found = []
        at_once = self._spec.at_once
        for start in range(0, len(tiles), at_once):
            part = tiles[start : start + at_once]
            batch = part[0][None] if len(part) == 1 else np.stack(part)
            answers = self._session.run(batch if view is None else turned(batch, view))
            for row, placement in enumerate(placements[start : start + at_once]):
                found.append(self._taken(answers, row, placement, view, least_score))
        return found

    def _taken(
        self, answers: Outputs, row: int, placement: Letterbox, view: Flip | None, least_score: float
    ) -> Detections:
        """Copies of an engine's answers to one tile, which are its memory and the next run's."""
        scores = answers["scores"][row]
        found = scores >= least_score
        boxes = answers["boxes"][row][found]
        if view is not None:
            boxes = flipped_back(boxes, view, self._spec.tile_size)
        scores = scores[found]
        probabilities = None
        if self._class_weight:
            probabilities = self._order.mapped(answers["probabilities"][row][found])
        votes = np.full(len(scores), self._class_weight, np.float32)
        return Detections(placement.to_image(boxes), scores, probabilities, votes)
