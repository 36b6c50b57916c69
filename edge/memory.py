"""How the C library keeps the memory of a process that runs for months."""

import ctypes

_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 2 << 20


def keep_memory_flat() -> None:
    """Let freed pieces of 2 MiB and more go back to the system at once.

    By default glibc raises this limit with every large piece that is freed (mallopt(3)), up to 32 MiB, and
    what is freed below it stays, in holes between what lives: a few percent more of memory over a day.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):  # other C libraries have none, and no such rule
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
