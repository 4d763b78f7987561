"""Downloading from a server that breaks off, ignores ranges, changes the file, lies, or is not there."""

import contextlib
import errno
import hashlib
import http.server
import io
import json
import resource
import subprocess
import sys
import tarfile
import threading
import zipfile
from dataclasses import dataclass, field

import pytest

from xtr.errors import UserError
from xtr.tasks.datasets import download as downloads
from xtr.tasks.datasets.distributions import Distribution, File
from xtr.tasks.datasets.download import download, records, state

CONTENT = bytes(range(256)) * 4096  # 1 MiB


@dataclass
class Site:
    """What a server has, how it misbehaves, and what it was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    breaks: list[int] = field(default_factory=list)  # bytes after which the next answers break off
    codes: list[int] = field(default_factory=list)  # statuses of the next answers
    ranges: bool = True
    etag: str = '"1"'
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def site():
    site = Site()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            site.asked.append((self.path, self.headers.get("Range")))
            self.close_connection = True
            if site.codes or self.path not in site.files:
                self.send_error(site.codes.pop(0) if site.codes else 404)
                return
            body, start = site.files[self.path], 0
            asked, condition = self.headers.get("Range"), self.headers.get("If-Range")
            if asked and site.ranges and condition in (None, site.etag):
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
                if start >= len(body):
                    self.send_error(416)
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            else:
                self.send_response(200)
            if site.etag:
                self.send_header("ETag", site.etag)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            rest = body[start:]
            with contextlib.suppress(ConnectionError):
                self.wfile.write(rest[: site.breaks.pop(0)] if site.breaks else rest)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield site
    server.shutdown()
    server.server_close()


def _file(content: bytes = CONTENT, path: str = "set/a.bin", **more) -> File:
    url = f"https://data.example.org/v1/{path.rpartition('/')[2]}"
    return File(url, path, len(content), hashlib.sha256(content).hexdigest(), **more)


def _set(*files: File, name: str = "set") -> list[Distribution]:
    return [Distribution(name, "free", files, (name,))]


def _get(site: Site, wanted, folder, pause=lambda seconds: None):
    return download(wanted, folder, mirror=site.url, pause=pause)


def _publish(site: Site, file: File, content: bytes) -> None:
    site.files["/data.example.org/v1/" + file.url.rpartition("/")[2]] = content


def test_a_file_is_brought_once_and_recorded(site, tmp_path):
    file = _file()
    _publish(site, file, CONTENT)
    assert state(file, tmp_path) == "missing"
    assert _get(site, _set(file), tmp_path / "new") == {"set": "downloaded"}
    assert (tmp_path / "new/set/a.bin").read_bytes() == CONTENT
    assert sorted(p.name for p in (tmp_path / "new/set").iterdir()) == ["a.bin"]
    (record,) = records(tmp_path / "new")
    assert record["found"]["sha256"] == file.sha256 and record["verified"]
    assert _get(site, _set(file), tmp_path / "new") == {"set": "there"}
    assert len(site.asked) == 1


def test_a_broken_connection_is_resumed_in_the_same_run(site, tmp_path):
    file = _file()
    _publish(site, file, CONTENT)
    site.breaks = [300_000, 200_000]
    waited = []
    _get(site, _set(file), tmp_path, waited.append)
    assert (tmp_path / "set/a.bin").read_bytes() == CONTENT
    assert [asked for _, asked in site.asked] == [None, "bytes=300000-", "bytes=500000-"]
    assert waited == [1.0, 1.0]  # bytes came each time


def test_a_part_left_by_a_killed_run_is_resumed(site, tmp_path):
    file = _file()
    _publish(site, file, CONTENT)
    site.breaks = [400_000]
    killed = RuntimeError("killed")

    def die(seconds):
        raise killed

    with pytest.raises(RuntimeError, match="killed"):
        _get(site, _set(file), tmp_path, die)
    assert (tmp_path / "set/a.bin.part").stat().st_size == 400_000 and state(file, tmp_path) == "broken off"
    assert not (tmp_path / "set/a.bin").exists()
    _get(site, _set(file), tmp_path)
    assert site.asked[-1][1] == "bytes=400000-"
    assert (tmp_path / "set/a.bin").read_bytes() == CONTENT


def test_a_server_that_ignores_ranges_sends_it_all_again(site, tmp_path):
    file = _file()
    _publish(site, file, CONTENT)
    site.breaks, site.ranges = [400_000], False
    _get(site, _set(file), tmp_path)
    assert len(site.asked) == 2 and (tmp_path / "set/a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("etag", ['"1"', ""])
def test_a_file_that_changed_meanwhile_is_not_glued_together(site, tmp_path, etag):
    other = bytes(reversed(CONTENT))
    # Nothing is published of this one, so that only the server's ETag can tell the two apart.
    file = File("https://data.example.org/v1/a.bin", "set/a.bin")
    _publish(site, file, CONTENT)
    site.breaks, site.etag = [400_000], etag

    def change(seconds):
        _publish(site, file, other)
        site.etag = '"2"' if etag else ""

    _get(site, _set(file), tmp_path, change)
    assert (tmp_path / "set/a.bin").read_bytes() == other
    assert not records(tmp_path)[0]["verified"]


def test_a_part_that_is_no_beginning_of_the_file_is_dropped(site, tmp_path):
    file = _file()
    _publish(site, file, CONTENT)
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a.bin.part").write_bytes(b"x" * (len(CONTENT) + 5))
    _get(site, _set(file), tmp_path)
    assert (tmp_path / "set/a.bin").read_bytes() == CONTENT
    # The same where nobody published the size: the server says that it has nothing there (416).
    unknown = File("https://data.example.org/v1/a.bin", "set/b.bin", sha256=file.sha256)
    (tmp_path / "set/b.bin.part").write_bytes(b"x" * (len(CONTENT) + 5))
    _get(site, _set(unknown), tmp_path)
    assert (tmp_path / "set/b.bin").read_bytes() == CONTENT


def test_a_wrong_checksum_is_named_and_nothing_is_unpacked(site, tmp_path):
    content = _zip({"top/a.txt": b"good"})
    file = _file(content, "a.zip", folder="a", top="top", holds="a/a.txt")
    _publish(site, file, content[:-1] + b"?")
    with pytest.raises(UserError) as e:
        _get(site, _set(file), tmp_path)
    assert "set: what http" in str(e.value) and f"published one's {file.sha256}" in str(e.value)
    assert (tmp_path / "a.zip.bad").exists() and not (tmp_path / "a").exists() and not (tmp_path / "a.zip").exists()
    _publish(site, file, content)
    assert _get(site, _set(file), tmp_path) == {"set": "downloaded"}
    assert (tmp_path / "a/a.txt").read_bytes() == b"good" and not (tmp_path / "a.zip").exists()


def test_what_is_there_but_not_as_published_is_left_alone(site, tmp_path):
    file = _file()
    _publish(site, file, CONTENT)
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a.bin").write_bytes(b"cut")
    assert state(file, tmp_path) == "differs"
    with pytest.raises(UserError, match="has 3 bytes, the published one 1,048,576.*move it away"):
        _get(site, _set(file), tmp_path)
    assert (tmp_path / "set/a.bin").read_bytes() == b"cut" and not site.asked


def test_line_ends_of_another_system_are_no_difference(site, tmp_path):
    text = "Tüdruk\r\nNaine\r\n".encode()
    (tmp_path / "set").mkdir()
    for published, here in ((text, text.replace(b"\r", b"")), (text.replace(b"\r", b""), text)):
        file = _file(published, "set/a.jsonl")
        (tmp_path / "set/a.jsonl").write_bytes(here)
        assert state(file, tmp_path) == "there" and _get(site, _set(file), tmp_path) == {"set": "there"}
        (tmp_path / "set/a.jsonl").write_bytes(here.replace(b"Naine", b"Maine"))
        assert state(file, tmp_path) == "differs"


def test_one_missing_file_does_not_keep_the_others_away(site, tmp_path):
    gone, there = _file(path="gone/a.bin"), _file(path="there/b.bin")
    _publish(site, there, CONTENT)
    with pytest.raises(UserError, match=r"gone: http.*: HTTP 404.*Complete: there\."):
        _get(site, _set(gone, name="gone") + _set(there, name="there"), tmp_path)
    assert (tmp_path / "there/b.bin").exists() and len(site.asked) == 2  # a 404 is not tried again


def test_a_busy_server_is_tried_again_with_growing_pauses(site, tmp_path):
    file = _file()
    _publish(site, file, CONTENT)
    site.codes, waited = [503, 429, 500], []
    _get(site, _set(file), tmp_path, waited.append)
    assert waited == [1.0, 2.0, 4.0]
    site.codes = [503] * 99
    with pytest.raises(UserError, match="HTTP 503"):
        _get(site, _set(_file(path="set/c.bin"), _file(path="set/d.bin")), tmp_path)
    assert len(site.codes) == 99 - 6


def test_without_a_network_there_is_one_message_soon(tmp_path):
    waited = []
    wanted = _set(_file(), _file(path="x/b.bin")) + _set(_file(path="y/c.bin"), name="other")
    with pytest.raises(UserError, match=r"set, other: 127\.0\.0\.1:9: .*refused.*The same command goes on"):
        download(wanted, tmp_path, mirror="http://127.0.0.1:9", pause=waited.append)
    assert waited == [1.0]  # once, and no more of that host


def test_a_full_disk_keeps_the_part(site, tmp_path, monkeypatch):
    file = _file()
    _publish(site, file, CONTENT)
    real = open

    class Full(io.FileIO):
        def write(self, data):
            if self.tell() + len(data) > 600_000:
                raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path))
            return super().write(data)

    def small(path, mode="r", *rest, **more):
        return Full(path, mode.replace("b", "")) if str(path).endswith(".part") else real(path, mode, *rest, **more)

    monkeypatch.setattr(downloads, "open", small, raising=False)
    with pytest.raises(UserError, match=r"no room left .*No space left.*make room and run the same command again"):
        _get(site, _set(file), tmp_path)
    assert 0 < (tmp_path / "set/a.bin.part").stat().st_size <= 600_000
    monkeypatch.undo()
    _get(site, _set(file), tmp_path)
    assert site.asked[-1][1] is not None and (tmp_path / "set/a.bin").read_bytes() == CONTENT


def test_a_limit_on_the_size_of_files_is_a_full_disk(site, tmp_path):
    # A process of its own: the limit would hold for all that this one writes.
    file = _file()
    _publish(site, file, CONTENT)
    code = f"""
import resource, sys
from pathlib import Path
from xtr.errors import UserError
from xtr.tasks.datasets.download import download
from xtr.tasks.datasets.distributions import Distribution, File
resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, {resource.getrlimit(resource.RLIMIT_FSIZE)[1]}))
file = {file!r}
try:
    download([Distribution("set", "free", (file,), ("set",))], Path({str(tmp_path)!r}), mirror={site.url!r})
except UserError as e:
    print(e)
    sys.exit(2)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "no room left" in done.stdout and "Traceback" not in done.stderr
    assert (tmp_path / "set/a.bin.part").stat().st_size == 700_000
    _get(site, _set(file), tmp_path)
    assert site.asked[-1][1] == "bytes=700000-" and (tmp_path / "set/a.bin").read_bytes() == CONTENT


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        download(_set(_file()), tmp_path / "file")


def test_two_downloads_into_one_folder_do_not_meet(site, tmp_path):
    with downloads._only_one(tmp_path), pytest.raises(UserError, match="Another `xtr data download`"):
        _get(site, _set(_file()), tmp_path)


def test_a_set_got_by_hand_says_how(tmp_path):
    by_hand = [Distribution("ccg", "licensed", (), ("ccg",), note="buy it")]
    assert download(by_hand, tmp_path) == {"ccg": "buy it"}


def test_an_archive_that_lies_there_is_unpacked_and_kept(site, tmp_path):
    content = _tar({"top/sub/a.txt": b"good", "top/b.txt": b"b"})
    file = _file(content, "a.tgz", folder="to/here", top="top", holds="to/here/b.txt")
    (tmp_path / "a.tgz").write_bytes(content)
    assert _get(site, _set(file), tmp_path) == {"set": "downloaded"}
    assert (tmp_path / "to/here/sub/a.txt").read_bytes() == b"good" and (tmp_path / "a.tgz").exists()
    assert not site.asked
    (record,) = records(tmp_path)
    digest = hashlib.sha256(b"good").hexdigest()
    assert record["unpacked"]["to/here/sub/a.txt"] == [4, digest]
    assert json.dumps(record)


def _zip(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return out.getvalue()


def _tar(members: dict[str, bytes], mode: str = "w:gz") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as packed:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
    return out.getvalue()
