"""ensure_cached with a writer that speaks the real one's protocol, but writes toy tasks at once."""

import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from xtr import preemption
from xtr.data import cache, fingerprint
from xtr.data.cache import ensure_cached
from xtr.errors import Preempted, UserError

_WRITER = """
import json, os, sys, time
from pathlib import Path
import numpy as np
from dataclasses import asdict
from xtr.data import fingerprint
from xtr.data.cache_shards import shard_paths, unmark, write_shard
from xtr.data.records import serialize_example

request = json.loads(Path(sys.argv[1]).read_text())
data, cache = Path(request["data_dir"]), Path(request["cache_dir"])
with open(os.environ["TOY_CALLS"], "a") as f:
    f.write(json.dumps(request["names"]) + chr(10))
print("tokenising", file=sys.stderr, flush=True)
if "slow" in request["names"]:
    time.sleep(600)
languages = sorted(p.stem for p in data.glob("*.txt"))
members = {"toy": [[f"toy.{x}", 1.5] for x in languages], **{f"toy.{x}": [[f"toy.{x}", 1.0]] for x in languages}}
if "crash" in request["names"]:
    sys.exit(1)
for name in request["names"]:
    if name not in members:
        print(f"No task or mixture is named '{name}'.", file=sys.stderr)
        sys.exit(2)
tasks = {}
for task, _ in [m for name in request["names"] for m in members[name]]:
    source = data / (task.partition(".")[2] + ".txt")
    code = fingerprint.code_names(request["task_modules"])
    info = {"task": task, "splits": {"train": {"examples": 1, "shards": 1}}, "code": code,
            "code_sha256": fingerprint.code_sha256(code), "sources": [fingerprint.source_record(source)],
            "vocabulary": {"path": request["vocabulary_path"],
                           "sha256": fingerprint.sha256_file(request["vocabulary_path"]), "size": 5}}
    digest = fingerprint.task_fingerprint(
        task, {}, info["sources"], info["code_sha256"], info["vocabulary"]["sha256"], request["format"])
    directory = fingerprint.cache_directory(cache, task, digest)
    tasks[task] = str(directory)
    work = cache / f".{directory.name}.{os.getpid()}"
    work.mkdir()
    (path,) = shard_paths(work, "train", 1)
    shard = write_shard(path, [serialize_example({"inputs": list(source.read_bytes()), "targets": [1]})])
    info["shard_files"] = {"train": [asdict(shard)]}
    (work / "xtr_task.json").write_text(json.dumps(info))
    (work / "COMPLETED").touch()
    if directory.exists():
        os.replace(path, directory / path.name)
        unmark(directory / path.name)
        (directory / "xtr_task.json").write_text(json.dumps(info))
        (directory / "COMPLETED").touch()
    else:
        try:
            os.rename(work, directory)
        except OSError:
            pass
skipped = {n: {"toy.zz": "zz.txt is empty"} for n in request["names"]}
response = {"mixtures": {n: members[n] for n in request["names"]}, "tasks": tasks, "skipped": skipped}
Path(sys.argv[2]).write_text(json.dumps(response))
"""


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A data directory with two languages, a vocabulary, a task module, and the toy writer in the real one's place."""
    (tmp_path / "data").mkdir()
    for language, text in {"de": "ja", "en": "yes"}.items():
        (tmp_path / "data" / f"{language}.txt").write_text(text)
    (tmp_path / "vocabulary.model").write_text("pieces")
    (tmp_path / "module.py").write_text("# registers")
    (tmp_path / "toy_writer.py").write_text(_WRITER)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("TOY_CALLS", str(tmp_path / "calls"))
    monkeypatch.setattr(cache, "_WRITER", "toy_writer")
    return tmp_path


def _ask(world, *names, **options):
    kwargs = {
        "task_modules": [str(world / "module.py")],
        "vocabulary_path": world / "vocabulary.model",
        "data_dir": world / "data",
        "cache_dir": world / "cache",
        **options,
    }
    return ensure_cached(names, **kwargs)


def _calls(world):
    path = world / "calls"
    return [json.loads(line) for line in path.read_text().split("\n") if line] if path.exists() else []


def _texts(tasks):
    return {t.name: bytes(t.examples("train")[0]["inputs"].tolist()).decode() for t in tasks}


def test_written_once_then_reused(world, capsys, caplog):
    cache._warn_once.cache_clear()
    found = _ask(world, "toy", "toy.de")
    assert [(t.name, t.rate) for t in found["toy"]] == [("toy.de", 1.5), ("toy.en", 1.5)]
    assert [(t.name, t.rate) for t in found["toy.de"]] == [("toy.de", 1.0)]
    assert _texts(found["toy"]) == {"toy.de": "ja", "toy.en": "yes"}
    assert capsys.readouterr().err == "tokenising\n"
    assert "toy.zz: zz.txt is empty" in caplog.text
    caplog.clear()
    assert _ask(world, "toy.de", "toy") == found and list(_ask(world, "toy.de", "toy")) == ["toy.de", "toy"]
    assert _calls(world) == [["toy", "toy.de"]]
    assert caplog.text == ""  # said once a process
    # Only what is missing is asked for.
    _ask(world, "toy", "toy.en")
    assert _calls(world)[1:] == [["toy.en"]]


def test_a_cache_may_move(world):
    _ask(world, "toy")
    (world / "cache").rename(world / "elsewhere")
    assert _texts(_ask(world, "toy", cache_dir=world / "elsewhere")["toy"]) == {"toy.de": "ja", "toy.en": "yes"}
    assert len(_calls(world)) == 1


@pytest.mark.parametrize(
    "change, expected",
    [
        (lambda w: (w / "data" / "de.txt").write_text("doch"), {"toy.de": "doch", "toy.en": "yes"}),
        (lambda w: (w / "data" / "fr.txt").write_text("oui"), {"toy.de": "ja", "toy.en": "yes", "toy.fr": "oui"}),
        (lambda w: (w / "data" / "en.txt").unlink(), {"toy.de": "ja"}),
        (lambda w: (w / "module.py").write_text("# registers otherwise"), None),
        (lambda w: (w / "vocabulary.model").write_text("other pieces"), None),
        (lambda w: next((w / "cache").glob("toy.de-*/COMPLETED")).unlink(), None),
        (lambda w: next((w / "cache").glob("toy.de-*/xtr_task.json")).write_text("{"), None),
        (lambda w: next((w / "cache" / "index").iterdir()).write_text("{"), None),
    ],
    ids=["source", "new file", "file gone", "code", "vocabulary", "incomplete", "description", "index"],
)
def test_a_change_is_noticed(world, change, expected):
    _ask(world, "toy")
    change(world)
    found = _ask(world, "toy")
    assert _texts(found["toy"]) == (expected or {"toy.de": "ja", "toy.en": "yes"})
    assert len(_calls(world)) == 2
    _ask(world, "toy")
    assert len(_calls(world)) == 2


def test_caches_of_formats_do_not_mix(world):
    first, second = (_ask(world, "toy", format=form)["toy"] for form in ("text2text", "encoder"))
    assert len(_calls(world)) == 2
    assert not {t.directory for t in first} & {t.directory for t in second}
    assert _ask(world, "toy", format="encoder")["toy"] == second and len(_calls(world)) == 2


def test_a_request_to_stop_ends_the_writer(world):
    """Also where another process of the run was asked, and this one has heard of it."""

    def stop_later():
        while not _calls(world):
            time.sleep(0.01)
        preemption.hear()

    with preemption.watch():
        thread = threading.Thread(target=stop_later)
        thread.start()
        with pytest.raises(Preempted, match="the same command goes on"):
            _ask(world, "slow")
        thread.join()
    assert _texts(_ask(world, "toy")["toy"]) == {"toy.de": "ja", "toy.en": "yes"}


def test_new_times_alone_change_nothing(world):
    _ask(world, "toy")
    os.utime(world / "data" / "de.txt", ns=(1, 1))
    _ask(world, "toy")
    assert len(_calls(world)) == 1


def test_a_cache_below_the_data(world):
    for _ in range(2):
        _ask(world, "toy", cache_dir=world / "data" / "cache")
    _ask(world, "toy.de", cache_dir=world / "data" / "cache")
    _ask(world, "toy", cache_dir=world / "data" / "cache")
    assert _calls(world) == [["toy"], ["toy.de"]]


def test_two_at_once(world):
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: _ask(world, "toy"), range(2)))
    assert _texts(both[0]["toy"]) == _texts(both[1]["toy"])
    _ask(world, "toy")
    assert len(_calls(world)) <= 2


def test_the_writers_errors(world, capsys):
    with pytest.raises(UserError) as error:
        _ask(world, "toi")
    assert str(error.value) == "No task or mixture is named 'toi'."
    # It is said once, by whoever reports the error.
    assert capsys.readouterr().err == "tokenising\n"
    with pytest.raises(RuntimeError, match="code 1"):
        _ask(world, "crash")
    with pytest.raises(UserError, match="data directory .*nowhere"):
        _ask(world, "toy", data_dir=world / "nowhere")
    with pytest.raises(UserError, match="none.model"):
        _ask(world, "toy", vocabulary_path=world / "none.model")
    (world / "file").touch()
    with pytest.raises(UserError, match="Cannot make the cache directory"):
        _ask(world, "toy", cache_dir=world / "file")


def test_modules_are_found_without_importing_them(world, monkeypatch):
    package = world / "mine" / "deep"
    package.mkdir(parents=True)
    (world / "mine" / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "tasks.py").write_text("")
    monkeypatch.chdir(world)
    assert cache._module_file("mine.deep.tasks") == str(package / "tasks.py")
    assert cache._module_file("mine.deep") == str(package / "__init__.py")
    assert cache._module_file("mine.none") is None
    assert cache._module_file("a/b.py") == "a/b.py"
    assert "mine" not in sys.modules


def test_the_index_follows_the_tasks_package():
    names = cache._code(cache._Request((), "", "", "", Path("."), "text2text"))
    assert any(n.startswith("xtr.tasks/") for n in names) and fingerprint.code_sha256(names)
