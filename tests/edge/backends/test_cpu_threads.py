"""Engines on the processor use no more threads than they are told."""

import pytest

from edge.backends.base import CPU_THREADS_VARIABLE, find_backend
from edge.bundle import Bundle
from edge.errors import BackendError


def threads_of(backend: str, bundle: Bundle) -> int:
    detector = bundle.detector
    session = find_backend(backend).open(bundle.path, detector, "f32")
    try:
        if backend == "onnxruntime":
            return session._session.get_session_options().intra_op_num_threads  # type: ignore[attr-defined]
        return session._compiled[1].get_property("INFERENCE_NUM_THREADS")  # type: ignore[attr-defined]
    finally:
        session.close()


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_an_engine_uses_as_many_threads_as_it_is_told(
    backend: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CPU_THREADS_VARIABLE, "1")
    assert threads_of(backend, bundle) == 1


def test_threads_that_are_told_are_not_pinned_to_the_core_of_another_process(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CPU_THREADS_VARIABLE, "1")
    detector = bundle.detector
    session = find_backend("openvino").open(bundle.path, detector, "f32")
    assert session._compiled[1].get_property("ENABLE_CPU_PINNING") is False  # type: ignore[attr-defined]
    session.close()


@pytest.mark.parametrize("text", ["0", "all", "-1"])
def test_what_is_no_number_of_threads_is_refused_with_a_cure(
    text: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CPU_THREADS_VARIABLE, text)
    with pytest.raises(BackendError, match=f"is '{text}'; set it to a number from 1, or unset it"):
        threads_of("openvino", bundle)
