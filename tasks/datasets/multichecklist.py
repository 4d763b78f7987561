"""MultiCheckList: XTREME-R's diagnostic tests of question answering in 50 languages, made from templates.

Source: google-research/xtreme, multichecklist/ (the templates and how cases are made), after Ribeiro et al. 2020 (arXiv
2005.04118); Ruder et al. 2021 (arXiv 2104.07412). A case fills the slots of one test by one draw; it has an example for
each of the test's contexts with each of its questions, and fails if one of them is answered wrongly.

The same here as there: the templates, 200 cases a test, male names alone where words agree with them, properties in
pairs, the languages' rules for equal answers. Different, since the official generator draws anew for every language
(and few of its suites can be drawn again: they hang on the order of Python's sets):

- Cases are drawn once, from the English fill-ins by hashes of a fixed seed. Case 17 is the same in every language.
- Names are the same in every language, all male and in Latin script; the official ones are Wikidata's for the language.
- Of several forms of a text the one whose condition names the fewest English fill-ins is taken, the case's among them;
  the official code draws one of those that fit, in some of the languages that have several.
- A fill-in at the beginning of a sentence has a capital letter, as the official code asks for in vain.

Known defects of the published table: it has Hausa where XTREME-R has Romanian; texts with a wrong slot in Gujarati,
Azerbaijani and German; one question for both of two answers in Turkish comparisons, and a Turkish object with four
forms; no text for some fill-ins in German, Hungarian, Marathi and Polish; answers in Quechua and Tagalog that are not
what their contexts say. What cannot be asked is dropped and counted with the reason; misspelt conditions are counted.
"""

import functools
import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from xtr.data.checklist import CaseId, normalise

from ..examples import Answer, SpanQA
from . import Dataset, Found, Sources, Split
from .checklist_templates import (
    NAME,
    PROPERTIES,
    Row,
    Slot,
    Template,
    forms,
    languages,
    named,
    pieces,
    read_templates,
    slots,
)

SEED = 42
CASES = 200  # of each test, as in the official suites
_FILE = "multichecklist/checklist_templates.tsv"
# What the tests are called here, as in the official README; another one by the words of its name.
_SHORT = {
    "A is COMP than B. Who is more / less COMP?": "comparisons",
    "Intensifiers (very, super, extremely) and reducers (somewhat, kinda, etc)?": "intensifiers",
    "size, shape, age, color": "properties",
}
# None of them is a part of another.
NAMES = (
    "Albert", "Anthony", "Arthur", "Benjamin", "Charles", "Daniel", "David", "Edward", "Frank", "George", "Henry",
    "Jack", "James", "Joseph", "Kevin", "Lucas", "Mark", "Martin", "Michael", "Nicholas", "Oliver", "Patrick", "Paul",
    "Peter", "Philip", "Robert", "Samuel", "Simon", "Thomas", "Victor", "William", "Walter",
)
_TRIES = 50  # draws a case, before a test has fewer
_CONTEXT = "Context"
_BEGINNING = re.compile(r"(?:^|[.!?]\s+)$")  # of a sentence
# Why a row gives no example.
NO_TEXT = "no text for the fill-ins"
OTHER_SLOTS = "other slots than in English"
OTHER_FORMS = "fill-in in another number of forms"
NO_ANSWER = "answer not in the context"


class _Pick(NamedTuple):
    """What a slot is filled with: the place in a list ('first_name': in NAMES)."""

    list: str
    place: int


Case = Mapping[str, _Pick]  # by the slots' names


def find_multichecklist(sources: Sources) -> Found:
    """Finds `multichecklist.<language>` (split test) from multichecklist/checklist_templates.tsv."""
    looked_for = sources.no_file(_FILE)
    if not (path := sources.file(_FILE)):
        return Found(looked_for=looked_for)
    datasets = tuple(
        Dataset(
            f"multichecklist.{language}", language, SpanQA,
            {"test": Split((path,), functools.partial(read_cases, language=language))},
        )
        for language in languages(path)
    )  # fmt: skip
    return Found(datasets, looked_for=f"{path} has no such column")


def read_cases(files: tuple[Path, ...], tally: Counter, *, language: str) -> Iterator[SpanQA]:
    """Makes the cases of every test, one of each test in turn, so that the first examples are of all tests.

    A row is a context of a case with a question. It is dropped where the language has no text for its fill-ins, has
    other slots than English, has a fill-in in another number of forms than its texts use, asks the same for different
    answers, or where the answer is not in the context.

    Raises:
      DataError: the table is not as it should be.
    """
    for path in files:
        templates = read_templates(path)
        if unknown := _unknown(templates, language):
            tally["noted: condition that names no fill-in"] += unknown
        made = [_examples(template, language, tally) for template in templates]
        for of_tests in itertools.zip_longest(*made, fillvalue=()):
            for examples in of_tests:
                yield from examples


def short_name(test: str) -> str:
    """What a test is called in ids and metrics."""
    return _SHORT.get(test) or re.sub(r"\W+", "_", test.lower()).strip("_")


def draw_cases(template: Template) -> list[Case]:
    """Draws up to CASES different cases of a test, no name twice in one; fewer where there are no more."""
    names = list(dict.fromkeys(slot.name for row in template.rows for slot in slots(row.english)))
    cases: dict[tuple, Case] = {}
    for attempt in range(CASES * _TRIES):
        case = _draw(template, names, attempt)
        people = [pick.place for pick in case.values() if pick.list == NAME]
        if len(set(people)) == len(people):
            cases.setdefault(tuple(case.values()), case)
        if len(cases) == CASES:
            break
    return list(cases.values())


def _draw(template: Template, names: list[str], attempt: int) -> Case:
    def place(what: str, n: int) -> int:
        text = f"{SEED}\0{template.name}\0{attempt}\0{what}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") % n

    case: dict[str, _Pick] = {}
    for name in names:
        kind = Slot(name, None).list
        if kind == PROPERTIES:
            properties = template.lists[PROPERTIES]
            pairs = list(itertools.combinations(range(len(properties)), 2))
            which = pairs[place(PROPERTIES, len(pairs))][int(name[-1]) - 1]
            of = properties[which].english
            of_value = _Pick(of, place(name, len(template.lists[of])))
            case[name] = _Pick(PROPERTIES, which) if name.startswith("p.p") else of_value
        else:
            case[name] = _Pick(kind, place(name, len(NAMES if kind == NAME else template.lists[kind])))
    return case


class _Dropped(Exception):
    """Why a row gives no example."""


def _examples(template: Template, language: str, tally: Counter) -> Iterator[list[SpanQA]]:
    """Yields the examples of each case in turn."""
    texts = _Texts(template, language)
    test, capability = short_name(template.name), re.sub(r"\W+", "_", template.capability)
    for number, case in enumerate(draw_cases(template), 1):
        examples = []
        for context in range(len(template.contexts)):
            found: list[_Asked] = []
            for question in range(len(template.questions)):
                tally["rows"] += 1
                try:
                    found.append(texts.ask(case, context, question))
                except _Dropped as reason:
                    tally[f"dropped: {reason}"] += 1
            times = Counter(asked.question for asked in found)
            for asked in found:
                if times[asked.question] > 1:
                    tally["dropped: question with several answers"] += 1
                    continue
                if not asked.as_written:
                    tally["noted: answer without what its template adds"] += 1
                name = str(CaseId(capability, test, number, context + 1, asked.number + 1))
                examples.append(SpanQA(name, asked.context, asked.question, (asked.answer,), True))
        yield examples


def _unknown(templates: Sequence[Template], language: str) -> int:
    """How many fill-ins conditions of a language name that no test has: misspelt ones."""
    rows = {row.line: row for t in templates for row in (*t.rows, *itertools.chain(*t.lists.values()))}.values()
    known = {key for row in rows for key in _keys(row)}
    conditions = (variant.condition for row in rows for variant in row.variants[language])
    return sum(item not in known for condition in conditions for item in named(condition))


def _keys(row: Row) -> set[str]:
    """What a fill-in is called in conditions: itself, each of its forms, and the last word of these."""
    parts = {row.english.casefold(), *named(row.english)}
    return parts | {part.split()[-1] for part in parts if part.split()}


class _Asked(NamedTuple):
    """A question of a case about one of its contexts.

    Attributes:
      number: of the question, from 0.
      as_written: whether the context has the answer as the answer's template has it.
    """

    number: int
    context: str
    question: str
    answer: Answer
    as_written: bool


class _Texts:
    """The texts of one test in one language."""

    def __init__(self, template: Template, language: str):
        self._template = template
        self._language = language
        self._answers = {slot.name for _, answer in template.questions for slot in slots(answer.english)}
        variants = [v for row in template.rows for v in (*row.variants["en"], *row.variants[language])]
        used = [slot for variant in variants for slot in slots(variant.text)]
        self._forms = {of: 1 + max(slot.form or 0 for slot in used if slot.list == of) for of in {s.list for s in used}}
        lists = {slot.list for slot in used} & template.lists.keys()
        lists |= {row.english for row in template.lists[PROPERTIES]} if PROPERTIES in lists else set()
        # (list, what conditions call its fill-ins -> their places); contexts may be named too.
        self._places: dict[str, dict[str, list[int]]] = {}
        for name, rows in (*((name, template.lists[name]) for name in sorted(lists)), (_CONTEXT, template.contexts)):
            places = self._places[name] = {}
            for place, row in enumerate(rows):
                for key in _keys(row):
                    places.setdefault(key, []).append(place)
        self._conditions: dict[str, dict[str, set[int]] | None] = {}

    def ask(self, case: Case, context: int, question: int) -> _Asked:
        """Fills in a context, a question and its answer; `_Dropped` where that cannot be."""
        question_row, answer_row = self._template.questions[question]
        asked = next((slot.name[-1] for slot in slots(answer_row.english) if slot.list == PROPERTIES), "1")
        row = self._template.contexts[context]
        first = self._choose(row, case, context, "1")
        if {slot.name for slot in slots(first)} != {slot.name for slot in slots(row.english)}:
            raise _Dropped(OTHER_SLOTS)
        text, places = self._fill(first, case, context)
        second = self._choose(question_row, case, context, asked)
        # A question may do without a slot ("How old is ...?"), but not have another one.
        if not {slot.name for slot in slots(second)} <= {slot.name for slot in slots(question_row.english)}:
            raise _Dropped(OTHER_SLOTS)
        answer, as_written = self._answer(answer_row, case, context, text, places)
        return _Asked(question, text, self._fill(second, case, context)[0], answer, as_written)

    def _answer(self, row: Row, case: Case, context: int, text: str, places: list) -> tuple[Answer, bool]:
        """The answer, where the context has what it is filled with: as a whole, or so that it counts as the same."""
        equal = None
        if not row.variants[self._language]:
            raise _Dropped(NO_TEXT)
        for variant in row.variants[self._language]:
            answer, own = self._fill(variant.text, case, context)
            if {name for name, *_ in own} != {slot.name for slot in slots(row.english)}:
                raise _Dropped(OTHER_SLOTS)
            (name, before, _), *_ = own
            for start, end in ((start, end) for of, start, end in places if of == name):
                if before <= start and text.startswith(answer, start - before):
                    return Answer(answer, start - before), True
                if normalise(text[start:end], self._language) == normalise(answer, self._language):
                    equal = equal or Answer(text[start:end], start)
        if equal is None:
            raise _Dropped(NO_ANSWER)
        return equal, False

    def _choose(self, row: Row, case: Case, context: int, asked: str) -> str:
        """The text of a row for a case: of its forms that are for the case, the one that is for the fewest."""
        fitting = [v for v in row.variants[self._language] if self._holds(v.condition, case, context, asked)]
        if not fitting:
            raise _Dropped(NO_TEXT)
        return min(fitting, key=lambda variant: len(named(variant.condition)) or float("inf")).text

    def _holds(self, condition: str, case: Case, context: int, asked: str) -> bool:
        """Whether a condition names the case's fill-in of every list that it names one of, and one at all.

        Args:
          asked: the number of the property that is asked for.
        """
        if not named(condition):
            return True
        if condition not in self._conditions:
            by_list: dict[str, set[int]] = {}
            for item in named(condition):
                for name, places in self._places.items():
                    if item in places:
                        by_list.setdefault(name, set()).update(places[item])
                        break
            self._conditions[condition] = by_list
        by_list = self._conditions[condition]
        here = {pick.list: pick.place for pick in case.values()} | {_CONTEXT: context}
        if PROPERTIES in here:
            here[PROPERTIES] = case[f"p.p{asked}"].place
        return bool(by_list) and all(here.get(name) in places for name, places in by_list.items())

    def _fill(self, text: str, case: Case, context: int) -> tuple[str, list[tuple[str, int, int]]]:
        """Returns a text filled in, and (name, start, end) of everything filled in."""
        out, places = "", []
        for piece in pieces(text):
            if isinstance(piece, str):
                out += piece
                continue
            value = self._value(piece, case, context)
            if piece.name not in self._answers and _BEGINNING.search(out):
                value = value[:1].title() + value[1:]
            places.append((piece.name, len(out), len(out) + len(value)))
            out += value
        return out, places

    def _value(self, slot: Slot, case: Case, context: int) -> str:
        pick = case[slot.name]
        if pick.list == NAME:
            return NAMES[pick.place]
        asked = slot.name[-1] if slot.list == PROPERTIES else "1"
        text = self._choose(self._template.lists[pick.list][pick.place], case, context, asked)
        if slot.form is None:
            return text
        parts = forms(text)
        if len(parts) != self._forms[slot.list]:
            raise _Dropped(OTHER_FORMS)
        return parts[slot.form]
