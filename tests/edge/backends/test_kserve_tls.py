"""What a station says to a certificate. The server is a double that shakes hands and knows no model."""

import http.server
import os
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.bundle import Bundle

READER = Path(__file__).with_name("kserve_reader.py")
REPOSITORY = Path(__file__).parents[3]


class _NoModels(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(404)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Silence."""


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Key and certificate of localhost in one file, signed by itself."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl")
    path = tmp_path / "server.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
         "-keyout", path, "-out", tmp_path / "certificate.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_bytes(path.read_bytes() + (tmp_path / "certificate.pem").read_bytes())
    return path


@pytest.fixture
def port(certificate: Path) -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = http.server.HTTPServer(("127.0.0.1", 0), _NoModels)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def said(url: str, bundle: Bundle, **environment: str) -> str:
    """By a station that starts."""
    done = subprocess.run(
        [sys.executable, READER, url, bundle.path],
        env=os.environ | environment, cwd=REPOSITORY, stdin=subprocess.DEVNULL,
        capture_output=True, text=True,
    )  # fmt: skip
    return done.stderr.strip()


def test_a_certificate_that_nobody_vouches_for(bundle: Bundle, port: int) -> None:
    url = f"https://localhost:{port}"
    assert said(url, bundle).startswith(f"The certificate of {url} is not trusted (self-signed certificate);")


def test_a_certificate_that_the_machine_trusts(bundle: Bundle, port: int, certificate: Path) -> None:
    log = said(f"https://localhost:{port}", bundle, SSL_CERT_FILE=str(certificate))
    assert "has no model 'detector'" in log


def test_a_certificate_of_another_host(bundle: Bundle, port: int, certificate: Path) -> None:
    log = said(f"https://127.0.0.1:{port}", bundle, SSL_CERT_FILE=str(certificate))
    assert "is not trusted (IP address mismatch, certificate is not valid for '127.0.0.1'.)" in log
