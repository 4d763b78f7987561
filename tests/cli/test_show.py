"""`xtr show`: examples as read, as strings and as tokens, of our tasks and of a user's own."""

import json
from collections import Counter

import pytest

from xtr.cli.main import run
from xtr.data.cache import ensure_cached, eval_examples
from xtr.data.vocabulary import read_vocabulary
from xtr.errors import UserError
from xtr.tasks.datasets import Sources
from xtr.tasks.datasets.nli import find_xnli

MINE = """
import seqio, tensorflow as tf
from xtr.tasks import output_features

def read(split, shuffle_files, seed=None):
    return tf.data.Dataset.from_tensor_slices({"q": ["one", "two", "three"], "n": [1, 2, 3]})

def twice(data):
    data = data.filter(lambda x: x["n"] != 2)
    return data.flat_map(lambda x: tf.data.Dataset.from_tensors(x).repeat(tf.cast(x["n"], tf.int64)))

def strings(x):
    return {"inputs": tf.strings.join(["say: ", x["q"]]), "targets": x["q"]}

seqio.TaskRegistry.add("mine_shown", source=seqio.FunctionDataSource(read, ["train"]),
    preprocessors=[twice, seqio.utils.map_over_dataset(strings), seqio.preprocessors.tokenize,
                   seqio.CacheDatasetPlaceholder(), seqio.preprocessors.append_eos],
    output_features=output_features())
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """What the command sets for the process is taken back; nothing comes from outside."""
    for name in ("XTR_DATA_DIR", "XTR_VOCABULARY_PATH", "XTR_CACHE_DIR", "XTR_TFDS_TASKS", "XTR_FORMAT"):
        monkeypatch.setenv(name, "")


def shown(capsys, *argv) -> list[dict]:
    assert run(["show", *map(str, argv), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("format", ["text2text", "causal", "encoder"])
def test_tokens_are_those_of_the_cache(world, cache_dir, capsys, format):
    options = ("--data_dir", world.directory, "--vocabulary", world.vocabulary_path, "--format", format)
    (task,) = shown(capsys, "xnli.en", "--split", "test", "--n", "4", *options)
    where = {"vocabulary_path": world.vocabulary_path, "data_dir": world.directory, "cache_dir": cache_dir}
    (cached,) = ensure_cached(["xnli.en"], format=format, **where)["xnli.en"]
    rows = eval_examples(cached, "test")
    vocabulary = read_vocabulary(world.vocabulary_path)
    assert (task["split"], task["language"], task["scored by"], len(task["examples"])) == ("test", "en", "rank", 4)
    for example, row in zip(task["examples"], rows, strict=False):
        (made,) = example["made"]
        assert made["tokens"] and all(s["ids"] == row[name].tolist() for name, s in made["tokens"].items())
        for sequence in made["tokens"].values():
            assert sequence["pieces"] == [vocabulary.piece(i) for i in sequence["ids"]]
        assert made["label"] == [row["meta"]["label"], example["raw"]["label_names"][row["meta"]["label"]]]
        if format == "encoder":
            both = f"{example['raw']['text_a']} | {example['raw']['text_b']}"
            assert made["tokens"]["inputs"]["text"] == both and made["strings"] == {}
        else:
            assert made["strings"]["inputs"] == row["inputs_pretokenized"]
            text = made["tokens"]["inputs"]["text"]
            assert text == " ".join(row["inputs_pretokenized"].split("\n"))  # T5's pieces know no line ends
            assert made["strings"]["choices"] == row["meta"]["choices"]


def test_without_a_vocabulary_raw_and_strings_and_how_to_see_tokens(world, capsys):
    assert run(["show", "xnli.en", "--n", "2", "--data_dir", str(world.directory)]) == 0
    said = capsys.readouterr()
    (dataset,) = [d for d in find_xnli(Sources((world.directory,))).datasets if d.language == "en"]
    split = dataset.splits["validation"]
    first = next(split.read(split.files, Counter()))
    assert f"text_a       {first.text_a}\n" in said.out and f"xnli: premise: {first.text_a} hyp" in said.out
    assert "example 1" in said.out and "example 2" not in said.out and "  tokens" not in said.out
    assert "--vocabulary_path" in said.err


def test_a_mixture_shows_an_example_of_each_task(world, capsys):
    tasks = shown(capsys, "xquad", "--data_dir", world.directory)
    assert [task["task"] for task in tasks] == sorted(f"xquad.{language}" for language in world.languages)
    assert all(len(task["examples"]) == 1 and not task["tokenised"] for task in tasks)


def test_a_span_in_the_encoder_format(world, capsys):
    options = ("--data_dir", world.directory, "--vocabulary_path", world.vocabulary_path, "--format", "encoder")
    (task,) = shown(capsys, "squad_v1", "--n", "5", *options)
    for example in task["examples"]:
        (made,) = example["made"]
        first, last = made["answer"]["tokens"]
        assert made["answer"]["pieces"] == made["tokens"]["inputs"]["pieces"][first : last + 1]
        read = {name: " ".join(made["tokens"][name]["text"].split()) for name in ("question", "inputs")}
        assert read == {"question": example["raw"]["question"], "inputs": example["raw"]["context"]}
        gold = example["raw"]["answers"][0]["text"]
        assert made["answer"]["gold"] == gold and gold in made["answer"]["covers"]
    assert run(["show", "squad_v1", "--n", "1", *map(str, options)]) == 0
    assert f"they cover       {task['examples'][0]['made'][0]['answer']['covers']}\n" in capsys.readouterr().out


def test_a_users_own_task_also_where_one_example_becomes_none_or_several(world, tmp_path, capsys):
    (tmp_path / "mine_show.py").write_text(MINE)
    options = ("--data_dir", world.directory, "--task_modules", tmp_path / "mine_show.py")
    (task,) = shown(capsys, "mine_shown", *options, "--vocabulary", world.vocabulary_path)
    assert [example["raw"] for example in task["examples"]] == [
        {"q": "one", "n": 1}, {"q": "two", "n": 2}, {"q": "three", "n": 3},
    ]  # fmt: skip
    assert [len(example["made"]) for example in task["examples"]] == [1, 0, 3]
    (made,) = task["examples"][0]["made"]
    vocabulary = read_vocabulary(world.vocabulary_path)
    assert made["strings"] == {"inputs": "say: one", "targets": "one"}
    assert made["tokens"]["inputs"]["ids"] == [*vocabulary.encode("say: one"), vocabulary.eos_id]
    assert run(["show", "mine_shown", *map(str, options), "--vocabulary", str(world.vocabulary_path)]) == 0
    out = capsys.readouterr().out
    assert "make no example of it" in out and "becomes example 3 of 3" in out


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["xnli.em"], "No task or mixture is named 'xnli.em'. Did you mean xnli.en"),
        (["xnli.en", "--split", "tests"], "no split 'tests'; it has validation, test. Did you mean test"),
        (["xnli.en", "--n", "0"], "--n is 0"),
        (["xnli.en", "--vocabulary", "/nowhere/x.model"], "/nowhere/x.model, which is not there"),
        (["panx"], "panx cannot be had|No task or mixture"),
    ],
)
def test_wrong_use_is_one_message(world, argv, expected):
    with pytest.raises(UserError, match=expected):
        run(["show", *argv, "--data_dir", str(world.directory)])


def test_words_and_tags_of_real_sentences(data_dir, capsys):
    vocabulary = data_dir / "tokenizers/xlmr/sentencepiece.bpe.model"
    options = ("--data_dir", data_dir, "--vocabulary", vocabulary, "--format", "encoder", "--n", 20)
    for name in ("panx.en", "udpos.ar"):
        (task,) = shown(capsys, name, *options)
        for example in task["examples"]:
            (made,) = example["made"]
            words = made["words"]
            assert [word["word"] for word in words] == example["raw"]["tokens"]
            assert [word["tag"] for word in words] == example["raw"]["tags"]
            assert [p for word in words for p in word["pieces"]] == made["tokens"]["inputs"]["pieces"]


def test_choices_and_queries_of_real_data(data_dir, capsys):
    vocabulary = data_dir / "tokenizers/xlmr/sentencepiece.bpe.model"
    options = ("--data_dir", data_dir, "--vocabulary", vocabulary, "--format", "encoder", "--n", 1)
    (choices,) = shown(capsys, "copa", *options)
    (made,) = choices["examples"][0]["made"]
    assert len(made["tokens"]) == len(choices["examples"][0]["raw"]["choices"]) == 2
    assert made["label"][1] == choices["examples"][0]["raw"]["choices"][made["label"][0]]
    (query,) = shown(capsys, "tatoeba.sw", *options)
    assert query["examples"][0]["made"][0]["tokens"]["inputs"]["text"] == query["examples"][0]["raw"]["text"]
