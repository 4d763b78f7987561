"""A tiny data directory in the official formats, and a vocabulary trained on a few sentences."""

import io
import json
import os
import sys
from pathlib import Path

import pytest
import sentencepiece

CONTEXT = "Caf\u00e9 Z\u00fcrich\u2028opened in 1999, near U.S.\u00a0Bank \U0001f600 square."


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8"))


def _squad_json(context: str = CONTEXT, answer: str = "1999", start: int | None = None, name: str = "q0") -> str:
    """One question in SQuAD v1.1's JSON, and a second one of the same context."""
    start = context.index(answer) if start is None else start
    questions = [
        {"id": name, "question": "When?", "answers": [{"text": answer, "answer_start": start}] * 2},
        {
            "id": f"{name}b",
            "question": "Which square?",
            "answers": [{"text": "\U0001f600", "answer_start": context.index("\U0001f600")}],
        },
    ]
    return json.dumps({"version": "1.1", "data": [{"paragraphs": [{"context": context, "qas": questions}]}]})


def _write_official_files(root: Path) -> Path:
    """Writes every data set, English and a language (qaz) that no table knows."""
    _write(
        root / "xnli/XNLI-MT-1.0/multinli/multinli.train.en.tsv",
        "premise\thypo\tlabel\n" + "".join(f"A man {i}.\tA person.\t{label}\n" for i, label in enumerate(
            ("entailment", "neutral", "contradictory", "-", "neutral"))),
    )  # fmt: skip
    _write(root / "languages.json", json.dumps({t: ["en", "qaz"] for t in ("xnli", "xquad", "tatoeba")}))
    _write(root / "xnli/XNLI-MT-1.0/multinli/multinli.train.qaz.tsv", "premise\thypo\tlabel\nBa ba.\tBa.\tneutral\n")
    rows = [("entailment", "one"), ("-", "no majority"), ("contradiction", "two\u2028lines")]
    jsonl = "".join(
        json.dumps({"gold_label": label, "sentence1": text, "sentence2": "b"}) + "\n" for label, text in rows
    )
    _write(root / "multinli_1.0/multinli_1.0_dev_matched.jsonl", jsonl)
    for language in ("en", "qaz"):
        _write(root / f"xnli/dev-{language}.tsv", "A\u2028B\u0085 C\tD\tneutral\ne  \u00a0e\tf\tcontradiction\n")
        _write(root / f"xnli/test-{language}.tsv", "x\ty\tentailment\n")
        _write(root / f"xquad/xquad.{language}.json", _squad_json(name=f"{language}0"))
        _write(root / f"text/corpus/{language}.txt", "first document\n\nsecond\u2028document\n")
    _write(root / "text/corpus/en-qaz.txt", "a = ba\n")
    _write(root / "squad/train-v1.1.json", _squad_json())
    _write(root / "squad/dev-v1.1.json", _squad_json(name="d"))
    _write(root / "tatoeba/v1/tatoeba.cmn-eng.cmn", "\u4f60\u597d\u3002\n\u8c22\u8c22\u3002\n")
    _write(root / "tatoeba/v1/tatoeba.cmn-eng.eng", "Hello.\nThanks.\n")
    _write(root / "tatoeba/v1/tatoeba.qaz-eng.qaz", "Ba.\nBo.\nBu.\n")
    _write(root / "tatoeba/v1/tatoeba.qaz-eng.eng", "A.\nO.\nU.\n")
    _write(root / "tatoeba/v1/tatoeba.qay-eng.qay", "alone\n")
    udhr = (
        "<?xml version='1.0' encoding='UTF-8'?>\n<udhr iso639-3='por' xml:lang='pt-{country}' xmlns='urn:x'>\n"
        "  <title>\u00a0Declara\u00e7\u00e3o</title>\n"
        "  <article number='1'><para>Todos &amp; cada um\n</para></article>\n</udhr>\n"
    )
    for country in ("BR", "PT"):
        _write(root / f"text/udhr/udhr_por_{country}.xml", udhr.format(country=country))
    _write(root / "text/udhr/index.xml", "<udhrs><udhr f='por'/></udhrs>")
    return root


def train_vocabulary(path: Path) -> Path:
    """Trains a small SentencePiece model with mT5's special ids."""
    text = ["xnli: premise: a man . hypothesis: a person .", "question: when ? context: opened in 1999 . hello thanks"]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text * 5), model_writer=model, vocab_size=80, hard_vocab_limit=False, pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, byte_fallback=False, minloglevel=2,
    )  # fmt: skip
    path.write_bytes(model.getvalue())
    return path


@pytest.fixture(scope="session")
def official_files(tmp_path_factory) -> Path:
    return _write_official_files(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def vocabulary_path(tmp_path_factory) -> Path:
    return train_vocabulary(tmp_path_factory.mktemp("vocabulary") / "sentencepiece.model")


@pytest.fixture(scope="session")
def write_official_files():
    """`write_official_files(folder)` writes the files anew, for a test that changes them, and returns the folder."""
    return _write_official_files


@pytest.fixture(scope="session")
def squad_json():
    """`squad_json(context, answer, start, name)` returns the text of a SQuAD file of two questions."""
    return _squad_json


@pytest.fixture
def writer_environment(monkeypatch):
    """The cache writer, a process of its own in life, sets the environment of its process."""
    ours = ("XTR_DATA_DIR", "XTR_CACHE_DIR", "XTR_VOCABULARY_PATH", "XTR_FORMAT")
    for name in (*ours, "CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.setattr(sys, "path", list(sys.path))
