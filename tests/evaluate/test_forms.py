"""Outputs of an illegal form or in a wrong language: by hand, by properties, and on all real answers that are here."""

import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtr.coverage import XTREME, XTREME_R_LANGUAGES
from xtr.data.tag_text import parse_tags, render_tags
from xtr.evaluate.metrics import forms, unpad_answer
from xtr.evaluate.metrics.forms import SCRIPTS, answer_faults, script_of, wrong_language

GERMAN = "Die Broncos besiegten die Panthers (24:10). Der Super Bowl 50 fand in Santa Clara statt, dem Sitz der 49ers."
HINDI = "Broncos ने Panthers को 24-10 से हराया। यह मैच सांता क्लारा में हुआ।"
CHINESE = "丹佛野马队（Denver Broncos）以24比10击败了黑豹队。"


def tag_faults(text, n_words, label_names):
    return forms.tag_faults(text, parse_tags(text, n_words, label_names)[1])


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("Santa Clara", {}),
        ("santa clara", {}),
        ("The Super Bowl 50", {}),  # the metrics drop English articles
        ("in Santa Clara statt", {}),
        ("( 24 : 10 )", {}),
        ("the city of Santa Clara", {"not_in_context": 1}),
        ("anta Clar", {}),
        ("antas Clara", {"not_in_context": 1}),
        ("", {"empty": 1}),
        (" \u3000", {"empty": 1}),
        ("<extra_id_0> Santa Clara <extra_id_12>", {"sentinel": 2, "not_in_context": 1}),
        ("unanswerable", {"not_in_context": 1}),
    ],
)
def test_answers(text, faults):
    assert answer_faults(text, unpad_answer(text, GERMAN), GERMAN) == faults


def test_no_answer_is_legal_where_there_may_be_none():
    assert not answer_faults("unanswerable", "unanswerable", GERMAN, no_answer="unanswerable")
    assert answer_faults("none", "none", GERMAN, no_answer="unanswerable") == {"not_in_context": 1}


def test_labels_and_tags():
    assert forms.label_faults("1", ["0", "1"]) == {}
    assert forms.label_faults("1 ", ["0", "1"]) == {"no_label": 1}
    assert forms.label_faults("", ["0", "1"]) == {"empty": 1, "no_label": 1}
    assert tag_faults("1 B-PER 4 B-LOC", 4, ["O", "B-PER", "B-LOC"]) == {}
    assert tag_faults("None", 4, ["O", "B-PER"]) == {}
    assert tag_faults("", 4, ["O", "B-PER"]) == {"empty": 1}
    assert tag_faults("<extra_id_0> B-PER 9 B-PER", 4, ["O", "B-PER"]) == {
        "sentinel": 1, "stray": 2, "out_of_range": 1
    }  # fmt: skip


@given(st.lists(st.sampled_from(["O", "B-PER", "I-PER"]), max_size=9))
def test_what_is_rendered_is_legal(tags):
    assert not tag_faults(render_tags(tags), len(tags), ["O", "B-PER", "I-PER"])


@pytest.mark.parametrize(
    ("text", "language", "context", "expected"),
    [
        ("Santa Clara", "de", GERMAN, False),
        ("the city of Santa Clara", "de", GERMAN, True),
        ("Santa Clara Stadt", "de", GERMAN, None),  # an unseen word in Latin script
        ("24 : 9", "de", GERMAN, False),
        ("", "de", GERMAN, False),
        ("Санта-Клара", "de", GERMAN, True),
        ("the city of Santa Clara", "en", GERMAN, None),
        ("Panthers", "hi", HINDI, False),
        ("with Broncos", "hi", HINDI, True),
        ("the Broncos", "hi", HINDI, False),  # the metrics drop the article
        ("Super Bowl", "hi", HINDI, True),
        ("सांता क्लारा", "hi", HINDI, False),
        ("सांता क्लारा में Super", "hi", HINDI, False),  # only a word of it
        ("Санта", "mr", HINDI, True),
        ("Denver Broncos", "zh", CHINESE, False),
        ("Denver", "zh", CHINESE, False),
        ("Carolina Panthers", "zh", CHINESE, True),
        ("卡罗来纳黑豹", "zh-Hant", CHINESE, False),
        ("Panthers", "xx", HINDI, False),
        ("Carolina", "xx", HINDI, None),  # half of that passage is in Latin script
        ("Carolina", "xx", "यह मैच सांता क्लारा में हुआ।", True),
        ("Carolina", "xx", None, None),
        ("Carolina", "ru", None, True),
        ("Каролина", "ru", None, False),
        ("die Stadt", "de", None, None),
        ("who lives there", "de", None, True),
        ("ナショナル・フットボール", "ja", None, False),
        ("ＮＦＬ", "ja", None, True),
        ("한국의 大韓民國", "ko", None, False),
    ],
)
def test_languages(text, language, context, expected):
    assert wrong_language(text, language, context) is expected


def test_scripts():
    assert [script_of(c) for c in "aéЯ字ーｱＡ1 ́ʼ𝐀µª"] == [
        "LATIN", "LATIN", "CYRILLIC", "CJK", "KATAKANA", "KATAKANA", "LATIN", *[None] * 7
    ]  # fmt: skip
    due = set(XTREME_R_LANGUAGES).union(*(codes.split() for codes in XTREME.values()))
    assert due == set(SCRIPTS)


TEXTS = st.text(st.sampled_from("abc the die Б字あก 12.<>é"), max_size=12)


@given(TEXTS, st.sampled_from(["de", "en", "ru", "zh", "xx"]), TEXTS, TEXTS)
def test_parts_of_a_passage_are_legal_and_in_its_language(text, language, before, behind):
    context = before + text + behind
    assert wrong_language(text, language, context) is False
    assert "not_in_context" not in answer_faults(text, text, context)


@given(TEXTS, st.sampled_from(["de", "en", "ru", "zh"]), TEXTS)
def test_a_passage_can_only_excuse_words(text, language, context):
    """Nothing that passes without a passage is wrong with one."""
    if wrong_language(text, language) is False:
        assert wrong_language(text, language, context) is False


@given(st.lists(st.tuples(st.dictionaries(st.just("empty"), st.just(1)), st.sampled_from([True, False, None]))))
def test_shares(flags):
    records = [{"illegal": illegal, "wrong_language": wrong} for illegal, wrong in flags]
    found = {name: values.mean() for name, values in forms.contributions(records).items()}
    if not flags:
        assert found == {}
        return
    wrongs = [wrong for _, wrong in flags]
    assert found["illegal_form"] == pytest.approx(100 * np.mean([bool(illegal) for illegal, _ in flags]))
    assert found["wrong_language"] == pytest.approx(100 * wrongs.count(True) / len(flags))
    assert found["undecided_language"] == pytest.approx(100 * wrongs.count(None) / len(flags))
    assert set(forms.contributions([{"illegal": {}}, {"illegal": {"empty": 1}}])) == {"illegal_form"}
    assert set(forms.contributions([*records, {"prediction": "x"}])) == set()


# ---------------------------------------------------------------------------------------------------------------------
# Real data
# ---------------------------------------------------------------------------------------------------------------------

FILES = {
    "xquad/xquad.*.json": r"xquad\.(\w+)\.json",
    "mlqa/MLQA_V1/*/*.json": r"context-(\w+)-question",
    "tydiqa/*/*.json": r"goldp\.(\w+)\.",
}


def golds(path):
    """(id, answer, passage) of a SQuAD file."""
    for article in json.loads(path.read_text("utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                for answer in question["answers"]:
                    yield question["id"], answer["text"], paragraph["context"]


def test_gold_answers_are_legal_and_in_their_language(data_dir):
    """As they are and as mT5 is taught to write them; and without their passages few are taken for wrong."""
    from tasks.formats.text2text import pad_punctuation

    seen, by_letters = 0, []
    for pattern, name in FILES.items():
        for path in sorted(data_dir.glob(pattern)):
            language = re.search(name, path.name)[1]
            for _, text, context in golds(path):
                for output in (text, pad_punctuation(text)):
                    answer = unpad_answer(output, context)
                    assert not answer_faults(output, answer, context), (path.name, output)
                    assert wrong_language(answer, language, context) is False, (path.name, output)
                seen += 1
                by_letters.append(wrong_language(text, language) is True)
    if not seen:
        pytest.skip("no question answering data")
    print(
        f"{seen} gold answers; by their letters alone {100 * np.mean(by_letters):.2f} % seem to be of a wrong language"
    )
    assert np.mean(by_letters) < 0.05


def test_english_answers_are_noticed(data_dir):
    """XQuAD is parallel: the English answer to a question is what accidental translation would say."""
    english = {id_: text for id_, text, _ in golds(data_dir / "xquad" / "xquad.en.json")}
    for path in sorted(data_dir.glob("xquad/xquad.*.json")):
        language = path.name.split(".")[1]
        if language == "en":
            continue
        found = []
        for id_, _, context in golds(path):
            answer = unpad_answer(english[id_], context)
            if not forms.is_span(answer, context) and any(map(script_of, answer)):
                found.append(wrong_language(answer, language, context))
        shares = {flag: round(100 * found.count(flag) / len(found), 1) for flag in (True, False, None)}
        print(f"{language}: of {len(found)} English answers that are not in the passage, {shares}")
        if "LATIN" in SCRIPTS[language]:
            assert shares[True] > 15 and shares[False] < 10
        else:
            assert shares[True] > 97


def test_scripts_and_function_words_on_the_declaration_of_human_rights(data_dir):
    """Each language is written in its scripts, and none but English has the function words."""
    checked = set()
    for path in sorted(data_dir.glob("text/udhr/udhr_*.xml")):
        root = ElementTree.parse(path).getroot()
        text, language = " ".join(root.itertext()), root.get("{http://www.w3.org/XML/1998/namespace}lang").split("-")[0]
        english = forms.ENGLISH.intersection(forms._words(text))
        assert len(english) > 20 if language == "en" else not english, (path.name, english)
        if language in SCRIPTS:
            scripts = [script for script in map(script_of, text) if script]
            own = np.mean([script in SCRIPTS[language] for script in scripts])
            assert own > 0.97, (path.name, own)
            assert forms.scripts_of("xx", text) <= SCRIPTS[language]
            checked.add(language)
    if not checked:
        pytest.skip("no text of the declaration")
    print(f"{len(checked)} of {len(SCRIPTS)} languages; not here: {sorted(set(SCRIPTS) - checked)}")
