"""Two measurements, before and after: what got slower and by how much, and whether they may be compared."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge.bench.estimates import Estimate, ratio_of_medians
from edge.bench.report import TOTAL, BenchReport, EngineFigures

SLOWER_EXIT_CODE = 3
"""Of `edge-bench --compare FILE --limit RATIO` when it got slower than that."""

_BACKLOG = "backlog, of an image"
_LIMITED = {TOTAL: "The median image", _BACKLOG: "An image of the backlog"}
"""What a limit is of, and how it is called."""
_NO_DIFFERENCE = 0.02
_BUSY_CORES = 0.2
_FEW_IMAGES = 50


@dataclass(frozen=True, slots=True)
class Change:
    """One figure before and after.

    Attributes:
        before, after: medians.
        ratio: after by before, above 1 is slower or more; for images a second that of the time of one.
        has_interval: False: there is one value on each side, and the ratio's ends are the ratio.
    """

    what: str
    unit: str
    before: float
    after: float
    ratio: Estimate
    has_interval: bool = True

    @property
    def verdict(self) -> str:
        """ "slower", "faster", "not told apart", or "" where no interval tells.

        A difference of less than 2 % is none: as much lies between two runs of the same software.
        """
        if not self.has_interval:
            return ""
        if self.ratio.low > 1 + _NO_DIFFERENCE:
            return "slower"
        return "faster" if self.ratio.high < 1 - _NO_DIFFERENCE else "not told apart"


@dataclass(frozen=True, slots=True)
class Comparison:
    """After against before.

    Attributes:
        before: the name of its file.
        taken_at: when that was measured.
        changes: of the first engine's total, its stages, phases and load, and the other engines' totals.
        warnings: what else differs, a sentence each.
    """

    before: str
    taken_at: str
    changes: tuple[Change, ...]
    warnings: tuple[str, ...]

    @property
    def total(self) -> Change:
        return self.changes[0]

    def refusal(self, limit: float) -> str | None:
        """That it got slower than the limit, in a sentence; None if that is not sure.

        The rule: the whole interval of the ratio lies above the limit, of the total or of the backlog.
        """
        for change in self.changes:
            if change.what in _LIMITED and change.ratio.low > limit:
                return (
                    f"{_LIMITED[change.what]} takes {change.after:.2f} ms and took {change.before:.2f} ms in "
                    f"{self.before}, {change.ratio} times as long where {limit:g} is allowed; look at the "
                    "stages for where."
                )
        return None


def compare(before: BenchReport, after: BenchReport, name: str) -> Comparison:
    """Hold a measurement against an earlier one, whose file has this name."""
    return Comparison(
        name, before.taken_at, tuple(_changes(before, after)), tuple(_warnings(before, after, name))
    )


def _changes(before: BenchReport, after: BenchReport) -> Iterator[Change]:
    old, new = before.first, after.first
    yield _times(TOTAL, old.times_ms[TOTAL], new.times_ms[TOTAL])
    for stage in new.times_ms:
        if stage != TOTAL and stage in old.times_ms:
            # An image without a cell does not come to all stages.
            was, now = ([ms for ms in one.times_ms[stage] if ms > 0] for one in (old, new))
            if was and now:
                yield _times(stage, was, now)
    yield from _phases(before, after)
    known = {one.name: one for one in before.engines[1:]}
    for engine in after.engines[1:]:
        if engine.name in known:
            yield _times(
                f"total on {engine.name}", known[engine.name].times_ms[TOTAL], engine.times_ms[TOTAL]
            )


def _phases(before: BenchReport, after: BenchReport) -> Iterator[Change]:
    yield _times("warm image", before.first.warm_ms, after.first.warm_ms)
    if before.cold and after.cold:
        yield _times("cold start", before.cold.ready_s, after.cold.ready_s, "s")
        yield _times("first image after it", before.cold.first_ms, after.cold.first_ms)
    if before.idle and after.idle and before.idle.pause_s == after.idle.pause_s:
        yield _times(f"after a pause of {after.idle.pause_s:g} s", before.idle.ms, after.idle.ms)
    if before.waiting == after.waiting:
        yield _times(_BACKLOG, _backlog_ms(before.first), _backlog_ms(after.first))
    yield from _load(before, after)
    if before.cold and after.cold:
        yield _single("memory, most", "MB", before.cold.peak_mb, after.cold.peak_mb)
    for meter, joules in after.energy.joules_an_image.items():
        if (was := before.energy.joules_an_image.get(meter)) is not None and was > 0:
            yield _single(f"energy of an image, {meter}", "J", was, joules)


def _load(before: BenchReport, after: BenchReport) -> Iterator[Change]:
    """The most that was answered, and the p99 at the same shares of each one's own backlog that it can do."""
    if not (before.load and after.load):
        return
    if (before.arrivals, before.waiting) != (after.arrivals, after.waiting):
        return
    old, new = (max(one.answered_per_s for one in report.load) for report in (before, after))
    yield _single("most images that arrive, of an image", "ms", 1000 / old, 1000 / new)
    was = {one.share: one.p99_ms for one in before.load}
    for one in after.load:
        if one.share in was and one.share < 1:  # beyond, it grows with the time for which images come
            yield _of_estimates(f"p99 at {one.share:.0%} of its backlog", was[one.share], one.p99_ms)


def _backlog_ms(engine: EngineFigures) -> list[float]:
    return [1000 / rate for rate in engine.backlog_per_s]


def _times(what: str, before: Sequence[float], after: Sequence[float], unit: str = "ms") -> Change:
    medians = (float(np.median(before)), float(np.median(after)))
    return Change(what, unit, *medians, ratio_of_medians(after, before))


def _of_estimates(what: str, before: Estimate, after: Estimate) -> Change:
    """The widest that both intervals allow."""
    ratio = Estimate(after.value / before.value, after.low / before.high, after.high / before.low)
    return Change(what, "ms", before.value, after.value, ratio)


def _single(what: str, unit: str, before: float, after: float) -> Change:
    ratio = after / before
    return Change(what, unit, before, after, Estimate(ratio, ratio, ratio), has_interval=False)


def _warnings(before: BenchReport, after: BenchReport, name: str) -> Iterator[str]:
    sides = (
        ("The engine", before.first.engine, after.first.engine),
        ("The bundle", before.first.bundle, after.first.bundle),
        ("The governor", before.conditions.governor, after.conditions.governor),
        *_of_machine(before.machine, after.machine),
    )
    if before.input_sha256 != after.input_sha256:
        yield (
            f"The images were others ({before.input} in {name}, now {after.input}): "
            "what differs may be theirs; measure both with the same."
        )
    for what, old, new in sides:
        if old != new:
            yield f"{what} was {old} in {name}, and now is {new}."
    if before.waiting != after.waiting:
        yield (
            f"{before.waiting} images waited in a round of the backlog in {name}, and now "
            f"{after.waiting}: the backlog is not compared, nor held to --limit; give --waiting "
            f"{before.waiting}."
        )
    if before.load and after.load and before.arrivals != after.arrivals:
        yield (
            f"Images arrived {before.arrivals} in {name}, and now {after.arrivals}: load is not compared; "
            f"give --arrivals {before.arrivals}."
        )
    if (one := len(before.engines) > 1) != (len(after.engines) > 1):
        several, alone = (name, "this one") if one else ("this one", name)
        yield (
            f"Several engines took turns in {several} and one was alone in {alone}, which makes it faster "
            "or slower by itself; give --engine as often."
        )
    for report, when in ((before, f"in {name}"), (after, "now")):
        if report.conditions.others_cores > _BUSY_CORES:
            yield (
                f"Other processes kept {report.conditions.others_cores:.1f} cores busy {when}; repeat it on "
                "a quiet machine before you believe a difference."
            )
    if (least := min(before.first.images, after.first.images)) < _FEW_IMAGES:
        yield f"One side timed {least} images only; {_FEW_IMAGES} and more tell small differences."


def _of_machine(before: dict[str, Any], after: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for key, what in (
        ("processor", "The processor"),
        ("cores", "The number of cores"),
        ("system", "The system"),
        ("python", "The version of Python"),
    ):
        yield what, before.get(key), after.get(key)
    old, new = before.get("packages", {}), after.get("packages", {})
    for package in sorted({*old, *new}):
        yield f"The version of {package}", old.get(package, "none"), new.get(package, "none")
