"""Question answering and retrieval data in official files: nothing is lost, and texts are those of the files."""

import json
from collections import Counter

import pytest

from xtr.tasks.datasets import Sources, bucc, lareqa, mewslix, mlqa, squad, tydiqa
from xtr.tasks.datasets.sentences import sentences
from xtr.tasks.examples import SpanQA

QA = (squad.find_squad, squad.find_squad_v2, squad.find_xquad, mlqa.find_mlqa, tydiqa.find_tydiqa)


def splits(data_dir, *finders):
    """(name, split, files, examples, tally) of everything that the finders find."""
    for find in finders:
        for dataset in find(Sources((data_dir,))).datasets:
            for name, split in dataset.splits.items():
                tally = Counter()
                yield dataset.name, name, split.files, list(split.read(split.files, tally)), tally


def squad_json(path):
    """The (context, question's JSON) of a file."""
    for article in json.loads(path.read_bytes())["data"]:
        for paragraph in article["paragraphs"]:
            for record in paragraph["qas"]:
                yield paragraph["context"], record


def lines(path):
    return path.read_bytes().decode().removesuffix("\n").split("\n")


def holds(text, context, offset):
    """Whether a sentence, glued before its context without line ends, has the code point `offset` of the context."""
    flat, offset = context.replace("\n", ""), offset - context[:offset].count("\n")
    assert text.endswith(flat)
    sentence = text.removesuffix(flat)
    return any(flat.startswith(sentence, i) for i in range(max(0, offset - len(sentence) + 1), offset + 1))


def test_every_question_and_answer_is_that_of_its_file(data_dir):
    found = list(splits(data_dir, *QA))
    if not found:
        pytest.skip("no questions are there")
    for name, split, (path,), examples, tally in found:
        records = list(squad_json(path))
        if path.name in ("tydiqa-goldp-v1.1-train.json", "tydiqa-goldp-v1.1-dev.json"):
            beginning = examples[0].id.partition("-")[0] + "-"
            records = [(context, record) for context, record in records if record["id"].startswith(beginning)]
        assert len(examples) == len(records) == tally["rows"] and examples, (name, split)
        assert len({example.id for example in examples}) == len(examples)
        for example, (context, record) in zip(examples, records, strict=True):
            assert isinstance(example, SpanQA) and example.id.partition("#")[0] == record["id"]
            assert (example.context, example.question) == (context, record["question"])
            assert [(a.text, a.start) for a in example.answers] == [
                (a["text"], a["answer_start"]) for a in record["answers"]
            ]
            assert all(context[a.start :].startswith(a.text) for a in example.answers)
            assert example.answerable is not record.get("is_impossible", False)
        assert tally["noted: unanswerable"] == sum(bool(r.get("is_impossible")) for _, r in records)


def test_candidates_of_lareqa_are_the_sentences_of_all_files(data_dir):
    found = {name: (files, examples, tally) for name, _, files, examples, tally in splits(data_dir, lareqa.find_lareqa)}
    if not found:
        pytest.skip("no file of XQuAD-R is there")
    files, candidates, _ = found.pop("lareqa.candidates")
    paragraphs = [p for path in files for a in json.loads(path.read_bytes())["data"] for p in a["paragraphs"]]
    texts = [s + p["context"] for p in paragraphs for s in p["sentences"]]
    assert [c.text for c in candidates] == [text.replace("\n", "") for text in texts]
    texts = {c.id: c.text for c in candidates}
    assert len(texts) == len(candidates)
    for name, ((own, *_), queries, tally) in found.items():
        records = list(squad_json(own))
        assert len(queries) == len(records) == tally["rows"], name
        for query, (context, record) in zip(queries, records, strict=True):
            assert query.id == f"{record['id']}_{own.stem}" and query.text == record["question"]
            (answer,) = record["answers"]
            right = [texts[gold] for gold in query.gold if gold.startswith(f"{own.stem}_")]
            assert right and all(holds(text, context, answer["answer_start"]) for text in right)
            assert {gold.partition("_")[0] for gold in query.gold} == {path.stem for path in files}


def test_sentences_are_those_that_xquad_r_was_published_with(data_dir):
    path = data_dir / "lareqa/xquad-r/en.json"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    paragraphs = [p for a in json.loads(path.read_bytes())["data"] for p in a["paragraphs"]]
    same = sum(list(sentences(p["context"])) == [tuple(b) for b in p["sentence_breaks"]] for p in paragraphs)
    assert same >= 0.95 * len(paragraphs)


def test_pairs_of_lareqa_hold_their_answers(data_dir):
    for _, split, (path,), pairs, tally in splits(data_dir, lareqa.find_lareqa_squad):
        records = {record["id"]: (context, record) for context, record in squad_json(path)}
        dropped = tally["dropped: answer begins in no sentence"]
        assert len(pairs) + dropped == tally["rows"] == len(records) and dropped < 0.01 * len(records), split
        groups = {}
        for pair in pairs:
            context, record = records[pair.id]
            assert pair.query == record["question"]
            assert holds(pair.positive, context, record["answers"][0]["answer_start"])
            assert groups.setdefault(pair.group, pair.positive) == pair.positive
        assert len(set(groups.values())) == len(groups)


def test_bucc_is_that_of_its_files(data_dir):
    found = list(splits(data_dir, bucc.find_bucc2018))
    if not found:
        pytest.skip("no part of BUCC is there")
    for _, split, (own, _, pairs), examples, tally in found:
        rows = [line.split("\t", 1) for line in lines(own)]
        assert [[e.id, e.text] for e in examples] == rows and tally["rows"] == len(rows)
        gold = [line.split("\t") for line in lines(pairs)]
        mine = 0 if split.endswith("queries") else 1
        assert sorted((e.id, g) for e in examples for g in e.gold) == sorted((g[mine], g[1 - mine]) for g in gold)


def test_the_published_examples_of_mewslix(data_dir):
    path = data_dir / "mewslix/example_mentions.jsonl"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    articles = [json.loads(line) for line in lines(path)]
    queries = []
    for language in sorted({article["context"]["language"] for article in articles}):
        queries += mewslix.read_mentions((path,), Counter(), language=language)
    mentions = {mention["example_id"]: mention for article in articles for mention in article["mentions"]}
    assert {q.id for q in queries} == set(mentions) and len(queries) == len(mentions)
    for query in queries:
        name = mentions[query.id]["mention_span"]["text"]
        assert query.text.startswith(f"{name}: ") and f" {{ {name} }} " in query.text
        assert query.gold == (mentions[query.id]["entity_id"],)
