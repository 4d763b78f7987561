"""Event files, read by a real TensorBoard server over HTTP."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from io import BytesIO

import pytest
from PIL import Image

from xtr.errors import DataError
from xtr.evaluate.tensorboard import SummaryWriter, markdown_table


def png(width=7, height=5):
    buffer = BytesIO()
    Image.new("RGB", (width, height), (10, 20, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def write(logdir):
    with SummaryWriter(logdir) as writer:
        writer.hparams_config({"intermediate": ["none", "mnli"], "parameters": None}, {"xnli/accuracy": "XNLI"})
        writer.layout({"targets": {"xnli": ["xnli/accuracy/.*"]}})
        writer.text("table", markdown_table(["a", "b"], [["x|y", 1]]))
        writer.image("heat map", png())
    for intermediate, base in (("none", 60.0), ("mnli", 64.0)):
        for seed in range(3):
            with SummaryWriter(logdir / f"{intermediate}.{seed}") as writer:
                writer.hparams({"intermediate": intermediate, "parameters": 300}, trial_id=intermediate)
                writer.scalar("xnli/accuracy", base + seed, 100)
                writer.scalar("xnli/accuracy/de", base + seed - 1, 100)


@pytest.fixture
def server(tmp_path):
    write(tmp_path / "log")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(tmp_path / "log"), "--host", "127.0.0.1"]
    with open(tmp_path / "log.txt", "w") as log:
        process = subprocess.Popen([*command, "--port", str(port), "--load_fast", "false"], stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}/data", process, tmp_path / "log.txt"
    finally:
        process.terminate()
        process.wait(10)


def ask(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=5) as response:
        return response.read()


def test_a_real_server_shows_everything(server):
    base, process, log = server
    deadline = time.monotonic() + 60
    while True:
        assert process.poll() is None, log.read_text()
        try:
            tags = json.loads(ask(f"{base}/plugin/scalars/tags"))
            if len(tags) == 6:
                break
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            tags = {}
        assert time.monotonic() < deadline, f"TensorBoard serves {sorted(tags)}; its log: {log.read_text()}"
        time.sleep(0.2)
    assert set(tags["mnli.0"]) == {"xnli/accuracy", "xnli/accuracy/de"}
    points = json.loads(ask(f"{base}/plugin/scalars/scalars?run=mnli.2&tag=xnli/accuracy"))
    assert [point[1:] for point in points] == [[100, 66.0]]
    assert json.loads(ask(f"{base}/plugin/text/tags")) == {".": ["table"]}
    text = json.loads(ask(f"{base}/plugin/text/text?run=.&tag=table"))[0]["text"]
    assert "<table>" in text and "x|y" in text
    images = json.loads(ask(f"{base}/plugin/images/tags"))
    assert list(images["."]) == ["heat map"]
    image = json.loads(ask(f"{base}/plugin/images/images?run=.&tag=heat%20map&sample=0"))[0]
    assert (image["width"], image["height"]) == (7, 5)
    assert ask(f"{base}/plugin/images/individualImage?{image['query']}") == png()
    layout = json.loads(ask(f"{base}/plugin/custom_scalars/layout"))
    assert layout["category"][0]["chart"][0]["multiline"]["tag"] == ["xnli/accuracy/.*"]
    columns = json.loads(ask(f"{base}/plugin/hparams/experiment", {"experimentName": "", "includeMetrics": True}))
    assert {info["name"] for info in columns["hparamInfos"]} == {"intermediate", "parameters"}
    query = {
        "experimentName": "",
        "allowedStatuses": ["STATUS_SUCCESS", "STATUS_UNKNOWN", "STATUS_RUNNING", "STATUS_FAILURE"],
        "colParams": [{"metric": {"tag": "xnli/accuracy", "group": ""}}],
        "aggregationType": "AGGREGATION_AVG",
        "startIndex": 0,
        "sliceSize": 10,
    }
    groups = json.loads(ask(f"{base}/plugin/hparams/session_groups", query))["sessionGroups"]
    means = {group["hparams"]["intermediate"]: group["metricValues"][0]["value"] for group in groups}
    assert means == {"none": 61.0, "mnli": 65.0}
    assert [len(group["sessions"]) for group in groups] == [3, 3]
    assert all(session["status"] == "STATUS_SUCCESS" for group in groups for session in group["sessions"])


def test_writing_starts_no_tensorflow(tmp_path):
    code = (
        "import sys; from xtr.evaluate.tensorboard import SummaryWriter\n"
        f"with SummaryWriter({str(tmp_path)!r}) as w: w.scalar('a', 1.0, 1); w.text('b', 'c'); w.hparams({{'d': 1}}, 'e')\n"
        "assert not {'tensorflow', 'jax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_wrong_images_are_refused(tmp_path):
    with SummaryWriter(tmp_path) as writer, pytest.raises(DataError, match="not a PNG"):
        writer.image("x", b"GIF89a")


def test_markdown_table():
    assert markdown_table(["a", "b"], [["x|y\nz", 1]]) == "| a | b |\n| --- | --- |\n| x\\|y z | 1 |"
