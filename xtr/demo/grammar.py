"""What the demo world can say in any language: concepts, clauses, questions, and what follows from a clause.

A clause is a small logical form (who does what to whom, where, when, why, and whether it is denied) that
`xtr.demo.languages` renders in every language, so translations are exact by construction. Every clause of one example
speaks of the same event, and "the dog" is the same dog throughout; under that reading, usual in natural language
inference data, each edit below has the label that its name says.
"""

from collections.abc import Sequence
from random import Random
from typing import NamedTuple, TypeVar

T = TypeVar("T")

NAMES = (
    "Anna", "Ben", "Carla", "David", "Emil", "Frida", "Greta", "Hugo", "Irma", "Jonas",
    "Karin", "Lena", "Mona", "Nils", "Olga", "Paul", "Rosa", "Sara", "Tina", "Viktor",
)  # fmt: skip
ROLES = ("teacher", "doctor", "farmer", "baker", "sailor", "singer")
ANIMALS = ("dog", "cat", "horse", "cow", "goat", "fox", "wolf", "duck", "mouse", "bear")
FRUITS = ("apple", "pear", "plum", "lemon", "melon")
VEHICLES = ("car", "boat", "truck", "train", "wagon")
HYPERNYMS = {**dict.fromkeys(ROLES, "person"), **dict.fromkeys(ANIMALS, "animal"),
             **dict.fromkeys(FRUITS, "fruit"), **dict.fromkeys(VEHICLES, "vehicle")}  # fmt: skip
COLOURS = ("red", "blue", "green", "black", "white", "yellow")
OPPOSITES = {"big": "small", "small": "big", "clean": "dirty", "dirty": "clean"}
QUALITIES = tuple(OPPOSITES)
NUMBERS = (2, 3, 4, 5, 6, 7)
PLACES = ("garden", "house", "market", "school", "forest", "river", "park", "station", "beach", "bridge")
TIMES = ("morning", "evening", "night", "noon", "monday", "friday")
REASONS = ("rain", "snow", "wind", "noise", "heat", "dust")

# verb -> who can do it, to what
TRANSITIVE = {
    "see": ("animate", "any"), "find": ("animate", "any"), "watch": ("animate", "any"),
    "follow": ("animate", "animate"), "help": ("human", "animate"), "feed": ("human", "animal"),
    "wash": ("human", "thing"), "buy": ("human", "thing"), "sell": ("human", "thing"), "paint": ("human", "thing"),
    "carry": ("human", "fruit"), "eat": ("animate", "fruit"),
}  # fmt: skip
INTRANSITIVE = {
    "sleep": "animate", "run": "animate", "wait": "animate", "swim": "animate", "jump": "animate", "sit": "animate",
    "sing": "human", "dance": "human",
}  # fmt: skip
_NOUNS = {
    "human": ROLES, "animal": ANIMALS, "fruit": FRUITS, "thing": (*ANIMALS, *FRUITS, *VEHICLES),
    "animate": (*ROLES, *ANIMALS), "any": (*ROLES, *ANIMALS, *FRUITS, *VEHICLES),
}  # fmt: skip
_NAMEABLE = frozenset({"human", "animate", "any"})
_VERBS = {  # what a human or an animal does: with an object, without
    "human": (tuple(TRANSITIVE), tuple(INTRANSITIVE)),
    "animate": tuple(
        tuple(v for v, by in verbs.items() if "animate" in (by, by[0])) for verbs in (TRANSITIVE, INTRANSITIVE)
    ),
}  # fmt: skip


class Phrase(NamedTuple):
    """A participant: a name (`concept` in NAMES), or a noun with an optional quality, colour and number.

    `number` is 1 for a single one, one of NUMBERS for so many, 0 for several without saying how many.
    """

    concept: str
    quality: str | None = None
    colour: str | None = None
    number: int = 1

    @property
    def named(self) -> bool:
        return self.concept in _NAME_SET

    @property
    def bare(self) -> "Phrase":
        """The phrase without quality, colour and number word."""
        return Phrase(self.concept, number=1 if self.number == 1 else 0)


_NAME_SET = frozenset(NAMES)


class Clause(NamedTuple):
    """A statement. `verb` 'be' takes `property` (a colour or quality); any other verb may take `object`.

    `fronted` is a matter of style, not of meaning: the time, or else the place, comes first.
    """

    subject: Phrase
    verb: str
    object: Phrase | None = None
    place: str | None = None
    time: str | None = None
    reason: str | None = None
    negated: bool = False
    property: str | None = None
    fronted: bool = False


class Question(NamedTuple):
    """Asks a clause's 'subject', 'place' or 'time', or the 'colour' or 'number' of its `group` (subject or object)."""

    asked: str
    clause: Clause
    group: str = "subject"


def pick(rng: Random, options: Sequence[T]) -> T:
    """One of the options, uniformly. Uses only `Random.random`, whose stream Python keeps stable between versions."""
    return options[int(rng.random() * len(options))]


def sample_phrase(
    rng: Random, kind: str, *, modifiers: float = 0.5, names: float = 0.5, plurals: float = 0.2
) -> Phrase:
    """A phrase of a kind ('human', 'animate', 'animal', 'fruit', 'thing', 'any').

    `modifiers`: probability of each of colour and (half as often) quality; `names`: of a name where a name fits;
    `plurals`: of a number word.
    """
    if kind in _NAMEABLE and rng.random() < names:
        return Phrase(pick(rng, NAMES))
    concept = pick(rng, _NOUNS[kind])
    colour = pick(rng, COLOURS) if rng.random() < modifiers else None
    quality = pick(rng, QUALITIES) if rng.random() < modifiers / 2 else None
    number = pick(rng, NUMBERS) if rng.random() < plurals else 1
    return Phrase(concept, quality, colour, number)


def sample_clause(
    rng: Random,
    *,
    subject: Phrase | None = None,
    modifiers: float = 0.4,
    transitive: float = 0.6,
    place: float = 0.6,
    time: float = 0.35,
    reason: float = 0.1,
    negated: float = 0.08,
    fronted: float = 0.15,
) -> Clause:
    """A random statement; the keywords are probabilities of its parts. At most two of place, time, reason are said."""
    animal = subject is not None and subject.concept in ANIMALS
    with_object, without = _VERBS["animate" if animal else "human"]
    if rng.random() < transitive:
        verb = pick(rng, with_object)
        by, to = TRANSITIVE[verb]
    else:
        verb = pick(rng, without)
        by, to = INTRANSITIVE[verb], None
    subject = subject or sample_phrase(rng, by, modifiers=modifiers)
    target = None
    while to is not None and (target is None or target.concept == subject.concept):
        target = sample_phrase(rng, to, modifiers=modifiers, names=0.25)
    where = pick(rng, PLACES) if rng.random() < place else None
    when = pick(rng, TIMES) if rng.random() < time else None
    denied = rng.random() < negated
    # "never sleeps because of rain" can be read two ways: a denied clause gives no reason
    why = pick(rng, REASONS) if rng.random() < reason and not denied and not (where and when) else None
    first = (when is not None or where is not None) and rng.random() < fronted
    return Clause(subject, verb, target, where, when, why, denied, None, first)


def meaning(clause: Clause) -> Clause:
    """The clause without its style: two sentences mean the same exactly when these are equal."""
    return clause._replace(fronted=False)


def is_rich(clause: Clause) -> bool:
    """Whether a clause says enough to be kept apart from the training text as a test sentence of its own."""
    said = [clause.object, clause.place, clause.time, clause.reason, clause.subject.colour, clause.subject.quality]
    return sum(part is not None for part in said) >= 2


# ------------------------------------------------------------------------------------------------- what follows
def _described(clause: Clause) -> list[Phrase]:
    return [p for p in (clause.subject, clause.object) if p is not None and (p.colour or p.quality)]


def _is(phrase: Phrase, value: str) -> Clause:
    return Clause(phrase.bare, "be", property=value)


def _general(phrase: Phrase | None) -> Phrase | None:
    if phrase is None or phrase.named:
        return None
    return phrase.bare._replace(concept=HYPERNYMS[phrase.concept])


def simplify(rng: Random, clause: Clause, keep: float = 0.4, keep_adverbials: float | None = None) -> Clause:
    """Says less: each modifier stays with probability `keep`, place and time with `keep_adverbials` (default `keep`).

    What is left follows from an affirmed clause. Of a denied clause only what describes its participants may go, since
    "never sleeps in the garden" does not say "never sleeps"; place and time then stay.
    """
    adverbials = keep if keep_adverbials is None else keep_adverbials

    def fewer(phrase: Phrase | None) -> Phrase | None:
        if phrase is None or phrase.named:
            return phrase
        quality = phrase.quality if rng.random() < keep else None
        less = phrase._replace(quality=quality, colour=phrase.colour if rng.random() < keep else None)
        return less if less.number == 1 or rng.random() < 0.6 else less._replace(number=0)

    place, time = clause.place, clause.time
    if not clause.negated:
        place = place if rng.random() < adverbials else None
        time = time if rng.random() < adverbials else None
    return clause._replace(
        subject=fewer(clause.subject), object=fewer(clause.object), place=place, time=time, reason=None, fronted=False
    )


def entailment(rng: Random, premise: Clause) -> Clause:
    """A statement that is true if the premise is: fewer modifiers, a hypernym, a property, or another word order."""
    roll = rng.random()
    described = _described(premise)
    if roll < 0.25 and described:
        phrase = pick(rng, described)
        return _is(phrase, pick(rng, [v for v in (phrase.colour, phrase.quality) if v]))
    if roll < 0.5 and not premise.negated:
        less = simplify(rng, premise)
        above_subject, above_object = _general(premise.subject), _general(premise.object)
        if above_subject is not None and (above_object is None or rng.random() < 0.5):
            return less._replace(subject=above_subject)
        if above_object is not None:
            return less._replace(object=above_object)
    if roll < 0.6 and (premise.time or premise.place):
        return premise._replace(fronted=not premise.fronted)
    return simplify(rng, premise)


def contradiction(rng: Random, premise: Clause, negation: float = 0.6) -> Clause:
    """A statement that cannot be true if the premise is; `negation`: how often by denial, not by another fact."""
    if premise.negated:
        return simplify(rng, premise)._replace(negated=False)
    ways = []
    if premise.place:
        ways.append("place")
    described = _described(premise)
    if described:
        ways.append("property")
    if not ways or rng.random() < negation:
        return simplify(rng, premise)._replace(negated=True)
    if pick(rng, ways) == "place":
        # the time stays: an event in the morning leaves open what happens elsewhere in the evening
        return simplify(rng, premise)._replace(place=_other_place(rng, premise), time=premise.time)
    phrase = pick(rng, described)
    if phrase.colour and (not phrase.quality or rng.random() < 0.5):
        return _is(phrase, pick(rng, [c for c in COLOURS if c != phrase.colour]))
    return _is(phrase, OPPOSITES[phrase.quality])


def neutral(rng: Random, premise: Clause, reasons: float = 0.6) -> Clause:
    """A statement that the premise leaves open; `reasons`: how often a reason nobody gave, else another fact.

    Raises ValueError for a denied premise that names no place and describes everyone: it leaves nothing open.
    """
    ways: list[str | Phrase] = []
    if not premise.negated:
        ways += ["place"] * (premise.place is None) + ["time"] * (premise.time is None)
    elif premise.place:
        ways.append("elsewhere")
    ways += [p for p in (premise.subject, premise.object) if p and not p.named and not (p.colour and p.quality)]
    if not premise.negated and premise.reason is None and (not ways or rng.random() < reasons):
        return simplify(rng, premise, keep_adverbials=0.3)._replace(reason=pick(rng, REASONS))
    if not ways:
        raise ValueError(f"nothing is left open by {premise}")
    way = pick(rng, ways)
    if way == "elsewhere":
        return simplify(rng, premise)._replace(negated=False, place=_other_place(rng, premise))
    if way == "place":
        return simplify(rng, premise)._replace(place=pick(rng, PLACES), time=premise.time)
    if way == "time":
        return simplify(rng, premise)._replace(time=pick(rng, TIMES), place=premise.place)
    if way.colour is None and (way.quality or rng.random() < 0.5):
        return _is(way, pick(rng, COLOURS))
    return _is(way, pick(rng, QUALITIES))


def _other_place(rng: Random, clause: Clause) -> str:
    return pick(rng, [place for place in PLACES if place != clause.place])
