"""The SentencePiece vocabulary, read without TensorFlow."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from functools import cached_property

import sentencepiece

from xtr.errors import UserError

PAD_ID = 0
EOS_ID = 1
UNK_ID = 2


class SentencePieceVocabulary:
    """A SentencePiece model with T5's special ids: padding 0, end of sequence 1, unknown 2.

    Two vocabularies are equal when their model files hold the same bytes, wherever they lie.

    Raises:
      UserError: the file is missing, is not a SentencePiece model, or has other special ids.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = os.fspath(path)
        try:
            with open(self.path, "rb") as f:
                self._model = f.read()
        except OSError as e:
            raise UserError(f"Cannot read the vocabulary {self.path}: {e.strerror}.") from e
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            if not self._model:
                raise RuntimeError("the file is empty")
            self._processor.LoadFromSerializedProto(self._model)
        except (RuntimeError, OSError) as e:
            raise UserError(f"{self.path} is not a SentencePiece model: {e}.") from e
        found = (self._processor.pad_id(), self._processor.eos_id(), self._processor.unk_id())
        if found != (PAD_ID, EOS_ID, UNK_ID):
            raise UserError(
                f"{self.path} has the ids pad {found[0]}, eos {found[1]}, unk {found[2]}; a T5 vocabulary has 0, 1, 2. "
                "Is it another family's vocabulary?"
            )

    @property
    def size(self) -> int:
        """Number of pieces, sentinels included. A model's embedding table may have more rows than this."""
        return self._processor.GetPieceSize()

    @cached_property
    def sha256(self) -> str:
        """Hex digest of the model file."""
        return hashlib.sha256(self._model).hexdigest()

    @cached_property
    def sentinels(self) -> list[int]:
        """Ids of <extra_id_0>, <extra_id_1>, ... in that order; empty when the model holds none.

        mT5's model holds 100 of them in reverse (<extra_id_99> has the lowest id), so they are found by their
        piece, not by their place.
        """
        ids = []
        while True:
            pieces = (f"▁<extra_id_{len(ids)}>", f"<extra_id_{len(ids)}>")
            found = [i for i in map(self._processor.PieceToId, pieces) if i != UNK_ID]
            if not found:
                return ids
            ids.append(found[0])

    def piece(self, token: int) -> str:
        """The piece of one id."""
        return self._processor.IdToPiece(int(token))

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without an end of sequence."""
        return self._processor.EncodeAsIds(text)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`: stops at the first end of sequence; leaves out padding and ids the model does not have."""
        return self._processor.DecodeIds(self._clean(ids))

    def decode_batch(self, sequences: Sequence[Iterable[int]]) -> list[str]:
        """Text of each of many sequences, as `decode` does it."""
        return [self.decode(ids) for ids in sequences]

    def _clean(self, ids: Iterable[int]) -> list[int]:
        size = self.size
        kept = []
        for i in ids:
            i = int(i)
            if i == EOS_ID:
                break
            if i != PAD_ID and 0 <= i < size:
                kept.append(i)
        return kept

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SentencePieceVocabulary) and self._model == other._model

    def __hash__(self) -> int:
        return hash(self.sha256)

    def __repr__(self) -> str:
        return f"SentencePieceVocabulary({self.path!r})"

    def __reduce__(self):
        return SentencePieceVocabulary, (self.path,)


def open_vocabulary(path: str | os.PathLike, rows: int) -> SentencePieceVocabulary:
    """Opens a vocabulary for a model whose embedding has `rows` rows.

    Raises:
      UserError: as `SentencePieceVocabulary`; or the embedding has fewer rows than the vocabulary has pieces.
    """
    vocabulary = SentencePieceVocabulary(path)
    if vocabulary.size > rows:
        raise UserError(
            f"the vocabulary {path} has {vocabulary.size} pieces, more than the {rows} rows of the model's"
            " embedding: set mt5.MT5Config.vocab_size (VOCAB_SIZE) or choose another VOCABULARY_PATH."
        )
    return vocabulary
