"""XTREME's layout: what its evaluate.py would read of it, against folders that the official script was run on."""

import dataclasses
import gzip
import json
import re

import pytest

from xtr.errors import DataError, UserError
from xtr.evaluate.metrics import METRICS
from xtr.evaluate.metrics.benchmark import SCORES
from xtr.evaluate.results import ResultStore
from xtr.export import source, summary, xtreme

XNLI = ("entailment", "neutral", "contradiction")


def lines(text):
    return text.split("\n")[:-1]


def sentences(text):
    return [block.split("\n") for block in text.strip("\n").split("\n\n")]


def golds(data):
    """{id: answers} of a SQuAD file."""
    found = {}
    for article in data["data"]:
        for paragraph in article["paragraphs"]:
            for qa in paragraph["qas"]:
                found[qa["id"]] = [answer["text"] for answer in qa["answers"]]
    return found


def records(task, label, predicted):
    """The records that an evaluation would have written, (prediction, gold) and more, of one language's files."""
    if task in ("xquad", "mlqa", "tydiqa", "mewslix"):
        gold = json.loads(label) if task == "mewslix" else golds(json.loads(label))
        given = json.loads(predicted)
        nothing = [] if task == "mewslix" else ""
        found = [{"id": i, "prediction": given.get(i, nothing), "gold": gold[i]} for i in gold]
        if task == "mewslix":
            found = [r | {"gold": r["gold"][0]} for r in found]
        return found
    if task == "bucc2018":
        pairs, gold = (dict(line.split("\t") for line in lines(text)) for text in (predicted, label))
        ids = list(dict.fromkeys([*pairs, *gold]))
        return [{"id": i, "prediction": pairs.get(i), "gold": [gold[i]] if i in gold else []} for i in ids]
    read = sentences if task in ("panx", "udpos") else lines
    found = []
    for n, (mine, right) in enumerate(zip(read(predicted), read(label), strict=True)):
        one = {"id": str(n), "prediction": mine, "gold": right}
        if task == "xcopa":
            mine, right = json.loads(mine)["label"], json.loads(right)["label"]
            one |= {"prediction": f"choice{mine + 1}", "gold": f"choice{right + 1}", "choices": ["choice1", "choice2"]}
        if task == "xnli":  # as mT5 says them, and as a head does
            mine, right = XNLI.index(mine), XNLI.index(right)
            scores = [-1.0] * 3
            scores[mine] = -0.5
            one |= {"prediction": str(mine), "gold": str(right), "choices": ["0", "1", "2"], "scores": scores}
        if task == "pawsx":
            names = ["different_meaning", "paraphrase"]
            one |= {"prediction": names[int(mine)], "gold": names[int(right)], "choices": names}
        found.append(one)
    return found


def graded(task, language, found):
    values = {}
    for name in SCORES[task]:
        predictions, gold = [r["prediction"] for r in found], [r["gold"] for r in found]
        values[name] = METRICS[name](predictions, gold, language=language, no_answer="unanswerable")[0]
    return values


def official(text, path):
    """A file as evaluate.py reads it."""
    if path.endswith(".json"):
        return {i: found for i, found in json.loads(text).items() if found}  # as good as one that is not there
    if path.endswith(".jsonl"):
        return [json.loads(line)["label"] for line in text.splitlines()]
    rows = [line.strip() for line in text.splitlines()]
    return set(rows) if "bucc2018" in path else rows


@pytest.mark.parametrize("version", ["xtreme", "xtreme-r"])
def test_an_official_folder_comes_back_and_so_do_its_scores(version, oracles, tmp_path, row):
    oracle = json.loads(gzip.decompress((oracles / f"metrics/folder_{version}.json.gz").read_bytes()))
    files, store, rows = oracle["inputs"]["files"], ResultStore(tmp_path / "eval"), []
    for path, label in files.items():
        if not (found := re.fullmatch(r"labels/(\w+)/test-(\w+)\.\w+", path)):
            continue
        task, language = found.groups()
        own = records(task, label, files[path.replace("labels/", "predictions/")])
        place = dict(target=task, language=language, split="queries" if task in ("tatoeba", "bucc2018") else "test")
        for name, value in graded(task, language, own).items():
            rows.append(dataclasses.replace(row, **place, metric=name, value=value, n=len(own)))
        store.write_predictions("run", task, language, place["split"], [r | {"contributions": {}} for r in own])
    lareqa = oracle["expected"].get("COMPUTED_HERE", {})
    for language in ["ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh"] if lareqa else ():
        value = lareqa["lareqa_map@20_given"]
        rows.append(dataclasses.replace(row, target="lareqa", language=language, metric="map@20", value=value))
    store.append(rows)

    results = source.read([tmp_path / "eval"])
    submission = xtreme.write(results, tmp_path / "out", [version])
    base = tmp_path / "out" / version
    written = {str(path.relative_to(base)): path.read_bytes().decode() for path in submission.files}
    wanted = {path: text for path, text in files.items() if path.startswith("predictions/")}
    assert set(written) == set(wanted)
    for path, text in wanted.items():
        assert official(written[path], path) == official(text, path), path
        if path.endswith((".tsv", ".jsonl")) and "bucc2018" not in path:
            assert written[path] == text  # byte for byte
    assert set(submission.left_out) == ({"xtreme-r, mt5-small · none: lareqa"} if lareqa else set())

    values = summary.benchmarks(summary.scores(summary.final(summary.with_systems(results.rows))))
    ours = {line.name: line.value for line in values.itertuples() if line.benchmark == version.replace("-", "_")}
    expected = oracle["expected"]
    for task, scores in expected["detailed_scores"].items():
        assert ours[task] == pytest.approx(scores["avg_metric"], rel=1e-9), task
    for name, score in expected["overall_and_groups"].items():
        assert ours["overall" if name == "all_task" else name] == pytest.approx(score, rel=1e-9), name
    if lareqa:
        assert ours["overall"] == pytest.approx(lareqa["ten_task_mean"], rel=1e-9)


LABELS = [{"id": str(n), "prediction": str(n), "gold": "0", "contributions": {}} for n in (2, 0, 1)]


@pytest.fixture
def evaluated(tmp_path, row):
    """`evaluated(target, languages, records) -> Results`."""

    def evaluate(target, languages, records, **more):
        store = ResultStore(tmp_path / "eval")
        metrics = SCORES[target]
        rows = [
            dataclasses.replace(row, target=target, language=code, metric=m, **more)
            for code in languages
            for m in metrics
        ]
        store.append(rows)
        for code in languages:
            store.write_predictions("run", target, code, rows[0].split, records)
        return source.read([tmp_path / "eval"])

    return evaluate


XNLI_LANGUAGES = ["ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh"]


def test_what_is_not_whole_is_named_and_not_written(evaluated, tmp_path):
    evaluated("xnli", XNLI_LANGUAGES, LABELS)
    evaluated("xcopa", ["et", "ht"], LABELS[1:])
    results = evaluated("mlqa", ["de"], LABELS, split="validation")
    submission = xtreme.write(results, tmp_path / "out", ["xtreme-r"])
    assert {path.parent.name for path in submission.files} == {"xnli"} and len(submission.files) == 15
    assert submission.files[0].read_text() == "contradiction\nentailment\nneutral\n"
    why = {name.rpartition(": ")[2]: reason for name, reason in submission.left_out.items()}
    assert why["xcopa"] == "no results in id, it, qu, sw, ta, th, tr, vi, zh"
    assert why["mlqa"] == "only the development set was evaluated" and why["tydiqa"] == "no results"
    assert "no reader" in why["lareqa"] and len(why) == 9

    (tmp_path / "eval/predictions/run/xnli.sw.test.jsonl").unlink()
    with pytest.raises(UserError, match="no task of xtreme is complete.*results of xnli, xcopa, mlqa"):
        xtreme.write(source.read([tmp_path / "eval"]), tmp_path / "out", ["xtreme"])


def test_what_an_earlier_export_wrote_does_not_stay(evaluated, tmp_path):
    xtreme.write(evaluated("xnli", XNLI_LANGUAGES, LABELS), tmp_path / "out", ["xtreme"])
    old = tmp_path / "out/xtreme/predictions/mlqa/test-xx.json"
    old.parent.mkdir()
    old.write_text("{}")
    submission = xtreme.write(source.read([tmp_path / "eval"]), tmp_path / "out", ["xtreme"])
    assert sorted(tmp_path.glob("out/**/test-*")) == sorted(submission.files)


def test_every_seed_has_a_folder_of_its_own(evaluated, tmp_path):
    evaluated("xnli", XNLI_LANGUAGES, LABELS)
    results = evaluated("xnli", XNLI_LANGUAGES, LABELS, seed=1)
    submission = xtreme.write(results, tmp_path / "out", ["xtreme"])
    folders = {path.relative_to(tmp_path / "out").parts[:3] for path in submission.files}
    assert folders == {("mt5-small", "none", "seed0"), ("mt5-small", "none", "seed1")}


def test_tatoeba_is_in_the_official_order_where_that_is_known(evaluated, tmp_path):
    from xtr.coverage import XTREME

    languages = XTREME["tatoeba"].split()
    hits = [{"id": str(n), "prediction": str(10 + n), "gold": str(n), "contributions": {}} for n in range(3)]
    results = evaluated("tatoeba", languages, hits)
    plain = xtreme.write(results, tmp_path / "a", ["xtreme"])
    assert plain.files[0].read_text() == "10\n11\n12\n" and "LASER's order" in plain.notes[0]
    ordered = xtreme.write(results, tmp_path / "b", ["xtreme"], lambda language, count: [2, 0, 1])
    assert ordered.files[0].read_text() == "12\n10\n11\n" and not ordered.notes
    with pytest.raises(DataError, match="tatoeba.af.test.*3 queries.*2 lines"):
        xtreme.write(results, tmp_path / "c", ["xtreme"], lambda language, count: [1, 0])


@pytest.mark.parametrize(
    ("target", "prediction", "message"),
    [
        ("xnli", "maybe", "'maybe' of example 'x' is none of the choices"),
        ("xnli", "3", "'3' of example 'x' is none of the choices"),
        ("panx", ["O", ""], "'' of example 'x' cannot stand in a line"),
        ("panx", ["B-A B-C"], "cannot stand in a line"),
        ("tatoeba", None, "example 'x' has none"),
        ("xquad", ["a", "b"], "of example 'x' is no text"),
    ],
)
def test_a_prediction_that_the_format_cannot_hold_is_an_error(evaluated, tmp_path, target, prediction, message):
    from xtr.coverage import XTREME

    wrong = [{"id": "x", "prediction": prediction, "gold": "", "contributions": {}}]
    results = evaluated(target, XTREME[target].split(), wrong)
    with pytest.raises(DataError, match=re.escape(message)) as error:
        xtreme.write(results, tmp_path / "out", ["xtreme"])
    assert target in str(error.value)
