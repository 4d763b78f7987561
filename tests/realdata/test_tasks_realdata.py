"""Official files of every data set present, and renderings recorded from the official code."""

import gzip
import json
from collections import Counter

import pytest

from xtr.tasks.datasets import Sources, nli, tatoeba, text
from xtr.tasks.datasets.finders import FINDERS
from xtr.tasks.examples import Answer, Classification, SpanQA
from xtr.tasks.formats import text2text

VOCABULARIES = {
    "text2text": "tokenizers/mt5_reduced/sentencepiece_cn.model",
    "encoder": "tokenizers/xlmr/sentencepiece.bpe.model",
}


def oracle(folder, name):
    path = folder / "metrics" / name
    return json.loads(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())


def independent_count(path):
    """The number of examples of a file, counted without the readers."""
    return 1 if path.suffix == ".xml" else path.read_bytes().count(b"\n")


def test_every_line_and_every_text_is_read(data_dir):
    """Of Tatoeba and plain text; the other data sets have files of their own in this folder."""
    splits = 0
    for find in (tatoeba.find_tatoeba, text.find_text):
        for dataset in find(Sources((data_dir,))).datasets:
            for name, split in dataset.splits.items():
                tally = Counter()
                examples = list(split.read(split.files, tally))
                dropped = sum(n for reason, n in tally.items() if reason.startswith("dropped"))
                files = split.files[:1] if "tatoeba" in dataset.name else split.files
                expected = sum(independent_count(path) for path in files)
                assert len(examples) + dropped == tally["rows"] == expected, (dataset.name, name)
                assert len({example.id for example in examples}) == len(examples)
                splits += 1
    assert splits


def test_nothing_present_is_refused(data_dir):
    """What is absent has no file; nothing that is there goes unread."""
    found = [find(Sources((data_dir,))) for find in (*FINDERS.values(), text.find_text)]
    assert all("no file" in why or "no folder" in why for of in found for why in of.absent.values())


def test_xnli_is_rendered_as_multilingual_t5_does(oracles):
    record = oracle(oracles, "render_xnli.json.gz")
    examples = record["inputs"]["examples_tfds_xnli"]
    for language, expected in record["expected"]["by_language"].items():
        for example, want in zip(examples, expected, strict=True):
            hypothesis = dict(
                zip(example["hypothesis"]["language"], example["hypothesis"]["translation"], strict=True)
            )[language]
            canonical = Classification("0", example["premise"][language], hypothesis, example["label"], nli.LABELS)
            rendered = text2text.nli(canonical)
            assert {"inputs": rendered.inputs, "targets": rendered.targets} == want


def test_mnli_is_rendered_as_multilingual_t5_does(oracles):
    record = oracle(oracles, "render_mnli.json")
    wanted = record["expected"]["mt5_process_mnli"]
    for example, want in zip(record["inputs"]["examples_tfds"], wanted, strict=True):
        canonical = Classification("0", example["premise"], example["hypothesis"], example["label"], nli.LABELS)
        rendered = text2text.nli(canonical)
        assert {"inputs": rendered.inputs, "targets": rendered.targets} == want


@pytest.mark.parametrize("name", ["render_squad.json.gz", "render_xquad.json.gz"])
def test_questions_are_rendered_as_multilingual_t5_does(oracles, name):
    record = oracle(oracles, name)
    for example, want in zip(record["inputs"]["examples_tfds"], record["expected"]["mt5_xquad"], strict=True):
        golds = example["answers"]
        answers = tuple(Answer(t, s) for t, s in zip(golds["text"], golds["answer_start"], strict=True))
        rendered = text2text.question_answering(
            SpanQA(example["id"], example["context"], example["question"], answers, True)
        )
        assert (rendered.inputs, rendered.targets) == (want["inputs"], want["targets"])
        assert [text2text.pad_punctuation(a) for a in rendered.meta["answers"]] == want["answers"]
        assert rendered.meta["id"] == want["id"]


def test_punctuation_is_padded_as_multilingual_t5_does(oracles):
    record = oracle(oracles, "render_pad_punctuation.json")
    strings, expected = record["inputs"]["strings"], record["expected"]
    assert [text2text.pad_punctuation(s) for s in strings] == expected["mt5_pad_punctuation"]
    joined = [text2text.string_join("question:", s, "context:", s) for s in strings]
    assert joined == expected["mt5_string_join_question_X_context_X"]


@pytest.mark.slow
@pytest.mark.parametrize("format", VOCABULARIES)
def test_as_many_examples_are_cached_as_the_files_hold(data_dir, tmp_path, format):
    """Every data set there is, in two formats: counts of the files, the reader, and the cache."""
    from xtr.data import cache_writer

    vocabulary = data_dir / VOCABULARIES[format]
    if not vocabulary.is_file():
        pytest.skip(f"{vocabulary} is not there")
    found = (find(Sources((data_dir,))) for find in (*FINDERS.values(), text.find_text))
    datasets = {dataset.name: dataset for of in found for dataset in of.datasets}
    without = {"lareqa_squad", "mewslix_pairs"} if format == "text2text" else set()
    names = [name for name in datasets if name not in without]
    request = {
        "names": names, "task_modules": [], "vocabulary_path": str(vocabulary), "data_dir": str(data_dir),
        "cache_dir": str(tmp_path), "format": format,
    }  # fmt: skip
    response = cache_writer.write(request)
    assert set(response["tasks"]) == set(names)
    for name, directory in response["tasks"].items():
        info = json.loads((tmp_path / directory / "xtr_task.json").read_text())
        assert set(info["splits"]) == set(datasets[name].splits)
        for split, part in datasets[name].splits.items():
            tally = Counter()
            assert info["splits"][split]["examples"] == sum(1 for _ in part.read(part.files, tally)), (name, split)
