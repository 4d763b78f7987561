"""A request to stop, as a question that running work asks: training saves and stops after its step, evaluation after
its batch, the cache writer between shards.

The request is SIGTERM, or on Google Cloud the machine's own notice that it is about to be taken away. Not every end has
one: what is saved now and then is the guarantee.
"""

import contextlib
import os
import signal
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

POLL_SECONDS = 2.0  # a machine that is preempted has 30 seconds
# What the metadata server says of a machine that is about to end. A live migration is no end.
# Source: cloud.google.com/compute/docs/metadata/getting-live-migration-notice
NOTICES = {"preempted": ("TRUE",), "maintenance-event": ("TERMINATE_ON_HOST_MAINTENANCE",)}
_HOST = "GCE_METADATA_HOST"  # as Google's own libraries call it
_PRODUCT = Path("/sys/class/dmi/id/product_name")

_requested, _heard = threading.Event(), threading.Event()


def requested() -> bool:
    """Whether this process was asked to stop."""
    return _requested.is_set()


def wait(seconds: float) -> bool:
    """Waits so long, or until this process is asked to stop: whether it was."""
    return _requested.wait(seconds)


def hear() -> None:
    """Says that another process of the run was asked to stop."""
    _heard.set()


def requested_anywhere() -> bool:
    """Whether this process was asked to stop, or has heard that another one was. Waits for nobody."""
    return _requested.is_set() or _heard.is_set()


@contextlib.contextmanager
def watch() -> Iterator[None]:
    """Takes SIGTERM and the machine's notices as a request while inside. Enter it in the main thread, around work that
    asks `requested`."""
    previous = signal.signal(signal.SIGTERM, lambda number, frame: _requested.set())
    left = threading.Event()
    if host := _metadata_host():
        threading.Thread(target=_follow, args=(host, left), name="xtr-notices", daemon=True).start()
    try:
        yield
    finally:
        left.set()
        signal.signal(signal.SIGTERM, previous)
        _requested.clear()
        _heard.clear()


def _metadata_host() -> str | None:
    """The address of the machine's metadata server; None where it is no machine of Google Cloud."""
    if host := os.environ.get(_HOST):
        return host
    with contextlib.suppress(OSError):
        if _PRODUCT.read_text().strip() == "Google Compute Engine":
            return "metadata.google.internal"
    return None


def _follow(host: str, left: threading.Event) -> None:
    """Turns a notice that appears into a request. One that was there already is of an earlier start: a run that begins
    again while maintenance is still announced would never come to anything."""
    before: dict[str, str | None] = {}
    while not left.is_set():
        for name, ends in NOTICES.items():
            value = _value(host, name)
            if value in ends and name in before and before[name] not in ends and not left.is_set():
                print(f"xtr: this machine is about to end ({name}: {value})", file=sys.stderr, flush=True)
                _requested.set()
            if value is not None:
                before[name] = value
        left.wait(POLL_SECONDS)


def _value(host: str, name: str) -> str | None:
    request = urllib.request.Request(
        f"http://{host}/computeMetadata/v1/instance/{name}", headers={"Metadata-Flavor": "Google"}
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.read().decode().strip()
    except OSError:  # the next question may be answered
        return None
