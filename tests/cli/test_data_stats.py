"""`xtr data stats`: counts, lengths, cuts and rows of tasks and mixtures."""

import json

import numpy as np
import pytest

from xtr.cli import options as shared
from xtr.cli.main import run
from xtr.cli.stats import default_lengths
from xtr.data.cache import ensure_cached, eval_examples
from xtr.errors import UserError


@pytest.fixture
def options(world, cache_dir, monkeypatch):
    for name in ("XTR_DATA_DIR", "XTR_VOCABULARY_PATH", "XTR_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    places = {"data_dir": world.directory, "cache_dir": cache_dir, "vocabulary_path": world.vocabulary_path}
    return places, [part for name, path in places.items() for part in (f"--{name}", str(path))]


def test_a_mixture_in_two_formats(options, capsys):
    places, argv = options
    assert run(["data", "stats", "nli_qa", "--format", "text2text", "encoder", *argv, "--json"]) == 0
    said = capsys.readouterr()
    text, heads = json.loads(said.out)
    assert text["name"] == heads["name"] == "nli_qa" and (text["format"], heads["format"]) == ("text2text", "encoder")
    assert "no one objective trains them all: classify, span" in heads["mixture"]["why"]
    tasks = ensure_cached(["nli_qa"], **places)["nli_qa"]
    for facts, task in zip(text["tasks"], tasks, strict=True):
        assert facts["task"] == task.name and list(facts["splits"]) == list(task.splits)
        assert facts["lengths"] == {"inputs": 1024, "targets": 114} and "nli_qa.gin" in facts["lengths from"]
        for split, own in facts["splits"].items():
            rows = eval_examples(task, split)
            assert own["examples"] == len(rows) and set(own["truncated"].values()) == {0.0}
            for name, numbers in own["tokens"].items():
                lengths = sorted(len(row[name]) for row in rows)
                assert numbers["max"] == lengths[-1]
                assert numbers["50%"] == lengths[int(np.ceil(len(lengths) / 2)) - 1]
    assert text["mixture"]["slots"] == {"inputs": 1024, "targets": 114} and text["mixture"]["density"]["inputs"] > 0.3
    labels, spans = heads["tasks"]
    assert (labels["objective"], spans["objective"]) == ("classify", "span")
    assert labels["packing"]["examples_a_row"] == spans["packing"]["examples_a_row"] == 1


def test_the_printed_tables(options, capsys):
    _, argv = options
    assert run(["data", "stats", "mnli", "--lengths", "inputs=8,targets=4", *argv]) == 0
    said = capsys.readouterr()
    lines = said.out.split("\n")
    header = next(line for line in lines if line.startswith("task"))
    assert header.split() == [
        "task",
        "language",
        "split",
        "examples",
        "feature",
        "50%",
        "90%",
        "95%",
        "99%",
        "max",
        "cut",
    ]
    inputs = next(line.split() for line in lines if line.split()[:3] == ["mnli", "en", "train"])
    assert inputs[4] == "inputs" and inputs[-1] == "100.0%"
    assert any(line.split()[:5] == ["mnli", "seq2seq", "8", "+", "4"] for line in lines)
    assert "feature lengths of mnli: inputs 8, targets 4 (--lengths)" in lines
    assert "tokenised first" in said.err


def test_texts_and_queries_have_no_lengths_of_their_own(options, capsys):
    _, argv = options
    assert run(["data", "stats", "text.corpus", "tatoeba", *argv, "--json"]) == 0
    texts, queries = json.loads(capsys.readouterr().out)
    assert {task["objective"] for task in texts["tasks"]} == {"denoise"}
    assert all(not task["lengths"] and "packing" not in task for task in texts["tasks"])
    assert {task["objective"] for task in queries["tasks"]} == {""}
    assert all(task["lengths"]["inputs"] == 512 and "packing" not in task for task in queries["tasks"])
    assert run(["data", "stats", "text.corpus", "--lengths", "inputs=64,targets=20", *argv, "--json"]) == 0
    (texts,) = json.loads(capsys.readouterr().out)
    assert all(0 < task["packing"]["density"]["inputs"] <= 1 for task in texts["tasks"])
    assert 0 < texts["mixture"]["density"]["targets"] <= 1


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["mnli", "--lengths", "input=3"], "--lengths has 'input=3'; it must be like inputs=512"),
        (["mnly"], "No task or mixture is named 'mnly'"),
        (["mnli", "--format", "text"], "invalid choice"),
    ],
)
def test_wrong_use_is_one_message(options, argv, expected):
    with pytest.raises(UserError, match=expected):
        run(["data", "stats", *argv, *options[1]])


def test_a_vocabulary_is_needed(options, world):
    with pytest.raises(UserError, match="no tokens without a vocabulary: give --vocabulary_path"):
        run(["data", "stats", "mnli", "--data_dir", str(world.directory)])


def test_lengths_are_read_and_else_the_shipped_ones():
    assert shared.lengths("inputs=512,targets=114") == {"inputs": 512, "targets": 114} and shared.lengths("") == {}
    assert default_lengths("mnli", "mnli", "classification", "text2text")[0] == {"inputs": 512, "targets": 16}
    assert default_lengths("xnli.sw", "xnli", "classification", "causal")[0] == {"inputs": 1024, "targets": 128}
    lengths, where = default_lengths("xnli.sw", "xnli", "classification", "encoder")
    assert lengths == {"inputs": 128} and "classify.gin" in where
    assert default_lengths("squad_v1", "squad_v1", "span_qa", "encoder")[0] == {"inputs": 384}
    assert default_lengths("text.udhr", "text.udhr", "text", "encoder") == ({}, "")


def test_real_data_in_the_encoder_format(data_dir, tmp_path, capsys):
    vocabulary = data_dir / "tokenizers/xlmr/sentencepiece.bpe.model"
    argv = ["--data_dir", str(data_dir), "--cache_dir", str(tmp_path), "--vocabulary", str(vocabulary)]
    assert run(["data", "stats", "udpos.ar", "copa", "xquad.th", "--format", "encoder", *argv, "--json"]) == 0
    tags, choices, spans = (facts["tasks"][0] for facts in json.loads(capsys.readouterr().out))
    assert tags["splits"]["test"]["examples"] == 300 and choices["splits"]["train"]["examples"] == 400
    assert choices["packing"]["slots"] == {"inputs": 256} and choices["splits"]["train"]["rows"] == 400
    test = spans["splits"]["test"]
    assert test["rows"] >= test["examples"] and set(test["tokens"]) == {"inputs", "question"}
