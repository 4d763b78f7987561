"""`xtr eval`, `xtr infer` and their like by two processes from the command line: the files and words of one."""

import json
import shutil
import zlib
from pathlib import Path

import pytest

from xtr.checkpoints.index import read_index
from xtr.evaluate.results import ResultStore


@pytest.fixture(scope="module")
def trained(make_world, tmp_path_factory) -> Path:
    """A run whose checkpoint two processes wrote, no array's whole of which one of them held."""
    world, directory = make_world("seq2seq"), tmp_path_factory.mktemp("trained") / "run"
    found = world.run(2, 1, world.train(directory, "--gin.EVAL_PERIOD=0"))
    assert [end.code for end in found] == [0, 0], found
    return directory


def command(world, trained: Path, name: str, *more: str) -> list[str]:
    files = (f"--gin_file={world.folder / 'model.gin'}", f"--gin_file=runs/{name}.gin")
    places = (f"--gin.CHECKPOINT_PATH={trained}", f"--gin.VOCABULARY_PATH={world.folder / 'vocabulary'}")
    return [name, *files, *places, *more]


def evaluation(world, trained: Path, out: Path, *more: str) -> list[str]:
    places = (f"--gin.EVAL_OUTPUT_DIR={out}", "--gin.MIXTURE_OR_TASK_NAME=random", f"--gin.DATA_DIR={world.folder}")
    batches = ("--gin.LENGTH_BUCKETS=(32,)", "--gin.TOKENS_PER_BATCH=512", "--gin.evaluate.max_decode_length=4")
    return command(world, trained, "eval", *places, *batches, *more)


@pytest.mark.slow
def test_two_processes_evaluate_from_the_command_line(make_world, trained, tmp_path):
    world = make_world("seq2seq")
    first, second = world.run(2, 1, evaluation(world, trained, tmp_path / "two"))
    assert (first.code, second.code) == (0, 0), (first, second)
    (one,) = world.run(1, 2, evaluation(world, trained, tmp_path / "one"))
    assert one.code == 0
    said = [[line for line in end.out.splitlines() if line and "Gloo" not in line] for end in (first, second, one)]
    said[2] = [line.replace(str(tmp_path / "one"), str(tmp_path / "two")) for line in said[2]]
    assert said[0] == said[2] and said[1] == [] and second.err == ""
    stores = [ResultStore(tmp_path / name) for name in ("two", "one")]
    assert stores[0].read().equals(stores[1].read()) and len(stores[0].read())
    for path in (tmp_path / "one").rglob("predictions/*/*.jsonl"):
        assert (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes() == path.read_bytes()

    # Found done; and a mistake, which both tell.
    found = world.run(2, 1, evaluation(world, trained, tmp_path / "two"))
    assert [end.code for end in found] == [0, 0], found
    found = world.run(2, 1, evaluation(world, trained, tmp_path / "none", "--gin.LANGUAGES=xx"))
    assert [end.code for end in found] == [2, 2], found
    assert all("has no xx; found: en." in end.err for end in found) and not (tmp_path / "none").exists()


@pytest.mark.slow
def test_two_processes_infer(make_world, trained, tmp_path):
    world = make_world("seq2seq")
    (tmp_path / "in.txt").write_text("one line\nanother line\n")

    def inference(name: str) -> list[str]:
        places = (f"--gin.INPUT_FILE={tmp_path / 'in.txt'}", f"--gin.OUTPUT_FILE={tmp_path / name}")
        return command(world, trained, "infer", *places, "--gin.MAX_DECODE_LENGTH=4")

    first, second = world.run(2, 1, inference("two.jsonl"))
    (one,) = world.run(1, 2, inference("one.jsonl"))
    assert (first.code, second.code, one.code) == (0, 0, 0), (first, second, one)
    assert "2 answers in" in first.out and "answers" not in second.out
    assert (tmp_path / "two.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()


@pytest.mark.slow
def test_damage_to_what_one_of_two_processes_wrote_is_found_by_all(make_world, trained, tmp_path):
    """By two processes and by one: they go on from the checkpoint before; on the same mesh to the same bits."""
    world = make_world("seq2seq")
    whole, _ = read_index(trained / "checkpoints" / "6")
    for processes, devices in ((2, 1), (1, 2)):
        damaged = tmp_path / f"of{processes}"
        shutil.copytree(trained, damaged)
        (damaged / "DONE").unlink()
        file = damaged / "checkpoints" / "6" / "index" / "digests.1.json"
        own = json.loads(file.read_text())
        name = next(name for name in own if name.startswith("params/"))
        own[name] ^= 1
        file.write_text(json.dumps(own))
        Path(f"{file}.crc32").write_text(f"{zlib.crc32(file.read_bytes()):08x}")
        found = world.run(processes, devices, world.train(damaged, "--gin.EVAL_PERIOD=0"))
        assert [end.code for end in found] == [0] * processes, found
        assert "is damaged" in found[0].err and name in found[0].err and "going on from step 3" in found[0].err
        assert (damaged / "checkpoints" / "6.damaged").exists()
        again, _ = read_index(damaged / "checkpoints" / "6")
        assert again.keys() == whole.keys() and (processes == 1 or again == whole)
