"""The KServe v2 protocol over HTTP, through NVIDIA's client: questions to a server, and what may go wrong.

Nothing but the given address is opened: redirections are not followed and proxies of the environment are
not used.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import gevent.ssl
import numpy as np
import tritonclient.http as triton
from geventhttpclient.response import HTTPParseError
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from edge.backends.kserve_server import NotAnswering, Refused
from edge.errors import BackendError

_CONNECTION_TIMEOUT_S = 3.0
ANSWER_TIMEOUT_S = 5.0
"""A server that is silent for so long is taken for one that is away."""
_LOOPBACK = ("127.0.0.1", "::1", "localhost")

_T = TypeVar("_T")


class Address(NamedTuple):
    """A server's URL, checked."""

    url: str
    host: str
    port: int
    is_encrypted: bool

    @classmethod
    def parse(cls, url: str) -> "Address":
        """From "http://host:port" or "https://host:port".

        Raises:
            BackendError: it is something else.
        """
        try:
            parts = urlsplit(url)
            port = parts.port or 8000
        except ValueError:
            parts, port = urlsplit(""), 0
        plain = not (parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc)
        if parts.scheme not in ("http", "https") or not parts.hostname or not plain:
            raise BackendError(
                f"The server's address is {url!r}, but must be like 'http://127.0.0.1:8000' or "
                "'https://host:8000', without user or path; correct server_url."
            )
        return cls(url.rstrip("/"), parts.hostname, port, parts.scheme == "https")

    @property
    def is_exposed(self) -> bool:
        """Whether images leave the machine unencrypted."""
        return not self.is_encrypted and self.host not in _LOOPBACK


class HttpConnection:
    """One connection to a server, kept open. Use it from one thread."""

    def __init__(self, address: Address) -> None:
        self.address = address
        host = f"[{address.host}]" if ":" in address.host else address.host
        self._client = triton.InferenceServerClient(
            f"{host}:{address.port}",
            connection_timeout=_CONNECTION_TIMEOUT_S,
            network_timeout=ANSWER_TIMEOUT_S,
            ssl=address.is_encrypted,
            ssl_context_factory=_trusting_as_the_system_does if address.is_encrypted else None,
        )

    def server(self) -> dict[str, Any]:
        """The server's metadata.

        Raises:
            NotAnswering: it is away, or not ready.
            Refused: it is no KServe v2 server.
        """
        if not self._call(self._client.is_server_ready):
            raise NotAnswering("it is not ready")
        about: dict[str, Any] = self._call(self._client.get_server_metadata)
        return about

    def model(self, name: str) -> dict[str, Any]:
        """A model's metadata, and under "config" its configuration where the server has this extension.

        Raises:
            NotAnswering: the model is not ready.
            Refused: there is none of this name.
        """
        metadata: dict[str, Any] = self._call(lambda: self._client.get_model_metadata(name))
        if not self._call(lambda: self._client.is_model_ready(name)):
            raise NotAnswering(f"its model {name!r} is not ready")
        try:
            config = self._call(lambda: self._client.get_model_config(name))
        except Refused:
            config = {}
        return metadata | {"config": config}

    def infer(
        self, model: str, name: str, batch: NDArray[np.uint8], outputs: Sequence[str]
    ) -> dict[str, NDArray[Any]]:
        """Run a model.

        Args:
            model: its name.
            name: of its input.
            batch: uint8, any shape that the model takes.
            outputs: names of those that are wanted.

        Raises:
            NotAnswering: the server or the model went away.
            Refused: the request is not taken.
        """
        tensor = triton.InferInput(name, list(batch.shape), "UINT8")
        tensor.set_data_from_numpy(batch, binary_data=True)
        wanted = [triton.InferRequestedOutput(output, binary_data=True) for output in outputs]

        def answers() -> dict[str, NDArray[Any]]:
            answer = self._client.infer(model, [tensor], outputs=wanted)
            found = {output: answer.as_numpy(output) for output in outputs}
            if missing := [output for output, values in found.items() if values is None]:
                raise Refused(f"it gave no {' or '.join(missing)}", is_unknown=False)
            return found

        try:
            return self._call(answers)
        except Refused as refusal:
            # While it stops, Triton refuses work with the codes of a faulty request.
            if not self._call(lambda: self._client.is_model_ready(model)):
                raise NotAnswering(str(refusal)) from refusal
            raise

    def close(self) -> None:
        """Hang up."""
        self._client.close()

    def _call(self, question: Callable[[], _T]) -> _T:
        try:
            return question()
        except Refused:
            raise
        except gevent.ssl.SSLCertVerificationError as error:
            raise BackendError(
                f"The certificate of {self.address.url} is not trusted ({error.verify_message}); install the "
                "authority that signed it on this machine, or name its file in SSL_CERT_FILE."
            ) from error
        except (OSError, HTTPParseError) as error:
            raise NotAnswering(_line(error)) from error
        except InferenceServerException as error:
            status, message = error.status() or "", " ".join((error.message() or "").split())
            if status.startswith("5") or status == "429":
                raise NotAnswering(message) from error
            raise Refused(message, is_unknown=status == "404") from error
        except Exception as error:  # an answer that is no JSON, or no tensor, in whatever way
            raise Refused(f"its answer is not understood: {_line(error)}", is_unknown=False) from error


def _trusting_as_the_system_does(cafile: str | None = None) -> Any:
    """Trust what the machine trusts: the client's own list knows no authority of a hospital."""
    del cafile
    return gevent.ssl.create_default_context()


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
