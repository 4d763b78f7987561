"""Opens a model's vocabulary: finds its file, tells its kind by its content, and holds it against the model."""

import hashlib
import json
import os

from xtr import storage
from xtr.data.vocabulary_kinds import (
    BPEVocabulary,
    SentencePieceVocabulary,
    Vocabulary,
    WordPieceVocabulary,
    XLMRVocabulary,
    is_t5,
    is_xlmr,
    load_sentencepiece,
    read_bytes,
    special_ids,
)
from xtr.errors import UserError

__all__ = [
    "SentencePieceVocabulary", "Vocabulary", "open_vocabulary", "read_vocabulary", "vocabulary_file",
    "vocabulary_sha256",
]  # fmt: skip

_CLASSES = {c.kind: c for c in (SentencePieceVocabulary, XLMRVocabulary, WordPieceVocabulary, BPEVocabulary)}
_FAMILIES = {
    "t5": "an mT5", "xlmr": "an XLM-R", "wordpiece": "an mBERT (WordPiece)", "bpe": "a BLOOM (byte-level BPE)",
}  # fmt: skip
# What Hugging Face's folders call it: T5, XLM-R, BERT, BLOOM.
_NAMES_IN_A_FOLDER = ("spiece.model", "sentencepiece.bpe.model", "vocab.txt", "tokenizer.json")
# Embedding tables have spare rows, at most 878 in a released model (XLM-R XL: 250,880 rows for 250,002 pieces).
_MOST_SPARE_ROWS = 1023


def vocabulary_file(path: str | os.PathLike) -> str:
    """The vocabulary's file: `path` itself, or the one of a Hugging Face folder; local or gs://.

    Raises:
      UserError: a folder that holds no vocabulary.
    """
    path = os.fspath(path)
    if storage.is_file(path) or not storage.exists(path):
        return path
    for name in _NAMES_IN_A_FOLDER:
        if storage.is_file(file := storage.join(path, name)):
            return file
    raise UserError(
        f"The folder {path} holds no vocabulary: none of {', '.join(_NAMES_IN_A_FOLDER)}. Name the vocabulary's file."
    )


def vocabulary_sha256(file: str | os.PathLike) -> str:
    """Hex digest of a vocabulary's file, as `Vocabulary.sha256`. Raises UserError when it cannot be read."""
    return hashlib.sha256(read_bytes(file)).hexdigest()


def _kind(content: bytes, path: str) -> str:
    """The kind of a vocabulary, by its content."""
    if not content:
        raise UserError(f"The vocabulary {path} is empty.")
    lines = content.split(b"\n")
    if all(any(line.rstrip() == token for line in lines) for token in (b"[CLS]", b"[SEP]")):
        return "wordpiece"
    if content.lstrip()[:1] == b"{":
        try:
            model = json.loads(content).get("model")
        except ValueError as e:
            raise UserError(f"The vocabulary {path} begins as JSON does but is none: {e}.") from e
        if not isinstance(model, dict):
            raise UserError(f'{path} is JSON without a "model": not a tokenizer.json. Name the vocabulary\'s file.')
        if model.get("type", "BPE") != "BPE":
            raise UserError(
                f"{path} is a tokenizer.json of a {model['type']} model; of this form BPE alone is read. Name the "
                f"model's own file ({', '.join(_NAMES_IN_A_FOLDER[:3])})."
            )
        return "bpe"
    try:
        processor = load_sentencepiece(content, path)
    except UserError as e:
        raise UserError(
            f"{path} is not a SentencePiece model (mT5, XLM-R), a vocab.txt with [CLS] and [SEP] (mBERT) or a "
            "tokenizer.json (BLOOM). Name the file of the model's vocabulary."
        ) from e
    if is_t5(processor):
        return "t5"
    if is_xlmr(processor):
        return "xlmr"
    raise UserError(
        f"{path} is a SentencePiece model with the ids {special_ids(processor)}. mT5's has pad 0, eos 1, unk 2, and "
        "XLM-R's unk 0, bos 1, eos 2; other families are not known here."
    )


def read_vocabulary(path: str | os.PathLike, kind: str | None = None) -> Vocabulary:
    """Reads the vocabulary of a file or a Hugging Face folder; its kind is told by its content, not by its name.

    Args:
      path: SentencePiece model, vocab.txt or tokenizer.json, or a folder that holds one.
      kind: the kind that the model needs ('t5', 'xlmr', 'wordpiece', 'bpe'); None takes any.

    Raises:
      UserError: the file is missing, empty, or no vocabulary, or one of another kind.
    """
    file = vocabulary_file(path)
    found = _kind(read_bytes(file), file)
    if kind is not None and found != kind:
        raise UserError(
            f"{file} is {_FAMILIES[found]} vocabulary, but the model is {_FAMILIES[kind]} model: set VOCABULARY_PATH "
            "to the vocabulary that the model was trained with."
        )
    return _CLASSES[found](file)


def open_vocabulary(path: str | os.PathLike, rows: int, kind: str | None = None) -> Vocabulary:
    """Reads a vocabulary for a model whose embedding has `rows` rows.

    Raises:
      UserError: as `read_vocabulary`; or the embedding has fewer rows than the vocabulary has ids, or so many more that
        it must be another model's.
    """
    vocabulary = read_vocabulary(path, kind)
    if vocabulary.size > rows:
        raise UserError(
            f"the vocabulary {vocabulary.path} has {vocabulary.size} pieces, more than the {rows} rows of the model's"
            " embedding: set VOCAB_SIZE to the rows of the checkpoint, or choose another VOCABULARY_PATH."
        )
    if rows - vocabulary.size > _MOST_SPARE_ROWS:
        raise UserError(
            f"the vocabulary {vocabulary.path} has {vocabulary.size} pieces, but the model's embedding has {rows} rows:"
            f" {rows - vocabulary.size} more, where padding explains {_MOST_SPARE_ROWS} at most. It is another model's"
            " vocabulary: choose another VOCABULARY_PATH, or set VOCAB_SIZE where the model is trained from scratch."
        )
    return vocabulary
