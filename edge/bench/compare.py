"""Two measurements, before and after: what got slower and by how much, and whether they may be compared."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge.bench.estimates import Estimate, has_upper_end, ratio_of_medians
from edge.bench.offered import Offered
from edge.bench.report import TOTAL, BenchReport, EngineFigures

SLOWER_EXIT_CODE = 3
"""Of `edge-bench --compare FILE --limit RATIO` when it got slower than that."""

NO_DIFFERENCE = 0.02
"""As much lies between two runs of the same software."""

_BACKLOG = "backlog, of an image"
_LIMITED = {TOTAL: "The median image", _BACKLOG: "An image of the backlog"}
"""What a limit is of, and how it is called."""
_BUSY_CORES = 0.2
_FEW_IMAGES = 50
_LEAST_VALUES = 3
"""On each side, for an interval. Where both sides are alike, that of three values each leaves 1 out in a
tenth of cases, and that of two in a third (simulated)."""
_MOST_SHARE = 0.9
"""Of the backlog's rate, for the p99 under load. Nearer to what can be done it hangs on how exactly that was
measured: at 95 %, half of sides that are alike would be called slower or faster (simulated)."""


@dataclass(frozen=True, slots=True)
class Change:
    """One figure before and after.

    Attributes:
        before, after: medians.
        ratio: after by before, above 1 is slower or more; for images a second that of the time of one.
        has_interval: False: a side has too few values for one, and the ratio's ends are the ratio.
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

        A difference of less than `NO_DIFFERENCE` is none.
        """
        if not self.has_interval:
            return ""
        if self.ratio.low > 1 + NO_DIFFERENCE:
            return "slower"
        return "faster" if self.ratio.high < 1 - NO_DIFFERENCE else "not told apart"


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
            if change.what in _LIMITED and change.has_interval and change.ratio.low > limit:
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
    if before.waiting != after.waiting:  # so many were read at once, too
        return
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
    was = {one.share: one for one in before.load}
    for one in after.load:
        if one.share in was and one.share < _MOST_SHARE:
            yield _p99(f"p99 at {one.share:.0%} of its backlog", was[one.share], one)


def _backlog_ms(engine: EngineFigures) -> list[float]:
    return [1000 / rate for rate in engine.backlog_per_s]


def _times(what: str, before: Sequence[float], after: Sequence[float], unit: str = "ms") -> Change:
    medians = (float(np.median(before)), float(np.median(after)))
    if min(len(before), len(after)) < _LEAST_VALUES:
        return _single(what, unit, *medians)
    return Change(what, unit, *medians, ratio_of_medians(after, before))


def _p99(what: str, before: Offered, after: Offered) -> Change:
    """The widest ratio that both intervals allow, where both have ends."""
    old, new = before.p99_ms, after.p99_ms
    if not has_upper_end(99, min(before.images, after.images)):
        return _single(what, "ms", old.value, new.value)
    ratio = Estimate(new.value / old.value, new.low / old.high, new.high / old.low)
    return Change(what, "ms", old.value, new.value, ratio)


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
            f"{after.waiting}: the backlog is not compared, nor held to --limit, nor are load, memory and "
            f"energy; give --waiting {before.waiting}."
        )
    elif (rounds := min(len(one.first.backlog_per_s) for one in (before, after))) < _LEAST_VALUES:
        yield (
            f"One side has {rounds} rounds of the backlog, too few to hold it to --limit; give --rounds "
            f"{_LEAST_VALUES} or more on both."
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
        ("disk", "The file system that was written to"),
    ):
        if key in before:  # not all versions told all
            yield what, before[key], after.get(key)
    old, new = before.get("packages", {}), after.get("packages", {})
    for package in sorted({*old, *new}):
        yield f"The version of {package}", old.get(package, "none"), new.get(package, "none")
