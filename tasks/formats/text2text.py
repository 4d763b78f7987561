"""Rendering for text-to-text models, equal byte for byte to multilingual-t5's preprocessors where it defines one.

Source of the strings: google-research/multilingual-t5, multilingual_t5/preprocessors.py (process_mnli, process_xnli,
xquad, _pad_punctuation, _string_join), whose regular expressions run in RE2.
"""

import json
import re
import unicodedata
from dataclasses import dataclass

from ..examples import Classification, Retrieval, SpanQA, Text

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


def nli(example: Classification) -> Rendered:
    """Renders 'xnli: premise: P hypothesis: H' -> '0' | '1' | '2'; MultiNLI is rendered the same way."""
    choices = [str(i) for i in range(len(example.label_names))]
    return Rendered(
        inputs=f"xnli: premise: {example.text_a} hypothesis: {example.text_b}",
        targets=str(example.label),
        meta={"id": example.id, "choices": choices, "label": example.label},
    )


def question_answering(example: SpanQA) -> Rendered:
    """Renders 'question: Q context: C' -> the first answer, all with padded punctuation; `meta` keeps the raw text."""
    return Rendered(
        inputs=string_join(
            "question:", pad_punctuation(example.question), "context:", pad_punctuation(example.context)
        ),
        targets=pad_punctuation(example.answers[0].text),
        meta={"id": example.id, "answers": [a.text for a in example.answers], "context": example.context},
    )


def retrieval(example: Retrieval) -> Rendered:
    """Renders the raw text, to be embedded."""
    gold = example.gold[0] if len(example.gold) == 1 else list(example.gold)
    return Rendered(inputs=example.text, meta={"id": example.id, "gold": gold})


def plain_text(example: Text) -> Rendered:
    """Renders a document as targets only; denoising is done later, anew each time the document is read."""
    return Rendered(targets=example.text)
