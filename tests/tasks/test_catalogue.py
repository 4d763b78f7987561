"""Data sets out of TFDS's catalogue: tiny prepared builders with the installed catalogue's own features."""

import json
import os
from collections import Counter

import pytest

from xtr.data import cache, cache_writer
from xtr.data.cached_task import CachedTask, eval_examples
from xtr.errors import DataError, UserError
from xtr.tasks.datasets import Sources, catalogue
from xtr.tasks.datasets.catalogue import CATALOGUE, chosen
from xtr.tasks.datasets.finders import find
from xtr.tasks.datasets.nli import LABELS
from xtr.tasks.datasets.tagging import ENTITY_TAGS
from xtr.tasks.examples import Answer, Classification, MultipleChoice, Retrieval, SpanQA, Tagging

NLI = [{"premise": "á\u2028 a ", "hypothesis": "b", "label": 2}, {"premise": "c", "hypothesis": "d", "label": -1}]
CONTEXT = "Caf\u00e9 \U0001f600 opened in 1999."
QUESTION = {
    "id": "q0", "title": "", "context": CONTEXT, "question": "When?",
    "answers": {"text": ["1999"], "answer_start": [CONTEXT.index("1999")]},
}  # fmt: skip


@pytest.fixture
def prepare(tmp_path, monkeypatch):
    """`prepare(builder, {split: examples})` writes prepared data below a TFDS_DATA_DIR of its own."""
    from xtr.tasks.modules import import_tensorflow

    for name in ("CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS", "XTR_DATA_DIR", "XTR_CACHE_DIR", "XTR_VOCABULARY_PATH",
                 "XTR_FORMAT", "XTR_TFDS_TASKS"):  # fmt: skip
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    import_tensorflow()
    import tensorflow_datasets as tfds

    def prepare(name, splits):
        builder = tfds.builder(name, data_dir=str(tmp_path / "tfds"))
        monkeypatch.setattr(
            type(builder), "_split_generators",
            lambda self, dl_manager: {split: list(enumerate(rows)) for split, rows in splits.items()},
        )  # fmt: skip
        builder.download_and_prepare()

    for cached in (catalogue._builder, catalogue._prepared):
        cached.cache_clear()
    return prepare


def _read(name, task, split, folder):
    found = find(name, Sources((folder,)), (name,))
    dataset = next(dataset for dataset in found.datasets if dataset.name == task)
    tally = Counter()
    part = dataset.splits[split]
    return dataset, list(part.read(part.files, tally)), tally


CASES = {
    "mnli": ("glue/mnli", "mnli", "validation", "validation_matched", [{**NLI[0], "idx": 0}], [
        Classification("0", "á\u2028 a ", "b", 2, LABELS)]),
    "snli": ("snli", "snli", "test", "test", [NLI[0]], [Classification("0", "á\u2028 a ", "b", 2, LABELS)]),
    "anli": ("anli/r2", "anli_r2", "train", "train", [{"uid": "u", "context": "c", "hypothesis": "h", "label": 1}], [
        Classification("0", "c", "h", 1, LABELS)]),
    "qqp": ("glue/qqp", "qqp", "train", "train", [{"question1": "a", "question2": "b", "label": 1, "idx": 0}], [
        Classification("0", "a", "b", 1, ("not_duplicate", "duplicate"))]),
    "squad_v1": ("squad/v1.1", "squad_v1", "train", "train", [QUESTION], [
        SpanQA("q0", CONTEXT, "When?", (Answer("1999", CONTEXT.index("1999")),), True)]),
    "squad_v2": ("squad/v2.0", "squad_v2", "validation", "validation", [
        {**QUESTION, "is_impossible": True, "plausible_answers": QUESTION["answers"],
         "answers": {"text": [], "answer_start": []}}], [SpanQA("q0", CONTEXT, "When?", (), False)]),
    "hellaswag": ("hellaswag", "hellaswag", "train", "train", [
        {"context": "c", "endings": ["1", "2", "3", "4"], "activity_label": "", "label": 3, "split_type": "",
         "source_id": ""}], [MultipleChoice("0", "c", "", (" 1", " 2", " 3", " 4"), 3)]),
    "cosmosqa": ("cosmos_qa", "cosmosqa", "validation", "validation", [
        {"context": "c", "question": "q", **{f"answer{i}": str(i) for i in range(4)}, "label": 2, "id": "x"}], [
        MultipleChoice("x", "c", "q", ("0", "1", "2", "3"), 2)]),
    "copa": ("super_glue/copa", "copa", "train", "train", [
        {"premise": "p", "choice1": "a", "choice2": "b", "question": "cause", "idx": 7, "label": 1}], [
        MultipleChoice("7", "p", "What was the cause?", ("a", "b"), 1)]),
    "pawsx": ("paws_x_wiki/de", "pawsx.de", "test", "test", [{"sentence1": "a", "sentence2": "b", "label": 1}], [
        Classification("0", "a", "b", 1, ("different_meaning", "paraphrase"))]),
    "xquad": ("xquad/ar", "xquad.ar", "test", "test", [QUESTION], None),
    "mlqa": ("mlqa/hi", "mlqa.hi", "validation", "validation", [QUESTION], None),
    "panx": ("wikiann/af", "panx.af", "test", "test", [
        {"tokens": ["Jan", "b"], "tags": ["B-PER", "O"], "langs": ["af", "af"], "spans": []}], [
        Tagging("0", ("Jan", "b"), ("B-PER", "O"))]),
    "tatoeba": ("tatoeba/tatoeba_ja", "tatoeba.ja", "candidates", "train", [
        {"source_sentence": "はい。\n", "target_sentence": "Yes.\n", "source_language": "ja", "target_language": "en"}],
        [Retrieval("0", "はい。", ("0",))]),
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in CASES])
def test_examples_of_tfds_are_canonical(prepare, tmp_path, monkeypatch, name):
    from xtr.tasks.datasets import finders

    builder, task, split, tfds_split, rows, expected = CASES[name]
    monkeypatch.setitem(finders.FINDERS, name, lambda sources: catalogue.Found())
    prepare(builder, {tfds_split: rows})
    dataset, examples, tally = _read(name, task, split, tmp_path)
    assert dataset.example_type is type(examples[0]) and len(examples) == tally["rows"] == len(rows)
    if expected:
        assert examples == expected
    if name == "panx":
        assert dataset.label_names == ENTITY_TAGS


def test_every_case_is_tried():
    assert {*CASES, "xnli", "tydiqa"} == set(CATALOGUE)


def test_rows_without_a_gold_label_are_counted(prepare, tmp_path, monkeypatch):
    from xtr.tasks.datasets import finders

    monkeypatch.setitem(finders.FINDERS, "snli", lambda sources: catalogue.Found())
    prepare("snli", {"train": NLI})
    _, examples, tally = _read("snli", "snli", "train", tmp_path)
    assert [e.text_a for e in examples] == ["á\u2028 a "] and tally == {"rows": 2, "dropped: no gold label": 1}


def test_one_builder_of_many_languages(prepare, tmp_path, monkeypatch):
    from xtr.tasks.datasets import finders

    languages = ("ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh")
    row = {
        "premise": {language: f"p {language}" for language in languages},
        "hypothesis": {language: f"h {language}" for language in languages},
        "label": "neutral",
    }
    prepare("xnli", {"test": [row], "validation": [row, row]})
    _, examples, _ = _read("xnli", "xnli.sw", "test", tmp_path)
    assert examples == [Classification("0", "p sw", "h sw", 1, LABELS)]
    english, finnish = ({**QUESTION, "id": f"{name}-1"} for name in ("english", "finnish"))
    monkeypatch.setitem(finders.FINDERS, "tydiqa", lambda sources: catalogue.Found())
    prepare("tydi_qa/goldp", {"train": [english, finnish], "validation-fi": [finnish]})
    dataset, examples, tally = _read("tydiqa", "tydiqa.en", "train", tmp_path)
    assert [e.id for e in examples] == ["english-1"] and tally["rows"] == 1
    dataset, examples, _ = _read("tydiqa", "tydiqa.fi", "test", tmp_path)
    assert [e.id for e in examples] == ["finnish-1"] and set(dataset.splits) == {"test"}


def test_an_answer_that_is_not_in_its_context_is_named(prepare, tmp_path):
    prepare("squad/v1.1", {"train": [{**QUESTION, "answers": {"text": ["1999"], "answer_start": [3]}}]})
    with pytest.raises(DataError, match="'q0'.*'1999'.*code point 3"):
        _read("squad_v1", "squad_v1", "train", tmp_path)


def test_languages_that_tfds_lacks_come_from_official_files(prepare, official_files, tmp_path, squad_json):
    found = find("xquad", Sources((official_files,)), ("xquad",))
    # The data's own list of languages: TFDS has XQuAD in one of them.
    assert [type(d.splits["test"]).__name__ for d in found.datasets] == ["PreparedSplit", "Split"]
    (tmp_path / "xquad").mkdir()
    (tmp_path / "xquad/xquad.ro.json").write_text(squad_json())
    found = find("xquad", Sources((tmp_path,)), ("xquad",))
    kinds = {d.name: type(d.splits["test"]).__name__ for d in found.datasets}
    assert kinds["xquad.ar"] == "PreparedSplit" and kinds["xquad.ro"] == "Split" and len(kinds) == 12


def test_names_are_checked():
    assert chosen("") == () and chosen("squad_v1,mnli,squad_v1") == ("squad_v1", "mnli")
    assert chosen("all") == tuple(CATALOGUE)
    with pytest.raises(UserError, match=r"TFDS_TASKS has 'squad'.*Did you mean .*squad_v1"):
        chosen("squad")


def test_what_cannot_be_prepared_is_one_message(prepare, tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def unreachable(self, dl_manager):
        raise ConnectionError("no network")

    monkeypatch.setattr(type(tfds.builder("snli", data_dir=str(tmp_path))), "_split_generators", unreachable)
    (dataset,) = catalogue.find("snli", Sources((tmp_path,)), catalogue.Found()).datasets
    with pytest.raises(UserError, match="cannot prepare snli .*no network.*TFDS_DATA_DIR"):
        _ = dataset.splits["train"].files


def test_the_cache_holds_what_tfds_has_and_is_told_apart(prepare, official_files, vocabulary_path, tmp_path):
    prepare("squad/v1.1", {"train": [QUESTION], "validation": [QUESTION]})

    def write(tfds_tasks):
        request = {
            "names": ["squad_v1"], "task_modules": [], "vocabulary_path": str(vocabulary_path), "format": "text2text",
            "data_dir": str(official_files), "cache_dir": str(tmp_path / "cache"), "tfds_tasks": tfds_tasks,
        }  # fmt: skip
        return CachedTask.open(cache_writer.write(json.loads(json.dumps(request)))["tasks"]["squad_v1"])

    theirs, ours = write(["squad_v1"]), write([])
    assert theirs.directory != ours.directory and theirs.num_examples("train") == 1 and ours.num_examples("train") == 2
    (example,) = eval_examples(theirs, "validation")
    assert example["inputs_pretokenized"].startswith("question: When ?") and example["meta"]["id"] == "q0"
    assert all("tfds/squad/v1.1" in source["path"] for source in theirs.info["sources"])
    assert any("catalogue.py" in name for name in theirs.info["code"])
    assert write(["squad_v1"]).directory == theirs.directory


def test_the_index_tells_the_sources_apart(tmp_path):
    requests = [
        cache._Request((), "v", "0", "d", tmp_path, "text2text", names) for names in ((), ("snli",), ("snli", "mnli"))
    ]
    assert len({request.entry_path("nli") for request in requests}) == 3
