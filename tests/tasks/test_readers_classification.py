import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtr.errors import DataError
from xtr.tasks.datasets import Sources, nli, paraphrase
from xtr.tasks.datasets.files import read_csv, read_table, unique

# What must come through untouched: line separators of Unicode, quotation marks, white space at the ends.
ODD = ' "A\u2028B"\u0085 ""c\u00a0'
PREMISE, HYPOTHESIS = f"{ODD}p", f"h{ODD}"
XNLI_COLUMNS = [
    "language", "gold_label", "sentence1_binary_parse", "sentence2_binary_parse", "sentence1_parse", "sentence2_parse",
    "sentence1", "sentence2", "promptID", "pairID", "genre", "label1", "label2", "label3", "label4", "label5",
    "sentence1_tokenized", "sentence2_tokenized", "match",
]  # fmt: skip
QQP_HEADER = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"
PAWSX_HEADER = "id\tsentence1\tsentence2\tlabel"
FINDERS = (
    nli.find_snli, nli.find_anli, nli.find_mnli, nli.find_xnli, paraphrase.find_qqp, paraphrase.find_pawsx,
)  # fmt: skip


def write(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Sources((root,))


def jsonl(*rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def table(header, *rows, end="\n"):
    return "".join("\t".join(row) + end for row in (header, *rows))


def gold(label, premise=PREMISE, hypothesis=HYPOTHESIS, **more):
    return {"gold_label": label, "sentence1": premise, "sentence2": hypothesis, **more}


def xnli_row(language, label, premise=PREMISE, hypothesis=HYPOTHESIS):
    values = {"language": language, "gold_label": label, "sentence1": premise, "sentence2": hypothesis}
    return [values.get(column, f"<{column}>") for column in XNLI_COLUMNS]


def by_name(found):
    return {dataset.name: dataset for dataset in found.datasets}


def read(dataset, split):
    tally = Counter()
    part = dataset.splits[split]
    examples = list(part.read(part.files, tally))
    assert len({example.id for example in examples}) == len(examples)
    assert len(examples) + sum(n for what, n in tally.items() if what.startswith("dropped: ")) == tally["rows"]
    assert set(tally) <= {"rows"} | {what for what in tally if what.startswith(("dropped: ", "noted: "))}
    return examples, dict(tally)


def triples(examples):
    return [(e.text_a, e.text_b, e.label_names[e.label]) for e in examples]


def test_snli_has_three_splits_and_drops_what_has_no_gold_label(tmp_path):
    rows = [gold(label) for label in ("neutral", "-", "entailment", "contradiction")]
    files = {f"snli_1.0/snli_1.0_{part}.jsonl": jsonl(*rows) for part in ("train", "dev", "test")}
    (snli,) = nli.find_snli(write(tmp_path, files)).datasets
    assert (snli.name, snli.language, list(snli.splits)) == ("snli", "en", ["train", "validation", "test"])
    for split in snli.splits:
        examples, tally = read(snli, split)
        assert triples(examples) == [(PREMISE, HYPOTHESIS, name) for name in ("neutral", "entailment", "contradiction")]
        assert tally == {"rows": 4, "dropped: no gold label": 1} and [e.id for e in examples] == ["0", "2", "3"]


def test_anli_rounds_are_data_sets_with_unique_ids(tmp_path):
    row = {"context": PREMISE, "hypothesis": HYPOTHESIS, "reason": ""}
    rows = [row | {"uid": uid, "label": label} for uid, label in (("a", "e"), ("b", "n"), ("a", "c"), ("a#2", "c"))]
    sources = write(tmp_path, {f"anli_v1.0/R{n}/train.jsonl": jsonl(*rows[:n]) for n in (1, 3)})
    write(tmp_path, {"anli_v1.0/R3/train.jsonl": jsonl(*rows), "anli_v1.0/R3/test.jsonl": jsonl(*rows[:2])})
    found = nli.find_anli(sources)
    assert list(by_name(found)) == ["anli_r1", "anli_r3"] and list(found.absent) == ["anli_r2"]
    assert str(tmp_path) in found.absent["anli_r2"] and "anli_v1.0/R2/train.jsonl" in found.absent["anli_r2"]
    examples, tally = read(by_name(found)["anli_r3"], "train")
    assert triples(examples) == [
        (PREMISE, HYPOTHESIS, name) for name in ("entailment", "neutral", "contradiction", "contradiction")
    ]
    assert [e.id for e in examples] == ["a", "b", "a#2", "a#2#2"] and tally == {"rows": 4}
    assert list(by_name(found)["anli_r3"].splits) == ["train", "test"]


GLUE = ("index", "promptID", "sentence1", "sentence2", "label1", "gold_label")


@pytest.mark.parametrize(
    "files",
    [
        {f"multinli_1.0/multinli_1.0_{part}.jsonl": jsonl(gold("neutral"), gold("-", "x", "y"))
         for part in ("train", "dev_matched", "dev_mismatched")},
        {f"{folder}/{part}.tsv": table(GLUE, ("0", "1", PREMISE, HYPOTHESIS, "-", "neutral"), ("", "", "", "", "", "-"))
         for part in ("train", "dev_matched", "dev_mismatched", "test_matched")
         for folder in ("glue/MNLI",)},
    ],
)  # fmt: skip
def test_multinli_has_two_validation_sets_in_its_own_files_and_in_glues(tmp_path, files):
    (mnli,) = nli.find_mnli(write(tmp_path, files)).datasets
    assert list(mnli.splits) == ["train", "validation", "validation_mismatched"]
    for split in mnli.splits:
        examples, tally = read(mnli, split)
        assert triples(examples) == [(PREMISE, HYPOTHESIS, "neutral")]
        assert tally == {"rows": 2, "dropped: no gold label": 1}


def test_xtremes_training_file_of_xnli_is_mnli(tmp_path):
    (mnli,) = nli.find_mnli(
        write(tmp_path, {"xnli/train-en.tsv": f"{PREMISE}\t{HYPOTHESIS}\tcontradiction\n"})
    ).datasets
    assert triples(read(mnli, "train")[0]) == [(PREMISE, HYPOTHESIS, "contradiction")]


@pytest.mark.parametrize("folder", ["XNLI-1.0", "xnli/XNLI-1.0"])
@pytest.mark.parametrize("suffix", ["tsv", "jsonl"])
def test_the_official_xnli_files_hold_all_languages(tmp_path, folder, suffix):
    labels = {"en": ("neutral", "entailment"), "qaz": ("contradiction", "neutral")}
    rows = [(language, label) for i in (0, 1) for language, of in labels.items() for label in of[i : i + 1]]
    if suffix == "tsv":
        content = table(XNLI_COLUMNS, *(xnli_row(*row) for row in rows))
    else:
        content = jsonl(*(gold(label, language=language) for language, label in rows))
    found = nli.find_xnli(write(tmp_path, {f"{folder}/xnli.{part}.{suffix}": content for part in ("dev", "test")}))
    assert list(by_name(found)) == ["xnli.en", "xnli.qaz"]
    for language, of in labels.items():
        for split in ("validation", "test"):
            examples, tally = read(by_name(found)[f"xnli.{language}"], split)
            assert triples(examples) == [(PREMISE, HYPOTHESIS, label) for label in of]
            assert tally == {"rows": 2} and [e.id for e in examples] == ["0", "1"]


def test_xtremes_form_of_xnli_comes_first_and_unlabelled_test_files_are_no_split(tmp_path):
    files = {
        "xnli/dev-en.tsv": "a\tb\tneutral\n",
        "xnli/test-en.tsv": "a\tb\n",
        "xnli/test-qaz.tsv": "a\tb\n",
        "xnli/test-qay.tsv": "a\tb\n",
        "XNLI-1.0/xnli.dev.tsv": table(XNLI_COLUMNS, xnli_row("en", "entailment"), xnli_row("qay", "entailment")),
    }
    found = nli.find_xnli(write(tmp_path, files))
    assert {name: list(d.splits) for name, d in by_name(found).items()} == {
        "xnli.en": ["validation"],
        "xnli.qay": ["validation"],
    }
    assert read(by_name(found)["xnli.en"], "validation")[0][0].text_a == "a"
    assert list(found.absent) == ["xnli.qaz"] and "test-qaz.tsv has no labels" in found.absent["xnli.qaz"]
    write(tmp_path, {"XNLI-1.0/xnli.test.tsv": table(XNLI_COLUMNS, xnli_row("en", "contradiction"))})
    found = nli.find_xnli(Sources((tmp_path,)))
    assert triples(read(by_name(found)["xnli.en"], "test")[0]) == [(PREMISE, HYPOTHESIS, "contradiction")]


@pytest.mark.parametrize("folder", ["QQP", "glue/QQP", "glue_data/QQP"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_qqp_keeps_quotation_marks_and_drops_broken_rows(tmp_path, folder, end):
    rows = [
        ("7", "1", "2", '"Why', 'Really?"', "1"),
        ("8", "3", "4", "broken in"),
        ("two", "x?", "0"),
        ("9", "5", "6", PREMISE, HYPOTHESIS, "0"),
        ("10", "7", "8", "", "How?", "0"),
        ("11", "7", "8", "Who?", "How?", ""),
    ]
    content = table(QQP_HEADER.split("\t"), *rows, end=end)
    files = {f"{folder}/{part}.tsv": content for part in ("train", "dev")}
    (qqp,) = paraphrase.find_qqp(write(tmp_path, files | {f"{folder}/test.tsv": "id\tquestion1\tquestion2\n"})).datasets
    assert list(qqp.splits) == ["train", "validation"]
    for split in qqp.splits:
        examples, tally = read(qqp, split)
        assert triples(examples) == [
            ('"Why', 'Really?"', "duplicate"),
            (PREMISE, HYPOTHESIS, "not_duplicate"),
            ("", "How?", "not_duplicate"),
        ]
        assert [e.id for e in examples] == ["7", "9", "10"]
        assert tally == {"rows": 6, "dropped: columns are missing": 3, "noted: empty question": 1}


PAWSX_ROWS = [
    (PREMISE, HYPOTHESIS, "1"), ("NS", "x", "0"), ("a", "NS", "1"), ("", "", "0"), ('"unbalanced', 'x"', "0"),
    ('"one ""two"""', "y", "1"),
]  # fmt: skip
PAWSX_NOTES = {
    "rows": 6,
    "noted: sentence not translated (NS)": 2,
    "noted: empty sentence": 1,
    "noted: sentence in CSV's quotes": 1,
}


def test_pawsx_in_xtremes_form(tmp_path):
    content = "".join("\t".join(row) + "\n" for row in PAWSX_ROWS)
    files = {f"pawsx/{name}.tsv": content for name in ("train-en", "dev-en", "test-en", "test-qaz")}
    found = paraphrase.find_pawsx(write(tmp_path, files | {"pawsx/test-qay.tsv": "a\tb\n"}))
    assert {name: list(d.splits) for name, d in by_name(found).items()} == {
        "pawsx.en": ["train", "validation", "test"],
        "pawsx.qaz": ["test"],
    }
    assert "test-qay.tsv has no labels" in found.absent["pawsx.qay"]
    for dataset in found.datasets:
        for split in dataset.splits:
            examples, tally = read(dataset, split)
            names = paraphrase.PAWSX_LABELS
            assert triples(examples) == [(a, b, names[int(label)]) for a, b, label in PAWSX_ROWS]
            assert tally == PAWSX_NOTES and [e.id for e in examples] == [str(i) for i in range(6)]


@pytest.mark.parametrize("folder", ["x-final", "pawsx/x-final"])
def test_pawsx_in_its_own_form(tmp_path, folder):
    rows = [(str(i + 1), *row) for i, row in enumerate(PAWSX_ROWS)] + [("7", "a", "b", "x"), ("8", "a")]
    content = table(PAWSX_HEADER.split("\t"), *rows)
    parts = ("en/train", "en/dev_2k", "en/test_2k", "qaz/translated_train", "qaz/test_2k")
    found = paraphrase.find_pawsx(write(tmp_path, {f"{folder}/{part}.tsv": content for part in parts}))
    assert {name: list(d.splits) for name, d in by_name(found).items()} == {
        "pawsx.en": ["train", "validation", "test"],
        "pawsx.qaz": ["train", "test"],
    }
    for dataset in found.datasets:
        for split in dataset.splits:
            examples, tally = read(dataset, split)
            assert [(e.text_a, e.text_b, str(e.label)) for e in examples] == PAWSX_ROWS
            assert tally == PAWSX_NOTES | {"rows": 8, "dropped: the label is neither 0 nor 1": 2}
            assert [e.id for e in examples] == [str(i) for i in range(1, 7)]


def test_the_official_form_of_pawsx_comes_first(tmp_path):
    files = {"x-final/en/test_2k.tsv": f"{PAWSX_HEADER}\n1\ta\tb\t0\n", "pawsx/test-en.tsv": "c\td\t1\n"}
    (english,) = paraphrase.find_pawsx(write(tmp_path, files | {"pawsx/dev-en.tsv": "e\tf\t1\n"})).datasets
    assert list(english.splits) == ["validation", "test"]
    assert triples(read(english, "test")[0]) == [("a", "b", "different_meaning")]
    assert triples(read(english, "validation")[0]) == [("e", "f", "paraphrase")]


def test_absent_data_sets_say_where_they_were_looked_for(tmp_path):
    names = [("snli",), ("anli_r1", "anli_r2", "anli_r3"), ("mnli",), (), ("qqp",), ()]
    for find, expected in zip(FINDERS, names, strict=True):
        found = find(Sources((tmp_path,)))
        assert not found.datasets and tuple(found.absent) == expected
        assert all(str(tmp_path) in why for why in found.absent.values())
        assert expected or str(tmp_path) in found.looked_for


@pytest.mark.parametrize(
    "name, content, expected",
    [
        ("snli_1.0/snli_1.0_train.jsonl", jsonl(gold("maybe")), ["line 1, field 'label'", "'maybe'"]),
        ("snli_1.0/snli_1.0_train.jsonl", jsonl(gold("-"), {"gold_label": "neutral"}), ["line 2, field 'sentence1'"]),
        ("anli_v1.0/R1/train.jsonl", jsonl({"uid": "a", "label": "x"}), ["line 1, field 'label'", "'x'"]),
        ("anli_v1.0/R1/train.jsonl", jsonl({"label": "e"}), ["line 1, field 'uid'", "missing"]),
        ("MNLI/train.tsv", "index\tsentence1\tgold_label\n", ["line 1", "'sentence2' is missing"]),
        ("MNLI/train.tsv", "sentence1\tsentence2\tgold_label\na\tb\n", ["line 2, field 'gold_label'", "missing"]),
        ("MNLI/train.tsv", "sentence1\tsentence2\tgold_label\na\tb\tc\td\n", ["line 2", "found 4"]),
        ("MNLI/train.tsv", "", ["line 1", "'gold_label' is missing"]),
        ("XNLI-1.0/xnli.dev.tsv", "gold_label\tsentence1\tsentence2\n", ["line 1", "'language' is missing"]),
        ("XNLI-1.0/xnli.dev.jsonl", jsonl(gold("neutral")), ["line 1, field 'language'", "missing"]),
        ("XNLI-1.0/xnli.test.tsv", table(XNLI_COLUMNS, xnli_row("en", "none")), ["line 2, field 'label'", "'none'"]),
        ("xnli/test-en.tsv", "a\tb\tneutral\na\tb\n", ["line 2", "'label' is missing"]),
        ("QQP/train.tsv", "id\tquestion1\tquestion2\n", ["line 1", "'qid1' is missing"]),
        ("QQP/train.tsv", f"{QQP_HEADER}\n1\t2\t3\ta\tb\t2\n", ["line 2, field 'is_duplicate'", "'2'"]),
        ("QQP/train.tsv", f"{QQP_HEADER}\n1\t2\t3\ta\tb\t1\tx\n", ["line 2", "6 tab-separated columns", "found 7"]),
        ("QQP/train.tsv", f"{QQP_HEADER}\n".encode() + b"1\t2\t3\t\xff\tb\t1\n", ["line 2", "not UTF-8"]),
        ("pawsx/dev-en.tsv", "a\tb\t0\na\tb\t7\n", ["line 2, field 'label'", "'7'"]),
        ("pawsx/dev-en.tsv", "a\tb\n", ["line 1", "'label' is missing"]),
        ("pawsx/test-en.tsv", "1\ta\tb\t0\n", ["line 1", "found 4"]),
        ("x-final/en/train.tsv", "id\tsentence1\tsentence2\tnoisy_label\n", ["line 1", "'label' is missing"]),
        ("x-final/en/train.tsv", f"{PAWSX_HEADER}\n1\ta\tb\t0\tc\n", ["line 2", "found 5"]),
    ],
)
def test_bad_rows_are_named(tmp_path, name, content, expected):
    sources = write(tmp_path, {name: content})
    with pytest.raises(DataError) as error:
        for find in FINDERS:
            for dataset in find(sources).datasets:
                for split in dataset.splits:
                    read(dataset, split)
    for part in [str(tmp_path / name), *expected]:
        assert part in str(error.value)


FIELD = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\t\n\r"))


@given(st.lists(st.tuples(FIELD, FIELD), max_size=5), st.sampled_from(["\n", "\r\n"]))
def test_a_tables_fields_are_what_was_written(tmp_path_factory, rows, end):
    path = tmp_path_factory.mktemp("table") / "t.tsv"
    path.write_bytes(table(("one", "two"), *rows, end=end).encode())
    assert [tuple(record.values()) for _, record in read_table(path, ("two",))] == rows


@given(st.lists(st.text(st.sampled_from("a#2"), max_size=4)))
def test_names_become_unique_and_first_ones_stay(names):
    seen = Counter()
    made = [unique(name, seen) for name in names]
    assert len(set(made)) == len(made)
    assert all(new == name for i, (name, new) in enumerate(zip(names, made, strict=True)) if name not in made[:i])


def test_csv_holds_line_ends_in_quotes_and_none_elsewhere(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes('a,b\r\n"x\ny ""z""","\u2028,"\r\n\r\nNone,\r\n'.encode())
    assert list(read_csv(path, ("a", "b"))) == [
        (3, {"a": 'x\ny "z"', "b": "\u2028,"}),
        (5, {"a": "None", "b": ""}),
    ]
    path.write_bytes(b"a,b\n1,2\nx\ry,3\n")
    with pytest.raises(DataError, match="line 3: not CSV"):
        list(read_csv(path, ("a", "b")))
