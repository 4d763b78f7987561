"""The official files at hand: what verify says of them, and a download of those that are as published."""

import functools
import http.server
import shutil
import threading
import urllib.parse
from collections import defaultdict

import pytest

from xtr.tasks.datasets.archives import sources
from xtr.tasks.datasets.distributions import DISTRIBUTIONS, Distribution
from xtr.tasks.datasets.download import download, records, state
from xtr.tasks.datasets.published import PUBLISHED
from xtr.tasks.datasets.verify import verify


@pytest.fixture(scope="module")
def verdicts(data_dir, tmp_path_factory):
    return verify([], sources(data_dir, tmp_path_factory.mktemp("cache")))


@pytest.fixture
def tatoeba(data_dir):
    """A language of Tatoeba whose two files are there."""
    (path, *_) = sorted((data_dir / "tatoeba/v1").glob("tatoeba.*-eng.eng"))
    return path.name.split(".")[1].removesuffix("-eng")


def test_everything_is_readable_and_judged(verdicts):
    assert not [v for v in verdicts if v.verdict == "unreadable"]
    for v in verdicts:
        if v.rows is None:
            assert v.verdict in ("missing", "altered") and v.why
        else:
            assert v.rows == v.examples + sum(v.dropped.values())
        if any(count.of == "gold" for count in PUBLISHED.get(v.dataset, {}).get(v.split, ())):
            continue
        if v.verdict == "complete" and v.published:
            assert v.published in (v.rows, v.examples)
        if v.verdict == "truncated":
            assert v.why and min(v.rows, v.examples) < v.published


def test_files_with_the_published_checksum_are_never_called_damaged(data_dir, verdicts):
    table = [file for distribution in DISTRIBUTIONS for file in distribution.files if not file.folder]
    intact = {str(data_dir / file.path) for file in table if state(file, data_dir) == "there"}
    cut = {str(data_dir / file.path) for file in table if state(file, data_dir) == "differs"}
    assert intact, "no official file is as published: the checksums cannot be right"
    judged = defaultdict(set)
    for v in verdicts:
        for path in v.files:
            judged[path].add(v.verdict)
    assert {path for path in intact if judged[path] - {"complete"}} == set()
    assert {path for path in cut if "complete" in judged[path]} == set()


def test_a_changed_and_a_shortened_copy_are_told(data_dir, tmp_path, tatoeba):
    for side in (tatoeba, "eng"):
        source = data_dir / f"tatoeba/v1/tatoeba.{tatoeba}-eng.{side}"
        (tmp_path / "data/tatoeba/v1").mkdir(parents=True, exist_ok=True)
        shutil.copy(source, tmp_path / "data/tatoeba/v1")

    def judge():
        found = verify(["tatoeba"], sources(tmp_path / "data", tmp_path / "cache"))
        return {v.verdict for v in found if v.rows is not None}

    path = tmp_path / f"data/tatoeba/v1/tatoeba.{tatoeba}-eng.eng"
    assert judge() == {"complete"}
    whole = path.read_bytes()
    path.write_bytes(b"x" + whole[1:])
    assert judge() == {"altered"}
    for side in (tatoeba, "eng"):
        path = tmp_path / f"data/tatoeba/v1/tatoeba.{tatoeba}-eng.{side}"
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    assert judge() == {"truncated"}


def test_official_files_are_downloaded_and_checked(data_dir, tmp_path):
    """The published checksums, sizes and paths, tried on real files that a local server has at their own addresses."""
    wanted = []
    for distribution in DISTRIBUTIONS:
        here = [file for file in distribution.files if not file.folder and state(file, data_dir) == "there"][:6]
        for file in here:
            address = urllib.parse.urlsplit(file.url)
            place = tmp_path / "www" / address.netloc / address.path.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            here_now = (data_dir / file.path).read_bytes()
            # The copy at hand may have other line ends (XCOPA's).
            crlf = here_now.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
            place.write_bytes(crlf if len(here_now) != file.size else here_now)
        if here:
            wanted.append(Distribution(distribution.name, distribution.licence, tuple(here), distribution.tasks))

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Handler, directory=str(tmp_path / "www"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        done = download(wanted, tmp_path / "data", mirror=f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
    assert set(done.values()) == {"downloaded"}
    assert all(record["verified"] for record in records(tmp_path / "data"))
    found = verify([d.name for d in wanted], sources(tmp_path / "data", tmp_path / "cache"))
    assert {v.verdict for v in found if v.rows is not None} <= {"complete", "no published count"}
