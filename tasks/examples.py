"""Canonical examples: every data set is read once into one of these kinds; formats render a kind for a model family.

All text is exactly the text of the official file: no trimming, no Unicode normalisation.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Classification:
    """A pair of texts with one label: `label` indexes `label_names`."""

    id: str
    text_a: str
    text_b: str
    label: int
    label_names: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """A gold answer; `start` counts Unicode code points into the context."""

    text: str
    start: int


@dataclass(frozen=True)
class SpanQA:
    """A question about a context, answered by spans of it (several annotators give several answers)."""

    id: str
    context: str
    question: str
    answers: tuple[Answer, ...]
    answerable: bool


@dataclass(frozen=True)
class Retrieval:
    """One side of a bitext: a query or a candidate; `gold` holds the ids of its translations on the other side."""

    id: str
    text: str
    gold: tuple[str, ...]


@dataclass(frozen=True)
class Text:
    """One whole document of plain text."""

    id: str
    text: str
