"""Rendering for what reads encoder states, heads and retrieval: token ids, framed as the family's pretraining has them.

Texts are the raw texts; a pair is built as Hugging Face builds it: `<s> A </s></s> B </s>` for XLM-R,
`[CLS] A [SEP] B [SEP]` for mBERT, `A </s> B </s>` for mT5. BLOOM's vocabulary puts nothing around or between texts; a
pair's are joined by a newline there. The words of a sentence, a question and its context stand without special tokens:
rows are framed when they are made, since one sentence or context may need several.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xtr.data.framing import frame
from xtr.data.tagging import sub_tokens
from xtr.data.vocabulary import Vocabulary
from xtr.errors import DataError

from ..examples import Classification, MultipleChoice, Pair, Retrieval, SpanQA, Tagging
from .shared import prompt, qa_meta, retrieval_meta

NO_ANSWER = [-1, -1]


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One example. What a kind adds to this are its features: `list[int]` and `int` are int32, `np.int64` is int64.

    Attributes:
      meta: what evaluation needs, a JSON object; under 'noted' what is worth counting of the example, if anything.
    """

    meta: dict

    def meta_json(self) -> str:
        """Returns `meta` as compact JSON."""
        return json.dumps(self.meta, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, kw_only=True)
class EncodedText(Encoded):
    """A text or a pair of texts.

    Attributes:
      inputs: its ids, special tokens included.
      token_types: type of each token, 0 or 1 (all 0 but in mBERT).
      text_spans: start and end of each text's own tokens in `inputs`: what may be cut off, and what may not.
    """

    inputs: list[int]
    token_types: list[int]
    text_spans: list[int]


@dataclass(frozen=True, kw_only=True)
class Labelled(EncodedText):
    """A text or a pair, and its gold label."""

    label: int


@dataclass(frozen=True, kw_only=True)
class Choices(Labelled):
    """C pairs of a prompt and a choice, one behind the other; `label` is the right one.

    Attributes:
      choice_lengths: tokens of each pair, [C]; `inputs` and `token_types` have the sum of them.
      text_spans: of each pair in turn, counted from its own first token, [4C].
    """

    choice_lengths: list[int]


@dataclass(frozen=True, kw_only=True)
class Words(Encoded):
    """A sentence of W tagged words.

    Attributes:
      inputs: the sub-tokens of all words, without special tokens.
      word_lengths: sub-tokens of each word, [W], one at least.
      tags: the number of each word's tag, [W].
    """

    inputs: list[int]
    word_lengths: list[int]
    tags: list[int]


@dataclass(frozen=True, kw_only=True)
class Question(Encoded):
    """A question and the n tokens of its context, both without special tokens.

    Attributes:
      starts, ends: each context token's characters in the raw context, in code points, [n].
      answer: first and last context token of the first gold answer, [2]; -1 and -1 where there is none.
    """

    question: list[int]
    inputs: list[int]
    starts: list[int]
    ends: list[int]
    answer: list[int]


@dataclass(frozen=True, kw_only=True)
class QueryAndPositive(EncodedText):
    """A query and the text to be found by it.

    Attributes:
      targets: ids of the text, special tokens included; all types are 0.
      target_text_spans: start and end of its own tokens.
      group: a hash of the pair's group, from 0 to 2**63 - 1, the same wherever it is made.
    """

    targets: list[int]
    target_text_spans: list[int]
    group: np.int64


def classification(example: Classification, vocabulary: Vocabulary) -> Labelled:
    """A pair, its second text empty or not, and its label."""
    return _labelled(example, _frame(vocabulary, example.text_a, example.text_b))


def one_text(example: Classification, vocabulary: Vocabulary) -> Labelled:
    """One text and its label, where a data set has no second texts."""
    return _labelled(example, _frame(vocabulary, example.text_a))


def _labelled(example: Classification, framed: dict[str, list[int]]) -> Labelled:
    """`meta` names the labels, in the order of a head's logits."""
    meta = {"id": example.id, "choices": list(example.label_names), "label": example.label}
    return Labelled(**framed, label=example.label, meta=meta)


def multiple_choice(example: MultipleChoice, vocabulary: Vocabulary) -> Choices:
    """The prompt with each choice: context and question with a space between, or the one of them that there is."""
    pairs = [_frame(vocabulary, prompt(example), choice) for choice in example.choices]
    return Choices(
        **{name: [value for pair in pairs for value in pair[name]] for name in pairs[0]},
        choice_lengths=[len(pair["inputs"]) for pair in pairs],
        label=example.label,
        meta={"id": example.id, "choices": list(example.choices), "label": example.label},
    )


def tagging(example: Tagging, vocabulary: Vocabulary, label_names: Sequence[str]) -> Words:
    """The words' sub-tokens, and the tags by their numbers in `label_names`.

    Raises:
      DataError: a tag that is none of them, or not one tag a word.
    """
    numbers = {name: number for number, name in enumerate(label_names)}
    if len(example.tokens) != len(example.tags):
        raise DataError(
            f"example {example.id!r}, field 'tags': {len(example.tags)} tags for {len(example.tokens)} words."
        )
    for place, tag in enumerate(example.tags):
        if tag not in numbers:
            raise DataError(
                f"example {example.id!r}, field 'tags[{place}]': {tag!r} is none of {', '.join(label_names)}."
            )
    words = sub_tokens(vocabulary, example.tokens)
    return Words(
        inputs=[token for word in words for token in word],
        word_lengths=[len(word) for word in words],
        tags=[numbers[tag] for tag in example.tags],
        meta={"id": example.id},
    )


def span_qa(example: SpanQA, vocabulary: Vocabulary) -> Question:
    """Question and context, and where the first gold answer is; `meta` keeps the raw context and every answer.

    Raises:
      DataError: the first answer is not in the context where it should be.
    """
    meta = qa_meta(example)
    inputs, starts, ends = vocabulary.encode_with_offsets(example.context)
    answer = NO_ANSWER
    if example.answerable:
        first = example.answers[0]
        end = first.start + len(first.text)
        if first.start < 0 or example.context[first.start : end] != first.text:
            raise DataError(
                f"example {example.id!r}, field 'answers': {first.text!r} is not in the context at code point "
                f"{first.start}."
            )
        answer = answer_tokens(starts, ends, first.start, end)
        if answer == NO_ANSWER:
            meta["noted"] = "an answer has no tokens"
    return Question(
        question=vocabulary.encode(example.question), inputs=inputs, starts=starts, ends=ends, answer=answer, meta=meta
    )


def answer_tokens(starts: Sequence[int], ends: Sequence[int], start: int, end: int) -> list[int]:
    """The first and the last of the tokens that hold the characters [start, end); -1 and -1 where none does.

    Args:
      starts, ends: each token's characters, neither of them ever decreasing.
    """
    first, last = np.searchsorted(ends, start, "right"), np.searchsorted(starts, end, "left") - 1
    return [int(first), int(last)] if start < end and first <= last else NO_ANSWER


def pair(example: Pair, vocabulary: Vocabulary) -> QueryAndPositive:
    """The query and its positive, each by itself."""
    positive = _frame(vocabulary, example.positive)
    digest = hashlib.blake2b(example.group.encode(), digest_size=8).digest()
    return QueryAndPositive(
        **_frame(vocabulary, example.query),
        targets=positive["inputs"],
        target_text_spans=positive["text_spans"],
        group=np.int64(int.from_bytes(digest, "little") >> 1),
        meta={"id": example.id},
    )


def retrieval(example: Retrieval, vocabulary: Vocabulary) -> EncodedText:
    """One text, to be embedded."""
    return EncodedText(**_frame(vocabulary, example.text), meta=retrieval_meta(example))


def _frame(vocabulary: Vocabulary, *texts: str) -> dict[str, list[int]]:
    """`EncodedText`'s features of one text or of two."""
    inputs, types, spans = frame(vocabulary, *map(vocabulary.encode, texts))
    return {"inputs": inputs, "token_types": types, "text_spans": spans}
