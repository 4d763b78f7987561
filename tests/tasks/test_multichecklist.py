"""MultiCheckList's cases out of a table of templates: which form of a text, where the answer is, what is dropped."""

import math
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtr.data.checklist import CaseId
from xtr.errors import DataError
from xtr.tasks.datasets import Sources
from xtr.tasks.datasets import checklist_templates as table
from xtr.tasks.datasets import multichecklist as checklist

# 'xa' has several forms of some texts; 'xb' and 'tl' are broken in one way or another.
HEADER = ["Field", "en", "xa", "xa-placeholders", "xa", "xa-placeholders", "xb", "tl"]
GOLDEN = ["Arthur is older than Mark.", "Nicholas is older than Thomas.", "Charles is older than Philip."]
COMPARISONS = [
    ["Name", "A is COMP than B. Who is more / less COMP?"],
    ["Capability", "Vocabulary"],
    ["Context", "{first_name} is {adj[0]} than {first_name1}.", "{first_name1}: {first_name} {adj[0]}", "", "", "",
     "{first_name} {adj[0]} ({first_name1}ta)", "si {first_name} {first_name1} {adj[0]}"],
    ["Question", "Who is less {adj[1]}?", "L {adj[1]}?", "old , tal", "M {adj[1]}?", "Older, tall, faster",
     "? {adj[1]}", "? {adj[1]}"],
    ["Answer", "{first_name1}", "{first_name1}", "", "", "", "{first_name1}ta", "{first_name1}"],
    ["Question", "Who is {adj[0]}?", "K {adj[0]}?", "", "", "", "? {adj[0]}", "? {adj[0]}"],
    ["Answer", "{first_name}", "{first_name}", "", "", "", "ta{first_name}", "Si {first_name}"],
    ["adj", "older, old", "xo، xp", "", "", "", "b1, b2", "c1 c1"],
    ["adj", "taller, tall", "xt，xu", "", "", "", "b3, b3", "c3 c4"],
    ["adj", "faster, fast", "xf ,xg,", "", "", "", "b5, b6, b7", ""],
]  # fmt: skip
PROPERTIES = [
    ["Name", "size, shape"],
    ["Capability", "Taxo nomy"],
    ["Context", "I see {obj[0]}. {obj[1]} is {p.v1}, {p.v2}.", "{p.v1}+{p.v2} {obj[1]}", "", "", "",
     "{obj[0]}: {p.v1}, {p.v1}", "{p.v1} {p.v2} {obj[1]}"],
    ["Question", "What {p.p1} is {obj[1]}?", "{p.p1}?", "size", "how {obj[1]}", "age", "{p.p1}?", "{p.p1}"],
    ["Answer", "{p.v1}", "{p.v1}", "", "", "", "{p.v1}", "{p.v1}"],
    ["Question", "What {p.p2} is {obj[1]}?", "{p.p2}?", "size", "how {obj[1]}!", "age, box", "{p.p2}?", "{p.p1}"],
    ["Answer", "{p.v2}", "{p.v2}", "", "", "", "{p.v2}", "{p.v2}"],
    ["obj", "a box, the box", "a, the", "", "", "", "box", "c d"],
    ["size", "big", "xbig", "a box, the box", "", "", "", "cbig"],
    ["age", "old", "xold", "box", "xöld", "", "bold", "cold"],
    ["property", "size", "Size", "", "", "", "size", "csize"],
    ["property", "age", "Age", "", "", "", "age", "cage"],
]  # fmt: skip
ANIMALS = [
    ["Name", "Animal vs Vehicle"],
    ["Capability", "Taxo nomy"],
    ["Context", "{first_name} has {animal}.", "{first_name} has {a:animal}qa", "", "", "", "{animal}",
     "{animal} {first_name}"],
    ["Context", "{animal} has {first_name}.", "{animal}ta {first_name}", "", "", "", "{first_name} {animal}",
     "{first_name} {animal}"],
    ["Question", "What?", "?", "", "", "", "?", "?"],
    ["Answer", "{animal}", "{animal}qa", "{animal}ta", "", "", "{animal}", "{animal}"],
    ["animal", "a dog", "xdog", "{first_name} has {animal}.", "xdogs",
     "{animal} has {first_name}., Who owns {animal}? {first_name}.", "bdog", "cdog"],
]  # fmt: skip
OWNERS = [
    ["Name", "Animal: v2"],
    ["Capability", "Taxo nomy"],
    ["Context", "Who owns {animal}? {first_name}.", "{first_name} {animal}", "", "", "", "{first_name} {animal}",
     "{first_name} {animal}"],
    ["Question", "Who?", "?", "", "", "", "?", "?"],
    ["Answer", "{first_name}", "{first_name}", "", "", "", "{first_name}", "{first_name}"],
]  # fmt: skip
BLOCKS = (COMPARISONS, PROPERTIES, ANIMALS, OWNERS)


def text(*blocks, header=HEADER, end="\r\n"):
    rows = [header]
    for block in blocks:
        rows += [*block, [" "]]
    return end.join("\t".join([*row, *[""] * (len(header) - len(row))]) for row in rows)


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "multichecklist/checklist_templates.tsv"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content.encode())
        return {d.language: d for d in checklist.find_multichecklist(Sources((tmp_path,))).datasets}

    return write


def read(dataset):
    tally = Counter()
    split = dataset.splits["test"]
    examples = list(split.read(split.files, tally))
    dropped = sum(n for what, n in tally.items() if what.startswith("dropped: "))
    assert len(examples) + dropped == tally.pop("rows")
    for example in examples:
        ((answer, start),) = ((a.text, a.start) for a in example.answers)
        assert example.answerable and example.context[start : start + len(answer)] == answer
    by_place = {CaseId.parse(example.id): example for example in examples}
    assert len(by_place) == len(examples)
    return by_place, dict(tally)


def of_test(examples, test):
    return {place[2:]: example for place, example in examples.items() if place.test == test}


def people(example):
    return [name for name in checklist.NAMES if name in example.context]


def test_english_cases_follow_the_templates(write):
    datasets = write(text(*BLOCKS))
    assert [(d.name, d.language, list(d.splits)) for d in datasets.values()] == [
        (f"multichecklist.{language}", language, ["test"]) for language in ("en", "tl", "xa", "xb")
    ]
    examples, tally = read(datasets["en"])
    assert tally == {}
    tests = Counter((place.capability, place.test) for place in examples)
    # There is but one case of the properties, and of the others as many as names.
    assert tests == {
        ("Vocabulary", "comparisons"): 400, ("Taxo_nomy", "size_shape"): 2,
        ("Taxo_nomy", "animal_vs_vehicle"): 2 * len(checklist.NAMES), ("Taxo_nomy", "animal_v2"): len(checklist.NAMES),
    }  # fmt: skip
    for (_, context, question), e in of_test(examples, "comparisons").items():
        found = re.fullmatch(r"(\w+) is (old|tall|fast)er than (\w+)\.", e.context)
        first, adj, second = found.groups()
        assert context == 1 and first != second and {first, second} <= set(checklist.NAMES)
        asked = [(f"Who is less {adj}?", second), (f"Who is {adj}er?", first)]
        assert (e.question, e.answers[0].text) == asked[question - 1]
    both = of_test(examples, "size_shape")
    assert {e.context for e in both.values()} == {"I see a box. The box is big, old."}
    assert [(e.question, e.answers[0].text, e.answers[0].start) for e in both.values()] == [
        ("What size is the box?", "big", 24), ("What age is the box?", "old", 29)
    ]  # fmt: skip


def test_the_seed_decides_the_cases(write):
    """The same on every machine, in every process: these are hashes, reckoned by hand with hashlib."""
    examples, _ = read(write(text(COMPARISONS))["en"])
    contexts = [examples[CaseId("Vocabulary", "comparisons", n, 1, 1)].context for n in (1, 2, 200)]
    assert contexts == GOLDEN


def test_a_case_is_the_same_in_every_language_and_with_other_tests_beside(write):
    every = {language: read(dataset)[0] for language, dataset in write(text(*BLOCKS)).items()}
    alone, _ = read(write(text(COMPARISONS))["en"])
    assert alone == {place: e for place, e in every["en"].items() if place.test == "comparisons"}
    for place, example in every["xa"].items():
        english = every["en"][place]
        assert people(example) == people(english)


def test_the_first_examples_are_of_all_tests(write):
    places = list(read(write(text(*BLOCKS))["en"])[0])
    assert [(place.case, place.test) for place in places[:7]] == [
        (1, "comparisons"), (1, "comparisons"), (1, "size_shape"), (1, "size_shape"), (1, "animal_vs_vehicle"),
        (1, "animal_vs_vehicle"), (1, "animal_v2"),
    ]  # fmt: skip


def test_of_several_forms_the_one_for_the_fewest_fill_ins_is_taken(write):
    examples, tally = read(write(text(*BLOCKS))["xa"])
    assert tally == {"noted: condition that names no fill-in": 1}  # 'tal'
    questions = {(e.context.split()[-1], e.question) for e in of_test(examples, "comparisons").values()}
    assert questions == {
        ("xo", "L xp?"), ("xt", "M xu?"), ("xf", "M xg?"), ("xo", "K xo?"), ("xt", "K xt?"), ("xf", "K xf?")
    }  # fmt: skip
    both = of_test(examples, "size_shape").values()
    assert {(e.context, e.question, e.answers[0].text) for e in both} == {
        ("xbig+xold the", "Size?", "xbig"), ("xbig+xold the", "how the!", "xold")
    }  # fmt: skip
    # What stands beside an answer is the answer in another context; a value may depend on its context.
    animals = {(place.context, e.context.replace(name, "N"), e.answers[0].text) for place, e in examples.items()
               for name in checklist.NAMES if place.test == "animal_vs_vehicle" and name in e.context}  # fmt: skip
    assert animals == {(1, "N has xdogqa", "xdogqa"), (2, "xdogsta N", "xdogsta")}
    # A test without a list has the one before it, whose condition names the context of this one.
    assert {e.context.split()[-1] for e in of_test(examples, "animal_v2").values()} == {"xdogs"}


def test_what_cannot_be_asked_is_dropped_with_the_reason(write):
    datasets = write(text(*BLOCKS))
    english, _ = read(datasets["en"])
    contexts = [e.context for place, e in of_test(english, "comparisons").items() if place[-1] == 1]
    older, faster = (sum(word in context for context in contexts) for word in ("older", "faster"))
    examples, tally = read(datasets["xb"])
    assert tally == {
        "dropped: fill-in in another number of forms": 2 * faster,  # three, where two are used
        "dropped: answer not in the context": 200 - faster,  # 'ta' stands before no name
        "dropped: other slots than in English": 2 + len(checklist.NAMES),  # one property twice; no name
    }
    assert {e.answers[0].text[-2:] for e in of_test(examples, "comparisons").values()} == {"ta"}
    examples, tally = read(datasets["tl"])
    assert tally == {
        "dropped: question with several answers": 2 * older,  # both forms are one word
        "dropped: no text for the fill-ins": 2 * faster,  # an empty cell
        "noted: answer without what its template adds": 200 - older - faster,  # 'Si', where the context has 'si'
        "dropped: other slots than in English": 1,  # the second question asks for the first property
    }
    texts = {e.answers[0].text for e in of_test(examples, "comparisons").values()}
    assert texts == {e.answers[0].text for e in examples.values() if e.answers[0].text in checklist.NAMES}
    assert [e.question for e in of_test(examples, "size_shape").values()] == ["Csize"]


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
def test_cases_are_different_and_as_many_as_there_can_be(words, slots, names):
    block = [
        ["Name", "t"], ["Capability", "c"],
        ["Context", " ".join(f"{{first_name{n}}}" for n in range(names)) + " " + " ".join(["{w}"] * slots)],
        ["Question", "?"], ["Answer", "{w}"], *(["w", f"w{n}"] for n in range(words)),
    ]  # fmt: skip
    rows = [(n, [table.Variant(cells[1], "")]) for n, cells in enumerate(block)]
    row = {n: table.Row(n, {"en": tuple(of)}) for n, of in rows}
    lists = {"w": tuple(row[n] for n in range(5, 5 + words))}
    cases = checklist.draw_cases(table.Template("t", "c", (row[2],), ((row[3], row[4]),), lists))
    possible = words * math.perm(len(checklist.NAMES), names)
    assert len(cases) == len({tuple(case.values()) for case in cases}) == min(checklist.CASES, possible)
    for case in cases:
        people = [pick.place for name, pick in case.items() if name.startswith("first_name")]
        assert len(set(people)) == len(people) == names


def test_no_name_is_a_part_of_another():
    assert not any(a in b for a in checklist.NAMES for b in checklist.NAMES if a is not b)


def test_forms_stand_between_commas_of_any_script():
    for cell in ("a b, c", "a b،c", "a b，c", "a b、 c", "a b၊, c", "a b , c,"):
        assert table.forms(cell) == ("a b", "c")
    assert table.forms("ab c") == ("ab", "c") and table.forms("") == ()


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "line 1: .*'Field', 'en'"),
        ("Field\txa\n", "line 1: .*'Field', 'en'"),
        ("Field\ten\txa\txb-placeholders\n", "line 1: .*'xb-placeholders'"),
        (text([["Name", "t"], ["Context"]], header=["Field", "en"]), "line 3, field 'Context': no English"),
        (text([["Context", "c"]], header=["Field", "en"]), "line 2, field 'Context'.*before the first 'Name'"),
        (text([["Name", "t"], ["Capability", "c"]], header=["Field", "en"]), "line 2, .*'t' has no 'Context'"),
        (text(COMPARISONS[:4]), "line 2, .*each with its answer"),
        (text([*COMPARISONS[:5], COMPARISONS[4]]), "line 2, .*each with its answer"),
        (text(COMPARISONS[:5]), "line 4: the slot 'adj' .*'adj'"),
        (text(PROPERTIES[:8] + PROPERTIES[9:]), "line 4: the slot 'p.v1' .*'size'"),
        ("Field\ten\txa\nName\tt\n", "line 2: expected 3 tab-separated columns, found 2"),
    ],
)
def test_a_bad_table_is_an_error_that_names_the_line(write, content, message):
    with pytest.raises(DataError, match=message):
        read(write(content)["en"])


def test_without_a_table_it_is_said_where_it_was_looked_for(tmp_path):
    found = checklist.find_multichecklist(Sources((tmp_path,)))
    assert not found.datasets and "multichecklist/checklist_templates.tsv" in found.looked_for
