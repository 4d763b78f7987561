"""The kinds of vocabulary, one class a family, read without TensorFlow; `xtr.data.vocabulary` opens them.

Text is data in all of them: a text that spells a special token (`</s>`, `[SEP]`) is tokenised as the characters it
holds, so that no document can end a sequence. T5's sentinels are the one exception, being ordinary pieces of its model.
"""

import abc
import hashlib
import os
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import ClassVar

import sentencepiece
from sentencepiece import sentencepiece_model_pb2, sentencepiece_pb2
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from xtr import storage
from xtr.errors import UserError


def read_bytes(path: str | os.PathLike) -> bytes:
    """The bytes of a vocabulary file, local or gs://. Raises UserError when it cannot be read."""
    try:
        return storage.read_bytes(path)
    except OSError as e:
        raise UserError(f"Cannot read the vocabulary {os.fspath(path)}: {e.strerror or e}.") from e


class Vocabulary(abc.ABC):
    """Text to token ids and back, as one family's reference tokenizer has them.

    Two vocabularies are equal when they are of one kind and their files hold the same bytes, wherever they lie.

    Args:
      path: the vocabulary's file.

    Attributes:
      kind: 't5', 'xlmr', 'wordpiece' or 'bpe'.
      path: the file.
      pad_id, eos_id: ids of padding and of the end of a sequence ([SEP] in mBERT).
      unk_id, bos_id, mask_id: ids of unknown text, of the begin of a sequence ([CLS] in mBERT) and of a masked token;
        None where the vocabulary has no such token.

    Raises:
      UserError: the file is missing, or is not one of this kind.
    """

    kind: ClassVar[str]
    pad_id: int
    eos_id: int
    unk_id: int | None = None
    bos_id: int | None = None
    mask_id: int | None = None

    def __init__(self, path: str | os.PathLike):
        self.path = os.fspath(path)
        self._content = read_bytes(self.path)

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """The highest id, plus one; sentinels included. A model's embedding table may have more rows than this."""

    @property
    def sentinels(self) -> list[int]:
        """Ids of <extra_id_0>, <extra_id_1>, ... in that order; empty where there are none."""
        return []

    @abc.abstractmethod
    def piece(self, token: int) -> str:
        """The piece of one id."""

    @abc.abstractmethod
    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without special tokens."""

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[int], list[int]]:
        """Token ids as `encode` gives them, and the start and end of each token in `text`, in code points.

        The characters of a token are those that it is made of, whatever normalisation did to them; several tokens made
        of one character all have it. Starts and ends never decrease. Left out are white space at a token's ends and
        format characters (U+200B, U+FEFF) before it, unless the token is nothing else. A character that no token has
        goes with the token that ends where it is (combining marks; MLQA has answers that end in U+200B), if it is no
        white space; else it belongs to none. A token that stands for no character (the mark of a word's beginning) may
        be empty.
        """
        ids, spans = self._encode_spans(text)
        starts, ends = [], []
        for start, end in spans:
            first, last = start, end
            while first < last and (text[first].isspace() or unicodedata.category(text[first]) == "Cf"):
                first += 1
            while last > first and text[last - 1].isspace():
                last -= 1
            starts.append(first if first < last else start)
            ends.append(last if first < last else end)
        for i in range(len(ends)):
            following = starts[i + 1] if i + 1 < len(ends) else len(text)
            while ends[i] < following and not text[ends[i]].isspace():
                ends[i] += 1
        return ids, starts, ends

    @abc.abstractmethod
    def _encode_spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids, and each token's characters as the tokenizer itself has them."""

    @abc.abstractmethod
    def with_special_tokens(
        self, ids_a: Sequence[int], ids_b: Sequence[int] | None = None
    ) -> tuple[list[int], list[int]]:
        """One text's ids, or a pair's, with the family's special tokens around them; and each token's type, 0 or 1."""

    @abc.abstractmethod
    def _decode(self, ids: list[int]) -> str: ...

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`: stops at the first end of sequence; leaves out special tokens and ids it does not have."""
        size, left_out = self.size, self._left_out
        kept = []
        for i in map(int, ids):
            if i == self.eos_id:
                break
            if 0 <= i < size and i not in left_out:
                kept.append(i)
        return self._decode(kept)

    def decode_batch(self, sequences: Sequence[Iterable[int]]) -> list[str]:
        """Text of each of many sequences, as `decode` does it."""
        return [self.decode(ids) for ids in sequences]

    @cached_property
    def _left_out(self) -> frozenset[int | None]:
        return frozenset({self.pad_id, self.bos_id, self.mask_id, self.unk_id})

    @cached_property
    def sha256(self) -> str:
        """Hex digest of the file."""
        return hashlib.sha256(self._content).hexdigest()

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._content == other._content

    def __hash__(self) -> int:
        return hash(self.sha256)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r})"

    def __reduce__(self):
        return type(self), (self.path,)


class SentencePieceVocabulary(Vocabulary):
    """A SentencePiece model with T5's special ids: padding 0, end of sequence 1, unknown 2 (3 in umT5, where <s> is 2).

    Tokenised by the sentencepiece library, as T5X does: characters that mT5's model lacks become its byte pieces.
    Decoding writes an unknown token as ' ⁇ '.
    """

    kind = "t5"
    pad_id, eos_id = 0, 1

    def __init__(self, path: str | os.PathLike):
        super().__init__(path)
        self._processor = load_sentencepiece(self._content, self.path)
        if not is_t5(self._processor):
            raise UserError(
                f"{self.path} has the ids {special_ids(self._processor)}; a T5 vocabulary has 0, 1, 2 for pad, eos, "
                "unk. Is it another family's vocabulary?"
            )
        self.unk_id = self._processor.unk_id()
        self.bos_id = None if self._processor.bos_id() < 0 else self._processor.bos_id()

    @property
    def size(self) -> int:
        return self._processor.GetPieceSize()

    @cached_property
    def sentinels(self) -> list[int]:
        """Ids of <extra_id_0>, <extra_id_1>, ... in that order; empty when the model holds none.

        mT5's model holds 100 of them in reverse (<extra_id_99> has the lowest id), so they are found by their
        piece, not by their place.
        """
        ids = []
        while True:
            pieces = (f"▁<extra_id_{len(ids)}>", f"<extra_id_{len(ids)}>")
            found = [i for i in map(self._processor.PieceToId, pieces) if i != self.unk_id]
            if not found:
                return ids
            ids.append(found[0])

    def piece(self, token: int) -> str:
        return self._processor.IdToPiece(int(token))

    def encode(self, text: str) -> list[int]:
        return self._processor.EncodeAsIds(text)

    def _encode_spans(self, text):
        # Of the forms that the library returns, the one that all its versions have. Its offsets count bytes of `text`.
        serialized = self._processor.Encode(text, out_type="serialized_proto")
        pieces = sentencepiece_pb2.SentencePieceText.FromString(serialized).pieces
        character = [i for i, c in enumerate(text) for _ in c.encode()] + [len(text)]
        spans, after = [], (len(text), len(text))
        for i, piece in reversed(list(enumerate(pieces))):
            start, end = character[piece.begin], character[piece.end]
            # Of several pieces of one character the library gives it to the last. Here each has it, but for the mark
            # that is put before the text and for a piece that only begins there (61 of 6½).
            if start == end == after[0] and (i or piece.piece != "▁"):
                end = after[1]
            if start < end:
                after = start, end
            spans.append((start, end))
        return [piece.id for piece in pieces], spans[::-1]

    def with_special_tokens(self, ids_a, ids_b=None):
        """`A </s>` or `A </s> B </s>`; every type is 0."""
        ids = [*ids_a, self.eos_id] + ([] if ids_b is None else [*ids_b, self.eos_id])
        return ids, [0] * len(ids)

    @cached_property
    def _left_out(self):
        return frozenset({self.pad_id})

    def _decode(self, ids):
        return self._processor.DecodeIds(ids)


class _TokenizersVocabulary(Vocabulary):
    """What the kinds that the tokenizers library reads have in common; `_tokenizer` is theirs to make."""

    _tokenizer: Tokenizer

    @cached_property
    def size(self) -> int:
        return 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())

    def piece(self, token: int) -> str:
        piece = self._tokenizer.id_to_token(int(token))
        if piece is None:
            raise IndexError(f"{self.path} has no piece {token}")
        return piece

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def _encode_spans(self, text):
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def _decode(self, ids):
        return self._tokenizer.decode(ids)


class XLMRVocabulary(_TokenizersVocabulary):
    """XLM-R's SentencePiece model under fairseq's ids: <s> 0, <pad> 1, </s> 2, <unk> 3, piece i is i + 1, <mask> last.

    The model's own first three pieces (<unk>, <s>, </s>) are replaced by fairseq's first four.

    Tokenised as Hugging Face's XLMRobertaTokenizer does it, by the tokenizers library. The sentencepiece library gives
    the same ids but for two things: it composes decomposed characters that Hugging Face's normaliser leaves apart
    (Bengali U+09C7 U+09BE, Hangul jamo), and it may choose another of two segmentations of equal score.
    """

    kind = "xlmr"
    bos_id, pad_id, eos_id, unk_id = 0, 1, 2, 3
    _special = ("<s>", "<pad>", "</s>", "<unk>")

    def __init__(self, path: str | os.PathLike):
        super().__init__(path)
        processor = load_sentencepiece(self._content, self.path)
        if not is_xlmr(processor):
            raise UserError(
                f"{self.path} has the ids {special_ids(processor)}; XLM-R's SentencePiece model has 0, 1, 2 for unk, "
                "bos, eos. Is it another family's vocabulary?"
            )
        model = sentencepiece_model_pb2.ModelProto.FromString(self._content)
        pieces = [(piece.piece, piece.score) for piece in model.pieces[3:]]
        self.mask_id = len(self._special) + len(pieces)
        # Named with a space, which no pre-tokenised word holds: the model never finds them in a text.
        first, last = [(f" {token}", 0.0) for token in self._special], [(" <mask>", 0.0)]
        self._tokenizer = Tokenizer(models.Unigram([*first, *pieces, *last], unk_id=self.unk_id, byte_fallback=False))
        if charsmap := model.normalizer_spec.precompiled_charsmap:
            self._tokenizer.normalizer = normalizers.Precompiled(charsmap)
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace("▁", prepend_scheme="always")]
        )
        self._tokenizer.decoder = decoders.Metaspace("▁", prepend_scheme="always")

    @property
    def size(self) -> int:
        return self.mask_id + 1

    def piece(self, token: int) -> str:
        return super().piece(token).removeprefix(" ")

    def _encode_spans(self, text):
        # Behind characters at the beginning that normalisation takes away, the library's offsets are wrong.
        normalise = self._tokenizer.normalizer.normalize_str if self._tokenizer.normalizer else str
        gone = next((i for i, c in enumerate(text) if normalise(c)), len(text))
        ids, spans = super()._encode_spans(text[gone:])
        return ids, [(start + gone, end + gone) for start, end in spans]

    def with_special_tokens(self, ids_a, ids_b=None):
        """`<s> A </s>` or `<s> A </s></s> B </s>`; every type is 0."""
        ids = [self.bos_id, *ids_a, self.eos_id] + ([] if ids_b is None else [self.eos_id, *ids_b, self.eos_id])
        return ids, [0] * len(ids)


class WordPieceVocabulary(_TokenizersVocabulary):
    """A vocab.txt of WordPieces, one a line, its line number the id; cased, as mBERT's.

    Case and accents are kept and Chinese characters stand alone, as Hugging Face's BertTokenizer has it with
    `do_lower_case=False`.
    """

    kind = "wordpiece"

    def __init__(self, path: str | os.PathLike):
        super().__init__(path)
        try:
            lines = self._content.decode("utf-8").removesuffix("\n").split("\n")
        except UnicodeDecodeError as e:
            raise UserError(f"{self.path} is not a WordPiece vocabulary: byte {e.start} is not UTF-8.") from e
        # White space at a line's end is no part of a piece, neither in BERT's own reader nor in Hugging Face's.
        pieces = {line.rstrip(): i for i, line in enumerate(lines)}
        special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
        if missing := [token for token in special if token not in pieces]:
            raise UserError(f"{self.path} is not a BERT vocabulary: it has no line {', '.join(missing)}.")
        self.pad_id, self.unk_id, self.bos_id, self.eos_id, self.mask_id = (pieces[token] for token in special)
        self._tokenizer = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]"))
        self._tokenizer.normalizer = normalizers.BertNormalizer(
            clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=False
        )
        self._tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        self._tokenizer.decoder = decoders.WordPiece(prefix="##")

    def with_special_tokens(self, ids_a, ids_b=None):
        """`[CLS] A [SEP]` of type 0, and `B [SEP]` of type 1."""
        first = [self.bos_id, *ids_a, self.eos_id]
        second = [] if ids_b is None else [*ids_b, self.eos_id]
        return first + second, [0] * len(first) + [1] * len(second)


class BPEVocabulary(_TokenizersVocabulary):
    """A tokenizer.json of byte-level BPE, such as BLOOM's; its <pad>, </s>, <s> and <unk> are found by name.

    Any text is encoded without loss.
    """

    kind = "bpe"

    def __init__(self, path: str | os.PathLike):
        super().__init__(path)
        try:
            self._tokenizer = Tokenizer.from_str(self._content.decode("utf-8"))
        except Exception as e:  # The library raises Exception itself.
            raise UserError(f"{self.path} is not a tokenizer.json that the tokenizers library can read: {e}.") from e
        find = self._tokenizer.token_to_id
        if missing := [token for token in ("<pad>", "</s>") if find(token) is None]:
            raise UserError(
                f"{self.path} has no {' and no '.join(missing)}, which padding and the end of a sequence need; BLOOM's "
                "tokenizer.json has both."
            )
        self.unk_id, self.bos_id, self.eos_id, self.pad_id = map(find, ("<unk>", "<s>", "</s>", "<pad>"))
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def with_special_tokens(self, ids_a, ids_b=None):
        """`A` or `A B`: BLOOM's tokenizer adds no special tokens; every type is 0."""
        ids = [*ids_a, *(ids_b or ())]
        return ids, [0] * len(ids)


def load_sentencepiece(content: bytes, path: str) -> sentencepiece.SentencePieceProcessor:
    """Loads a SentencePiece model from its bytes; `path` is for messages.

    Raises:
      UserError: it is none.
    """
    processor = sentencepiece.SentencePieceProcessor()
    try:
        if not content:
            raise RuntimeError("the file is empty")
        processor.LoadFromSerializedProto(content)
    except (RuntimeError, OSError) as e:
        raise UserError(f"{path} is not a SentencePiece model: {e}.") from e
    return processor


def special_ids(processor: sentencepiece.SentencePieceProcessor) -> str:
    """The special ids of a SentencePiece model in words; -1 is none."""
    return f"pad {processor.pad_id()}, bos {processor.bos_id()}, eos {processor.eos_id()}, unk {processor.unk_id()}"


def is_t5(processor: sentencepiece.SentencePieceProcessor) -> bool:
    """Whether a SentencePiece model's special ids are T5's, mT5's or umT5's."""
    return (processor.pad_id(), processor.eos_id()) == (0, 1) and processor.unk_id() in (2, 3)


def is_xlmr(processor: sentencepiece.SentencePieceProcessor) -> bool:
    """Whether a SentencePiece model's special ids are those of the model below XLM-R's vocabulary."""
    return (processor.unk_id(), processor.bos_id(), processor.eos_id()) == (0, 1, 2)
