"""Renderings against what the official code recorded, and on the official files."""

import gzip
import json
from collections import Counter

import pytest

from xtr.data.tag_text import parse_tags
from xtr.data.vocabulary import read_vocabulary
from xtr.tasks.datasets import Sources, copa, multiple_choice, paraphrase, tagging
from xtr.tasks.examples import Answer, Classification, MultipleChoice, SpanQA, Tagging
from xtr.tasks.formats import causal, shared, text2text


def oracle(folder, name):
    path = folder / "metrics" / name
    return json.loads(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())


def strings(rendered):
    return {"inputs": rendered.inputs, "targets": rendered.targets}


def test_pawsx_is_rendered_as_multilingual_t5_does(oracles):
    record = oracle(oracles, "render_pawsx.json")
    rows = record["inputs"]["examples_tfds_paws_x_wiki"]
    assert {row["lang"] for row in rows} == {"de", "en", "es", "fr", "ja", "ko", "zh"}
    for row, want in zip(rows, record["expected"]["mt5_paws"], strict=True):
        example = Classification("0", row["sentence1"], row["sentence2"], row["label"], paraphrase.PAWSX_LABELS)
        assert strings(text2text.paws(example)) == want


def test_qqp_is_rendered_as_t5_does(oracles):
    record = oracle(oracles, "render_qqp.json")
    for row, want in zip(record["inputs"]["examples_tfds_glue_qqp"], record["expected"]["t5_glue_qqp"], strict=True):
        # A label of -1 is a test set's, which no reader gives.
        label = max(row["label"], 0)
        example = Classification("0", row["question1"], row["question2"], label, paraphrase.QQP_LABELS)
        rendered = text2text.qqp(example)
        assert rendered.inputs == want["inputs"]
        assert (rendered.targets == want["targets"]) == (row["label"] >= 0)


@pytest.mark.parametrize("name", ["mlqa", "tydiqa"])
def test_questions_are_rendered_as_multilingual_t5_does(oracles, name):
    record = oracle(oracles, f"render_{name}.json.gz")
    for row, want in zip(record["inputs"]["examples_tfds"], record["expected"]["mt5_xquad"], strict=True):
        golds = row["answers"]
        answers = tuple(Answer(t, s) for t, s in zip(golds["text"], golds["answer_start"], strict=True))
        rendered = text2text.question_answering(SpanQA(row["id"], row["context"], row["question"], answers, True))
        assert (rendered.inputs, rendered.targets) == (want["inputs"], want["targets"])
        assert [text2text.pad_punctuation(a) for a in rendered.meta["answers"]] == want["answers"]
        assert (rendered.meta["id"], rendered.meta["answer_starts"]) == (want["id"], golds["answer_start"])


def test_wikiann_is_rendered_as_multilingual_t5_does(oracles):
    record = oracle(oracles, "render_wikiann.json")
    rows = record["inputs"]["examples_tfds_wikiann"]
    for row, want in zip(rows, record["expected"]["mt5_wikiann"], strict=True):
        rendered = text2text.entity_texts(Tagging("0", tuple(row["tokens"]), tuple(row["tags"])))
        assert strings(rendered) == {name: want[name] for name in ("inputs", "targets")}


def assert_choices(example: MultipleChoice, prompt: str, choices: list[str]):
    """Both formats hold the very strings of prompt and choices, in order."""
    assert shared.prompt(example) == prompt and list(example.choices) == choices
    listed = "".join(f"choice{i}: {text} " for i, text in enumerate(choices, 1))
    assert text2text.multiple_choice(example).inputs == f"choose {listed}prompt: {prompt}"
    letters = "".join(f"{letter}. {text}\n" for letter, text in zip("ABCDE", choices, strict=False))
    assert causal.multiple_choice(example).inputs == f"{prompt}\n{letters}Best choice:"


def rows_of(rows, read, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(read((path,), Counter()))


@pytest.mark.parametrize(
    ("name", "read"),
    [("hellaswag", multiple_choice.read_hellaswag), ("commonsenseqa", multiple_choice.read_commonsenseqa)],
)
def test_prompts_and_choices_are_jiants(oracles, name, read, tmp_path):
    record = oracle(oracles, f"render_{name}.json")
    rows, wanted = record["inputs"]["rows"], record["expected"]["examples"]
    official = [row for row in rows if isinstance(row.get("question", {}), dict) and "stem" in row.get("question", {})]
    kept = rows if name == "hellaswag" else official
    assert len(kept) > 5
    numbers = [rows.index(row) for row in kept]
    for number, example in zip(numbers, rows_of(kept, read, tmp_path), strict=True):
        want = wanted[number]
        assert_choices(example, want["prompt"], want["choice_list"])
        assert example.label == want["label_id"]


def test_cosmosqas_prompts_and_choices_are_jiants(oracles):
    record = oracle(oracles, "render_cosmosqa.json")
    for row, want in zip(record["inputs"]["rows"], record["expected"]["examples"], strict=True):
        choices = tuple(row[f"answer{i}"] for i in range(4))
        example = MultipleChoice(row["id"], row["context"], row["question"], choices, row["label"])
        assert_choices(example, want["prompt"], want["choice_list"])


def test_copas_and_siqas_prompts_and_choices_are_xtremes(oracles, tmp_path):
    record = oracle(oracles, "render_copa_xcopa_siqa.json")
    for name, read in (("copa", copa.read_copa), ("xcopa", copa.read_copa)):
        rows, wanted = record["inputs"][f"{name}_rows"], record["expected"][f"xtreme_{name}"]
        found = rows_of([{**row, "idx": i} for i, row in enumerate(rows)], read, tmp_path)
        for example, want in zip(found, wanted, strict=True):
            (prompt,) = set(want["first"])
            assert_choices(example, prompt, want["second"])
    for row, want in zip(record["inputs"]["siqa_rows"], record["expected"]["xtreme_siqa"], strict=True):
        choices = (row["answerA"], row["answerB"], row["answerC"])
        example = MultipleChoice("0", row["context"], row["question"], choices, 0)
        assert_choices(example, want["first"][0], want["second"])


@pytest.mark.parametrize("find", [tagging.find_udpos, tagging.find_panx])
def test_tags_of_the_official_files_come_back(data_dir, find):
    """In every language, by both formats, and through the vocabulary of mT5."""
    path = data_dir / "tokenizers/mt5_reduced/sentencepiece_cn.model"
    vocabulary = read_vocabulary(path) if path.is_file() else None
    sentences = 0
    for dataset in find(Sources((data_dir,))).datasets:
        split = dataset.splits.get("test") or next(iter(dataset.splits.values()))
        for example in split.read(split.files, Counter()):
            expected = (list(example.tags), {})
            targets = {format.tagging(example).targets for format in (text2text, causal)}
            for target in targets:
                assert parse_tags(target, len(example.tokens), dataset.label_names) == expected
            if vocabulary and sentences % 20 == 0:
                decoded = vocabulary.decode(vocabulary.encode(target))
                assert parse_tags(decoded, len(example.tokens), dataset.label_names) == expected
            sentences += 1
    assert sentences
