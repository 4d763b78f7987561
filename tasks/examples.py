"""Canonical examples: every data set is read once into one of these kinds; formats render a kind for a model family.

All text is exactly the text of the official file: no trimming, no Unicode normalisation.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Classification:
    """A pair of texts, or one text (`text_b` is '' then), with one label: `label` indexes `label_names`."""

    id: str
    text_a: str
    text_b: str
    label: int
    label_names: tuple[str, ...]


@dataclass(frozen=True)
class MultipleChoice:
    """A question about a context, and the texts one of which answers it: `label` is its place in `choices`.

    A data set without a context of its own has '' there, one without questions has '' there.
    """

    id: str
    context: str
    question: str
    choices: tuple[str, ...]
    label: int


@dataclass(frozen=True)
class Tagging:
    """The words of a sentence and a tag for each; the tags that exist are the data set's `label_names`."""

    id: str
    tokens: tuple[str, ...]
    tags: tuple[str, ...]


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
    """A query or a candidate; `gold` holds the ids of what belongs to it on the other side (none: nothing does)."""

    id: str
    text: str
    gold: tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """What a dual encoder learns from: a query and the text to be found by it. `group` names the positive: pairs of one
    group have the same right answer, and are no wrong answers for each other."""

    id: str
    query: str
    positive: str
    group: str


@dataclass(frozen=True)
class Text:
    """One whole document of plain text."""

    id: str
    text: str


# What each kind is called.
KINDS = {
    Classification: "classification",
    MultipleChoice: "multiple_choice",
    SpanQA: "span_qa",
    Tagging: "tagging",
    Retrieval: "retrieval",
    Pair: "pairs",
    Text: "text",
}
