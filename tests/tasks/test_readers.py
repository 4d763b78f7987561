import json
from collections import Counter

import pytest

from xtr.errors import DataError
from xtr.tasks.datasets import Sources, files, nli, squad, tatoeba, text
from xtr.tasks.datasets.builder import OfficialFilesSource
from xtr.tasks.examples import Answer
from xtr.tasks.languages import short_code

CONTEXT = "Caf\u00e9 Z\u00fcrich\u2028opened in 1999, near U.S.\u00a0Bank \U0001f600 square."


def read(dataset, split):
    tally = Counter()
    part = dataset.splits[split]
    return list(part.read(part.files, tally)), tally


def by_name(found):
    return {dataset.name: dataset for dataset in found.datasets}


def test_languages_are_found_not_listed(official_files):
    assert set(by_name(nli.find_mnli(Sources((official_files,))))) == {"mnli", "mnli.qaz"}
    assert set(by_name(nli.find_xnli(Sources((official_files,))))) == {"xnli.en", "xnli.qaz"}
    assert set(by_name(squad.find_xquad(Sources((official_files,))))) == {"xquad.en", "xquad.qaz"}
    assert set(by_name(tatoeba.find_tatoeba(Sources((official_files,))))) == {"tatoeba.zh", "tatoeba.qaz"}
    texts = by_name(text.find_text(Sources((official_files,))))
    assert set(texts) == {"text.corpus.en", "text.corpus.qaz", "text.corpus.en_qaz", "text.udhr.pt"}
    assert texts["text.corpus.en_qaz"].language == "en-qaz"


def test_half_a_pair_is_named_with_its_missing_file(official_files):
    absent = tatoeba.find_tatoeba(Sources((official_files,))).absent
    assert list(absent) == ["tatoeba.qay"] and "tatoeba.qay-eng.eng" in absent["tatoeba.qay"]


def test_absent_data_sets_say_where_they_were_looked_for(tmp_path):
    finders = {
        "mnli": nli.find_mnli, "xnli": nli.find_xnli, "squad_v1": squad.find_squad, "xquad": squad.find_xquad,
        "tatoeba": tatoeba.find_tatoeba, "text": text.find_text,
    }  # fmt: skip
    for name, find in finders.items():
        found = find(Sources((tmp_path,)))
        assert not found.datasets and str(tmp_path) in found.absent.get(name, found.looked_for)


def test_lines_end_at_newline_only_and_text_is_untouched(official_files):
    examples, tally = read(by_name(nli.find_xnli(Sources((official_files,))))["xnli.qaz"], "validation")
    assert [(e.text_a, e.text_b, e.label) for e in examples] == [
        ("A\u2028B\u0085 C", "D", 1),
        ("e  \u00a0e", "f", 2),
    ]
    assert tally == {"rows": 2} and [e.id for e in examples] == ["0", "1"]


@pytest.mark.parametrize("split, labels, rows", [("train", [0, 1, 2, 1], 5), ("validation", [0, 2], 3)])
def test_unlabelled_rows_are_dropped_and_counted(official_files, split, labels, rows):
    examples, tally = read(by_name(nli.find_mnli(Sources((official_files,))))["mnli"], split)
    assert [e.label for e in examples] == labels
    assert tally == {"rows": rows, "dropped: no gold label": 1}


def test_multinli_json_stands_in_for_the_training_tsv(tmp_path):
    folder = tmp_path / "multinli_1.0"
    folder.mkdir()
    row = {"gold_label": "neutral", "sentence1": "a", "sentence2": "b"}
    (folder / "multinli_1.0_train.jsonl").write_text(json.dumps(row) + "\n")
    examples, _ = read(by_name(nli.find_mnli(Sources((tmp_path,))))["mnli"], "train")
    assert examples[0].label == 1


def test_squad_spans_count_code_points(official_files):
    examples, _ = read(by_name(squad.find_squad(Sources((official_files,))))["squad_v1"], "train")
    assert examples[0].context == CONTEXT
    assert examples[0].answers == (Answer("1999", CONTEXT.index("1999")),) * 2
    assert examples[1].answers[0].text == "\U0001f600"


def test_tatoeba_is_aligned_by_line(official_files):
    dataset = by_name(tatoeba.find_tatoeba(Sources((official_files,))))["tatoeba.zh"]
    queries, candidates = read(dataset, "queries")[0], read(dataset, "candidates")[0]
    assert [(q.id, q.text, q.gold) for q in queries] == [("0", "Hello.", ("0",)), ("1", "Thanks.", ("1",))]
    assert [c.text for c in candidates] == ["\u4f60\u597d\u3002", "\u8c22\u8c22\u3002"]


def test_text_documents(official_files):
    texts = by_name(text.find_text(Sources((official_files,))))
    documents, tally = read(texts["text.corpus.en"], "train")
    assert [d.text for d in documents] == ["first document", "second\u2028document"]
    assert tally == {"rows": 3, "dropped: empty line": 1}
    documents, _ = read(texts["text.udhr.pt"], "train")
    assert [d.text for d in documents] == ["\u00a0Declara\u00e7\u00e3o\nTodos & cada um"] * 2


@pytest.mark.parametrize(
    "name, content, expected",
    [
        ("xnli/dev-en.tsv", "a\tb\tneutral\na\tneutral\n", ["dev-en.tsv, line 2", "found 2", "'label' is missing"]),
        ("xnli/dev-en.tsv", "a\tb\tc\tneutral\n", ["line 1", "3 tab-separated columns", "found 4"]),
        ("xnli/dev-en.tsv", "a\tb\tmaybe\n", ["line 1, field 'label'", "'maybe'"]),
        ("xnli/dev-en.tsv", "a\tb\tneutral\n\n", ["line 2", "found 1"]),
        ("xnli/dev-en.tsv", "a\tb\tneutral\r\n", ["line 1, field 'label'", "neutral\\r"]),
        ("xnli/dev-en.tsv", b"a\tb\tneutral\n\xff\tb\tneutral\n", ["line 2", "not UTF-8"]),
        ("xnli/XNLI-MT-1.0/multinli/multinli.train.en.tsv", "a\tb\tneutral\n", ["line 1", "header"]),
        ("multinli_1.0/multinli_1.0_train.jsonl", '{"sentence1": "a"}\n', ["line 1, field 'sentence2'", "missing"]),
        ("multinli_1.0/multinli_1.0_train.jsonl", '{"a": 1}\n{"a"\n', ["line 1"]),
        ("multinli_1.0/multinli_1.0_train.jsonl", "[]\n", ["line 1", "expected a JSON object"]),
        ("tatoeba/v1/tatoeba.deu-eng.eng", "a\nb\n", ["has 2 lines", "has 1"]),
        ("text/udhr/udhr_x.xml", "<udhr xmlns='u' xml:lang='de'><title>", ["udhr_x.xml, line 1", "not XML"]),
        ("text/udhr/udhr_x.xml", "<udhr xmlns='u'/>", ["udhr_x.xml", "'xml:lang'"]),
        ("squad/train-v1.1.json", "{", ["train-v1.1.json, line 1", "not JSON"]),
    ],
)
def test_bad_rows_are_named(tmp_path, name, content, expected):
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    if "tatoeba" in name:
        path.with_suffix(".deu").write_bytes(b"eins\n")
    finders = (nli.find_mnli, nli.find_xnli, squad.find_squad, tatoeba.find_tatoeba, text.find_text)
    with pytest.raises(DataError) as error:
        for find in finders:
            for dataset in find(Sources((tmp_path,))).datasets:
                for split in dataset.splits:
                    read(dataset, split)
    assert str(path) in str(error.value)
    for part in expected:
        assert part in str(error.value)


def _question(**changes):
    return {"id": "q7", "question": "When?", "answers": [{"text": "1999", "answer_start": 0}], **changes}


@pytest.mark.parametrize(
    "questions, expected",
    [
        ([_question(answers=[{"text": "1999", "answer_start": 1}])], ["'q7'", "'answer_start'", "'1999'", "'999'"]),
        ([_question(answers=[{"text": "1999", "answer_start": -4}])], ["'q7'", "'answer_start'"]),
        ([_question(answers=[])], ["'q7'", "'answers'"]),
        ([_question(), _question()], ["'q7'", "used twice"]),
        ([_question(question=3)], ["'q7'", "'question'", "expected str"]),
        ([_question(question="\ud800")], ["'q7'", "'question'", "surrogate"]),
        ([{"question": "?"}], ["qas[0]", "'id'", "missing"]),
    ],
)
def test_bad_questions_are_named(tmp_path, questions, expected):
    path = tmp_path / "squad" / "train-v1.1.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"data": [{"paragraphs": [{"context": "1999", "qas": questions}]}]}))
    with pytest.raises(DataError) as error:
        read(squad.find_squad(Sources((tmp_path,))).datasets[0], "train")
    for part in [str(path), *expected]:
        assert part in str(error.value)


@pytest.mark.parametrize("text", ["[" * 200_000, "9" * 5000, "\ufeff{}"], ids=["deep", "digits", "bom"])
def test_what_python_cannot_read_as_json_is_named(tmp_path, text):
    path = tmp_path / "a.jsonl"
    path.write_text("{}\n" + text, encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.jsonl, line 2: not JSON"):
        list(files.read_jsonl(path))
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.jsonl, line 1: not JSON"):
        files.read_json(path)


def test_a_message_quotes_no_whole_file():
    message = str(files.bad("f", "line 1", f"start {'x' * 10**6} end"))
    assert len(message) < 1000 and message.startswith("f, line 1: start") and message.endswith("end")


def test_what_the_system_refuses_to_read_is_named(tmp_path):
    with pytest.raises(DataError, match=f"{tmp_path}: it cannot be read"), files.readable():
        files.read_json(tmp_path)


def test_a_split_without_examples_is_named(tmp_path):
    path = tmp_path / "snli_1.0/snli_1.0_train.jsonl"
    path.parent.mkdir()
    path.write_text('{"gold_label": "-", "sentence1": "a", "sentence2": "b"}\n')
    (dataset,) = nli.find_snli(Sources((tmp_path,))).datasets
    source = OfficialFilesSource(dataset, str(tmp_path / "cache"), [])
    with pytest.raises(DataError, match=r"train\.jsonl: split 'train' of snli has no examples \(.*no gold label 1\)"):
        source.num_input_examples("train")


def test_a_row_of_no_language_is_named(tmp_path):
    path = tmp_path / "XNLI-1.0/xnli.test.tsv"
    path.parent.mkdir()
    path.write_text("language\tgold_label\tsentence1\tsentence2\nsw\tneutral\ta\tb\n\n")
    with pytest.raises(DataError, match=r"xnli\.test\.tsv, line 3, field 'language'"):
        nli.find_xnli(Sources((tmp_path,)))


def test_a_corpus_may_lie_in_several_folders(tmp_path):
    roots = tuple(tmp_path / name for name in ("a", "b"))
    for root, language in zip(roots, ("ka", "yo"), strict=True):
        (root / "text/wiki").mkdir(parents=True)
        (root / f"text/wiki/{language}.txt").write_text("a\n")
    assert set(by_name(text.find_text(Sources(roots)))) == {"text.wiki.ka", "text.wiki.yo"}


def test_language_codes():
    codes = ("cmn", "pes", "swh", "arb", "ekk", "jav", "tgl", "qaz", "en", "zlm")
    assert [short_code(c) for c in codes] == ["zh", "fa", "sw", "ar", "et", "jv", "tl", "qaz", "en", "ms"]
