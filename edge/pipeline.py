"""From pixels to findings: detect, fuse, crop, classify, merge. There is one pipeline for all commands."""

import hashlib
import logging
import os
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from edge.backends.base import (
    AUTO_BACKEND_NAMES,
    Backend,
    BackendAbsent,
    Session,
    cpu_threads,
    find_backend,
    require_backend_name,
)
from edge.blending import blend
from edge.bundle import Bundle, Golden
from edge.cells import Finding
from edge.classification import Classifier
from edge.detection import Detector
from edge.errors import BackendError, BundleError, EngineAway
from edge.fusion import Detections, fuse
from edge.geometry import Boxes, iou_matrix
from edge.likeness import Likeness
from edge.matching import MATCH_IOU
from edge.selftest import require_known_answers
from edge.stopwatch import Stopwatch

log = logging.getLogger(__name__)

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]

_LEAST = float(np.finfo(np.float32).tiny)
"""A score below is that of a place without a box."""


class Pipeline:
    """A bundle on an engine; open it with `open_pipeline`.

    Attributes:
        lanes: how many threads may call `read` at once.
        crowd: the same pipeline with more lanes, for images that wait for each other; None where there is
            nothing to gain.
        bundle: what is run.
        bundle_id: name and hash of the bundle, for result rows.
        engine_id: backend, precision and, of engines that were built ahead, their hash, for result rows.
        likeness: what its images are compared with; None where the bundle knows of no training images.
        why: what speaks for this engine and against those that come before it; "" if nothing does.
    """

    why: str = ""
    crowd: "Pipeline | None" = None

    def __init__(self, bundle: Bundle, engine_id: str, sessions: Sequence[Session]) -> None:
        """Args:
        bundle: what is run.
        engine_id: of what runs it.
        sessions: of the bundle's networks, in the order of `Manifest.networks`; closed with the pipeline.
        """
        manifest = bundle.manifest
        self.bundle = bundle
        self.bundle_id = bundle.id
        self.engine_id = engine_id
        known = manifest.training_images
        self.likeness = None if known is None else Likeness(known)
        self.lanes = min(session.lanes for session in sessions)
        self._sessions = tuple(sessions)
        self._detectors = [
            Detector(spec, session, manifest.classes)
            for spec, session in zip(manifest.detectors, sessions, strict=False)
        ]
        self._classifiers = [
            Classifier(spec, session, manifest.classes)
            for spec, session in zip(manifest.classifiers, sessions[len(manifest.detectors) :], strict=True)
        ]
        self._weights = [weight for detector in self._detectors for weight in detector.weights]

    def read(
        self,
        rgb: Image,
        watch: Stopwatch | None = None,
        detection_threshold: float | None = None,
        least_score: float | None = None,
    ) -> list[Finding]:
        """Find and name the leukocytes of one image.

        Args:
            rgb: uint8 [H, W, 3].
            watch: gets the laps letterbox, detect, fuse (of several detectors or views), crop, classify and
                merge.
            detection_threshold: least score of a finding; None is the bundle's.
            least_score: below the threshold; findings down to it are given as well, as if they were not there
                for the others: who is asked of a cell that is alone does not hear of them.

        Returns:
            Findings in pixels of the image, the surest detection first.

        Raises:
            BackendError: the engine failed.
        """
        watch = watch or Stopwatch()
        threshold = (
            self.bundle.manifest.thresholds.detection if detection_threshold is None else detection_threshold
        )
        least = threshold if least_score is None else min(threshold, least_score)
        found = self._find(rgb, max(least, _LEAST), watch, threshold)
        is_alone = int((found.scores >= threshold).sum()) == 1
        temperature = self.bundle.manifest.temperature
        probabilities = tempered(self._name(rgb, found, is_alone, watch), temperature)
        findings = [
            self._finding(box, score, row)
            for box, score, row in zip(found.boxes_xyxy, found.scores, probabilities, strict=True)
        ]
        watch.lap("merge")
        return findings

    def name(self, rgb: Image, boxes_xyxy: Boxes) -> Floats:
        """What the bundle says of cells that somebody else found, a teacher's probabilities for one.

        Classifiers are shown each box, those of whole images where they would be asked with as many findings.
        A detector that names classes speaks of a box through the detection that overlaps it most, if that is
        by `MATCH_IOU` or more.

        Args:
            rgb: uint8 [H, W, 3].
            boxes_xyxy: float32 [n, 4] in its pixels.

        Returns:
            Probabilities float32 [n, C] in the bundle's order of classes; a row of zeros where no network has
            a say.

        Raises:
            BackendError: the engine failed.
        """
        watch = Stopwatch()
        given = Detections(
            boxes_xyxy, np.ones(len(boxes_xyxy), np.float32), None, np.zeros(len(boxes_xyxy), np.float32)
        )
        manifest = self.bundle.manifest
        if any(one.names_classes and one.class_weight > 0 for one in manifest.detectors) and len(given):
            found = self._find(rgb, max(manifest.fusion.least_score, _LEAST), watch)
            given = _heard(given, found, len(manifest.classes))
        probabilities = self._name(rgb, given, len(given) == 1, watch).copy()
        told = probabilities.any(axis=1)
        probabilities[told] = tempered(probabilities[told], manifest.temperature)
        return probabilities

    def _find(self, rgb: Image, least_score: float, watch: Stopwatch, threshold: float = 0.0) -> Detections:
        """The cells of an image, by one detector as it says, or fused."""
        if len(self._weights) == 1:
            return self._detectors[0].find(rgb, least_score, watch, threshold)[0]
        fusion = self.bundle.manifest.fusion
        least = max(fusion.least_score, _LEAST)
        passes = [found for detector in self._detectors for found in detector.find(rgb, least, watch)]
        fused = fuse(passes, self._weights, fusion.iou)
        found = fused.take(fused.scores >= least_score)
        watch.lap("fuse")
        return found

    def _name(self, rgb: Image, found: Detections, is_alone: bool, watch: Stopwatch) -> Floats:
        """Probabilities float32 [n, C] of the cells, by all networks that have a say."""
        if not len(found):
            return np.empty((0, len(self.bundle.manifest.classes)), np.float32)
        asked = [one for one in self._classifiers if is_alone or not one.spec.only_when_alone]
        opinions: list[tuple[Floats, Floats | float]] = [
            (one.classify(rgb, found.boxes_xyxy, watch), one.spec.weight) for one in asked
        ]
        if found.probabilities is not None:
            opinions.append((found.probabilities, found.votes))
        return opinions[0][0] if len(opinions) == 1 else blend(opinions)

    def _finding(self, box_xyxy: Floats, score: np.float32, probabilities: Floats) -> Finding:
        classes = self.bundle.manifest.classes
        order = np.argsort(-probabilities, kind="stable")
        ranked = {classes[index]: float(probabilities[index]) for index in order}
        x1, y1, x2, y2 = (float(value) for value in box_xyxy)
        best = classes[order[0]]
        return Finding((x1, y1, x2, y2), best, float(score), ranked[best], ranked)

    def close(self) -> None:
        """Give the engine's memory back."""
        if self.crowd is not None:
            self.crowd.close()
        for session in self._sessions:
            session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _heard(given: Detections, found: Detections, class_count: int) -> Detections:
    """Boxes with the probabilities and votes of the detections that overlap them most; 0 without one."""
    probabilities = np.zeros((len(given), class_count), np.float32)
    votes = np.zeros(len(given), np.float32)
    if len(found) and found.probabilities is not None:
        ious = iou_matrix(given.boxes_xyxy, found.boxes_xyxy)
        best, near = ious.argmax(1), ious.max(1) >= MATCH_IOU
        probabilities[near] = found.probabilities[best[near]]
        votes[near] = found.votes[best[near]]
    return Detections(given.boxes_xyxy, given.scores, probabilities, votes)


def tempered(probabilities: Floats, temperature: float) -> Floats:
    """Probabilities whose logits are divided by a temperature: p ** (1 / T), normalised.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2 (arXiv:1706.04599). The
    order of the classes stays.

    Args:
        probabilities: float32 [n, C], each row summing to 1.
        temperature: above 0; 1 changes no bit.

    Returns:
        float32 [n, C].
    """
    if temperature == 1.0:
        return probabilities
    # Divided by the greatest, one power of each row is 1 whatever the temperature, so that no sum is 0.
    shares = probabilities.astype(np.float64) / probabilities.max(axis=1, keepdims=True)
    powers = shares ** (1 / temperature)
    answer: Floats = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return answer


def open_pipeline(
    bundle: Bundle,
    backend: str = "auto",
    precision: str = "auto",
    fallback: str | None = None,
    server_url: str | None = None,
) -> Pipeline:
    """Open a bundle on an engine that gives the known answers.

    Args:
        bundle: what to run.
        backend: one of `edge.backends.base.BACKEND_NAMES`; "auto" takes the first of them that can be used.
        precision: "auto" takes the first of the backend's precisions, fastest first, that neither failed the
            gate when the bundle was built nor fails the self-test now; a named one is used or refused.
        fallback: the backend to use where the one that is named cannot be, in its own best precision.

    Raises:
        BackendError: no engine, or none with the known answers.
        BundleError: its known answers cannot be read, or files of it were replaced since it was loaded.
    """
    tries = [(name, precision) for name in (AUTO_BACKEND_NAMES if backend == "auto" else [backend])]
    if fallback is not None:
        require_backend_name(fallback)  # not on the day when it is needed
        tries.append((fallback, "auto"))
    refusals: list[BackendError] = []
    for name, wanted in tries:
        try:
            engine = find_backend(name, server_url)
            pipeline = _open_on(engine, bundle, wanted)
        except BackendError as refusal:
            refusals.append(refusal)
            continue
        for error in refusals:
            # That a machine has no card is nothing to be warned of, unless somebody asked for it.
            if backend != "auto" or not isinstance(error, BackendAbsent):
                log.warning("%s is used instead: %s", engine.name, error)
        pipeline.why = _why(refusals, engine)
        log.info("bundle %s on %s%s", bundle.id, pipeline.engine_id, pipeline.why and f" ({pipeline.why})")
        return pipeline
    raise _all_of(refusals)


def _why(refusals: Sequence[BackendError], engine: Backend) -> str:
    """What was against the engines before this one, each said once, and what speaks for this one."""
    against = (error.reason if isinstance(error, BackendAbsent) else str(error)[:-1] for error in refusals)
    return "; ".join(filter(None, dict.fromkeys((*against, engine.why))))


def _open_on(engine: Backend, bundle: Bundle, precision: str) -> Pipeline:
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
    refusals: list[BackendError] = []
    for candidate in candidates:
        try:
            pipeline = _tested(engine, bundle, candidate, golden)
            if engine.has_lanes and (cpu_threads() or len(os.sched_getaffinity(0))) > 1:
                try:
                    pipeline.crowd = _tested(engine, bundle, candidate, golden, in_lanes=True)
                except (BackendError, BundleError):
                    pipeline.close()
                    raise
        except BackendError as refusal:
            refusals.append(refusal)
            continue
        for sentence in refusals:
            log.warning("%s is used instead: %s", pipeline.engine_id, sentence)
        return pipeline
    if not refusals:
        raise BackendError(f"No precision of {engine.name!r} passed the gate of {bundle.path}.")
    raise _all_of(refusals)


def _all_of(refusals: Sequence[BackendError]) -> BackendError:
    """One error of several. If one of them can pass, as a server that is away, it is one that can pass."""
    if len(refusals) == 1:
        return refusals[0]
    kind = EngineAway if any(isinstance(error, EngineAway) for error in refusals) else BackendError
    return kind(" ".join(map(str, refusals)))


def _tested(
    engine: Backend, bundle: Bundle, precision: str, golden: Golden, *, in_lanes: bool = False
) -> Pipeline:
    sessions: list[Session] = []
    with ExitStack() as refused:
        for spec in bundle.manifest.networks:
            session = engine.open(bundle.path, spec, precision, in_lanes=in_lanes)
            refused.callback(session.close)
            sessions.append(session)
        bundle.require_unchanged()
        require_known_answers(sessions, golden, bundle.manifest.thresholds.detection, precision)
        refused.pop_all()
    builds = "".join(session.build for session in sessions)
    build = f":{hashlib.sha256(builds.encode()).hexdigest()[:8]}" if builds else ""
    return Pipeline(bundle, f"{engine.name}:{precision}{build}", sessions)
