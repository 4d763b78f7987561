"""`xtr bench` on the generated world, and on made vectors."""

import json
import subprocess
import sys

import pytest

from xtr.cli.main import run
from xtr.errors import UserError

FEW = ["--examples=10", "--repeats=1", "--rows=4"]


@pytest.mark.parametrize("task", ["xquad", pytest.param("xnli", marks=pytest.mark.slow)])
def test_figures_as_json(task, world, cache_dir, capsys):
    place = [f"--data_dir={world.directory}", f"--cache_dir={cache_dir}", f"--vocabulary_path={world.vocabulary_path}"]
    assert run(["bench", "eval", *FEW, *place, "--tasks", task, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["model"], facts["rows"], facts["repeats"]) == ("micro", 4, 1)
    (figures,) = facts["tasks"]
    assert (figures["task"], figures["examples"]) == (task, 10)
    assert "en" in figures["languages"] and figures["input_tokens"] > 3
    assert set(figures["per_second"]) | set(figures["skipped"]) == {"engine", "hugging_face", "fixed_batches"}
    assert figures["same"] == dict.fromkeys(figures["per_second"], 1.0)
    assert min(figures["per_second"].values()) > 0 and min(figures["spread"].values()) >= 1
    assert (figures["output_tokens"] > 1) == (task == "xquad")


def test_retrieval_is_measured(capsys, tmp_path):
    few = ["--queries=5", "--candidates=300", "--dim=8", "--k=3", f"--directory={tmp_path}", "--json"]
    assert run(["bench", "retrieval", *few]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["queries"], facts["candidates"], facts["dim"], facts["k"], facts["uncertain"]) == (5, 300, 8, 3, 0)
    assert facts["screen_seconds"] > 0 and list(tmp_path.glob("*/manifest.json"))
    with pytest.raises(UserError, match="--k is 0"):
        run(["bench", "retrieval", "--k=0"])


@pytest.mark.slow
def test_the_input_beside_seqio(world, cache_dir, capsys):
    """Both read every example of the mixture once, token for token as many; only SeqIO's process has TensorFlow."""
    place = [f"--data_dir={world.directory}", f"--cache_dir={cache_dir}", f"--vocabulary_path={world.vocabulary_path}"]
    lengths = "--lengths=inputs=64,targets=32"
    assert run(["bench", "input", "nli_qa", *place, lengths, "--batch=4", "--repeats=1", "--uncached", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["name"], facts["batch"], facts["lengths"]) == ("nli_qa", 4, {"inputs": 64, "targets": 32})
    ours, cached, uncached = facts["contenders"]
    assert [own["contender"] for own in facts["contenders"]] == ["xtr", "seqio, cached", "seqio, uncached"]
    for name in ("examples", "encoder_tokens", "decoder_tokens"):
        assert ours[name] == cached[name] == uncached[name] > 0
    assert ours["examples"] == 120
    assert [own["tensorflow"] for own in facts["contenders"]] == [False, True, True]
    assert 1 >= ours["encoder_density"] >= cached["encoder_density"]
    assert all(own["encoder_tokens_per_second"] > 0 < own["cold_start_seconds"] for own in facts["contenders"])


def test_an_unknown_task_is_refused():
    with pytest.raises(UserError, match="knows no tatoeba"):
        run(["bench", "eval", "--tasks", "tatoeba"])


def test_it_starts_without_tensorflow():
    modules = "xtr.bench.evaluation, xtr.bench.feed, xtr.bench.input, xtr.bench.seqio_feed"
    code = f"import sys, {modules}; sys.exit(bool({{'tensorflow', 'seqio', 'torch'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
