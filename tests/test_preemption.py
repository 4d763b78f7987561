"""SIGTERM and a machine's notices are requests to stop."""

import http.server
import os
import signal
import threading
import time

import pytest

from xtr import preemption


@pytest.fixture
def metadata(monkeypatch):
    """A metadata server on this machine; a dict of what it says."""
    said = {"preempted": "FALSE", "maintenance-event": "NONE"}
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            assert self.headers["Metadata-Flavor"] == "Google"
            name = self.path.removeprefix("/computeMetadata/v1/instance/")
            asked.append(name)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(said[name].encode())

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{server.server_port}")
    monkeypatch.setattr(preemption, "POLL_SECONDS", 0.01)
    yield said, asked
    server.shutdown()
    server.server_close()


def until(condition):
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


def test_sigterm_is_a_request_while_inside():
    before = signal.getsignal(signal.SIGTERM)
    with preemption.watch():
        assert not preemption.requested()
        os.kill(os.getpid(), signal.SIGTERM)
        assert until(preemption.requested)
    assert not preemption.requested() and signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("name", "value"), [("preempted", "TRUE"), ("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE")]
)
def test_a_notice_that_appears_is_a_request(metadata, name, value, capsys):
    said, asked = metadata
    with preemption.watch():
        assert until(lambda: asked.count(name) > 1) and not preemption.requested()
        said[name] = value
        assert until(preemption.requested)
    assert f"about to end ({name}: {value})" in capsys.readouterr().err


def test_migrations_and_notices_of_an_earlier_start_are_none(metadata):
    said, asked = metadata
    said["maintenance-event"] = "TERMINATE_ON_HOST_MAINTENANCE"
    with preemption.watch():
        assert until(lambda: asked.count("maintenance-event") > 3)
        said["maintenance-event"] = "MIGRATE_ON_HOST_MAINTENANCE"
        assert until(lambda: asked.count("maintenance-event") > 6)
        assert not preemption.requested()


def test_a_server_that_does_not_answer_is_no_request(monkeypatch):
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:9")
    monkeypatch.setattr(preemption, "POLL_SECONDS", 0.01)
    with preemption.watch():
        time.sleep(0.1)
        assert not preemption.requested()
