"""Readers of SQuAD v2.0, XQuAD, MLQA and TyDiQA-GoldP, in the authors' files and in XTREME's."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtr.errors import DataError
from xtr.tasks.datasets import Sources, mlqa, squad, tydiqa
from xtr.tasks.examples import Answer

# Line separators of Unicode, a no-break space, a right-to-left mark, decomposed letters, and one beyond the BMP.
ODD = "\u2028e\u0301\u0085 \u00a0\u200f\U0001f600\u212b\ufeff"
CONTEXT = f" {ODD}opened in 1999{ODD}, near the square.  "


def question(name="q0", answers=("1999",), **more):
    spans = [{"text": text, "answer_start": CONTEXT.index(text)} for text in answers]
    return {"id": name, "question": f"When{ODD}?", "answers": spans, **more}


def document(*questions, context=CONTEXT):
    data = [{"title": "t", "paragraphs": [{"context": context, "qas": [one]}]} for one in questions]
    return json.dumps({"version": "x", "data": data}, ensure_ascii=False)


def blank(name):
    """A question as XTREME leaves those of test sets."""
    return {"id": name, "question": "?", "answers": [{"answer_start": 0, "text": ""}]}


def write(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode())
    return Sources((root,))


def by_name(found):
    return {dataset.name: dataset for dataset in found.datasets}


def read(dataset, split):
    tally = Counter()
    part = dataset.splits[split]
    examples = list(part.read(part.files, tally))
    assert len({example.id for example in examples}) == len(examples) == tally["rows"]
    return examples, {what: n for what, n in tally.items() if what != "rows"}


def test_squad_v2_has_unanswerable_questions(tmp_path):
    possible = question("q0", ("1999", ODD, "1999"), is_impossible=False)
    impossible = question("q1", (), is_impossible=True, plausible_answers=[{"text": "no", "answer_start": 99}])
    found = squad.find_squad_v2(
        write(tmp_path, {f"squad/{part}-v2.0.json": document(possible, impossible) for part in ("train", "dev")})
    )
    (dataset,) = found.datasets
    assert (dataset.name, dataset.language, list(dataset.splits)) == ("squad_v2", "en", ["train", "validation"])
    for split in dataset.splits:
        (first, second), notes = read(dataset, split)
        year = Answer("1999", CONTEXT.index("1999"))
        assert first.answers == (year, Answer(ODD, 1), year) and first.answerable
        assert second.answers == () and not second.answerable
        assert (first.context, first.question) == (CONTEXT, f"When{ODD}?")
        assert notes == {"noted: unanswerable": 1}


@pytest.mark.parametrize(
    "bad, expected",
    [
        (question("q7", is_impossible=True), ["'q7'", "'is_impossible'", "there is an answer ('1999')"]),
        (question("q7", (), is_impossible=False), ["'q7'", "'is_impossible'", "no answer"]),
        (question("q7"), ["'q7'", "'is_impossible'", "missing"]),
        (question("q7", is_impossible=0), ["'q7'", "'is_impossible'", "expected bool"]),
        (question("q7", is_impossible=False) | {"answers": [{"text": "1999", "answer_start": 3}]}, ["'q7'", "point 3"]),
        (question("q7", is_impossible=False) | {"answers": [{"text": "1999"}]}, ["'q7'", "'answer_start'", "missing"]),
        (question("q0", is_impossible=False), ["'q0'", "used twice"]),
        (blank("q7") | {"is_impossible": False}, ["'q7'", "empty answer", "XTREME"]),
    ],
)
def test_bad_questions_of_squad_v2_are_named(tmp_path, bad, expected):
    good = question("q0", is_impossible=False)
    sources = write(tmp_path, {"squad/train-v2.0.json": document(good, bad)})
    with pytest.raises(DataError) as error:
        read(squad.find_squad_v2(sources).datasets[0], "train")
    for part in ["train-v2.0.json", *expected]:
        assert part in str(error.value)


TYDIQA_TRAIN = "tydiqa/tydiqa-goldp-v1.1-train/tydiqa.goldp.fi.train.json"


@pytest.mark.parametrize(
    "find, name, split",
    [
        (squad.find_squad_v2, "squad/train-v2.0.json", "train"),
        (squad.find_xquad, "xquad/xquad.ro.json", "test"),
        (mlqa.find_mlqa, "mlqa/MLQA_V1/dev/dev-context-de-question-de.json", "validation"),
        (tydiqa.find_tydiqa, TYDIQA_TRAIN, "train"),
    ],
)
def test_a_truncated_file_is_named_with_its_line(tmp_path, find, name, split):
    text = document(question(is_impossible=False)).replace('"qas"', '\n"qas"')
    (dataset,) = find(write(tmp_path, {name: text})).datasets
    read(dataset, split)
    for content, problem in ((text[:-20], "line 2: not JSON"), ("[]", "'data'"), ('{"data": [{}]}', "'paragraphs'")):
        (tmp_path / name).write_bytes(content.encode())
        with pytest.raises(DataError) as error:
            read(dataset, split)
        assert name in str(error.value) and problem in str(error.value)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=2, max_size=30), st.data())
def test_any_span_of_any_text_is_read_back(tmp_path_factory, context, data):
    start = data.draw(st.integers(0, len(context) - 1))
    end = data.draw(st.integers(start + 1, len(context)))
    answer = {"text": context[start:end], "answer_start": start}
    path = tmp_path_factory.getbasetemp() / "any_span.json"
    record = {"id": "q", "question": context, "answers": [answer], "is_impossible": False}
    path.write_bytes(document(record, context=context).encode())
    for reader in (squad.read_squad, squad.read_squad_v2):
        (example,) = reader((path,), Counter())
        assert (example.context, example.question) == (context, context)
        assert example.answers == (Answer(context[start:end], start),)
    record["answers"] = [{"text": context[start:end] + "\u2029", "answer_start": end}]
    path.write_bytes(document(record, context=context).encode())
    with pytest.raises(DataError, match="'q'"):
        list(squad.read_squad((path,), Counter()))


def test_xquad_without_its_answers_is_absent_with_the_reason(tmp_path):
    files = {"xquad/xquad.ro.json": document(question()), "xquad/xquad.el.json": document(blank("q0"), question())}
    found = squad.find_xquad(write(tmp_path, files))
    assert set(by_name(found)) == {"xquad.ro"}
    assert list(found.absent) == ["xquad.el"] and "answers taken out" in found.absent["xquad.el"]


@pytest.mark.parametrize("folder", ["mlqa/MLQA_V1/{}", "MLQA_V1/{}", "mlqa/{}", "mlqa"])
def test_mlqa_has_every_pair_of_languages_found(tmp_path, folder):
    pairs = [("en", "en"), ("qaz", "qaz"), ("qaz", "en"), ("en", "qaz")]
    files = {
        f"{folder.format(part)}/{part}-context-{c}-question-{q}.json": document(question(f"{part}{c}{q}"))
        for part in ("dev", "test")
        for c, q in pairs
    }
    files[f"{folder.format('dev')}/dev-context-zh-question-de.json"] = document(question("only dev"))
    found = mlqa.find_mlqa(write(tmp_path, files))
    datasets = by_name(found)
    assert list(datasets) == ["mlqa.en", "mlqa.en_qaz", "mlqa.qaz_en", "mlqa.qaz", "mlqa.zh_de"] and not found.absent
    assert set(datasets["mlqa.zh_de"].splits) == {"validation"}
    assert {name: dataset.language for name, dataset in datasets.items()} == {
        "mlqa.en": "en", "mlqa.en_qaz": "en", "mlqa.qaz_en": "qaz", "mlqa.qaz": "qaz", "mlqa.zh_de": "zh",
    }  # fmt: skip
    assert [e.id for e in read(datasets["mlqa.qaz_en"], "validation")[0]] == ["devqazen"]
    (example,), notes = read(datasets["mlqa.qaz"], "test")
    assert (example.id, example.context, example.question, notes) == ("testqazqaz", CONTEXT, f"When{ODD}?", {})


def test_mlqa_whose_test_set_xtreme_emptied_has_the_validation_set_alone(tmp_path):
    name = "mlqa/MLQA_V1/{0}/{0}-context-{1}-question-{1}.json"
    files = {name.format("dev", "de"): document(question()), name.format("test", "de"): document(blank("q"))}
    files[name.format("test", "vi")] = document(blank("q"))
    found = mlqa.find_mlqa(write(tmp_path, files))
    assert {name: set(dataset.splits) for name, dataset in by_name(found).items()} == {"mlqa.de": {"validation"}}
    assert list(found.absent) == ["mlqa.vi"] and "answers taken out" in found.absent["mlqa.vi"]


DEV = "tydiqa/tydiqa-goldp-v1.1-dev"


@pytest.mark.parametrize(
    "place", ["tydiqa/tydiqa-goldp-v1.1-{}.json", "tydiqa/tydiqa-goldp-v1.1-{0}/tydiqa-goldp-v1.1-{0}.json"]
)
def test_tydiqa_is_told_apart_by_its_ids(tmp_path, place):
    names = ("english--763-0", "finnish--763-0", "english-12-1", "zulu-1-1")
    files = {place.format(part): document(*map(question, names)) for part in ("train", "dev")}
    datasets = by_name(tydiqa.find_tydiqa(write(tmp_path, files)))
    assert {name: set(dataset.splits) for name, dataset in datasets.items()} == {
        "tydiqa.en": {"train", "validation", "test"}, "tydiqa.fi": {"train", "test"}, "tydiqa.zulu": {"train", "test"},
    }  # fmt: skip
    for split in ("train", "validation", "test"):
        examples, _ = read(datasets["tydiqa.en"], split)
        assert [e.id for e in examples] == ["english--763-0", "english-12-1"] and examples[0].context == CONTEXT
    assert [e.id for e in read(datasets["tydiqa.fi"], "test")[0]] == ["finnish--763-0"]


def test_tydiqa_in_the_authors_and_in_xtremes_files(tmp_path):
    files = {
        f"{DEV}/tydiqa-goldp-dev-english.json": document(question("english-1")),
        f"{DEV}/tydiqa-goldp-dev-bengali.json": document(question("bengali-1")),
        f"{DEV}/tydiqa.goldp.te.dev.json": document(blank("telugu-1")),
        f"{DEV}/tydiqa.goldp.ko.dev.json": document(question("korean-1")),
        TYDIQA_TRAIN: document(question("0"), question("1"), question("0"), question("0")),
    }
    found = tydiqa.find_tydiqa(write(tmp_path, files))
    datasets = by_name(found)
    assert {name: set(dataset.splits) for name, dataset in datasets.items()} == {
        "tydiqa.en": {"validation", "test"}, "tydiqa.bn": {"test"}, "tydiqa.ko": {"test"}, "tydiqa.fi": {"train"},
    }  # fmt: skip
    assert list(found.absent) == ["tydiqa.te"] and "answers taken out" in found.absent["tydiqa.te"]
    examples, notes = read(datasets["tydiqa.fi"], "train")
    assert [e.id for e in examples] == ["0", "1", "0#2", "0#3"] and notes == {"noted: id used before": 2}


def test_ids_of_the_published_tydiqa_are_unique(tmp_path):
    name = "tydiqa/tydiqa-goldp-v1.1-train.json"
    sources = write(tmp_path, {name: document(question("thai-1"), question("thai-1"))})
    with pytest.raises(DataError, match="'thai-1'.*used twice"):
        read(by_name(tydiqa.find_tydiqa(sources))["tydiqa.th"], "train")


@pytest.mark.parametrize(
    "find, name", [(squad.find_squad_v2, "squad_v2"), (mlqa.find_mlqa, ""), (tydiqa.find_tydiqa, "")]
)
def test_what_is_not_there_was_looked_for(tmp_path, find, name):
    found = find(Sources((tmp_path,)))
    assert not found.datasets and str(tmp_path) in found.absent.get(name, found.looked_for)


def test_questions_of_no_language_are_named(tmp_path):
    path = tmp_path / "tydiqa/tydiqa-goldp-v1.1-dev.json"
    path.parent.mkdir()
    path.write_text(document(question("7-1")), encoding="utf-8")
    with pytest.raises(DataError, match=r"v1\.1-dev\.json, field 'id'"):
        tydiqa.find_tydiqa(Sources((tmp_path,)))
    path.write_text(document(question("bengali-1"), question("7-1")), encoding="utf-8")
    (dataset,) = tydiqa.find_tydiqa(Sources((tmp_path,))).datasets
    with pytest.raises(DataError, match="question id '7-1', field 'id'"):
        list(dataset.splits["test"].read(dataset.splits["test"].files, Counter()))
