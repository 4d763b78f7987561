"""The languages of the demo world: English and three made by rule (private-use codes qaa, qab, qac).

A language turns a clause or a question of `xtr.demo.grammar` into `Word`s, each marked with the part of the clause it
belongs to, so that the span that answers a question is known exactly.

    qaa  English's near relative: Latin letters, half its words English ones respelt; verb second, "never" behind it
    qab  Cyrillic letters without capitals, names transliterated; verb last, postpositions, no articles, no "is"
    qac  Latin letters with diacritics; verb first, adjectives after nouns; case, number and denial glued to the word

Their words are drawn from a stream fixed for each language: the seed of a world changes what is said, never how.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from xtr.demo import grammar
from xtr.demo.grammar import Clause, Phrase, Question

_NUMBER_WORDS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven"}


class Word(NamedTuple):
    """A written word; `group` is subject, verb, object, place, time, reason or other, `part` colour, number or None."""

    text: str
    group: str
    part: str | None = None


@dataclass(frozen=True)
class Language:
    """A language: its code (ISO 639-1, or private use), three-letter code, and how it states and asks."""

    code: str
    iso3: str
    capitals: bool
    clause: Callable[[Clause], list[Word]]
    question: Callable[[Question], list[Word]]

    def say(self, clause: Clause) -> str:
        """The sentence for a clause."""
        return self._written(self.clause(clause), ".")

    def ask(self, question: Question) -> str:
        """The sentence for a question."""
        return self._written(self.question(question), "?")

    def answer(self, question: Question) -> tuple[int, str]:
        """(start in code points, text) of the answer inside `say(question.clause)`."""
        words = self.clause(question.clause)
        if question.asked in ("colour", "number"):
            chosen = [i for i, w in enumerate(words) if w.group == question.group and w.part == question.asked]
        else:
            chosen = [i for i, w in enumerate(words) if w.group == question.asked]
        first, last = chosen[0], chosen[-1]
        start = sum(len(w.text) + 1 for w in words[:first])
        length = len(" ".join(w.text for w in words[first : last + 1]))
        return start, self.say(question.clause)[start : start + length]

    def reply(self, question: Question) -> str:
        """The answer as a sentence of its own."""
        text = self.answer(question)[1]
        return (text[0].upper() + text[1:] if self.capitals else text) + "."

    def say_mixed(self, clause: Clause, other: "Language", groups: Collection[str]) -> str:
        """The sentence in this language's order, with the parts named in `groups` said in another (code-switching)."""
        foreign = other.clause(clause)
        words: list[Word] = []
        done: set[str] = set()
        for word in self.clause(clause):
            if word.group not in groups:
                words.append(word)
            elif word.group not in done:
                done.add(word.group)
                words += [w for w in foreign if w.group == word.group]
        return (other if words[0] in foreign else self)._written(words, ".")

    def _written(self, words: list[Word], stop: str) -> str:
        text = " ".join([w.text for w in words])
        return (text[0].upper() + text[1:] if self.capitals else text) + stop


# ------------------------------------------------------------------------------------------------------- English
_IRREGULAR = {"wolf": "wolves", "mouse": "mice", "person": "people", "fox": "foxes",
              "watch": "watches", "wash": "washes", "carry": "carries"}  # fmt: skip
_EN_PLACES = {"garden": "in the garden", "house": "in the house", "market": "at the market", "school": "at the school",
              "forest": "in the forest", "river": "by the river", "park": "in the park", "station": "at the station",
              "beach": "on the beach", "bridge": "on the bridge"}  # fmt: skip
_EN_TIMES = {"morning": "in the morning", "evening": "in the evening", "night": "at night", "noon": "at noon",
             "monday": "on Monday", "friday": "on Friday"}  # fmt: skip


def _s(word: str) -> str:
    return _IRREGULAR.get(word, word + "s")


def _words(text: str, group: str) -> list[Word]:
    return [Word(w, group) for w in text.split(" ")]


def _english_phrase(phrase: Phrase, group: str, article: bool = True) -> list[Word]:
    if phrase.named:
        return [Word(phrase.concept, group)]
    words = [Word("the", group)] if article else []
    if phrase.number > 1:
        words.append(Word(_NUMBER_WORDS[phrase.number], group, "number"))
    if phrase.quality:
        words.append(Word(phrase.quality, group))
    if phrase.colour:
        words.append(Word(phrase.colour, group, "colour"))
    return [*words, Word(phrase.concept if phrase.number == 1 else _s(phrase.concept), group)]


def _english(clause: Clause) -> list[Word]:
    single = clause.subject.number == 1
    words = _english_phrase(clause.subject, "subject")
    if clause.verb == "be":
        return [*words, Word("is" if single else "are", "verb"), Word(clause.property, "other")]
    if clause.negated:
        words.append(Word("never", "verb"))
    words.append(Word(_s(clause.verb) if single else clause.verb, "verb"))
    if clause.object:
        words += _english_phrase(clause.object, "object")
    place = _words(_EN_PLACES[clause.place], "place") if clause.place else []
    time = _words(_EN_TIMES[clause.time], "time") if clause.time else []
    reason = _words(f"because of {clause.reason}", "reason") if clause.reason else []
    if clause.fronted and time:
        return [*time, *words, *place, *reason]
    if clause.fronted:
        return [*place, *words, *reason]
    return [*words, *place, *time, *reason]


def _english_question(question: Question) -> list[Word]:
    clause = question.clause
    subject, target = clause.subject.bare, clause.object.bare if clause.object else None
    do = "does" if subject.number == 1 else "do"
    after = _english_phrase(target, "object") if target else []
    if question.asked == "subject":
        return [*_words(f"who {_s(clause.verb)}", "other"), *after]
    if question.asked in ("place", "time"):
        wh = "where" if question.asked == "place" else "when"
        return [*_words(f"{wh} {do}", "other"), *_english_phrase(subject, "subject"), Word(clause.verb, "verb"), *after]
    phrase = subject if question.group == "subject" else target
    if question.asked == "colour":
        copula = "is" if phrase.number == 1 else "are"
        return [*_words(f"what colour {copula}", "other"), *_english_phrase(phrase, question.group)]
    counted = [*_words("how many", "other"), *_english_phrase(phrase, question.group, article=False)]
    if question.group == "subject":
        return [*counted, Word(clause.verb, "verb"), *after]
    return [*counted, Word(do, "other"), *_english_phrase(subject, "subject"), Word(clause.verb, "verb")]


# ------------------------------------------------------------------------------------------------- made-up words
_LEXEMES = (
    *grammar.ROLES, *grammar.ANIMALS, *grammar.FRUITS, *grammar.VEHICLES, "person", "animal", "fruit", "vehicle",
    *grammar.COLOURS, *grammar.QUALITIES, *_NUMBER_WORDS.values(), *grammar.PLACES, *grammar.TIMES, *grammar.REASONS,
    *grammar.TRANSITIVE, *grammar.INTRANSITIVE,
)  # fmt: skip
_RESPELLINGS = {"ck": "k", "ch": "k", "sh": "sk", "th": "d", "ea": "e", "ee": "i", "oo": "u", "ou": "u", "ow": "au",
                "ay": "ei", "ge": "g", "c": "k", "w": "v", "y": "i", "x": "ks"}  # fmt: skip


def _respelt(word: str) -> str:
    for old, new in _RESPELLINGS.items():
        word = word.replace(old, new)
    return word if len(word) < 4 or word[-1] not in "aeiou" else word[:-1]


def _invented(
    code: str, onsets: str, vowels: str, codas: str, taken: Iterable[str], *, keep_half: bool = False
) -> dict[str, str]:
    """A word of two syllables for each lexeme, none of `taken`; with `keep_half` every other is English respelt."""
    rng = Random(f"words of {code}")
    taken = set(taken)
    lexicon = {}
    for i, lexeme in enumerate(_LEXEMES):
        word = _respelt(lexeme) if keep_half and i % 2 == 0 else ""
        while not word or word in taken:
            word = "".join(grammar.pick(rng, part) for part in (onsets, vowels, onsets, vowels, codas))
        taken.add(word)
        lexicon[lexeme] = word
    return lexicon


# ----------------------------------------------------------------------------------------------------------- qaa
_QAA_GRAMMAR = ("de", "nit", "fan", "est", "sint", "hu", "hur", "van", "vat", "kolor", "mani")
_QAA = _invented("qaa", "bdfgklmnprstv", "aeiou", "kmnrst", _QAA_GRAMMAR, keep_half=True)


def _qaa_phrase(phrase: Phrase, group: str, article: bool = True) -> list[Word]:
    if phrase.named:
        return [Word(phrase.concept, group)]
    words = [Word("de", group)] if article else []
    if phrase.number > 1:
        words.append(Word(_QAA[_NUMBER_WORDS[phrase.number]], group, "number"))
    if phrase.quality:
        words.append(Word(_QAA[phrase.quality], group))
    if phrase.colour:
        words.append(Word(_QAA[phrase.colour], group, "colour"))
    return [*words, Word(_QAA[phrase.concept] + ("" if phrase.number == 1 else "en"), group)]


def _qaa_verb(verb: str, single: bool) -> Word:
    if verb == "be":
        return Word("est" if single else "sint", "verb")
    return Word(_QAA[verb] + ("it" if single else "on"), "verb")


def _qaa(clause: Clause) -> list[Word]:
    subject = _qaa_phrase(clause.subject, "subject")
    verb = [_qaa_verb(clause.verb, clause.subject.number == 1)]
    if clause.verb == "be":
        return [*subject, *verb, Word(_QAA[clause.property], "other")]
    if clause.negated:
        verb.append(Word("nit", "verb"))
    target = _qaa_phrase(clause.object, "object") if clause.object else []
    place = _words(f"in de {_QAA[clause.place]}", "place") if clause.place else []
    time = _words(f"an {_QAA[clause.time]}", "time") if clause.time else []
    reason = _words(f"fan {_QAA[clause.reason]}", "reason") if clause.reason else []
    if clause.fronted and time:  # the verb stays second
        return [*time, *verb, *subject, *target, *place, *reason]
    if clause.fronted:
        return [*place, *verb, *subject, *target, *reason]
    return [*subject, *verb, *target, *place, *time, *reason]


def _qaa_question(question: Question) -> list[Word]:
    clause = question.clause
    subject, target = clause.subject.bare, clause.object.bare if clause.object else None
    verb = _qaa_verb(clause.verb, subject.number == 1)
    after = _qaa_phrase(target, "object") if target else []
    if question.asked == "subject":
        return [Word("hu", "other"), _qaa_verb(clause.verb, True), *after]
    if question.asked in ("place", "time"):
        wh = Word("hur" if question.asked == "place" else "van", "other")
        return [wh, verb, *_qaa_phrase(subject, "subject"), *after]
    phrase = subject if question.group == "subject" else target
    if question.asked == "colour":
        copula = _qaa_verb("be", phrase.number == 1)
        return [*_words("vat kolor", "other"), copula, *_qaa_phrase(phrase, question.group)]
    counted = [*_words("hu mani", "other"), *_qaa_phrase(phrase, question.group, article=False)]
    return [*counted, verb, *(after if question.group == "subject" else _qaa_phrase(subject, "subject"))]


# ----------------------------------------------------------------------------------------------------------- qab
_CYRILLIC = dict(zip("abcdefghijklmnoprstuvz", "абкдефгхийклмнопрстувз", strict=True))
_QAB = _invented("qab", "бвгджзклмнпрстфхш", "аеиоуы", "йклмнрст", ("не", "ва", "чо", "раму", "гура"))


def _qab_name(name: str) -> str:
    return "".join(_CYRILLIC[c] for c in name.lower())


def _qab_phrase(phrase: Phrase, group: str) -> list[Word]:
    if phrase.named:
        return [Word(_qab_name(phrase.concept), group)]
    words = []
    if phrase.number > 1:
        words.append(Word(_QAB[_NUMBER_WORDS[phrase.number]], group, "number"))
    if phrase.quality:
        words.append(Word(_QAB[phrase.quality], group))
    if phrase.colour:
        words.append(Word(_QAB[phrase.colour], group, "colour"))
    return [*words, Word(_QAB[phrase.concept] + ("" if phrase.number == 1 else "ам"), group)]


def _qab(clause: Clause) -> list[Word]:
    subject = _qab_phrase(clause.subject, "subject")
    if clause.verb == "be":
        return [*subject, Word(_QAB[clause.property], "other")]
    verb = [Word(_QAB[clause.verb], "verb")]
    if clause.negated:
        verb.insert(0, Word("не", "verb"))
    target = _qab_phrase(clause.object, "object") if clause.object else []
    place = _words(f"{_QAB[clause.place]} да", "place") if clause.place else []
    time = _words(f"{_QAB[clause.time]} ту", "time") if clause.time else []
    reason = _words(f"{_QAB[clause.reason]} зо", "reason") if clause.reason else []
    if clause.fronted and time:
        return [*time, *subject, *place, *reason, *target, *verb]
    if clause.fronted:
        return [*place, *subject, *reason, *target, *verb]
    return [*subject, *time, *place, *reason, *target, *verb]


def _qab_question(question: Question) -> list[Word]:
    clause = question.clause
    subject = _qab_phrase(clause.subject.bare, "subject")
    target = _qab_phrase(clause.object.bare, "object") if clause.object else []
    verb = Word(_QAB[clause.verb], "verb")
    if question.asked == "subject":
        return [Word("ва", "other"), *target, verb]
    if question.asked in ("place", "time"):
        return [*subject, *_words("чо да" if question.asked == "place" else "чо ту", "other"), *target, verb]
    if question.asked == "colour":
        return [*(subject if question.group == "subject" else target), *_words("чо гура", "other")]
    many = Word("раму", "other")
    return [many, *subject, *target, verb] if question.group == "subject" else [*subject, many, *target, verb]


# ----------------------------------------------------------------------------------------------------------- qac
_QAC = _invented("qac", "bčdfghklmňprsštvž", "aáeéiíoóuú", "klmnrsš", ("jë", "kë", "këlo", "këta", "këmu", "këra"))


def _qac_phrase(phrase: Phrase, group: str, case: str = "") -> list[Word]:
    """Noun, then number, quality, colour; `case` is glued to the noun: '' for who does it, 'ön' for to whom."""
    if phrase.named:
        return [Word(phrase.concept + case, group)]
    words = [Word(_QAC[phrase.concept] + ("" if phrase.number == 1 else "ýk") + case, group)]
    if phrase.number > 1:
        words.append(Word(_QAC[_NUMBER_WORDS[phrase.number]], group, "number"))
    if phrase.quality:
        words.append(Word(_QAC[phrase.quality], group))
    if phrase.colour:
        words.append(Word(_QAC[phrase.colour], group, "colour"))
    return words


def _qac(clause: Clause) -> list[Word]:
    subject = _qac_phrase(clause.subject, "subject")
    if clause.verb == "be":
        return [Word("jë", "verb"), *subject, Word(_QAC[clause.property], "other")]
    verb = Word(_QAC[clause.verb] + ("nëm" if clause.negated else ""), "verb")
    target = _qac_phrase(clause.object, "object", "ön") if clause.object else []
    place = [Word(_QAC[clause.place] + "lë", "place")] if clause.place else []
    time = [Word(_QAC[clause.time] + "tö", "time")] if clause.time else []
    reason = [Word(_QAC[clause.reason] + "žëm", "reason")] if clause.reason else []
    if clause.fronted and time:
        return [*time, verb, *subject, *target, *place, *reason]
    if clause.fronted:
        return [*place, verb, *subject, *target, *reason]
    return [verb, *subject, *target, *place, *time, *reason]


def _qac_question(question: Question) -> list[Word]:
    clause = question.clause
    subject = _qac_phrase(clause.subject.bare, "subject")
    target = _qac_phrase(clause.object.bare, "object", "ön") if clause.object else []
    verb = Word(_QAC[clause.verb], "verb")
    if question.asked == "subject":
        return [Word("kë", "other"), verb, *target]
    if question.asked in ("place", "time"):
        return [Word("këlë" if question.asked == "place" else "këtö", "other"), verb, *subject, *target]
    if question.asked == "colour":
        phrase = clause.subject if question.group == "subject" else clause.object
        return [*_words("këra jë", "other"), *_qac_phrase(phrase.bare, question.group)]
    many = Word("këmu", "other")
    if question.group == "subject":
        return [verb, subject[0], many, *target]
    return [verb, *subject, *target, many]


ENGLISH = Language("en", "eng", True, _english, _english_question)
FOREIGN = (
    Language("qaa", "qaa", True, _qaa, _qaa_question),
    Language("qab", "qab", False, _qab, _qab_question),
    Language("qac", "qac", False, _qac, _qac_question),
)
LANGUAGES = (ENGLISH, *FOREIGN)
