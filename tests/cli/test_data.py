"""`xtr data`: getting official files from a local server, and checking what is there."""

import functools
import hashlib
import http.server
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from xtr import config
from xtr.cli.main import run
from xtr.errors import UserError
from xtr.study.graph import Stage
from xtr.study.jobs import stage_overrides
from xtr.study.spec import StudySpec
from xtr.tasks.datasets import distributions
from xtr.tasks.datasets.distributions import DISTRIBUTIONS, GROUPS, Distribution, File, archives, markdown
from xtr.tasks.datasets.finders import FINDERS
from xtr.tasks.datasets.published import PUBLISHED

ROOT = Path(__file__).parents[2]
XTR = [sys.executable, "-m", "xtr.cli.main"]


def _squad(questions: int) -> str:
    qas = [{"id": f"q{i}", "question": "Who?", "answers": [{"text": "A", "answer_start": 0}]} for i in range(questions)]
    return json.dumps({"data": [{"paragraphs": [{"context": "A man.", "qas": qas}]}]})


@pytest.fixture
def quiet(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("XTR_DATA_DIR", "XTR_DATA_MIRROR", "TFDS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def published(tmp_path, monkeypatch, quiet):
    """Serves one file of a data set, stands for all data sets, and returns (the server's address, the content)."""
    content = _squad(3).encode()
    file = File("https://example.org/d/train-v1.1.json", "squad/train-v1.1.json", len(content))
    file = File(file.url, file.path, file.size, hashlib.sha256(content).hexdigest())
    unknown = File("https://example.org/d/dev-v1.1.json", "squad/dev-v1.1.json")
    table = (
        Distribution("squad_v1", "CC BY-SA 4.0", (file, unknown), ("squad_v1",)),
        Distribution("ccg", "LDC", (), ("ccg",), note="sold by the LDC"),
    )
    monkeypatch.setattr(distributions, "DISTRIBUTIONS", table)
    monkeypatch.setattr(distributions, "_BY_NAME", {d.name: d for d in table})
    monkeypatch.setattr(distributions, "GROUPS", {"all": tuple(d.name for d in table)})
    (tmp_path / "www/example.org/d").mkdir(parents=True)
    for name in ("train", "dev"):
        (tmp_path / f"www/example.org/d/{name}-v1.1.json").write_bytes(content)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Handler, directory=str(tmp_path / "www"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", content
    server.shutdown()
    server.server_close()


def test_download_by_command(published, tmp_path, monkeypatch, capsys):
    mirror, content = published
    data = tmp_path / "data"
    assert run(["data", "download", "all", "--dry_run", "--data_dir", str(data)]) == 0
    plan = capsys.readouterr().out
    assert "2 missing" in plan and "by hand" in plan and "1 files of unknown size" in plan and not data.exists()
    monkeypatch.setenv("XTR_DATA_MIRROR", mirror)
    assert run(["data", "download", "all", "--data_dir", str(data)]) == 0
    said = capsys.readouterr().out
    assert "squad_v1: downloaded" in said and "ccg: sold by the LDC" in said
    digest = hashlib.sha256(content).hexdigest()
    assert f"squad/dev-v1.1.json: not verified against a published checksum; SHA-256 {digest}" in said
    assert (data / "squad/train-v1.1.json").read_bytes() == content
    assert run(["data", "download", "squad_v1", "--data_dir", str(data), "--mirror", "http://127.0.0.1:9"]) == 0
    assert "squad_v1: there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["download", "squad", "--data_dir", "x"], r"no data set 'squad'.*Did you mean.*squad_v1.*intermediate"),
        (["download", "all"], "no data folder"),
        (["verify", "--data_dir", "/nowhere"], "does not exist"),
        (["verify", "xnly", "--data_dir", "."], "no data set 'xnly'.*Did you mean.*xnli"),
        (["download", "mnli", "--data_dir", "x", "--mirror", "ftp://x"], "is not an http"),
        (["dowload"], "invalid choice"),
    ],
)
def test_wrong_use_is_one_message(quiet, argv, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=expected):
        run(["data", *argv])
    assert not list(tmp_path.iterdir())


def test_without_a_network_there_is_one_message_and_exit_code_2(tmp_path):
    command = [*XTR, "data", "download", "intermediate", "--data_dir", str(tmp_path), "--mirror", "http://127.0.0.1:9"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("xtr: ") == 1 and "Traceback" not in done.stderr
    assert "mnli, snli, anli, qqp, squad_v1, squad_v2, hellaswag, cosmosqa, commonsenseqa: 127.0.0.1:9" in done.stderr


def _verify(capsys, data, *names):
    code = run(["data", "verify", *names, "--json", "--data_dir", str(data), "--cache_dir", str(data.parent / "cache")])
    return code, {(v["dataset"], v["split"]): v for v in json.loads(capsys.readouterr().out)}


def test_verify_tells_truncated_altered_missing_and_complete(quiet, tmp_path, capsys):
    data = tmp_path / "data"
    (data / "squad").mkdir(parents=True)
    (data / "squad/train-v1.1.json").write_text(_squad(5))
    (data / "squad/dev-v1.1.json").write_text(_squad(10_571))
    code, found = _verify(capsys, data, "squad_v1", "xquad")
    assert code == 0
    train, validation = found["squad_v1", "train"], found["squad_v1", "validation"]
    assert (train["verdict"], train["examples"], train["published"]) == ("truncated", 5, 87_599)
    assert validation["verdict"] == "altered" and validation["why"] == "10,571 rows, published are 10,570"
    assert found["xquad.ar", ""]["verdict"] == "missing"
    assert "no file xquad/xquad.<language>.json" in found["xquad.ro", ""]["why"]
    # As many as published but another content: only the checksum tells.
    (data / "squad/dev-v1.1.json").write_text(_squad(10_570))
    _, found = _verify(capsys, data, "squad_v1")
    assert (
        found["squad_v1", "validation"]["verdict"] == "altered" and "SHA-256" in found["squad_v1", "validation"]["why"]
    )
    (data / "squad/dev-v1.1.json").unlink()
    _, found = _verify(capsys, data, "squad_v1")
    assert found["squad_v1", "validation"]["verdict"] == "missing"


def test_verify_shows_a_table_and_ends_with_2_when_something_is_unreadable(quiet, tmp_path, capsys):
    data = tmp_path / "data"
    (data / "squad").mkdir(parents=True)
    (data / "squad/train-v1.1.json").write_text(_squad(2).replace('"answer_start": 0', '"answer_start": 7', 1))
    with pytest.raises(UserError, match=r"1 of 2 splits cannot be read: .*train-v1\.1\.json, question id 'q0'"):
        run(["data", "verify", "squad_v1", "--data_dir", str(data)])
    shown = capsys.readouterr().out
    assert "unreadable" in shown and "1 unreadable, 1 missing" in shown


def test_languages_that_are_missing_for_one_reason_are_one_row(quiet, tmp_path, capsys):
    (tmp_path / "xcopa").mkdir()
    row = {"premise": "p", "choice1": "a", "choice2": "b", "question": "cause", "label": 0, "idx": 0}
    for part in ("val", "test"):
        (tmp_path / f"xcopa/{part}-sw.jsonl").write_text(json.dumps(row) + "\n")
    assert run(["data", "verify", "xcopa", "ccg", "--data_dir", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "et ht id it qu ta th tr vi zh: no file" in shown and "LDC2005T13" in shown
    assert shown.count("no file") == 2 and shown.count("truncated") == 3 and "11 missing, 2 truncated" in shown


def test_a_changed_file_of_a_downloaded_archive_is_altered(quiet, tmp_path, capsys, monkeypatch):
    from xtr.tasks.datasets import download as downloads
    from xtr.tasks.datasets import published as counts

    data = tmp_path / "data"
    row = '{"gold_label": "neutral", "sentence1": "A.", "sentence2": "B."}\n'
    name = "multinli_1.0/multinli_1.0_train.jsonl"
    (data / name).parent.mkdir(parents=True)
    (data / name).write_text(row)
    record = {"unpacked": {name: [len(row), hashlib.sha256(row.encode()).hexdigest()]}}
    (data / downloads.RECORDS).mkdir()
    (data / downloads.RECORDS / "multinli_1.0.zip.json").write_text(json.dumps(record))
    monkeypatch.setitem(PUBLISHED, "mnli", {"train": (counts.Count(1, "examples"),)})
    assert _verify(capsys, data, "mnli")[1]["mnli", "train"]["verdict"] == "complete"
    (data / name).write_text(row.replace("A.", "C."))
    assert _verify(capsys, data, "mnli")[1]["mnli", "train"]["verdict"] == "altered"


def test_an_archive_that_is_not_the_published_one_is_altered(quiet, tmp_path, capsys):
    import zipfile

    data = tmp_path / "data"
    data.mkdir()
    with zipfile.ZipFile(data / "multinli_1.0.zip", "w") as archive:
        archive.writestr("multinli_1.0/multinli_1.0_train.jsonl", "")
    _, found = _verify(capsys, data, "mnli")
    assert found["mnli", ""]["verdict"] == "altered" and "published one 226,850,426" in found["mnli", ""]["why"]


def test_verify_needs_no_tensorflow(quiet, tmp_path):
    code = f"""
import sys
from xtr.cli.main import run
run(["data", "verify", "--data_dir", {str(tmp_path)!r}])
loaded = {{"tensorflow", "seqio", "tensorflow_datasets", "jax"}} & set(sys.modules)
sys.exit(f"loaded {{loaded}}" if loaded else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("entry", "files", "needed"),
    [
        ("train", ["models/mt5/small.gin", "runs/finetune.gin"], ["MIXTURE_OR_TASK_NAME=mnli", "TRAIN_STEPS=1"]),
        ("evaluate", ["models/mt5/small.gin", "runs/eval.gin"], ["MIXTURE_OR_TASK_NAME=xnli"]),
    ],
)
def test_the_macro_reaches_every_run(entry, files, needed):
    places = {
        "train": ["MODEL_DIR=/m", "TASK_FEATURE_LENGTHS={'inputs': 8, 'targets': 8}", "INITIAL_CHECKPOINT_PATH=/c"],
        "evaluate": ["EVAL_OUTPUT_DIR=/e", "CHECKPOINT_PATH=/c"],
    }
    overrides = [*needed, *places[entry], "VOCABULARY_PATH=/v", "TFDS_TASKS=('squad_v1', 'mnli')"]
    config.load(files, overrides, [], entry=entry)
    assert config.build(entry).tfds_tasks == ("squad_v1", "mnli")


def test_the_macro_reaches_every_stage_of_a_study():
    spec = StudySpec(
        name="s", study_dir="/s", models={"m": "m.gin"}, intermediates={"none": ()}, targets={"t": "t.gin"}, seeds=(0,),
        vocabulary_path="/v", tfds_tasks=("mnli",),
    )  # fmt: skip
    assert stage_overrides(spec, Stage("target", "m"))["TFDS_TASKS"] == ("mnli",)


def test_the_table_is_sound():
    names = [distribution.name for distribution in DISTRIBUTIONS]
    paths = [file.path for distribution in DISTRIBUTIONS for file in distribution.files]
    assert len(set(names)) == len(names) and len(set(paths)) == len(paths)
    assert {name for group in GROUPS.values() for name in group} <= set(names)
    for distribution in DISTRIBUTIONS:
        assert distribution.files or distribution.note
        for file in distribution.files:
            assert file.url.startswith("https://") and (file.sha256 or file.md5) and not Path(file.path).is_absolute()
            assert len(file.sha256) in (0, 64) and len(file.md5) in (0, 32)
    for file in archives():
        assert file.holds.startswith(file.folder) and file.path.endswith((".zip", ".tgz", ".tar.gz", ".tar.bz2"))
    # What readers find can be named in `xtr data verify`, and has a distribution or is generated.
    assert set(FINDERS) <= {task for distribution in DISTRIBUTIONS for task in distribution.tasks} | {"text"}


def test_the_documentation_has_the_table():
    assert markdown() in (ROOT / "docs/data.md").read_text(encoding="utf-8"), "write markdown() into docs/data.md anew"
