"""What is said in the demo world: the examples of every data set and the documents of the corpus, as meanings.

Test and development sentences are drawn first; everything drawn later (training examples, corpus) avoids them.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from random import Random
from typing import NamedTuple, TypeVar

from xtr.demo import grammar
from xtr.demo.grammar import Clause, Question, pick

T = TypeVar("T")

# share of bilingual statements one of whose sentences switches languages
SWITCHED = 0.5

LABELS = ("entailment", "neutral", "contradiction")


@dataclass(frozen=True)
class WorldSizes:
    """How much of everything: examples; questions for squad and xquad; documents for the corpus."""

    mnli_train: int = 4000
    mnli_dev: int = 300
    xnli_dev: int = 200  # each language
    xnli_test: int = 400  # each language
    squad_train: int = 2000
    squad_dev: int = 200
    xquad: int = 200  # each language
    tatoeba: int = 200  # each foreign language
    monolingual: int = 1000  # documents, each language
    bilingual: int = 5000  # documents, each foreign language
    vocabulary: int = 1000  # pieces, without the 100 sentinels

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 1:
                raise ValueError(f"WorldSizes.{field.name} must be at least 1, not {getattr(self, field.name)}")


class Inference(NamedTuple):
    """A natural language inference example."""

    premise: Clause
    hypothesis: Clause
    label: str


class Reading(NamedTuple):
    """A paragraph and questions on it, each with the index of the sentence that answers it."""

    context: tuple[Clause, ...]
    questions: tuple[tuple[int, Question], ...]


class Reply(NamedTuple):
    """The answer to a question, in a sentence of its own."""

    question: Question


Document = tuple[Clause | Question | Reply, ...]


class Wording(NamedTuple):
    """A sentence in English or the foreign language, with the parts named in `switched` in the other (code-switching).

    The parts are word groups of `xtr.demo.languages`: "Anna slipit in the garden" switches the verb.
    """

    english: bool
    switched: tuple[str, ...] = ()


class Bilingual(NamedTuple):
    """One sentence said twice, at least once without switching."""

    sentence: Clause | Question
    first: Wording
    second: Wording


@dataclass(frozen=True)
class World:
    """Everything that is said. Corpus documents and retrieval sentences differ from language to language."""

    mnli_train: list[Inference]
    mnli_dev: list[Inference]
    xnli_dev: list[Inference]
    xnli_test: list[Inference]
    squad_train: list[Reading]
    squad_dev: list[Reading]
    xquad: list[Reading]
    tatoeba: dict[str, list[Clause]]  # by language; each is said in that language and in English
    monolingual: dict[str, list[Document]]  # by language
    bilingual: dict[str, list[Bilingual]]  # by foreign language; said in English and in that language


def make_world(seed: int, sizes: WorldSizes, foreign: tuple[str, ...], english: str = "en") -> World:
    """Draws a world; the same arguments give the same world."""
    held_out: set[Clause] = set()

    def stream(name: str) -> Random:
        return Random(f"{seed} {name}")

    def several(name: str, n: int, draw: Callable[[Random, int], T], clauses_of: Callable, hold: bool) -> list[T]:
        rng, seen = stream(name), set()
        return [_new(lambda i=i: draw(rng, i), clauses_of, seen, held_out, hold) for i in range(n)]

    def inferences(name: str, n: int, hold: bool = False) -> list[Inference]:
        return several(name, n, lambda rng, i: _inference(rng, LABELS[i % 3]), lambda x: x[:1], hold)

    def readings(name: str, n: int, hold: bool = False) -> list[Reading]:
        sizes = [2] * (n // 2) + [1] * (n % 2)
        return several(name, len(sizes), lambda rng, i: _reading(rng, sizes[i]), lambda x: x.context, hold)

    def documents(name: str, n: int) -> list[Document]:
        return several(name, n, lambda rng, _: _document(rng), _clauses, False)

    def bilingual(name: str, n: int) -> list[Bilingual]:
        return several(name, n, lambda rng, _: _bilingual(rng), lambda x: _clauses(x[:1]), False)

    # what is held out comes first
    xnli_test = inferences("xnli test", sizes.xnli_test, hold=True)
    xnli_dev = inferences("xnli dev", sizes.xnli_dev, hold=True)
    mnli_dev = inferences("mnli dev", sizes.mnli_dev, hold=True)
    xquad = readings("xquad", sizes.xquad, hold=True)
    squad_dev = readings("squad dev", sizes.squad_dev, hold=True)
    tatoeba = {
        code: several(f"tatoeba {code}", sizes.tatoeba, lambda rng, _: _retrieval(rng), lambda c: (c,), True)
        for code in foreign
    }
    return World(
        mnli_train=inferences("mnli train", sizes.mnli_train),
        mnli_dev=mnli_dev,
        xnli_dev=xnli_dev,
        xnli_test=xnli_test,
        squad_train=readings("squad train", sizes.squad_train),
        squad_dev=squad_dev,
        xquad=xquad,
        tatoeba=tatoeba,
        monolingual={c: documents(f"text {c}", sizes.monolingual) for c in (english, *foreign)},
        bilingual={c: bilingual(f"text {english}-{c}", sizes.bilingual) for c in foreign},
    )


def _new(draw: Callable, clauses_of: Callable, seen: set, held_out: set[Clause], hold: bool):
    """Draws until nothing in it is held out and it was not drawn before; with `hold`, holds out its rich clauses."""
    for _ in range(1000):
        item = draw()
        clauses = [grammar.meaning(c) for c in clauses_of(item)]
        if item not in seen and held_out.isdisjoint(clauses) and (not hold or all(map(grammar.is_rich, clauses))):
            seen.add(item)
            if hold:
                held_out.update(clauses)
            return item
    raise ValueError("The demo world has run out of sentences: ask for fewer of them (WorldSizes).")


def _clauses(document: Document) -> tuple[Clause, ...]:
    return tuple(s for s in document if isinstance(s, Clause))


def _inference(rng: Random, label: str) -> Inference:
    edit = {"entailment": grammar.entailment, "neutral": grammar.neutral, "contradiction": grammar.contradiction}[label]
    while True:
        premise = grammar.sample_clause(rng)
        if grammar.is_rich(premise) and not (premise.negated and premise.place is None):
            hypothesis = edit(rng, premise)
            if hypothesis != premise:
                return Inference(premise, hypothesis, label)


def _paragraph(rng: Random, n: int) -> tuple[Clause, ...]:
    """`n` affirmed clauses in which no participant and no verb comes twice, so that a question has one answer."""
    while True:
        clauses = tuple(
            grammar.sample_clause(rng, modifiers=0.3, place=0.6, time=0.4, reason=0, negated=0, fronted=0.1)
            for _ in range(n)
        )
        concepts = [p.concept for c in clauses for p in (c.subject, c.object) if p is not None]
        if len(set(concepts)) == len(concepts) and len({c.verb for c in clauses}) == n:
            return clauses


def _questions(clause: Clause) -> list[Question]:
    out = [Question("subject", clause)]
    if clause.place:
        out.append(Question("place", clause))
    if clause.time:
        out.append(Question("time", clause))
    for group, phrase in (("subject", clause.subject), ("object", clause.object)):
        if phrase is not None and phrase.colour:
            out.append(Question("colour", clause, group))
        if phrase is not None and phrase.number > 1:
            out.append(Question("number", clause, group))
    return out


def _reading(rng: Random, n_questions: int) -> Reading:
    context = _paragraph(rng, 2 if rng.random() < 0.7 else 3)
    possible = [(i, q) for i, clause in enumerate(context) for q in _questions(clause)]
    chosen: list[tuple[int, Question]] = []
    while len(chosen) < n_questions:
        candidate = pick(rng, possible)
        if candidate not in chosen:
            chosen.append(candidate)
    return Reading(context, tuple(chosen))


def _retrieval(rng: Random) -> Clause:
    return grammar.sample_clause(rng, reason=0.15, place=0.7, time=0.4)


def _document(rng: Random) -> Document:
    """Two or three sentences: a story of one participant, a fact said again briefly, or a question with its reply."""
    roll = rng.random()
    if roll < 0.35:
        first = grammar.sample_clause(rng, negated=0.2, reason=0.2)
        second = grammar.sample_clause(rng, subject=first.subject.bare, negated=0.2, reason=0.2)
        return (first, second, *[grammar.sample_clause(rng)] * (rng.random() < 0.3))
    first = grammar.sample_clause(rng, modifiers=0.6, place=0.7, negated=0)
    if roll < 0.6:
        return (first, grammar.entailment(rng, first))
    question = pick(rng, _questions(first))
    pair = (first, question) if rng.random() < 0.5 else (question, first)
    return (*pair, Reply(question))


def _bilingual(rng: Random) -> Bilingual:
    """A sentence or question and its translation, or a code-switched sentence and the same in one language."""
    clause = grammar.sample_clause(rng, negated=0.3, reason=0.4)
    english_first = rng.random() < 0.5
    translation = (Wording(english_first), Wording(not english_first))
    if rng.random() < 0.1:
        return Bilingual(pick(rng, _questions(clause)), *translation)
    if rng.random() >= SWITCHED:
        return Bilingual(clause, *translation)
    parts = [p for p in ("subject", "verb", "object", "place", "time", "reason") if getattr(clause, p) is not None]
    switched = Wording(rng.random() < 0.5, tuple(p for p in parts if rng.random() < 0.5) or (pick(rng, parts),))
    plain = Wording(rng.random() < 0.5)
    return Bilingual(clause, *((switched, plain) if rng.random() < 0.5 else (plain, switched)))
