"""A study's TensorBoard directory, read by a real TensorBoard server over HTTP."""

import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest

from xtr.errors import DataError
from xtr.study import transfer
from xtr.study.export import export_tensorboard

# TensorBoard asks for this module to learn that it should do without TensorFlow, whose import takes many seconds.
START = (
    "import sys, types; sys.modules['tensorboard.compat.notf'] = types.ModuleType('notf')\n"
    "from tensorboard.main import run_main; run_main()"
)


class Board:
    """A TensorBoard server on this machine."""

    def __init__(self, logdir, log):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        options = ["--logdir", str(logdir), "--host", "127.0.0.1", "--port", str(port), "--load_fast", "false"]
        self.base, self.log = f"http://127.0.0.1:{port}/data/plugin", log
        with open(log, "w") as out:
            self.process = subprocess.Popen([sys.executable, "-c", START, *options], stdout=out, stderr=out)

    def raw(self, path, body=None, **query):
        data = None if body is None else json.dumps(body).encode()
        url = f"{self.base}/{path}" + ("?" + urllib.parse.urlencode(query) if query else "")
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=5) as response:
            return response.read()

    def ask(self, path, body=None, **query):
        return json.loads(self.raw(path, body, **query))

    def wait_for_runs(self, count):
        deadline = time.monotonic() + 60
        tags = {}
        while len(tags) < count:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, f"{sorted(tags)} after 60 s; log: {self.log.read_text()}"
            with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):  # not up yet
                tags = self.ask("scalars/tags")
            time.sleep(0.1)
        return tags


@pytest.fixture
def study(make_study, expected, tmp_path):
    store = make_study()
    table = transfer.build(store.read(), store.contributions, expected, resamples=300)
    (tmp_path / "operative_config.gin").write_text("TRAIN_STEPS = 7\n")
    logdir = export_tensorboard(tmp_path, table, store, {"title": "A study", "notice": "", "code": "abc"}, samples=2)
    return store, table, logdir


def test_a_real_server_shows_the_study(study, tmp_path):
    _, table, logdir = study
    (model,) = table.models
    assert logdir == tmp_path / "tensorboard"
    board = Board(logdir, tmp_path / "log.txt")
    try:
        tags = board.wait_for_runs(1 + 3 * 3 * 3)
        cell = table.cell(model, "mnli", "xnli")

        points = board.ask("scalars/scalars", run="mt5-small", tag="transfer/xnli/gain_low/mnli")
        assert points[0][2] == pytest.approx(cell.gain.low, abs=1e-4)
        session = "mt5-small/mnli/xquad/seed1"
        wanted = {f"xquad/{m}/{place}" for m in ("em", "f1") for place in ("en", "de", "zh", "average")}
        assert set(tags[session]) == wanted | {"score/zero-shot", "score/English", "gain/zero-shot"}
        assert board.ask("scalars/scalars", run=session, tag="xquad/em/de")[0][1] == 1000

        columns = board.ask("hparams/experiment", {"experimentName": "", "includeMetrics": True})
        names = {info["name"] for info in columns["hparamInfos"]}
        assert names == {"model", "family", "parameters", "intermediate", "target"}
        query = {
            "experimentName": "",
            "allowedStatuses": ["STATUS_SUCCESS"],
            "colParams": [{"metric": {"tag": tag, "group": ""}} for tag in ("score/zero-shot", "gain/zero-shot")],
            "aggregationType": "AGGREGATION_AVG",
            "startIndex": 0,
            "sliceSize": 100,
        }
        groups = board.ask("hparams/session_groups", query)["sessionGroups"]
        assert len(groups) == 9 and {len(group["sessions"]) for group in groups} == {3}
        for group in groups:
            cell = table.cell(model, group["hparams"]["intermediate"], group["hparams"]["target"])
            values = {value["name"]["tag"]: value["value"] for value in group["metricValues"]}
            assert values["score/zero-shot"] == pytest.approx(cell.score.value, abs=1e-4)
            if cell.gain is not None:
                assert values["gain/zero-shot"] == pytest.approx(cell.gain.value, abs=1e-4)

        texts = board.ask("text/tags")["."]
        assert {"answer", "provenance", "operative config", "transfer table/mt5-small"} <= set(texts)
        assert sum(tag.startswith("samples/") for tag in texts) == 10
        sample = board.ask("text/text", run=".", tag="samples/mt5-small/xnli/de")[0]["text"]
        assert sample.count("<tr>") == 3 and "answer 0 | with a bar" in sample
        assert "TRAIN_STEPS = 7" in board.ask("text/text", run=".", tag="operative config")[0]["text"]

        assert list(board.ask("images/tags")["."]) == ["zero-shot gains/mt5-small"]
        image = board.ask("images/images", run=".", tag="zero-shot gains/mt5-small", sample=0)[0]
        assert board.raw(f"images/individualImage?{image['query']}").startswith(b"\x89PNG")
        charts = board.ask("custom_scalars/layout")["category"][0]["chart"]
        assert charts[1] == {"title": "xquad", "multiline": {"tag": ["xquad/(em|f1)/.*"]}}
    finally:
        board.process.terminate()
        board.process.wait(10)


def test_exporting_again_replaces_only_its_own_files(study, tmp_path):
    store, table, logdir = study
    other = logdir / "events.out.tfevents.1.other"
    other.write_bytes(b"")
    before = sorted(path.parent for path in logdir.glob("**/*.study"))

    def nothing(*place):
        raise DataError("no predictions")

    export_tensorboard(tmp_path, table, store, {}, read_predictions=nothing)
    assert sorted(path.parent for path in logdir.glob("**/*.study")) == before and other.exists()
