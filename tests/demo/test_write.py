import json
from pathlib import Path

import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from xtr.demo import write
from xtr.demo.world import WorldSizes, make_world
from xtr.demo.write import write_world
from xtr.errors import UserError

LANGUAGES = ("en", "qaa", "qab", "qac")


def lines(path: Path) -> list[str]:
    text = path.read_bytes().decode("utf-8")
    assert text.endswith("\n")
    return text.split("\n")[:-1]


def contents(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def tokenizer(summary):
    return sentencepiece.SentencePieceProcessor(model_file=str(summary.vocabulary_path))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(summary, sizes, tmp_path):
    again = write_world(tmp_path / "again", seed=3, sizes=sizes)
    assert contents(again.directory) == contents(summary.directory)
    other = contents(write_world(tmp_path / "other", seed=4, sizes=sizes).directory)
    mine = contents(summary.directory)
    assert other.keys() == mine.keys()
    assert not set(other.values()) & {data for name, data in mine.items() if name != "languages.json"}


def test_a_finished_world_is_reused_and_another_replaces_it(sizes, tmp_path):
    first = write_world(tmp_path / "w", seed=3, sizes=sizes)
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "w").rglob("*")}
    again = write_world(tmp_path / "w", seed=3, sizes=sizes)
    assert not first.reused and again.reused and again.files == first.files
    assert stamps == {p: p.stat().st_mtime_ns for p in (tmp_path / "w").rglob("*")}
    assert not write_world(tmp_path / "w", seed=5, sizes=sizes).reused
    assert [p.name for p in tmp_path.iterdir()] == ["w"]


def test_an_older_generators_world_is_replaced(sizes, tmp_path, monkeypatch):
    write_world(tmp_path / "w", seed=3, sizes=sizes)
    monkeypatch.setattr(write, "generator_version", lambda: "newer")
    assert not write_world(tmp_path / "w", seed=3, sizes=sizes).reused


def test_a_folder_with_other_things_in_it_is_left_alone(sizes, tmp_path):
    (tmp_path / "thesis.txt").write_text("do not delete")
    with pytest.raises(UserError, match="holds no demo world"):
        write_world(tmp_path, sizes=sizes)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_failed_writing_leaves_nothing(sizes, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(write, "_write_tokenizer", fail)
    with pytest.raises(OSError, match="disk full"):
        write_world(tmp_path / "w", sizes=sizes)
    assert not list(tmp_path.iterdir())


def test_the_summary_counts_what_is_there(summary, sizes):
    assert summary.languages == LANGUAGES
    assert summary.files["xnli/XNLI-MT-1.0/multinli/multinli.train.en.tsv"] == sizes.mnli_train
    assert summary.files["squad/dev-v1.1.json"] == sizes.squad_dev
    assert summary.files["text/corpus/en-qab.txt"] == sizes.bilingual
    assert summary.chance == pytest.approx({"xnli": 100 / 3, "xquad": 0, "tatoeba": 4})
    on_disk = set(contents(summary.directory)) - {write.MANIFEST, write.TOKENIZER}
    assert on_disk == set(summary.files)


def test_inference_files(summary, sizes):
    root = summary.directory
    header, *train = lines(root / "xnli/XNLI-MT-1.0/multinli/multinli.train.en.tsv")
    assert header == "premise\thypo\tlabel"
    assert len(train) == sizes.mnli_train
    assert {row.split("\t")[2] for row in train} == {"entailment", "neutral", "contradictory"}
    assert all(len(row.split("\t")) == 3 for row in train)
    dev = [json.loads(line) for line in lines(root / "multinli_1.0/multinli_1.0_dev_matched.jsonl")]
    assert {frozenset(row) for row in dev} == {frozenset({"gold_label", "sentence1", "sentence2"})}
    labels = [[row.split("\t")[2] for row in lines(root / f"xnli/test-{code}.tsv")] for code in LANGUAGES]
    assert labels[0] == labels[1] == labels[2] == labels[3] and len(labels[0]) == sizes.xnli_test
    assert {label: labels[0].count(label) for label in set(labels[0])} == dict.fromkeys(
        ("entailment", "neutral", "contradiction"), sizes.xnli_test // 3
    )


def questions(path: Path) -> list[tuple[str, dict]]:
    articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    return [(p["context"], q) for article in articles for p in article["paragraphs"] for q in p["qas"]]


def test_question_files(summary, sizes):
    root = summary.directory
    assert json.loads((root / "squad/train-v1.1.json").read_text(encoding="utf-8"))["version"] == "1.1"
    assert len(questions(root / "squad/dev-v1.1.json")) == sizes.squad_dev
    assert len(questions(root / "squad/train-v1.1.json")) == sizes.squad_train
    ids = set()
    for code in LANGUAGES:
        found = questions(root / f"xquad/xquad.{code}.json")
        ids.add(tuple(q["id"] for _, q in found))
        assert len(found) == sizes.xquad == len({q["id"] for _, q in found})
        for context, question in found:
            (answer,) = question["answers"]
            start = answer["answer_start"]
            assert answer["text"] and context[start : start + len(answer["text"])] == answer["text"]
            assert question["question"].endswith("?")
    assert len(ids) == 1


def test_retrieval_files(summary, sizes):
    for code in LANGUAGES[1:]:
        sides = [lines(summary.directory / f"tatoeba/v1/tatoeba.{code}-eng.{side}") for side in (code, "eng")]
        assert [len(set(side)) for side in sides] == [sizes.tatoeba] * 2


def test_no_test_sentence_is_in_the_training_text(summary):
    root = summary.directory
    train = "\n".join(path.read_text(encoding="utf-8") for path in (root / "text").rglob("*.txt"))
    train += (root / "xnli/XNLI-MT-1.0/multinli/multinli.train.en.tsv").read_text(encoding="utf-8")
    train += (root / "squad/train-v1.1.json").read_text(encoding="utf-8")
    for code in LANGUAGES:
        for split in ("dev", "test"):
            for row in lines(root / f"xnli/{split}-{code}.tsv"):
                assert row.split("\t")[0] not in train
        for context, _ in questions(root / f"xquad/xquad.{code}.json"):
            assert context not in train
    for path in (root / "tatoeba/v1").iterdir():
        for sentence in lines(path):
            assert sentence not in train


def test_bilingual_documents_say_one_thing_twice(summary, sizes):
    world = make_world(3, sizes, LANGUAGES[1:])
    switched = [bool(d.first.switched or d.second.switched) for d in world.bilingual["qab"]]
    assert {True, False} == set(switched)
    assert not any(d.first.switched and d.second.switched for d in world.bilingual["qab"])
    rows = lines(summary.directory / "text/corpus/en-qab.txt")
    latin = [any("a" <= c <= "z" for c in row.lower()) for row in rows]
    cyrillic = [any("а" <= c <= "я" for c in row) for row in rows]
    assert len(rows) == sizes.bilingual and sum(a and b for a, b in zip(latin, cyrillic, strict=True)) > 0.9 * len(rows)


def test_the_tokenizer_has_mt5s_ids_and_sentinels(summary, tokenizer):
    assert [tokenizer.pad_id(), tokenizer.eos_id(), tokenizer.unk_id(), tokenizer.bos_id()] == [0, 1, 2, -1]
    size = tokenizer.vocab_size()
    assert size == summary.vocabulary_size
    assert [tokenizer.id_to_piece(i) for i in range(size - 100, size)] == [f"<extra_id_{99 - i}>" for i in range(100)]
    proto = sentencepiece_model_pb2.ModelProto.FromString(summary.vocabulary_path.read_bytes())
    assert {p.type for p in proto.pieces[-100:]} == {proto.SentencePiece.USER_DEFINED}
    assert not any(p.type == proto.SentencePiece.BYTE for p in proto.pieces)
    assert tokenizer.encode("<extra_id_0>")[-1] == size - 1


def test_labels_and_prefixes_are_few_pieces(tokenizer):
    labels = [tokenizer.encode(label) for label in "012"]
    assert [len(ids) for ids in labels] == [1, 1, 1] and len({ids[0] for ids in labels}) == 3
    assert [tokenizer.id_to_piece(ids[0]) for ids in labels] == ["▁0", "▁1", "▁2"]
    assert len(tokenizer.encode("xnli: premise: hypothesis:")) == 6
    assert len(tokenizer.encode("question: context:")) == 4


def test_texts_have_no_unknown_pieces_and_are_short(summary, tokenizer):
    root = summary.directory
    for code in LANGUAGES:
        for row in lines(root / f"xnli/test-{code}.tsv"):
            premise, hypothesis, _ = row.split("\t")
            ids = tokenizer.encode(f"xnli: premise: {premise} hypothesis: {hypothesis}")
            assert 2 not in ids and len(ids) <= 44
            assert tokenizer.decode(tokenizer.encode(premise)) == premise
        for context, question in questions(root / f"xquad/xquad.{code}.json"):
            ids = tokenizer.encode(f"question: {question['question']} context: {context}")
            assert 2 not in ids and len(ids) <= 60
    for path in (root / "text/corpus").iterdir():
        assert all(len(tokenizer.encode(line)) <= 60 for line in lines(path))


def test_two_writers_of_one_world_agree(sizes, tmp_path, monkeypatch):
    real = write._write_tokenizer

    def slow(root, size):
        if not (tmp_path / "w").exists():  # another process finishes first
            monkeypatch.setattr(write, "_write_tokenizer", real)
            assert not write_world(tmp_path / "w", seed=3, sizes=sizes).reused
        return real(root, size)

    monkeypatch.setattr(write, "_write_tokenizer", slow)
    assert write_world(tmp_path / "w", seed=3, sizes=sizes).reused
    assert [p.name for p in tmp_path.iterdir()] == ["w"]


def test_sizes_must_be_positive():
    with pytest.raises(ValueError, match=r"WorldSizes\.tatoeba must be at least 1, not 0"):
        WorldSizes(tatoeba=0)
