"""Every family's vocabulary as SeqIO needs it: inside tf.data, and equal to `xtr.data.vocabulary`."""

import functools
import inspect
from collections.abc import Sequence

import numpy as np
import seqio
import tensorflow as tf

from xtr.data.vocabulary import Vocabulary, read_vocabulary

TOKENISING_CODE = inspect.getfile(Vocabulary)  # the file whose code makes the tokens


@functools.cache
def family_vocabulary(path: str) -> Vocabulary:
    """Returns the vocabulary of a file or a Hugging Face folder, of whichever kind it is.

    Raises:
      UserError: the file is missing, or is no vocabulary.
    """
    return read_vocabulary(path)


def seqio_vocabulary(path: str) -> seqio.Vocabulary:
    """Returns the SeqIO vocabulary of a file or a Hugging Face folder, of whichever kind it is.

    A T5 model is SeqIO's own SentencePieceVocabulary without extra ids: mT5's 100 sentinels are pieces of its model,
    and a model that has none gets none.

    Raises:
      UserError: the file is missing, or is no vocabulary.
    """
    vocabulary = family_vocabulary(path)
    if vocabulary.kind == "t5":
        return seqio.SentencePieceVocabulary(vocabulary.path, extra_ids=0)
    return FamilyVocabulary(vocabulary)


class FamilyVocabulary(seqio.Vocabulary):
    """An `xtr.data.vocabulary.Vocabulary` under SeqIO's interface: XLM-R's, mBERT's or BLOOM's.

    SeqIO pads with id 0, whatever a vocabulary says. That is `<s>` in XLM-R and `<unk>` in BLOOM, so an id never
    decides what is padding here: xtr caches sequences without any, and in its batches segment id 0 is padding. `pad_id`
    is the family's own, which counts of tokens leave out.

    Tokens are made by Python code, one call for a whole tensor: a graph that holds it cannot be saved.
    """

    def __init__(self, vocabulary: Vocabulary):
        super().__init__()
        self._vocabulary = vocabulary

    @property
    def bos_id(self) -> int | None:
        return self._vocabulary.bos_id

    @property
    def eos_id(self) -> int:
        return self._vocabulary.eos_id

    @property
    def pad_id(self) -> int:
        return self._vocabulary.pad_id

    @property
    def unk_id(self) -> int | None:
        return self._vocabulary.unk_id

    @property
    def _base_vocab_size(self) -> int:
        return self._vocabulary.size

    def _encode(self, s: str) -> list[int]:
        return self._vocabulary.encode(s)

    def _decode(self, ids: Sequence[int]) -> str:
        return self._vocabulary.decode(ids)

    def _encode_tf(self, s: tf.Tensor | tf.RaggedTensor) -> tf.Tensor | tf.RaggedTensor:
        """Ids of a string, int32 [tokens]; of strings [n], or of ragged ones, ragged with one more axis."""
        if isinstance(s, tf.RaggedTensor):
            return s.with_values(self._encode_tf(s.values))
        s = tf.convert_to_tensor(s, tf.string)
        if s.shape.rank not in (0, 1):
            raise ValueError(f"a string or a list of strings can be tokenised, not a tensor of rank {s.shape.rank}")

        def call(texts: np.ndarray):
            ids = [self._vocabulary.encode(text.decode("utf-8", "replace")) for text in texts]
            return np.array([i for row in ids for i in row], np.int32), np.array([len(row) for row in ids], np.int64)

        ids, lengths = tf.numpy_function(call, [tf.reshape(s, [-1])], [tf.int32, tf.int64], stateful=False)
        ids, lengths = tf.ensure_shape(ids, [None]), tf.ensure_shape(lengths, [None])
        return ids if s.shape.rank == 0 else tf.RaggedTensor.from_row_lengths(ids, lengths)

    def _decode_tf(self, ids: tf.Tensor | tf.RaggedTensor) -> tf.Tensor:
        """The text of ids [tokens], a string; of ids [n, tokens] or ragged ones, strings [n]."""
        if isinstance(ids, tf.RaggedTensor):
            # Past a sequence's end its text does not go on.
            ids = ids.to_tensor(self.eos_id)

        def call(rows: np.ndarray):
            texts = [text.encode("utf-8") for text in self._vocabulary.decode_batch(rows.reshape(-1, rows.shape[-1]))]
            return np.array(texts, object).reshape(rows.shape[:-1])

        text = tf.numpy_function(call, [ids], tf.string, stateful=False)
        return tf.ensure_shape(text, ids.shape[:-1])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FamilyVocabulary) and self._vocabulary == other._vocabulary

    def __hash__(self) -> int:
        return hash(self._vocabulary)

    def __str__(self) -> str:
        return f"FamilyVocabulary({self._vocabulary!r}, sha256={self._vocabulary.sha256})"
