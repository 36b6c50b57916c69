"""SIGTERM and SIGINT become a call, at once, whatever the main thread is doing; or an exit that cleans up."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_STOPPING = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def told_to_stop(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` when SIGTERM or SIGINT arrives; it may be called twice, and from another thread.

    Python runs the handler of a signal between two bytecodes of the main thread. When the signal arrives just
    before that thread begins to wait, or is given to another thread, that is when the wait is over. But its
    number is written to the wake-up pipe at once, where a thread reads it.

    Outside the main thread, which alone may handle signals, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        stop()

    def listen() -> None:
        while number := os.read(reading, 1):
            if number[0] in _STOPPING:
                stop()

    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    listener = threading.Thread(target=listen, name="signals")
    listener.start()
    old_pipe = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    old = {number: signal.signal(number, handle) for number in _STOPPING}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(old_pipe)
        os.close(writing)
        listener.join()
        os.close(reading)


@contextlib.contextmanager
def ended_by_exit() -> Iterator[None]:
    """SIGTERM and SIGHUP end the process as `sys.exit` does meanwhile: what was begun is closed and removed.

    By themselves they end it at once, and its children and temporary folders stay. One that is ignored
    (nohup) or has its handler keeps that. After the first all are ignored. Outside the main thread this does
    nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        for other in taken:  # who ends a session sends both, the second into the middle of the cleaning
            signal.signal(other, signal.SIG_IGN)
        sys.exit(128 + number)

    ending = (signal.SIGTERM, signal.SIGHUP)
    taken = [number for number in ending if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
