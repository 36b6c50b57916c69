"""A server that may be away for a while: who asks it waits, and asks again."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from edge.backends.kserve_models import SERVE
from edge.errors import BackendError, EngineAway

log = logging.getLogger(__name__)

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 1.0

_T = TypeVar("_T")


class NotAnswering(Exception):
    """The server is away, starting or stopping: asking again later can help."""


class Refused(Exception):
    """The server has answered that it will not.

    Attributes:
        is_unknown: because it has no such model, or no such extension of the protocol.
    """

    def __init__(self, message: str, is_unknown: bool) -> None:
        super().__init__(message)
        self.is_unknown = is_unknown


class Connection(Protocol):
    """What is asked of a server; all raise `NotAnswering` and `Refused`."""

    def server(self) -> Mapping[str, Any]:
        """The server's metadata; it is ready."""

    def model(self, name: str) -> Mapping[str, Any]:
        """A model's metadata, and its configuration under "config", which may be empty; it is ready."""

    def infer(
        self, model: str, name: str, batch: NDArray[np.uint8], outputs: Sequence[str]
    ) -> Mapping[str, NDArray[Any]]:
        """Outputs by name of a model whose input has the name `name`."""

    def close(self) -> None:
        """Hang up."""


class Server:
    """A connection, and the patience with what is behind it.

    Args:
        url: for people.
        connection: to it.
        clock: monotonic seconds.
        pause: sleeps for some seconds.

    Attributes:
        away_s: when it was last found away, by the clock.
    """

    def __init__(
        self,
        url: str,
        connection: Connection,
        clock: Callable[[], float],
        pause: Callable[[float], None],
    ) -> None:
        self.url = url
        self.connection = connection
        self.clock = clock
        self._pause = pause
        self.away_s = float("-inf")

    def ask(self, question: Callable[[], _T], patience_s: float) -> _T:
        """The answer to a question, which is asked again while the server is away.

        Raises:
            EngineAway: there was none for `patience_s`.
            BackendError: the server refused, or says what is not understood.
        """
        began_s, pause_s = self.clock(), _FIRST_PAUSE_S
        while True:
            try:
                answer = question()
            except NotAnswering as error:
                self.away_s = self.clock()
                waited_s = self.away_s - began_s
                if waited_s >= patience_s:
                    raise EngineAway(
                        f"The server at {self.url} has not answered for {waited_s:.0f} s ({error}); "
                        "start it, or correct server_url."
                    ) from error
                if pause_s == _FIRST_PAUSE_S:
                    text = "The server at %s does not answer (%s); it is asked again for %.0f s."
                    log.error(text, self.url, error, patience_s)
                self._pause(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            except Refused as error:
                raise BackendError(
                    f"The server at {self.url} refuses ({error}); look into its log, and {SERVE}."
                ) from error
            except (AttributeError, LookupError, TypeError, ValueError) as error:  # JSON, but of another kind
                said = f"{type(error).__name__}: {error}"
                raise BackendError(
                    f"The answer of the server at {self.url} is not understood ({said}); correct server_url, "
                    f"or {SERVE}."
                ) from error
            else:
                if pause_s > _FIRST_PAUSE_S:
                    log.warning("The server at %s answers again.", self.url)
                return answer

    def model(self, name: str) -> Mapping[str, Any]:
        """A model's metadata and configuration.

        Raises:
            NotAnswering, Refused: as `Connection` does.
            BackendError: the server has no such model.
        """
        try:
            return self.connection.model(name)
        except Refused as error:
            if not error.is_unknown:
                raise
            raise BackendError(
                f"The server at {self.url} has no model {name!r} ({error}); {SERVE}."
            ) from error
