"""The writer's processes: any number writes the same, a killed one is gone on from, only a damaged shard is mended."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from xtr.data import cache_writer
from xtr.data.cache_shards import damaged
from xtr.data.cache_writer import pool, tasks, units
from xtr.data.cached_task import CachedTask
from xtr.errors import UserError

_EXAMPLES = 23


pytestmark = pytest.mark.usefixtures("writer_environment")


@pytest.fixture
def small_units(monkeypatch):
    """Units of five examples, and processes even for those."""
    monkeypatch.setattr("xtr.data.cache_writer.splits.EXAMPLES_PER_UNIT", 5)
    monkeypatch.setattr(tasks, "_WORTH_A_PROCESS", 0)


@pytest.fixture
def data(write_official_files, tmp_path):
    folder = write_official_files(tmp_path / "data")
    rows = "".join(f"A man {i}.\tA person.\tneutral\n" for i in range(_EXAMPLES))
    (folder / "xnli/XNLI-MT-1.0/multinli/multinli.train.en.tsv").write_text("premise\thypo\tlabel\n" + rows)
    return folder


@pytest.fixture
def ask(data, vocabulary_path, tmp_path):
    def ask(*names, cache="cache", **more):
        response = cache_writer.write(
            {
                "names": list(names), "data_dir": str(data), "vocabulary_path": str(vocabulary_path),
                "cache_dir": str(tmp_path / cache), "format": "text2text", "num_workers": 1, **more,
            }
        )  # fmt: skip
        return [Path(response["tasks"][name]) for name in response["tasks"]]

    return ask


def _bytes(directory):
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir()) if path.name != "xtr_task.json"}


def test_any_number_of_processes_writes_the_same(ask, small_units, small_vocabularies):
    # A vocabulary that needs no TensorFlow, which every process would import.
    options = {"format": "encoder", "vocabulary_path": str(small_vocabularies["wordpiece"])}
    one = ask("mnli", "xnli", cache="one", num_workers=1, **options)
    three = ask("mnli", "xnli", cache="three", num_workers=3, **options)
    assert [d.name for d in one] == [d.name for d in three] and len(one) == 3
    for a, b in zip(one, three, strict=True):
        assert _bytes(a) == _bytes(b) and len(_bytes(a)) > 3
    assert len(list(one[0].glob("train.array_record-*-of-00005"))) == 5
    assert [e["meta"] for e in CachedTask.open(one[0]).examples("train").read(range(_EXAMPLES), ["meta"])] == [
        f'{{"id":"{i}","choices":["entailment","neutral","contradiction"],"label":1}}'.encode()
        for i in range(_EXAMPLES)
    ]


def test_what_is_finished_is_not_done_again(ask, small_units, monkeypatch):
    (whole,) = ask("mnli", cache="whole")
    run, written = units.Rendered.run, []

    def run_three(unit):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(unit.place.number)
        return run(unit)

    monkeypatch.setattr(units.Rendered, "run", run_three)
    with pytest.raises(KeyboardInterrupt):
        ask("mnli")
    (partial,) = (whole.parent.parent / "cache").glob(".mnli-*.partial")
    assert written == [0, 1, 2]
    # A shard that was damaged meanwhile is not taken for finished, and what lies about is no part of the task.
    part = partial / "train.unit-00001.part-00000"
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    (partial / ".train.unit-00003.part-00000.77").write_bytes(b"half")
    written = []

    def run_all(unit):
        written.append((unit.place.split, unit.place.number))
        return run(unit)

    monkeypatch.setattr(units.Rendered, "run", run_all)
    (directory,) = ask("mnli")
    assert written == [("train", 1), ("train", 3), ("train", 4), ("validation", 0)]
    assert _bytes(directory) == _bytes(whole) and not partial.exists()


def test_a_mistake_in_the_data_leaves_nothing(ask, data, small_units):
    path = data / "xnli/XNLI-MT-1.0/multinli/multinli.train.en.tsv"
    path.write_text(path.read_text() + "A\tB\tperhaps\n")
    with pytest.raises(UserError, match=f"{path.name}, line {_EXAMPLES + 2}"):
        ask("mnli")
    assert not [p for p in (data.parent / "cache").iterdir() if "mnli" in p.name]


@pytest.mark.parametrize("harm", ["truncated", "removed", "marked"])
def test_only_the_damaged_shard_is_written_again(ask, small_units, harm, capsys):
    (directory,) = ask("mnli")
    before = _bytes(directory)
    shard = directory / "train.array_record-00002-of-00005"
    if harm == "truncated":
        shard.write_bytes(before[shard.name][:-10])
    elif harm == "removed":
        shard.unlink()
    else:
        Path(f"{shard}.damaged").touch()
    others = {path: path.stat().st_mtime_ns for path in directory.glob("*.array_record-*-of-?????") if path != shard}
    capsys.readouterr()
    assert ask("mnli") == [directory]
    assert f"mnli: the shard {shard} is damaged" in (said := capsys.readouterr().err) and said.count("\n") == 1
    assert _bytes(directory) == before
    assert {path: path.stat().st_mtime_ns for path in others} == others
    assert ask("mnli") == [directory] and capsys.readouterr().err == ""


def test_every_byte_counts(ask, small_units):
    """Flipping any one byte of a shard changes its checksum, which `xtr cache --verify` compares."""
    (directory,) = ask("mnli")
    task = CachedTask.open(directory)
    assert damaged(directory, task.shards, wholly=True) == {}
    shard = directory / "train.array_record-00001-of-00005"
    content = bytearray(shard.read_bytes())
    for place in (0, 70, len(content) // 2, len(content) - 1):
        content[place] ^= 1
        shard.write_bytes(content)
        assert list(damaged(directory, task.shards, wholly=True)) == [shard]
        assert damaged(directory, task.shards) == {}
        content[place] ^= 1


class _Unit:
    """A unit that does something: for the pool's own tests, sent to other processes by name."""

    def __init__(self, number, what=""):
        self.place, self.what = units.Place("", "toy", "train", number), what

    def run(self):
        if self.what == "mistake":
            raise UserError("no such thing")
        if self.what == "crash":
            raise ValueError("broken")
        if self.what == "die":
            os._exit(9)
        return os.getpid()


def test_the_pool_reads_no_further_ahead_than_it_must():
    read = []

    def many():
        for n in range(40):
            read.append(n)
            yield _Unit(n)

    found, ahead = {}, 0
    for place, process in pool.run_units(many(), 2):
        found[place.number] = process
        ahead = max(ahead, len(read) - len(found))
    assert sorted(found) == list(range(40)) and ahead <= 6
    assert os.getpid() not in found.values() and len(set(found.values())) <= 2


@pytest.mark.parametrize(
    "what, error, message",
    [
        ("mistake", UserError, "no such thing"),
        ("crash", RuntimeError, "(?s)toy, train, part 3: .*ValueError: broken"),
        ("die", RuntimeError, "A process that wrote 'train' of toy died"),
    ],
)
def test_a_workers_end_is_said(what, error, message):
    with pytest.raises(error, match=message):
        list(pool.run_units((_Unit(n, what if n == 3 else "") for n in range(9)), 2))


@pytest.mark.slow
def test_a_killed_writer_is_gone_on_from(data, vocabulary_path, tmp_path):
    """SIGKILL in the middle: its worker processes end too, and the next writer ends in the same bytes."""
    rows = "".join(f"A man number {i} goes.\tA person is {i}.\tneutral\n" for i in range(60_000))
    (data / "xnli/XNLI-MT-1.0/multinli/multinli.train.en.tsv").write_text("premise\thypo\tlabel\n" + rows)

    def start(cache):
        request = tmp_path / f"{cache}.json"
        asked = {
            "names": ["mnli"], "data_dir": str(data), "vocabulary_path": str(vocabulary_path), "num_workers": 2,
            "cache_dir": str(tmp_path / cache), "format": "text2text",
        }  # fmt: skip
        request.write_text(json.dumps(asked))
        (tmp_path / "write.py").write_text(
            "import sys\n"
            "from xtr.data.cache_writer import main, tasks\n"
            "if __name__ == '__main__':\n"
            "    tasks._WORTH_A_PROCESS = 0\n"
            "    sys.exit(main(sys.argv[1:]))\n"
        )
        command = [sys.executable, str(tmp_path / "write.py"), str(request), str(tmp_path / "response.json")]
        return subprocess.Popen(command, start_new_session=True)

    assert start("whole").wait() == 0
    process = start("killed")
    while len(list(tmp_path.glob("killed/.mnli-*.partial/train.unit-*.json"))) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = {p: p.stat().st_mtime_ns for p in tmp_path.glob("killed/.mnli-*.partial/train.unit-*.part-*")}
    for _ in range(500):  # its workers have nobody to work for
        if not _alive(process.pid):
            break
        time.sleep(0.02)
    assert not _alive(process.pid)
    assert start("killed").wait() == 0
    (one,), (other,) = (list((tmp_path / cache).glob("mnli-*")) for cache in ("whole", "killed"))
    assert _bytes(one) == _bytes(other)
    kept = {p.stat().st_mtime_ns for p in other.glob("train.array_record-*")}
    assert len(kept & set(finished.values())) >= 2


def _alive(session: int) -> list[int]:
    """The processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found
