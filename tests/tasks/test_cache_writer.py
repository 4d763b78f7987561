"""The chain official files -> TFDS -> SeqIO -> ArrayRecord. One file: its tests share one import of TensorFlow."""

import dataclasses
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from xtr.data import cache_writer, fingerprint
from xtr.data.cached_task import CachedTask, eval_examples
from xtr.data.vocabulary import SentencePieceVocabulary, read_vocabulary
from xtr.errors import UserError
from xtr.tasks.examples import Classification
from xtr.tasks.formats import encoder

LABELS = ("entailment", "neutral", "contradiction")

TEXT_BETWEEN = "xnli: premise: A\u2028B\u0085 C hypothesis: D"


pytestmark = pytest.mark.usefixtures("writer_environment")


@pytest.fixture
def ask(official_files, vocabulary_path, tmp_path):
    def ask(*names, modules=(), data=official_files, cache=tmp_path / "cache", form="text2text", vocabulary=None):
        return cache_writer.write(
            {
                "names": list(names), "task_modules": [str(m) for m in modules], "data_dir": str(data),
                "vocabulary_path": str(vocabulary or vocabulary_path), "cache_dir": str(cache), "format": form,
            }
        )  # fmt: skip

    return ask


def test_the_members_of_a_mixture_of_mixtures(ask, tmp_path):
    module = tmp_path / "nested.py"
    module.write_text(
        "import seqio\n"
        "seqio.MixtureRegistry.add('inner', [('xnli.en', 1), ('xnli.qaz', 3)])\n"
        "seqio.MixtureRegistry.add('outer', [('inner', 5), ('xnli.en', 2)])\n"
    )
    response = ask("outer", "xnli.en", modules=[module])
    assert response["mixtures"]["outer"] == [["xnli.en", 2 + 5 / 4], ["xnli.qaz", 5 * 3 / 4]]
    assert response["components"] == {
        "outer": {"xnli.en": {"inner": 0.25, "xnli.en": 1.0}, "xnli.qaz": {"inner": 0.75}},
        "xnli.en": {},
    }


def test_a_classification_task(ask, vocabulary_path):
    response = ask("xnli")
    assert response["mixtures"] == {"xnli": [["xnli.en", 1.0], ["xnli.qaz", 1.0]]}
    task = CachedTask.open(response["tasks"]["xnli.qaz"])
    first, second = eval_examples(task, "validation")
    vocabulary = SentencePieceVocabulary(str(vocabulary_path))
    assert first["inputs_pretokenized"] == TEXT_BETWEEN and first["targets_pretokenized"] == "1"
    np.testing.assert_array_equal(first["inputs"], [*vocabulary.encode(TEXT_BETWEEN), 1])
    np.testing.assert_array_equal(first["targets"], [*vocabulary.encode("1"), 1])
    assert first["meta"] == {"id": "0", "choices": ["0", "1", "2"], "label": 1}
    assert second["inputs_pretokenized"] == "xnli: premise: e  \u00a0e hypothesis: f"
    expected = {
        "task": "xnli.qaz", "kind": "classification", "language": "qaz", "group": "xnli", "predictor": "rank",
        "metrics": ["accuracy"], "features": ["inputs", "targets"],
        "splits": {"validation": {"examples": 2, "shards": 1}, "test": {"examples": 1, "shards": 1}},
    }  # fmt: skip
    assert {key: task.info[key] for key in expected} == expected
    assert task.info["vocabulary"]["size"] == vocabulary.size
    assert {Path(s["path"]).name for s in task.info["sources"]} == {"dev-qaz.tsv", "test-qaz.tsv"}
    assert all(fingerprint.source_unchanged(source) for source in task.info["sources"])
    assert fingerprint.code_sha256(task.info["code"]) == task.info["code_sha256"]
    assert "xtr.tasks/datasets/nli.py" in task.info["code"]


def test_info_and_stats_have_seqios_layout(ask):
    directory = Path(ask("mnli")["tasks"]["mnli"])
    info = json.loads((directory / "info.validation.json").read_text())
    assert info["num_shards"] == 1 and info["features"]["inputs"] == {"shape": [None], "dtype": "int32"}
    assert info["features"]["meta"] == {"shape": [], "dtype": "string"}
    assert (info["examples_in"], info["examples_out"]) == (2, 2)
    assert info["read"] == {"rows": 3, "dropped: no gold label": 1, "examples": 2}
    stats = json.loads((directory / "stats.train.json").read_text())
    lengths = [len(e["inputs"]) - 1 for e in eval_examples(CachedTask.open(directory), "train")]
    assert stats["inputs_tokens"] == sum(lengths) and stats["inputs_max_tokens"] == max(lengths)
    assert stats["examples"] == 4 and stats["targets_max_tokens"] >= 1


def test_question_answering_retrieval_and_text(ask):
    response = ask("squad_v1", "tatoeba", "text.corpus", "text.udhr.pt")
    question = eval_examples(CachedTask.open(response["tasks"]["squad_v1"]), "train")[1]
    assert question["targets_pretokenized"] == " \U0001f600 " and question["meta"]["answers"] == ["\U0001f600"]
    retrieval = CachedTask.open(response["tasks"]["tatoeba.zh"])
    assert retrieval.info["features"] == ["inputs"] and list(retrieval.info["splits"]) == ["queries", "candidates"]
    query, candidate = (eval_examples(retrieval, split)[1] for split in ("queries", "candidates"))
    assert (query["meta"], query["inputs_pretokenized"]) == ({"id": "1", "gold": "1"}, "Thanks.")
    assert candidate["inputs_pretokenized"] == "\u8c22\u8c22\u3002" and "targets" not in candidate
    text = CachedTask.open(response["tasks"]["text.corpus.en"])
    (first, *_) = text.examples("train").read([0])
    assert set(first) == {"inputs", "targets"} and first["targets"][-1] == 1 and len(first["inputs"]) == 0
    assert "tatoeba.qay" in response["skipped"]["tatoeba"]
    assert dict(response["mixtures"]["text.corpus"]) == {
        "text.corpus.en": 2.0, "text.corpus.qaz": 2.0, "text.corpus.en_qaz": 1.0,
    }  # fmt: skip
    assert response["mixtures"]["squad_v1"] == [["squad_v1", 1.0]]


def test_rates_are_scaled_by_temperature(ask):
    assert dict(ask("nli_qa")["mixtures"]["nli_qa"]) == {"mnli": 2.0, "squad_v1": 2.0**0.5}


def test_a_cache_is_reused_until_its_source_changes(ask, write_official_files, tmp_path):
    data = write_official_files(tmp_path / "data")
    first = ask("xnli.qaz", data=data)["tasks"]["xnli.qaz"]
    written = (Path(first) / "COMPLETED").stat().st_mtime_ns
    source = data / "xnli" / "dev-qaz.tsv"
    os.utime(source, ns=(1, 1))
    assert ask("xnli.qaz", data=data)["tasks"]["xnli.qaz"] == first
    assert (Path(first) / "COMPLETED").stat().st_mtime_ns == written
    described = json.loads((Path(first) / "xtr_task.json").read_text())
    assert described["sources"][0]["mtime_ns"] == 1 and described["splits"]["test"]["examples"] == 1
    source.write_bytes(b"new\ttext\tneutral\n")
    second = ask("xnli.qaz", data=data)["tasks"]["xnli.qaz"]
    assert second != first
    assert eval_examples(CachedTask.open(second), "validation")[0]["meta"]["label"] == 1
    assert not list(Path(second).parent.glob(".*tmp*"))


def test_unknown_and_absent_names(ask, tmp_path):
    with pytest.raises(UserError, match=r"'xnli\.qaa'.*Did you mean .*xnli\.qaz.*TASK_MODULES"):
        ask("xnli.qaa")
    with pytest.raises(UserError, match=r"tatoeba\.qay cannot be had: .*tatoeba\.qay-eng\.eng"):
        ask("tatoeba.qay")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=r"nli_qa cannot be had: mnli: .*multinli\.train\.en\.tsv.*squad_v1: "):
        ask("nli_qa", data=empty)
    with pytest.raises(UserError, match=r"xquad\.de cannot be had: no file"):
        ask("xquad.de", data=empty)


def test_bad_data_is_named_and_leaves_nothing(write_official_files, squad_json, vocabulary_path, tmp_path):
    data = write_official_files(tmp_path / "data")
    bad = data / "xquad" / "xquad.qaz.json"
    bad.write_text(squad_json(start=3))
    request = {
        "names": ["xquad"], "data_dir": str(data), "vocabulary_path": str(vocabulary_path),
        "cache_dir": str(tmp_path / "cache"), "format": "text2text",
    }  # fmt: skip
    (tmp_path / "request.json").write_text(json.dumps(request))
    command = [sys.executable, "-m", "xtr.data.cache_writer", "request.json", "response.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=_environment())
    assert done.returncode == 2 and done.stdout == ""
    lines = done.stderr.rstrip("\n").split("\n")
    assert lines[-1].startswith(f"{bad}, question id 'q0', field 'answer_start'")
    assert len(lines) == 2 and lines[0].startswith("Tokenising xquad (2 tasks), once"), done.stderr
    assert not (tmp_path / "response.json").exists()
    assert not [p for p in (tmp_path / "cache").iterdir() if "qaz" in p.name]


def _environment():
    return {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"} | {
        "PYTHONPATH": os.pathsep.join([str(Path(cache_writer.__file__).parents[3]), os.environ.get("PYTHONPATH", "")])
    }


MODULE = """
import seqio
import tensorflow as tf
from xtr.tasks import TaskInfo, describe, output_features

def shout(ds):
    return ds.map(lambda x: {"inputs": tf.strings.upper(x["text"]), "targets": "yes", "score": 0.5, "ids": [1, 2]})

def add(name, source):
    seqio.TaskRegistry.add(name, source=source, preprocessors=[shout, seqio.preprocessors.tokenize,
        seqio.CacheDatasetPlaceholder(), seqio.preprocessors.append_eos], output_features=output_features())

def made(split, shuffle_files, seed=None):
    return tf.data.Dataset.from_tensor_slices({"text": ["a", "b", "c"]})

add("own_lines", seqio.FileDataSource(
    lambda path: tf.data.TextLineDataset(path).map(lambda line: {"text": line}), {"train": "LINES"}))
add("own_made", seqio.FunctionDataSource(made, ["train"]))
describe("own_lines", TaskInfo("classification", "qaz", "own", "rank", ("accuracy",)))
seqio.MixtureRegistry.add("own_mix", [("own_lines", 3), ("squad_v1", 1), ("xnli.qaz", 0.5)])
"""


def test_a_users_own_module(ask, tmp_path):
    text = tmp_path / "lines.txt"
    text.write_text("one\ntwo\n")
    module = tmp_path / "own_tasks.py"
    module.write_text(MODULE.replace("LINES", str(text)))
    response = ask("own_mix", "own_made", modules=[module])
    assert response["mixtures"]["own_mix"] == [["own_lines", 3.0], ["squad_v1", 1.0], ["xnli.qaz", 0.5]]
    made = CachedTask.open(response["tasks"]["own_made"])
    example = eval_examples(made, "train")[1]
    assert example["inputs_pretokenized"] == "B" and example["inputs"][-1] == 1
    assert example["score"] == pytest.approx(0.5) and list(example["ids"]) == [1, 2]
    assert {k: made.info[k] for k in ("kind", "predictor", "group")} == {
        "kind": "text2text", "predictor": "generate", "group": "own_made",
    }  # fmt: skip
    assert made.info["code"] == [str(module.resolve())]
    lines = CachedTask.open(response["tasks"]["own_lines"])
    assert lines.num_examples("train") == 2 and lines.info["kind"] == "classification"
    assert [s["path"] for s in lines.info["sources"]] == [str(text)]
    with pytest.raises(UserError, match="'own_mixx'.*Did you mean own_mix"):
        ask("own_mixx", modules=[module])


def test_a_users_file_may_be_called_like_a_library(ask, tmp_path):
    module = tmp_path / "queue.py"
    text = tmp_path / "lines.txt"
    text.write_text("one\n")
    module.write_text(MODULE.replace("LINES", str(text)).replace("own_", "other_"))
    assert list(ask("other_lines", modules=[module])["tasks"]) == ["other_lines"]
    assert hasattr(sys.modules["queue"], "Queue")


def test_modules_that_cannot_be_imported(ask, tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        ask("mnli", modules=[tmp_path / "none.py"])
    with pytest.raises(UserError, match="no such module"):
        ask("mnli", modules=["no_such_package.tasks"])
    broken = tmp_path / "broken_tasks.py"
    broken.write_text("\nimport seqio\nseqio.no_such_thing\n")
    with pytest.raises(UserError, match=r"broken_tasks\.py, line 3: AttributeError"):
        ask("mnli", modules=[broken])
    needy = tmp_path / "needy_tasks.py"
    needy.write_text("import seqio\nseqio.MixtureRegistry.add('needy', [('squad_v1', 1)])\n")
    with pytest.raises(UserError, match=r"needy_tasks\.py, line 2: .*squad_v1 cannot be had: no file"):
        ask("needy", modules=[needy], data=tmp_path)


def test_rates_and_vocabularies_that_cannot_be_had(ask, official_files, tmp_path):
    module = tmp_path / "sized_tasks.py"
    text = MODULE.replace("LINES", str(official_files / "text/corpus/en.txt")).replace("own_", "sized_")
    module.write_text(text + "\nseqio.MixtureRegistry.add('sized', [('sized_made', seqio.mixing_rate_num_examples)])\n")
    # The source tells no number of examples; what was cached does.
    assert ask("sized", modules=[module])["mixtures"]["sized"] == [["sized_made", 3.0]]
    module.write_text("\nimport seqio\nseqio.MixtureRegistry.add('odd', [('sized_made', lambda task: 1 / 0)])\n")
    with pytest.raises(UserError, match="Mixture odd: the rate of sized_made.*ZeroDivisionError"):
        sys.modules.pop("sized_tasks")
        ask("odd", modules=[module])
    request = {"names": ["mnli"], "data_dir": str(official_files), "cache_dir": str(tmp_path), "format": "text2text"}
    with pytest.raises(UserError, match="lines.*is not a SentencePiece model"):
        (tmp_path / "lines.model").write_text("no model")
        cache_writer.write({**request, "vocabulary_path": str(tmp_path / "lines.model")})


def test_plain_seqio_reads_the_tasks(official_files, vocabulary_path, tmp_path, monkeypatch):
    import seqio

    import xtr.tasks

    monkeypatch.setenv("XTR_DATA_DIR", str(official_files))
    monkeypatch.setenv("XTR_VOCABULARY_PATH", str(vocabulary_path))
    monkeypatch.setenv("XTR_CACHE_DIR", str(tmp_path))
    xtr.tasks.register_all()
    mixture = seqio.get_mixture_or_task("nli_qa")
    dataset = mixture.get_dataset({"inputs": 16, "targets": 8}, "train", shuffle=True, seed=0, num_epochs=1)
    assert {"inputs", "targets"} <= set(next(dataset.as_numpy_iterator()))
    converter = seqio.EncDecFeatureConverter(pack=False)
    lengths = {"inputs": 32, "targets": 4}
    batches = seqio.get_dataset("mnli", lengths, converter, "validation", shuffle=False)
    assert next(batches.as_numpy_iterator())["encoder_input_tokens"].shape == (32,)


def test_padding_equals_re2_on_every_character():
    import tensorflow as tf

    from xtr.tasks.formats.text2text import pad_punctuation

    characters = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    texts = tf.constant([f"a{c}b".encode() for c in characters])
    padded = tf.strings.regex_replace(texts, r"([^_\s\p{N}\p{L}\p{M}])", r" \1 ")
    squeezed = tf.strings.regex_replace(padded, r"\s+", " ").numpy()
    different = [c for c, want in zip(characters, squeezed, strict=True) if pad_punctuation(f"a{c}b").encode() != want]
    assert different == []


@pytest.mark.parametrize("kind", ["t5", "xlmr", "wordpiece", "bpe"])
def test_the_encoder_format(ask, small_vocabularies, kind):
    path = small_vocabularies[kind]
    vocabulary = read_vocabulary(path)
    response = ask("xnli.qaz", "tatoeba", "text.corpus.en", form="encoder", vocabulary=path)
    task = CachedTask.open(response["tasks"]["xnli.qaz"])
    assert task.info["format"] == "encoder" and task.info["features"] == ["inputs", "targets"]
    code = task.info["code"]
    assert "xtr.tasks/formats/encoder.py" in code and "xtr.tasks/formats/text2text.py" not in code
    first, second = eval_examples(task, "validation")
    expected = encoder.classification(Classification("0", "A\u2028B\u0085 C", "D", 1, LABELS), vocabulary)
    for name in ("inputs", "token_types", "text_spans"):
        np.testing.assert_array_equal(first[name], getattr(expected, name))
    assert first["meta"] == expected.meta and first["label"] == [1] and second["label"] == [2]
    assert len(first["targets"]) == 0
    query = eval_examples(CachedTask.open(response["tasks"]["tatoeba.zh"]), "queries")[1]
    np.testing.assert_array_equal(query["inputs"], vocabulary.with_special_tokens(vocabulary.encode("Thanks."))[0])
    assert query["meta"] == {"id": "1", "gold": "1"} and "label" not in query
    text = eval_examples(CachedTask.open(response["tasks"]["text.corpus.en"]), "train")
    np.testing.assert_array_equal(text[0]["targets"], [*vocabulary.encode("first document"), vocabulary.eos_id])


KINDS_MODULE = """
import seqio
from pathlib import Path
from xtr.tasks.datasets import Dataset, Split
from xtr.tasks.datasets.builder import OfficialFilesSource
from xtr.tasks.examples import Answer, MultipleChoice, Pair, SpanQA, Tagging
from xtr.tasks.formats import form_of
from xtr.tasks.registration import settings, vocabulary

EXAMPLES = {
    "choice": [MultipleChoice("0", "The fox", "What?", ("jumps", "", "sleeps"), 2)],
    "tags": [Tagging("0", ("The", "fox"), ("D", "N")), Tagging("1", (), ()), Tagging("2", ("fox",), ("N",))],
    "spans": [
        SpanQA("0", "The quick fox", "Who?", (Answer("fox", 10),), True), SpanQA("1", "", "", (), False),
        SpanQA("2", "The fox", "Who?", (Answer("", 3),), True),
    ],
    "pairs": [Pair("0", "Who?", "The fox", "a"), Pair("1", "", "", "b"), Pair("2", "Which?", "The fox", "a")],
    "wrong": [Tagging("0", ("The",), ("D",)), Tagging("1", ("The", "fox"), ("D", "V"))],
}
s = settings()
for name, examples in EXAMPLES.items():
    name = f"{Path(__file__).stem}.{name}"
    def read(files, tally, examples=examples):
        tally["rows"] += len(examples)
        return iter(examples)
    dataset = Dataset(name, "en", type(examples[0]), {"train": Split((Path(__file__),), read)}, ("D", "N"))
    rendering = form_of(dataset.example_type, s.format).rendering
    seqio.TaskRegistry.add(
        name, source=OfficialFilesSource(dataset, str(s.cache_dir), [Path(__file__)]),
        preprocessors=rendering.preprocessors(dataset, s.vocabulary_path),
        output_features={n: seqio.Feature(vocabulary(s.vocabulary_path), add_eos=False) for n in rendering.features},
    )
"""


@pytest.mark.parametrize("kind", ["t5", "xlmr", "wordpiece", "bpe"])
def test_every_kind_in_the_encoder_format(ask, small_vocabularies, tmp_path, kind):
    path = small_vocabularies[kind]
    vocabulary = read_vocabulary(path)
    module = tmp_path / f"kinds_{kind}.py"
    module.write_text(KINDS_MODULE)
    functions = {
        "choice": encoder.multiple_choice, "spans": encoder.span_qa, "pairs": encoder.pair,
        "tags": functools.partial(encoder.tagging, label_names=("D", "N")),
    }  # fmt: skip
    response = ask(*(f"{module.stem}.{n}" for n in functions), form="encoder", vocabulary=path, modules=[module])
    examples = sys.modules[module.stem].EXAMPLES
    for name, function in functions.items():
        directory = Path(response["tasks"][f"{module.stem}.{name}"])
        info = json.loads((directory / "info.train.json").read_text())
        cached = CachedTask.open(directory).examples("train").read(range(len(examples[name])))
        for row, example in zip(cached, examples[name], strict=True):
            expected = function(example, vocabulary)
            fields = dataclasses.asdict(expected)
            assert json.loads(row.pop("meta")) == fields.pop("meta")
            fields.setdefault("targets", [])  # all kinds have it, so that SeqIO mixes them
            assert set(row) == set(fields) == set(info["features"]) - {"meta"}
            for field, value in fields.items():
                dtype = "int64" if field == "group" else "int32"
                assert row[field].tolist() == np.atleast_1d(value).tolist(), field
                assert info["features"][field] == {"shape": [None] if isinstance(value, list) else [], "dtype": dtype}
        noted = {"noted: an answer has no tokens": 1} if name == "spans" else None
        assert info.get("rendered") == noted


def test_a_mistake_that_a_format_finds(small_vocabularies, official_files, tmp_path, capfd):
    module, request = tmp_path / "kinds_wrong.py", tmp_path / "request.json"
    module.write_text(KINDS_MODULE)
    asked = {
        "names": ["kinds_wrong.wrong"], "task_modules": [str(module)], "format": "encoder",
        "vocabulary_path": str(small_vocabularies["bpe"]),
        "data_dir": str(official_files), "cache_dir": str(tmp_path),
    }  # fmt: skip
    request.write_text(json.dumps(asked))
    assert cache_writer.main([str(request), str(tmp_path / "response.json")]) == 2
    last = capfd.readouterr().err.strip().split("\n")[-1]
    assert last == "kinds_wrong.wrong: example '1', field 'tags[1]': 'V' is none of D, N."
    assert not (tmp_path / "response.json").exists()


@pytest.mark.parametrize("form, kind", [("text2text", "t5"), ("causal", "bpe"), ("encoder", "wordpiece")])
def test_the_cache_holds_what_seqio_gives(ask, small_vocabularies, form, kind):
    """The short way of official data sets into the cache ends in the same bytes as their registered preprocessors."""
    import seqio

    from xtr.data.cache_writer.seqio_examples import _examples
    from xtr.data.records import serialize_example
    from xtr.tasks import foreign

    names = ("mnli", "xnli.qaz", "squad_v1", "tatoeba.zh", "text.corpus.en")
    response = ask(*names, form=form, vocabulary=small_vocabularies[kind])
    for name in names:
        cached = CachedTask.open(response["tasks"][name])
        for split in cached.splits:
            dataset = foreign.task_dataset(seqio.get_mixture_or_task(name), split)
            live = [serialize_example(example) for example in _examples(dataset)]
            assert cached.examples(split).records(range(cached.num_examples(split))) == live, (name, split)
            info = json.loads((Path(cached.directory) / f"info.{split}.json").read_text())
            assert info["features"] == {
                n: {"shape": [None] if spec.shape.rank else [], "dtype": spec.dtype.name}
                for n, spec in dataset.element_spec.items()
            }


def test_caches_of_formats_lie_apart(ask):
    text, ids = (ask("mnli", form=form)["tasks"]["mnli"] for form in ("text2text", "encoder"))
    assert text != ids and ask("mnli")["tasks"]["mnli"] == text


def test_what_a_format_lacks_is_said(ask):
    with pytest.raises(UserError, match="lareqa_squad cannot be had: there is no 'text2text' rendering of pairs"):
        ask("lareqa_squad")
    with pytest.raises(UserError, match="XTR_FORMAT is encoders.*Did you mean encoder"):
        ask("mnli", form="encoders")
