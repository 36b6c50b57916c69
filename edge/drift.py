"""Whether most recent images are unlike the training images: a stain or a camera that has changed."""

from collections import Counter, deque

from edge.cells import Unlikeness

_RECENT = 50
_BEGINS, _ENDS = 20, 10
"""Marked ones among the recent: a run begins with so many, and ends with fewer than that. Between the two
nothing is said again."""


class Drift:
    """Follows the images of a station.

    Attributes:
        is_on: whether a run of unlike images goes on.
    """

    def __init__(self) -> None:
        self._recent: deque[Unlikeness] = deque(maxlen=_RECENT)
        self.is_on = False

    def note(self, found: Unlikeness) -> bool:
        """Count one more image that was compared; whether a run begins or ends with it."""
        self._recent.append(found)
        marked = sum(one.is_marked for one in self._recent)
        was_on, self.is_on = self.is_on, marked >= (_ENDS if self.is_on else _BEGINS)
        return was_on != self.is_on

    def __str__(self) -> str:
        """How many of the recent images are marked, and the words that come most often."""
        marked = [one.because for one in self._recent if one.is_marked]
        words = Counter(word for because in marked for word in because.split(", "))
        most = f" (mostly: {words.most_common(1)[0][0]})" if words else ""
        return f"{len(marked)} of the last {len(self._recent)} images are unlike the training images{most}"
