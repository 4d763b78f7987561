"""Rendering for text-to-text models, equal byte for byte to multilingual-t5's preprocessors where it defines one.

Source of the strings: google-research/multilingual-t5, multilingual_t5/preprocessors.py (process_mnli, process_xnli,
xquad, wikiann, _pad_punctuation, _string_join), whose regular expressions run in RE2, and T5's preprocessor `glue`,
which renders PAWS-X and QQP.
"""

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from xtr.data.formats import UNANSWERABLE
from xtr.data.tag_text import NOTHING, number_words, render_tags

from ..examples import Classification, MultipleChoice, Retrieval, SpanQA, Tagging, Text
from .shared import prompt, qa_meta, retrieval_meta, tagging_meta

# RE2's \s: U+000B, U+0085, U+00A0 and every other Unicode space are no white space to it.
_SPACE = " \t\n\f\r"
_SPACES = re.compile(f"[{_SPACE}]+")

# Letters, marks and numbers new in Unicode 15.0, the version RE2 knows; Python 3.11 knows 14.0.
_UNICODE_15 = (
    (0x0CF3, 0x0CF3), (0x0ECE, 0x0ECE), (0x10EFD, 0x10EFF), (0x1123F, 0x11241), (0x11F00, 0x11F10), (0x11F12, 0x11F3A),
    (0x11F3E, 0x11F42), (0x11F50, 0x11F59), (0x1342F, 0x1342F), (0x13440, 0x13455), (0x1B132, 0x1B132),
    (0x1B155, 0x1B155), (0x1D2C0, 0x1D2D3), (0x1DF25, 0x1DF2A), (0x1E030, 0x1E06D), (0x1E08F, 0x1E08F),
    (0x1E4D0, 0x1E4F9), (0x2B739, 0x2B739), (0x31350, 0x323AF),
)  # fmt: skip


def _is_word(code: int) -> bool:
    character = chr(code)
    if character == "_" or character in _SPACE or unicodedata.category(character)[0] in "LMN":
        return True
    return any(first <= code <= last for first, last in _UNICODE_15)


class _Padding(dict):
    r"""A table for str.translate, filled as characters turn up: spaces around what [^_\s\p{N}\p{L}\p{M}] matches."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        self[code] = character if _is_word(code) else f" {character} "
        return self[code]


_PADDING = _Padding()


def pad_punctuation(text: str) -> str:
    """Puts spaces around every character that is no letter, mark, number, '_' or white space; squeezes white space."""
    return _SPACES.sub(" ", text.translate(_PADDING))


def string_join(*parts: str) -> str:
    """Joins by spaces and squeezes white space."""
    return _SPACES.sub(" ", " ".join(parts))


@dataclass(frozen=True)
class Rendered:
    """What a model reads and writes, and the JSON object (`meta`) that evaluation needs; None where there is none."""

    inputs: str | None = None
    targets: str | None = None
    meta: dict | None = None

    def meta_json(self) -> str:
        """Returns `meta` as compact JSON."""
        return json.dumps(self.meta, ensure_ascii=False, separators=(",", ":"))


def choice(inputs: str, example: Classification | MultipleChoice, choices: Sequence[str]) -> Rendered:
    """Renders what is answered by one of `choices`, strings that evaluation ranks; the label's is the target."""
    return Rendered(
        inputs=inputs,
        targets=choices[example.label],
        meta={"id": example.id, "choices": list(choices), "label": example.label},
    )


def nli(example: Classification) -> Rendered:
    """Renders 'xnli: premise: P hypothesis: H' -> '0' | '1' | '2'; all NLI is rendered the same way."""
    inputs = f"xnli: premise: {example.text_a} hypothesis: {example.text_b}"
    choices = [str(i) for i in range(len(example.label_names))]
    return Rendered(inputs, str(example.label), {"id": example.id, "choices": choices, "label": example.label})


def paws(example: Classification) -> Rendered:
    """Renders 'paws sentence1: A sentence2: B' -> 'different_meaning' | 'paraphrase'."""
    return choice(f"paws sentence1: {example.text_a} sentence2: {example.text_b}", example, example.label_names)


def qqp(example: Classification) -> Rendered:
    """Renders 'qqp question1: A question2: B' -> 'not_duplicate' | 'duplicate'."""
    return choice(f"qqp question1: {example.text_a} question2: {example.text_b}", example, example.label_names)


def labelled(example: Classification, *, task: str, names: tuple[str, str, str]) -> Rendered:
    """Renders '<task> <name>: A <name>: B' -> the label's name, as T5's preprocessor `glue`; an empty B is left out.

    Args:
      names: what text_a, text_b and the label are called.
    """
    texts = [f"{name}: {text}" for name, text in zip(names, (example.text_a, example.text_b), strict=False) if text]
    return choice(" ".join([task, *texts]), example, example.label_names)


def multiple_choice(example: MultipleChoice) -> Rendered:
    """Renders 'choose choice1: A choice2: B prompt: P' -> 'choice1' | 'choice2' | ..., after T5's COPA.

    All choices are read together, and the answer is a name: as long for each choice, and the same in every language.
    The choices come first, as in T5, since inputs that are too long lose their end.
    """
    names = [f"choice{number}" for number in range(1, len(example.choices) + 1)]
    listed = " ".join(f"{name}: {text}" for name, text in zip(names, example.choices, strict=True))
    return choice(f"choose {listed} prompt: {prompt(example)}", example, names)


def question_answering(example: SpanQA) -> Rendered:
    """Renders 'question: Q context: C' -> the first answer, all with padded punctuation; `meta` keeps the raw text.

    multilingual-t5 has no questions without an answer; their target is 'unanswerable', as in FLAN and xP3.
    """
    return Rendered(
        inputs=string_join(
            "question:", pad_punctuation(example.question), "context:", pad_punctuation(example.context)
        ),
        targets=pad_punctuation(example.answers[0].text) if example.answerable else UNANSWERABLE,
        meta=qa_meta(example),
    )


def tagging(example: Tagging) -> Rendered:
    """Renders 'tag: 1: Ada 2: lives 3: in 4: Paris' -> '1 B-PER 4 B-LOC' (see `xtr.data.tag_text`)."""
    return Rendered(f"tag: {number_words(example.tokens)}", render_tags(example.tags), tagging_meta(example))


def entity_texts(example: Tagging) -> Rendered:
    """Renders 'tag: Ada lives in Paris' -> 'PER: Ada $$ LOC: Paris', or 'None': multilingual-t5's WikiANN.

    It is judged by multilingual-t5's own span F1 (`meta` holds the target): where an entity lies is not to be told.
    """
    entities: list[tuple[str, list[str]]] = []
    before = ""
    for word, tag in zip(example.tokens, example.tags, strict=True):
        prefix, _, kind = tag.partition("-")
        if prefix == "I" and kind == before:
            entities[-1][1].append(word)
        elif kind:  # I-X that continues nothing begins an entity
            entities.append((kind, [word]))
        before = kind
    targets = " $$ ".join(f"{kind}: {' '.join(words)}" for kind, words in entities) or NOTHING
    return Rendered(f"tag: {' '.join(example.tokens)}", targets, {"id": example.id, "target": targets})


def retrieval(example: Retrieval) -> Rendered:
    """Renders the raw text, to be embedded."""
    return Rendered(inputs=example.text, meta=retrieval_meta(example))


def plain_text(example: Text) -> Rendered:
    """Renders a document as targets without inputs; denoising is done later, anew each time the document is read."""
    return Rendered(inputs="", targets=example.text)
