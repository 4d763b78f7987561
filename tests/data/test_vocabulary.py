import pickle
import shutil

import pytest

from xtr.data.vocabulary import SentencePieceVocabulary
from xtr.errors import UserError


def test_round_trip_and_special_ids(vocabulary):
    ids = vocabulary.encode("the lazy dog")
    assert ids and 1 not in ids
    assert vocabulary.decode(ids) == "the lazy dog"
    assert vocabulary.decode([0, *ids, 1, *ids]) == "the lazy dog"
    assert vocabulary.decode([*ids, vocabulary.size, vocabulary.size + 50, -3, 0]) == "the lazy dog"
    assert vocabulary.decode([]) == vocabulary.decode([0, 0]) == vocabulary.decode([1]) == ""
    assert vocabulary.decode_batch([ids, [1]]) == ["the lazy dog", ""]


def test_sentinels_are_found_by_name(vocabulary):
    assert [vocabulary.piece(i) for i in vocabulary.sentinels] == [f"▁<extra_id_{i}>" for i in range(20)]
    assert vocabulary.sentinels == sorted(vocabulary.sentinels, reverse=True)


def test_a_model_without_sentinels(sentencepiece_model):
    assert SentencePieceVocabulary(sentencepiece_model(0)).sentinels == []


def test_equality_is_by_content(vocabulary, tmp_path):
    copy = SentencePieceVocabulary(shutil.copy(vocabulary.path, tmp_path / "other.model"))
    assert copy == vocabulary and hash(copy) == hash(vocabulary) and len(vocabulary.sha256) == 64
    assert pickle.loads(pickle.dumps(vocabulary)) == vocabulary


def test_unusable_files(tmp_path):
    with pytest.raises(UserError, match="nowhere.model"):
        SentencePieceVocabulary(tmp_path / "nowhere.model")
    for content in (b"", b"no model at all"):
        (tmp_path / "bad.model").write_bytes(content)
        with pytest.raises(UserError, match="not a SentencePiece model"):
            SentencePieceVocabulary(tmp_path / "bad.model")


def test_mt5_model(data_dir):
    path = data_dir / "tokenizers" / "mt5_reduced" / "sentencepiece_cn.model"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    vocabulary = SentencePieceVocabulary(path)
    assert len(vocabulary.sentinels) == 100 and vocabulary.sentinels[0] == vocabulary.size - 1
    assert vocabulary.decode(vocabulary.encode("Ein Satz. 一句话.")) == "Ein Satz. 一句话."


def test_another_familys_model(data_dir):
    path = data_dir / "tokenizers" / "xlmr" / "sentencepiece.bpe.model"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    with pytest.raises(UserError, match="a T5 vocabulary has 0, 1, 2"):
        SentencePieceVocabulary(path)
