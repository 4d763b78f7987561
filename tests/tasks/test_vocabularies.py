"""SeqIO's side of every vocabulary: the ids inside tf.data are those outside it."""

import pickle
import shutil

import numpy as np
import pytest
import seqio
import tensorflow as tf

from xtr.data.vocabulary import read_vocabulary
from xtr.errors import UserError
from xtr.tasks.vocabularies import seqio_vocabulary

KINDS = ("t5", "xlmr", "wordpiece", "bpe")
TEXTS = ["The quick brown fox", "", "人人生而自由，", "\u00a0e\u0301 \U0001f600\x00", "über den Deich"]


@pytest.fixture(params=KINDS)
def both(request, small_vocabularies):
    """SeqIO's vocabulary and xtr's, of one file."""
    path = str(small_vocabularies[request.param])
    return seqio_vocabulary(path), read_vocabulary(path)


def test_ids_in_a_graph_are_those_outside(both):
    ours, vocabulary = both
    expected = [vocabulary.encode(text) for text in TEXTS]
    assert [list(ours.encode(text)) for text in TEXTS] == expected
    single = tf.data.Dataset.from_tensor_slices(TEXTS).map(ours.encode_tf)
    assert single.element_spec.dtype == tf.int32 and single.element_spec.shape.as_list() == [None]
    assert [ids.tolist() for ids in single.as_numpy_iterator()] == expected
    batches = tf.data.Dataset.from_tensor_slices(TEXTS).batch(2).map(ours.encode_tf)
    assert batches.element_spec == tf.RaggedTensorSpec([None, None], tf.int32, 1)
    assert [row for batch in batches for row in batch.to_list()] == expected
    nested = tf.function(ours.encode_tf)(tf.ragged.constant([TEXTS[:2], TEXTS[2:]]))
    assert nested.to_list() == [expected[:2], expected[2:]]


def test_texts_in_a_graph_are_those_outside(both):
    ours, vocabulary = both
    ids = [vocabulary.encode(text) for text in TEXTS]
    texts = [vocabulary.decode(row) for row in ids]
    assert [ours.decode(row) for row in ids] == texts
    for row, text in zip(ids, texts, strict=True):
        ended = tf.constant([*row, ours.eos_id, 7, 7], tf.int32)
        assert ours.decode_tf(ended).numpy().decode() == text == ours.decode(ended)
    padded = tf.ragged.constant([[*row, ours.eos_id] for row in ids], dtype=tf.int32).to_tensor(0)
    assert [text.decode() for text in ours.decode_tf(padded).numpy()] == texts
    assert tf.function(ours.decode_tf)(padded).shape == (len(TEXTS),)


def test_ids_of_special_tokens(both):
    ours, vocabulary = both
    assert (ours.eos_id, ours.unk_id, ours.pad_id) == (vocabulary.eos_id, vocabulary.unk_id, vocabulary.pad_id)
    assert ours.vocab_size == vocabulary.size and ours.extra_ids == 0


def test_ragged_ids_are_decoded(small_vocabularies):
    for kind in KINDS:
        ours = seqio_vocabulary(str(small_vocabularies[kind]))
        ids = tf.ragged.constant([list(ours.encode(text)) for text in ("The fox", "", "über den")], dtype=tf.int32)
        expected = [ours.decode(row) for row in ids.to_list()]
        assert [text.decode() for text in ours._decode_tf(ids).numpy()] == expected, kind


def test_sentinels_are_never_added(small_vocabularies, vocabulary_path):
    with_sentinels = seqio_vocabulary(str(small_vocabularies["t5"]))
    assert isinstance(with_sentinels, seqio.SentencePieceVocabulary)
    pieces = [with_sentinels.tokenizer.id_to_piece(i) for i in range(with_sentinels.vocab_size)]
    assert sum("extra_id" in piece for piece in pieces) == 10
    assert list(with_sentinels.encode("The <extra_id_3> fox")).count(pieces.index("▁<extra_id_3>")) == 1
    without = seqio_vocabulary(str(vocabulary_path))
    assert without.vocab_size == read_vocabulary(vocabulary_path).size and without.extra_ids == 0


def test_a_task_tokenises_and_appends_the_end(both):
    ours, vocabulary = both
    features = {"inputs": seqio.Feature(ours), "targets": seqio.Feature(ours)}
    examples = tf.data.Dataset.from_tensor_slices({"inputs": TEXTS, "targets": TEXTS[::-1]})
    tokens = seqio.preprocessors.tokenize(examples, features, copy_pretokenized=False)
    for text, example in zip(TEXTS, seqio.preprocessors.append_eos(tokens, features).as_numpy_iterator(), strict=True):
        np.testing.assert_array_equal(example["inputs"], [*vocabulary.encode(text), vocabulary.eos_id])
        assert example["inputs"].dtype == np.int32


def test_equality_and_pickling(both, small_vocabularies, tmp_path):
    ours, vocabulary = both
    others = [seqio_vocabulary(str(p)) for kind, p in small_vocabularies.items() if kind != vocabulary.kind]
    assert ours not in others and pickle.loads(pickle.dumps(ours)) == ours
    if vocabulary.kind != "t5":  # SeqIO's own compares paths.
        copy = seqio_vocabulary(str(shutil.copy(vocabulary.path, tmp_path)))
        assert copy == ours and hash(copy) == hash(ours) and vocabulary.sha256 in str(copy)


def test_folders_and_mistakes(small_vocabularies, tmp_path):
    for path in small_vocabularies.values():
        assert seqio_vocabulary(str(path.parent)) == seqio_vocabulary(str(path))
    with pytest.raises(UserError, match="holds no vocabulary"):
        seqio_vocabulary(str(tmp_path))
    ours = seqio_vocabulary(str(small_vocabularies["bpe"]))
    with pytest.raises(ValueError, match="rank 2"):
        ours.encode_tf(tf.constant([["a"]]))


@pytest.mark.parametrize("kind", ["xlmr", "wordpiece", "bpe"])
def test_the_cache_of_a_task_is_made_with_any_kind(kind, small_vocabularies, official_files, tmp_path, monkeypatch):
    from xtr.data import cache_writer
    from xtr.data.cached_task import CachedTask, eval_examples

    for name in ("XTR_DATA_DIR", "XTR_CACHE_DIR", "XTR_VOCABULARY_PATH", "XTR_FORMAT"):
        monkeypatch.setenv(name, "")
    vocabulary = read_vocabulary(small_vocabularies[kind])
    places = {"data_dir": str(official_files), "cache_dir": str(tmp_path)}
    request = {"names": ["xquad.en"], "format": "text2text", **places}
    folder = cache_writer.write({**request, "vocabulary_path": str(small_vocabularies[kind].parent)})
    task = CachedTask.open(folder["tasks"]["xquad.en"])
    assert task.info["vocabulary"] == {
        "path": vocabulary.path, "sha256": vocabulary.sha256, "size": vocabulary.size,
    }  # fmt: skip
    example = next(iter(eval_examples(task, "test")))
    np.testing.assert_array_equal(
        example["inputs"], [*vocabulary.encode(example["inputs_pretokenized"]), vocabulary.eos_id]
    )
    file = cache_writer.write({**request, "vocabulary_path": str(small_vocabularies[kind])})
    assert file["tasks"] == folder["tasks"]
    another = cache_writer.write({**request, "vocabulary_path": str(small_vocabularies["t5"])})
    assert another["tasks"] != folder["tasks"]
