"""jsonl_task and tsv_task: every kind, by the names of a file's fields; and what is said of mistakes."""

import json
from collections import Counter

import pytest

import xtr.tasks
from xtr.data import cache_writer
from xtr.data.cached_task import CachedTask, eval_examples
from xtr.errors import DataError, UserError
from xtr.tasks.datasets.mapped import Layout, read_examples
from xtr.tasks.examples import Answer, Classification, MultipleChoice, Pair, Retrieval, SpanQA, Tagging, Text

LABELS = ("bad", "good")


def read(tmp_path, kind, rows, fields, labels=(), columns=None):
    """The examples of a file: of JSON lines for dicts, of a table for lists or for text."""
    table = not isinstance(rows[0], dict)
    lines = [json.dumps(row) if isinstance(row, dict) else "\t".join(row) for row in rows]
    path = tmp_path / ("rows.tsv" if table else "rows.jsonl")
    path.write_bytes("".join(line + "\n" for line in lines).encode("utf-8", "surrogatepass"))
    tally = Counter()
    found = list(read_examples((path,), tally, layout=Layout(kind, fields, tuple(labels), table, columns)))
    assert tally == {"rows": len(found)}
    return found


def test_classification(tmp_path):
    fields = {"text_a": "a", "label": "y"}
    rows = [{"a": "x\u2028 ", "y": "good"}, {"a": "", "y": 0, "more": None}]
    assert read(tmp_path, "classification", rows, fields, LABELS) == [
        Classification("0", "x\u2028 ", "", 1, LABELS), Classification("1", "", "", 0, LABELS),
    ]  # fmt: skip
    rows = [["y", "a", "b", "n"], ["1", "x", " z", "7"], ["bad", "", "b", "7"]]
    fields |= {"text_b": "b", "id": "n"}
    expected = [Classification("7", "x", " z", 1, LABELS), Classification("7#2", "", "b", 0, LABELS)]
    assert read(tmp_path, "classification", rows, fields, LABELS) == expected
    assert read(tmp_path, "classification", rows[1:], fields, LABELS, ("y", "a", "b", "n")) == expected


def test_labels_that_are_numbers_go_by_name(tmp_path):
    names, fields = ("1", "2"), {"text_a": "a", "label": "y"}
    found = read(tmp_path, "classification", [{"a": "", "y": 1}, {"a": "", "y": "2"}], fields, names)
    assert [example.label for example in found] == [0, 1]
    for rows in ([{"a": "", "y": 0}], [["a", "y"], ["", "0"]]):
        with pytest.raises(DataError, match="line [12], field 'y': '?0'? is no label; there are 1, 2"):
            read(tmp_path, "classification", rows, fields, names)


def test_multiple_choice(tmp_path):
    rows = [{"q": "why", "c": ["a", "b"], "y": 1}]
    fields = {"question": "q", "choices": "c", "label": "y"}
    assert read(tmp_path, "multiple_choice", rows, fields) == [MultipleChoice("0", "", "why", ("a", "b"), 1)]
    table = [["c1", "c2", "c3", "y"], ["a", "b c", "d", "C"]]
    fields = {"choices": ("c1", "c2", "c3"), "label": "y"}
    found = read(tmp_path, "multiple_choice", table, fields, ("A", "B", "C"))
    assert found == [MultipleChoice("0", "", "", ("a", "b c", "d"), 2)]
    with pytest.raises(DataError, match="line 2, field 'y': 'D' is no label; there are A, B, C"):
        read(tmp_path, "multiple_choice", [table[0], ["a", "b", "c", "D"]], fields, ("A", "B", "C"))


CONTEXT = "\U0001f600 in 1999."


@pytest.mark.parametrize(
    "answers", [[{"text": "1999", "answer_start": 5}], {"text": ["1999"], "answer_start": [5]}], ids=["list", "table"]
)
def test_span_qa(tmp_path, answers):
    fields = {"context": "c", "question": "q", "answers": "a", "id": "i"}
    rows = [{"c": CONTEXT, "q": "when", "a": answers, "i": 3}, {"c": "x", "q": "who", "a": [], "i": "4"}]
    assert read(tmp_path, "span_qa", rows, fields) == [
        SpanQA("3", CONTEXT, "when", (Answer("1999", 5),), True), SpanQA("4", "x", "who", (), False),
    ]  # fmt: skip
    rows[0]["c"] = CONTEXT[1:]
    with pytest.raises(DataError, match="rows.jsonl, line 1, field 'a': the answer '1999' is not in the context at"):
        read(tmp_path, "span_qa", rows, fields)
    rows = [["c", "q", "t", "s"], [CONTEXT, "when", "1999", "5"], ["x", "who", "", ""]]
    found = read(tmp_path, "span_qa", rows, {"context": "c", "question": "q", "answers": ("t", "s")})
    assert [example.answers for example in found] == [(Answer("1999", 5),), ()]


def test_the_other_kinds(tmp_path):
    tags = ("O", "B-X")
    expected = [Tagging("0", ("a", "b"), ("O", "B-X"))]
    fields = {"tokens": "w", "tags": "t"}
    assert read(tmp_path, "tagging", [{"w": ["a", "b"], "t": ["O", "B-X"]}], fields, tags) == expected
    assert read(tmp_path, "tagging", [["w", "t"], ["a b", "O B-X"]], fields, tags) == expected
    with pytest.raises(DataError, match="'B-Y' is none of O, B-X. Did you mean B-X"):
        read(tmp_path, "tagging", [{"w": ["a"], "t": ["B-Y"]}], fields, tags)
    with pytest.raises(DataError, match="1 tags of 2 tokens"):
        read(tmp_path, "tagging", [{"w": ["a", "b"], "t": ["O"]}], fields, tags)
    rows = [{"s": "x", "n": "q1", "g": ["c1", "c2"]}, {"s": "y", "n": "q2", "g": 5}, {"s": "z", "n": "c1"}]
    found = read(tmp_path, "retrieval", rows, {"text": "s", "id": "n", "gold": "g"})
    assert found == [Retrieval("q1", "x", ("c1", "c2")), Retrieval("q2", "y", ("5",)), Retrieval("c1", "z", ())]
    pair = {"query": "q", "positive": "p"}
    assert read(tmp_path, "pairs", [{"q": "a", "p": "b"}], pair) == [Pair("0", "a", "b", "b")]
    found = read(tmp_path, "pairs", [["q", "p", "g"], ["a", "b", "k"]], pair | {"group": "g"})
    assert found == [Pair("0", "a", "b", "k")]
    assert read(tmp_path, "text", [{"t": "a\nb"}], {"text": "t"}) == [Text("0", "a\nb")]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"premis": "x", "y": 1}, "field 'premise': missing; there is premis, y. Did you mean premis"),
        ({"premise": 3, "y": 1}, "field 'premise': expected a text, found int"),
        ({"premise": "\ud800", "y": 1}, "field 'premise': lone surrogate at character 0"),
        (
            {"premise": "x", "y": "goood"},
            "'goood' is no label; there are bad, good, the numbers 0 to 1. Did you mean good",
        ),
        ({"premise": "x", "y": True}, "True is no label"),
        ({"premise": "x", "y": 2}, "2 is no label"),
        ({"premise": "x", "y": None}, "None is no label"),
    ],
)
def test_bad_rows_are_named(tmp_path, row, what):
    with pytest.raises(DataError, match=rf"rows\.jsonl, line 1, .*{what}"):
        read(tmp_path, "classification", [row], {"text_a": "premise", "label": "y"}, LABELS)


MODULE = """
import xtr.tasks

def add(name, kind="classification", language="sw", files={"train": "rows.jsonl"}, label_names=("bad", "good"), **more):
    fields = {"text_a": "text", "label": "stars"} | more
    return xtr.tasks.jsonl_task(name, kind=kind, language=language, files=files, label_names=label_names,
                                **{k: v for k, v in fields.items() if v is not None})
CALL
"""


@pytest.fixture
def ask(official_files, vocabulary_path, tmp_path, monkeypatch):
    """`ask(call, *names)`: the cached tasks of a module that makes one call."""
    from xtr.tasks import modules

    for name in ("XTR_DATA_DIR", "XTR_CACHE_DIR", "XTR_VOCABULARY_PATH", "XTR_FORMAT", "XTR_TFDS_TASKS"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(modules.sys, "path", list(modules.sys.path))
    rows = [{"text": "hello", "stars": "good"}, {"text": "thanks", "stars": 0}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = []

    def ask(call, *names, form="text2text"):
        made.append(f"simple_tasks_{tmp_path.name.replace('-', '_')}_{len(made)}.py")
        (tmp_path / made[-1]).write_text(MODULE.replace("CALL", call))
        response = cache_writer.write(
            {
                "names": list(names), "task_modules": [str(tmp_path / made[-1])], "data_dir": str(official_files),
                "vocabulary_path": str(vocabulary_path), "cache_dir": str(tmp_path / "cache"), "format": form,
            }
        )  # fmt: skip
        return [CachedTask.open(response["tasks"][name]) for name in names]

    yield ask
    import seqio

    for name in [n for n in seqio.TaskRegistry.names() if n.startswith("simple_")]:
        seqio.TaskRegistry.remove(name)


def test_a_task_has_all_that_xtrs_own_have(ask):
    (task,) = ask("add('simple_one.sw')", "simple_one.sw")
    info = {key: task.info[key] for key in ("kind", "language", "group", "predictor", "metrics")}
    assert info == {
        "kind": "classification", "language": "sw", "group": "simple_one", "predictor": "rank", "metrics": ["accuracy"],
    }  # fmt: skip
    first, second = eval_examples(task, "train")
    assert first["inputs_pretokenized"] == "simple_one.sw text: hello" and first["targets_pretokenized"] == "good"
    assert second["meta"] == {"id": "1", "choices": ["bad", "good"], "label": 0}
    assert task.info["sources"][0]["path"].endswith("rows.jsonl")
    (styled,) = ask("add('simple_nli', style='nli')", "simple_nli")
    assert eval_examples(styled, "train")[0]["inputs_pretokenized"].startswith("xnli: premise: hello")
    (causal,) = ask("add('simple_causal')", "simple_causal", form="causal")
    example = eval_examples(causal, "train")[0]
    assert example["inputs_pretokenized"] == "text: hello\nstars (one of bad, good):"
    assert example["targets_pretokenized"] == " good" and example["meta"]["choices"] == [" bad", " good"]
    (encoder,) = ask("add('simple_encoder')", "simple_encoder", form="encoder")
    first, _ = eval_examples(encoder, "train")
    assert first["meta"]["choices"] == ["bad", "good"] and len(first["text_spans"]) == 2  # one text, not a pair


def test_what_decides_the_examples_names_the_cache(ask):
    import seqio

    (one,) = ask("add('simple_same')", "simple_same")
    seqio.TaskRegistry.remove("simple_same")
    (other,) = ask("add('simple_same', label_names=('good', 'bad'))", "simple_same")
    assert one.directory != other.directory
    assert [eval_examples(task, "train")[0]["meta"]["label"] for task in (one, other)] == [1, 0]


@pytest.mark.parametrize(
    ("call", "what"),
    [
        ("kind='clasification'", "kind is 'clasification'; it must be one of .*Did you mean classification"),
        ("text_c='text'", "classification has no field 'text_c'; .*Did you mean text_b, text_a"),
        ("label_name=('a', 'b')", "has no field 'label_name'; .*Did you mean label_names"),
        ("label=None", "classification needs label"),
        ("label_names=()", "classification needs label_names"),
        ("label_names=('a', 'a')", "label_names has a name twice"),
        ("text_a=('a', 'b')", "text_a is .* it must be the name of one field"),
        ("language='swa'", "language is 'swa', which is no code .*Did you mean sw"),
        ("language='sw-KE'", "language is 'sw-KE'.*Did you mean sw"),
        ("language='Swahili'", "language is 'Swahili', which is no code"),
        ("files={'trian': 'rows.jsonl'}", "'trian' is no split, but train, validation, test. Did you mean train"),
        ("files={}", "files is empty"),
        ("files={'train': 'row.jsonl'}", "there is no file .*row.jsonl. Did you mean rows.jsonl"),
        ("style='nlii'", "there is no style 'nlii', but .*Did you mean nli"),
    ],
)
def test_mistakes_in_a_call(ask, call, what):
    with pytest.raises(UserError, match=f"simple_wrong: .*{what}"):
        ask(f"add('simple_wrong', {call})", "simple_wrong")


def test_importing_the_package_needs_no_tensorflow():
    import subprocess
    import sys

    check = "import sys, xtr.tasks; assert xtr.tasks.jsonl_task and not {'tensorflow', 'seqio'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0
    assert xtr.tasks.tsv_task.__doc__.startswith("Registers a task")
