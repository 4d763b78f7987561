"""Vocabularies for models that are trained from scratch: small ones for small models, of each family's kind.

mT5's and XLM-R's vocabularies have a quarter of a million pieces, more than a small model's other parameters together.
"""

import io
import itertools
import textwrap
from collections.abc import Iterable, Iterator

import sentencepiece
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from xtr.errors import UserError

SENTINELS = 100
_LINE = 1000  # characters, of at most 4 bytes
COVERAGE = 0.9995  # of the characters of the text; T5 writes the others as bytes, XLM-R as <unk>
# Where BLOOM cuts a text into words, bigscience/bloom's tokenizer.json.
_WORD = Regex(r" ?[^(\s|[.,!?…。，、।۔،])]+")
# The special tokens' ids and T5's sentinels, in mT5's order: the last sentinel first.
_T5 = {
    "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "byte_fallback": True,
    "user_defined_symbols": [f"▁<extra_id_{i}>" for i in reversed(range(SENTINELS))],
}  # fmt: skip
_XLMR = {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1}
_BLOOM_SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")
# The name that Hugging Face gives each kind's file.
FILES = {"t5": "spiece.model", "xlmr": "sentencepiece.bpe.model", "bpe": "tokenizer.json"}


def train(kind: str, texts: Iterable[str], size: int, coverage: float = COVERAGE) -> bytes:
    """The file of a vocabulary trained on texts; the same texts in the same order give the same bytes.

    Args:
      kind: 't5' (SentencePiece's unigram model, with byte pieces and T5's sentinels), 'xlmr' (the same without them) or
        'bpe' (byte-level BPE with BLOOM's words).
      texts: to train on.
      size: most pieces, special ones included; fewer where the texts hold no more.
      coverage: share of the texts' characters that get a piece of their own; 'bpe' has all bytes.

    Raises:
      UserError: the texts are empty, or the size is too small for their characters.
    """
    texts = iter(texts)
    if (first := next(texts, None)) is None:
        raise UserError("there is no text to train a vocabulary on.")
    texts = _lines(itertools.chain([first], texts))
    if kind == "bpe":
        return bloom_tokenizer(texts, size).to_str().encode()
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=texts, model_writer=model, vocab_size=size, hard_vocab_limit=False,
            character_coverage=coverage, minloglevel=2,
            **{"t5": _T5, "xlmr": _XLMR}[kind],
        )  # fmt: skip
    except (RuntimeError, OSError) as error:
        reason = str(error).rstrip().splitlines()[-1]
        raise UserError(f"no vocabulary of {size} pieces can be trained on this text: {reason}") from error
    return model.getvalue()


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """Short lines: SentencePiece leaves out those of more than 4,192 bytes, and does not say so."""
    for text in texts:
        for line in text.splitlines():
            yield from textwrap.wrap(line, _LINE) if len(line) > _LINE else [line]


def bloom_tokenizer(texts: Iterable[str], size: int) -> Tokenizer:
    """A byte-level BPE tokenizer that cuts words by BLOOM's own expression."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(_WORD, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(_BLOOM_SPECIAL), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
