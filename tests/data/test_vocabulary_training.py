"""Small vocabularies: of each family's kind, from all of the text, the same again from the same."""

import pytest

from xtr.data.vocabulary import read_vocabulary
from xtr.data.vocabulary_training import FILES, train
from xtr.errors import UserError

TEXT = [
    "All human beings are born free and equal in dignity and rights. " * 40 + "Everyone has the right to zyzzyva.",
    "Alle Menschen sind frei und gleich an Würde und Rechten geboren.\nNiemand darf in Sklaverei gehalten werden.",
    "人人生而自由，在尊严和权利上一律平等。" * 200 + "龘",
]


@pytest.mark.parametrize("kind", FILES)
def test_a_vocabulary_of_each_kind(kind, tmp_path):
    path = tmp_path / FILES[kind]
    path.write_bytes(train(kind, TEXT, 420, coverage=1.0))
    vocabulary = read_vocabulary(tmp_path, kind)
    assert vocabulary.size <= 422
    for text in ("free and equal in dignity", "Würde und Rechten", "人人生而自由"):
        ids = vocabulary.encode(text)
        assert vocabulary.decode(ids).strip() == text and vocabulary.unk_id not in ids
    # What stands behind the length that SentencePiece takes is in it too.
    assert vocabulary.unk_id not in vocabulary.encode("龘")
    assert kind != "t5" or len(vocabulary.sentinels) == 100
    assert path.read_bytes() == train(kind, TEXT, 420, coverage=1.0)


def test_too_small_or_no_text():
    with pytest.raises(UserError, match="no vocabulary of 20 pieces"):
        train("xlmr", TEXT, 20)
    with pytest.raises(UserError, match="no text"):
        train("bpe", [], 300)
