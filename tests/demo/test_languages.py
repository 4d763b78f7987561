from random import Random

import pytest

from xtr.demo import grammar
from xtr.demo.grammar import Clause, Phrase, Question
from xtr.demo.languages import ENGLISH, FOREIGN, LANGUAGES

CLAUSE = Clause(Phrase("wolf", "big", "red", 3), "watch", Phrase("Carla"), "river", "monday")
BY_CODE = {language.code: language for language in LANGUAGES}


def test_english_reads_as_english():
    assert ENGLISH.say(CLAUSE) == "The three big red wolves watch Carla by the river on Monday."
    assert ENGLISH.say(CLAUSE._replace(fronted=True)) == "On Monday the three big red wolves watch Carla by the river."
    assert ENGLISH.say(CLAUSE._replace(subject=Phrase("wolf"), negated=True, time=None)) == (
        "The wolf never watches Carla by the river."
    )
    assert ENGLISH.say(Clause(Phrase("mouse", number=0), "be", property="dirty")) == "The mice are dirty."
    assert ENGLISH.say(Clause(Phrase("Ben"), "carry", Phrase("pear"), reason="heat")) == (
        "Ben carries the pear because of heat."
    )


@pytest.mark.parametrize(
    ("asked", "group", "question", "answer"),
    [
        ("subject", "subject", "Who watches Carla?", "The three big red wolves"),
        ("place", "subject", "Where do the wolves watch Carla?", "by the river"),
        ("time", "subject", "When do the wolves watch Carla?", "on Monday"),
        ("colour", "subject", "What colour are the wolves?", "red"),
        ("number", "subject", "How many wolves watch Carla?", "three"),
    ],
)
def test_english_questions_and_answers(asked, group, question, answer):
    asking = Question(asked, CLAUSE, group)
    assert ENGLISH.ask(asking) == question
    start, text = ENGLISH.answer(asking)
    assert text == answer
    assert ENGLISH.say(CLAUSE)[start:].startswith(answer)


def test_how_many_of_the_object():
    clause = Clause(Phrase("Ben"), "see", Phrase("dog", number=5))
    assert ENGLISH.ask(Question("number", clause, "object")) == "How many dogs does Ben see?"
    assert ENGLISH.answer(Question("number", clause, "object"))[1] == "five"


def test_word_orders_differ():
    clause = Clause(Phrase("dog", colour="red"), "see", Phrase("Anna"))
    order = {x.code: list(dict.fromkeys(w.group for w in x.clause(clause))) for x in LANGUAGES}
    assert order["en"] == order["qaa"] == ["subject", "verb", "object"]
    assert order["qab"] == ["subject", "object", "verb"]
    assert order["qac"] == ["verb", "subject", "object"]
    parts = {x.code: [w.part for w in x.clause(clause) if w.group == "subject"] for x in LANGUAGES}
    assert parts["en"] == [None, "colour", None]  # the red dog
    assert parts["qac"] == [None, "colour"]  # dog red


def test_scripts():
    assert not set(BY_CODE["qab"].say(CLAUSE).lower()) & set("abcdefghijklmnopqrstuvwxyz")
    assert BY_CODE["qab"].say(CLAUSE) == BY_CODE["qab"].say(CLAUSE).lower()
    assert any(ord(c) > 127 for c in BY_CODE["qac"].say(CLAUSE))


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda x: x.code)
def test_different_meanings_are_said_differently(language):
    rng = Random(5)
    said = {}
    for _ in range(3000):
        clause = grammar.sample_clause(rng)
        assert said.setdefault(language.say(clause), clause) == clause


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda x: x.code)
def test_an_answer_is_where_it_says(language):
    rng = Random(6)
    for _ in range(500):
        clause = grammar.sample_clause(rng, negated=0)
        for asked in ("subject", "place", "time"):
            if getattr(clause, asked) is not None:
                start, text = language.answer(Question(asked, clause))
                assert text and language.say(clause)[start : start + len(text)] == text
                assert not text.endswith(".")


@pytest.mark.parametrize("language", FOREIGN, ids=lambda x: x.code)
def test_code_switching_keeps_the_order_of_the_first_language(language):
    clause = Clause(Phrase("dog"), "see", Phrase("Anna"), "park")
    assert ENGLISH.say_mixed(clause, language, ()) == ENGLISH.say(clause)
    place = " ".join(w.text for w in language.clause(clause) if w.group == "place")
    assert ENGLISH.say_mixed(clause, language, ("place",)) == f"The dog sees Anna {place}."
    start = ENGLISH.say_mixed(clause, language, ("subject",))
    assert start.endswith(" sees Anna in the park.") and start[0].isupper() == language.capitals
