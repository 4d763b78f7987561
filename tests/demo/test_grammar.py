"""The labels of the demo world against a judge that knows only what clauses mean, not how examples are made."""

from random import Random

import pytest

from xtr.demo import grammar
from xtr.demo.grammar import COLOURS, HYPERNYMS, OPPOSITES, Clause, Phrase

AFFIRMED = Clause(Phrase("dog", "big", "red"), "see", Phrase("Anna"), "garden", "noon")


def describes(general: Phrase | None, specific: Phrase | None) -> bool:
    """Whether everything `general` says of a participant is said by `specific`."""
    if general is None or specific is None:
        return general is None and specific is None
    same = general.concept in (specific.concept, HYPERNYMS.get(specific.concept))
    number = general.number == specific.number or (general.number == 0 and specific.number > 1)
    return (
        same
        and number
        and general.colour in (None, specific.colour)
        and general.quality in (None, specific.quality)
        and (general.named == specific.named)
    )


def follows(general: Clause, specific: Clause) -> bool:
    """Whether `general`, affirmed, is true whenever `specific`, affirmed, is."""
    return (
        general.verb == specific.verb
        and describes(general.subject, specific.subject)
        and describes(general.object, specific.object)
        and general.place in (None, specific.place)
        and general.time in (None, specific.time)
        and general.reason in (None, specific.reason)
    )


def judge(premise: Clause, hypothesis: Clause) -> str:
    """The label of a pair in which both speak of one event and 'the dog' is one dog."""
    if hypothesis.verb == "be":
        (about,) = [
            p for p in (premise.subject, premise.object) if p is not None and p.concept == hypothesis.subject.concept
        ]
        value = hypothesis.property
        if value in (about.colour, about.quality):
            return "entailment"
        known = about.colour if value in COLOURS else about.quality
        excluded = known is not None and (value in COLOURS or OPPOSITES[known] == value)
        return "contradiction" if excluded else "neutral"
    if not premise.negated and not hypothesis.negated:
        if follows(hypothesis, premise):
            return "entailment"
        elsewhere = None not in (premise.place, hypothesis.place) and premise.place != hypothesis.place
        if elsewhere and follows(hypothesis._replace(place=None), premise) and hypothesis.time == premise.time:
            return "contradiction"
        return "neutral"
    if not premise.negated and hypothesis.negated:
        return "contradiction" if follows(hypothesis, premise) else "neutral"
    # a denial concerns the same participants, described more or less fully, and the circumstances it names
    bare = Clause(
        premise.subject.bare, premise.verb, premise.object and premise.object.bare, premise.place, premise.time
    )
    denied = follows(bare, hypothesis) and describes(hypothesis.subject, premise.subject)
    if not denied:
        return "neutral"
    return "entailment" if hypothesis.negated else "contradiction"


def test_the_judge_knows_the_three_labels():
    assert judge(AFFIRMED, AFFIRMED._replace(place=None)) == "entailment"
    assert judge(AFFIRMED, AFFIRMED._replace(subject=Phrase("animal"))) == "entailment"
    assert judge(AFFIRMED, AFFIRMED._replace(place="park")) == "contradiction"
    assert judge(AFFIRMED, AFFIRMED._replace(negated=True, time=None)) == "contradiction"
    assert judge(AFFIRMED, AFFIRMED._replace(reason="rain")) == "neutral"
    assert judge(AFFIRMED, Clause(Phrase("dog"), "be", property="dirty")) == "neutral"
    assert judge(AFFIRMED._replace(negated=True), AFFIRMED._replace(place="park")) == "neutral"


@pytest.mark.parametrize("label", ["entailment", "neutral", "contradiction"])
def test_every_edit_has_the_label_of_its_name(label):
    rng, edit, checked = Random(label), getattr(grammar, label), 0
    for _ in range(3000):
        premise = grammar.sample_clause(rng)
        if premise.negated and premise.place is None:
            continue
        hypothesis = edit(rng, premise)
        assert judge(premise, hypothesis) == label, (premise, hypothesis)
        checked += 1
    assert checked > 2000


def test_neutral_refuses_a_denial_that_leaves_nothing_open():
    with pytest.raises(ValueError, match="nothing is left open"):
        grammar.neutral(Random(0), Clause(Phrase("Anna"), "sleep", negated=True))


def test_a_clause_respects_who_can_do_what():
    rng = Random(1)
    for _ in range(2000):
        clause = grammar.sample_clause(rng)
        by, to = grammar.TRANSITIVE[clause.verb] if clause.object else (grammar.INTRANSITIVE[clause.verb], None)
        assert by == "animate" or clause.subject.named or clause.subject.concept in grammar.ROLES
        assert to != "fruit" or clause.object.concept in grammar.FRUITS
        assert clause.object is None or clause.object.concept != clause.subject.concept
        assert sum(part is not None for part in (clause.place, clause.time, clause.reason)) <= 2
