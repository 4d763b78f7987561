"""Rendering for what reads encoder states, heads and retrieval: token ids, framed as the family's pretraining has them.

Texts are the raw texts; a pair is built as Hugging Face builds it: `<s> A </s></s> B </s>` for XLM-R,
`[CLS] A [SEP] B [SEP]` for mBERT, `A </s> B </s>` for mT5. BLOOM's vocabulary puts nothing around or between texts; a
pair's are joined by a newline there.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ..examples import Classification, Retrieval

NEWLINE = "\n"


class Vocabulary(Protocol):
    """What is needed of an `xtr.data.vocabulary.Vocabulary`."""

    def encode(self, text: str) -> list[int]: ...

    def with_special_tokens(
        self, ids_a: Sequence[int], ids_b: Sequence[int] | None = None
    ) -> tuple[list[int], list[int]]: ...


@dataclass(frozen=True)
class Encoded:
    """The features of one example.

    Attributes:
      inputs: ids of the text or pair, special tokens included.
      token_types: type of each token, 0 or 1 (all 0 but in mBERT).
      text_spans: start and end of each text's own tokens in `inputs`: what may be cut off, and what may not.
      meta: what evaluation needs, a JSON object.
      label: the gold label; None where there is none.
    """

    inputs: list[int]
    token_types: list[int]
    text_spans: list[int]
    meta: dict
    label: int | None = None

    def meta_json(self) -> str:
        """Returns `meta` as compact JSON."""
        return json.dumps(self.meta, ensure_ascii=False, separators=(",", ":"))


def classification(example: Classification, vocabulary: Vocabulary) -> Encoded:
    """A pair and its label; `meta` names the labels, in the order of a head's logits."""
    meta = {"id": example.id, "choices": list(example.label_names), "label": example.label}
    return Encoded(*_encode(vocabulary, example.text_a, example.text_b), meta, example.label)


def retrieval(example: Retrieval, vocabulary: Vocabulary) -> Encoded:
    """One text, to be embedded."""
    gold = example.gold[0] if len(example.gold) == 1 else list(example.gold)
    return Encoded(*_encode(vocabulary, example.text), {"id": example.id, "gold": gold})


def _encode(vocabulary: Vocabulary, *texts: str) -> tuple[list[int], list[int], list[int]]:
    """(ids, token types, spans) of one text or of two."""
    ids = [vocabulary.encode(text) for text in texts]
    # What the special tokens around texts are is seen where the texts are one mark each.
    marks = [-1 - i for i in range(len(texts))]
    frame, _ = vocabulary.with_special_tokens(*([mark] for mark in marks))
    joint = vocabulary.encode(NEWLINE) if len(frame) == len(texts) == 2 else []
    inputs, types = vocabulary.with_special_tokens([*ids[0], *joint], *ids[1:])
    spans, shift = [], 0
    for mark, text in zip(marks, ids, strict=True):
        start = frame.index(mark) + shift
        spans += [start, start + len(text)]
        shift += len(text) - 1 + len(joint)
    return inputs, types, spans
