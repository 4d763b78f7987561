"""SIGTERM as a question that running work asks: training saves and stops after its step, evaluation after its batch."""

import contextlib
import signal
import threading
from collections.abc import Iterator

_requested = threading.Event()


def requested() -> bool:
    """Whether the process was asked to stop."""
    return _requested.is_set()


@contextlib.contextmanager
def watch() -> Iterator[None]:
    """Takes SIGTERM as a request while inside. Enter it in the main thread, around work that asks `requested`."""
    previous = signal.signal(signal.SIGTERM, lambda number, frame: _requested.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
        _requested.clear()
