"""From pixels to findings: detect, crop, classify, merge. There is one pipeline for all commands."""

import logging
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from edge.backends.base import Session, find_backend
from edge.bundle import Bundle
from edge.cells import Finding
from edge.errors import BackendError
from edge.geometry import crop, letterbox
from edge.selftest import require_known_answers
from edge.stopwatch import Stopwatch

log = logging.getLogger(__name__)

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]


class Pipeline:
    """A bundle on an engine. Use it from one thread; open it with `open_pipeline`.

    Attributes:
        bundle: what is run.
        bundle_id: name and hash of the bundle, for result rows.
        engine_id: backend and precision, for result rows.
    """

    def __init__(self, bundle: Bundle, engine_id: str, detector: Session, classifier: Session | None) -> None:
        self.bundle = bundle
        self.bundle_id = bundle.id
        self.engine_id = engine_id
        self._detector = detector
        self._classifier = classifier

    def read(
        self, rgb: Image, watch: Stopwatch | None = None, detection_threshold: float | None = None
    ) -> list[Finding]:
        """Find and name the leukocytes of one image.

        Args:
            rgb: uint8 [H, W, 3].
            watch: gets the laps letterbox, detect, crop, classify and merge.
            detection_threshold: least score of a finding; None is the bundle's.

        Returns:
            Findings in pixels of the image, the surest detection first.

        Raises:
            BackendError: the engine failed.
        """
        watch = watch or Stopwatch()
        threshold = (
            self.bundle.manifest.thresholds.detection if detection_threshold is None else detection_threshold
        )
        spec = self.bundle.detector
        tile, placement = letterbox(rgb, spec.tile_size, spec.anchor, spec.pad)
        watch.lap("letterbox")
        answers = self._detector.run(tile[None])
        scores = answers["scores"][0]
        found = scores >= max(threshold, np.finfo(np.float32).tiny)
        scores = scores[found]
        boxes = placement.to_image(answers["boxes"][0][found])
        watch.lap("detect")
        if self._classifier is None:
            probabilities = answers["probabilities"][0][found]
        else:
            probabilities = self._classify(rgb, boxes, watch)
        findings = [
            self._finding(box, score, row)
            for box, score, row in zip(boxes, scores, probabilities, strict=True)
        ]
        watch.lap("merge")
        return findings

    def _classify(self, rgb: Image, boxes_xyxy: Floats, watch: Stopwatch) -> Floats:
        """Probabilities float32 [n, C] of the cells in the boxes."""
        spec = self.bundle.classifier
        assert spec is not None
        assert self._classifier is not None
        if not len(boxes_xyxy):
            return np.empty((0, len(self.bundle.manifest.classes)), np.float32)
        crops = np.stack(
            [
                crop(rgb, box, spec.crop_size, spec.margin_px, spec.margin_fraction, spec.shape)
                for box in boxes_xyxy
            ]
        )
        watch.lap("crop")
        probabilities: Floats = self._classifier.run(crops)["probabilities"]
        watch.lap("classify")
        return probabilities

    def _finding(self, box_xyxy: Floats, score: np.float32, probabilities: Floats) -> Finding:
        classes = self.bundle.manifest.classes
        order = np.argsort(-probabilities, kind="stable")
        ranked = {classes[index]: float(probabilities[index]) for index in order}
        x1, y1, x2, y2 = (float(value) for value in box_xyxy)
        best = classes[order[0]]
        return Finding((x1, y1, x2, y2), best, float(score), ranked[best], ranked)

    def close(self) -> None:
        """Give the engine's memory back."""
        self._detector.close()
        if self._classifier is not None:
            self._classifier.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_pipeline(bundle: Bundle, backend: str = "auto", precision: str = "auto") -> Pipeline:
    """Open a bundle on an engine that gives the known answers.

    Args:
        bundle: what to run.
        backend: "auto" or a name of `edge.backends.base.BACKEND_NAMES`.
        precision: "auto" takes the first of the backend's precisions, fastest first, that neither failed the
            gate when the bundle was built nor fails the self-test now; a named one is used or refused.

    Raises:
        BackendError: no engine, or none with the known answers.
    """
    engine = find_backend(backend)
    available = engine.precisions()
    if precision != "auto" and precision not in available:
        raise BackendError(
            f"The backend {engine.name!r} has no precision {precision!r} on this machine; use auto, "
            f"{' or '.join(available)}."
        )
    failed = {
        gate.precision for gate in bundle.manifest.gates if gate.backend == engine.name and not gate.passed
    }
    candidates = [p for p in available if p not in failed] if precision == "auto" else [precision]
    golden = bundle.golden()
    refusals = []
    for candidate in candidates:
        detector = engine.open(bundle.path, bundle.detector.graph, bundle.detector.tile_size, candidate)
        spec = bundle.classifier
        classifier = None if spec is None else engine.open(bundle.path, spec.graph, spec.crop_size, candidate)
        pipeline = Pipeline(bundle, f"{engine.name}:{candidate}", detector, classifier)
        try:
            require_known_answers(
                detector, classifier, golden, bundle.manifest.thresholds.detection, candidate
            )
        except BackendError as refusal:
            pipeline.close()
            refusals.append(str(refusal))
            log.warning("%s is not used: %s", pipeline.engine_id, refusal)
        else:
            log.info("bundle %s on %s", bundle.id, pipeline.engine_id)
            return pipeline
    raise BackendError(
        " ".join(refusals) or f"No precision of {engine.name!r} passed the gate of {bundle.path}."
    )
