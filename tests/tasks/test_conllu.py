import gzip
import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtr.errors import DataError
from xtr.tasks.datasets import Sources, conllu
from xtr.tasks.datasets.finders import FINDERS
from xtr.tasks.examples import Tagging


def line(number, form, tag="X", head=0, enhanced="_"):
    return "\t".join((str(number), form, "_", tag, "_", "_", str(head), "_", enhanced, "_")) + "\n"


def fused(first, last, form):
    return "\t".join((f"{first}-{last}", form, *"________")) + "\n"


def sentence(*lines):
    return "# sent_id = 1\n# text = a\tb\n" + "".join(lines) + "\n"


def write(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Sources((root,))


def read(path, language="en"):
    tally = Counter()
    examples = list(conllu.read_conllu((path,), tally, language=language))
    assert len({e.id for e in examples}) == len(examples)
    return examples, dict(tally)


def read_text(tmp_path, content, language="en"):
    write(tmp_path, {"t.conllu": content})
    return read(tmp_path / "t.conllu", language)


def test_tokens_and_tags_are_xtremes(oracles, tmp_path):
    records = sorted((oracles / "metrics").glob("ud_to_xtreme_*.json.gz"))
    if not records:
        pytest.skip(f"no ud_to_xtreme_*.json.gz in {oracles / 'metrics'}")
    for path in records:
        record = json.loads(gzip.decompress(path.read_bytes()))
        language, content = record["inputs"]["language"], record["inputs"]["conllu"]
        examples, tally = read_text(tmp_path, content, language)
        wanted = [(tuple(want["tokens"]), tuple(want["tags"])) for want in record["expected"]["sentences"]]
        assert [(e.tokens, e.tags) for e in examples] == wanted, path.name
        assert tally["rows"] == content.rstrip("\n").count("\n\n") + 1, path.name


def test_a_multi_word_token_stands_once(tmp_path):
    content = sentence(
        line(1, "Il", "PRON", 2), line(2, "va", "VERB"), fused(3, 4, "du"), line(3, "de", "ADP", 5),
        line(4, "le", "DET", 5), line(5, "parc", "NOUN", 2), line("5.1", "rien", "NOUN"), line(6, "!", "PUNCT", 2),
    )  # fmt: skip
    # 'de' and 'le' are equally high in the graph; French puts ADP before DET, the general rule too.
    for language in ("fr", "xx"):
        (example,), tally = read_text(tmp_path, content, language)
        assert example == Tagging(
            "0", ("Il", "va", "du", "parc", "!"), ("PRON", "VERB", "ADP", "NOUN", "PUNCT")
        ) and tally == {"rows": 1}  # fmt: skip


@pytest.mark.parametrize(
    "language, tags, heads, expected",
    [
        # The word with the fewest ancestors, whatever its tag.
        ("xx", ("ADP", "VERB"), (0, 1), "ADP"),
        # Of two that are equally high the first in the language's precedence.
        ("xx", ("ADP", "VERB"), (0, 0), "VERB"),
        ("it", ("PRON", "ADV"), (0, 0), "ADV"),
        ("xx", ("ADV", "PRON"), (0, 0), "PRON"),
        ("es", ("PRON", "AUX"), (0, 0), "AUX"),
        # A tag without precedence comes last; of two such the first word's.
        ("es", ("NOUN", "DET"), (0, 0), "DET"),
        ("es", ("NUM", "NOUN"), (0, 0), "NUM"),
        ("xx", ("SYM", "X"), (0, 0), "X"),
        # A cycle ends.
        ("xx", ("NOUN", "VERB"), (2, 1), "VERB"),
    ],
)
def test_the_tag_of_a_multi_word_token(tmp_path, language, tags, heads, expected):
    words = (line(i, f"w{i}", tag, head) for i, (tag, head) in enumerate(zip(tags, heads, strict=True), 1))
    (example,), _ = read_text(tmp_path, sentence(fused(1, 2, "w"), *words), language)
    assert example.tokens == ("w",) and example.tags == (expected,)


def test_edges_of_the_enhanced_graph_count(tmp_path):
    words = (line(1, "a", "DET", 0, "3:det"), line(2, "b", "ADP", 3, "0:root|2.1:x|_"), line(3, "c", "NOUN", 0))
    # Above 'a' are 0 and 3; above 'b' are 3 and 0 too.
    (example,), _ = read_text(tmp_path, sentence(fused(1, 2, "ab"), *words))
    assert example.tags == ("ADP", "NOUN")
    (example,), _ = read_text(tmp_path, sentence(fused(1, 2, "ab"), line(1, "a", "DET", 0), *words[1:]))
    assert example.tags == ("DET", "NOUN")


def test_only_space_and_u200c_are_taken_out_of_forms(tmp_path):
    words = (line(i, form, "NOUN") for i, form in enumerate(("\u00a010 000 ", "a\u200cb", "c\u2028d", "e\u0301"), 1))
    (example,), _ = read_text(tmp_path, sentence(*words))
    assert example.tokens == ("10000", "ab", "c\u2028d", "e\u0301")


def test_sentences_whose_text_is_withheld_are_dropped(tmp_path):
    withheld = sentence(line(1, "_", "X"), line(2, "_", "X"), line(3, ".", "PUNCT"))
    kept = sentence(line(1, "_", "X"), line(2, "a", "X"), line(3, "b", "X"))
    examples, tally = read_text(tmp_path, withheld + kept + withheld.rstrip("\n"))
    assert [(e.id, e.tokens) for e in examples] == [("1", ("_", "a", "b"))]
    assert tally == {"rows": 3, "dropped: text withheld ('_')": 2}


def test_treebanks_of_xtremes_releases_are_put_together(tmp_path):
    one, two, other = (sentence(line(1, form, "X")) for form in ("one", "two", "other"))
    sources = write(
        tmp_path,
        {
            "ud-treebanks-v2.5/UD_English-GUM/en_gum-ud-test.conllu": two,
            "ud-treebanks-v2.5/UD_English-EWT/en_ewt-ud-test.conllu": one,
            "ud-treebanks-v2.5/UD_English-EWT/en_ewt-ud-train.conllu": one + two,
            "ud-treebanks-v2.5/UD_English-EWT/en_ewt-ud-dev.conllu": one,
            "ud-treebanks-v2.5/UD_English-EWT/README.md": "",
            "ud-treebanks-v2.7/UD_English-EWT/en_ewt-ud-test.conllu": other,
            "udpos/ud-treebanks-v2.7/UD_Polish-LFG/pl_lfg-ud-test.conllu": one,
            "ud-treebanks-v2.5/UD_Polish-LFG/pl_lfg-ud-test.conllu": other,
            "ud-treebanks-v2.5/UD_New-X/qaz_x-ud-train-a-1.conllu": one,
        },
    )
    found = {dataset.name: dataset for dataset in FINDERS["udpos"](sources).datasets}
    assert {name: list(d.splits) for name, d in found.items()} == {
        "udpos.en": ["train", "validation", "test"],
        "udpos.pl": ["test"],
        "udpos.qaz": ["train"],
    }
    english = found["udpos.en"]
    assert english.label_names == conllu.UPOS and list(conllu.UPOS) == sorted(conllu.UPOS)

    def tokens(name, split):
        part = found[name].splits[split]
        return [e.tokens[0] for e in part.read(part.files, Counter())]

    assert tokens("udpos.en", "test") == ["one", "two"] and tokens("udpos.pl", "test") == ["one"]
    # A split in XTREME's form comes first.
    write(tmp_path, {"udpos/test-en.tsv": "three\tX\n"})
    found = {dataset.name: dataset for dataset in FINDERS["udpos"](sources).datasets}
    assert tokens("udpos.en", "test") == ["three"] and tokens("udpos.en", "validation") == ["one"]


@pytest.mark.parametrize(
    "content, expected",
    [
        ("1\ta\tX\n", ["line 1", "expected 10 tab-separated columns, found 3"]),
        (line(1, "a") + line(3, "b"), ["line 2, field 'ID'", "expected 2, found '3'"]),
        (line(1, "a") + line("b", "b"), ["line 2, field 'ID'", "whole number, found 'b'"]),
        (line(1, "a", head="_"), ["line 1, field 'HEAD'", "whole number, found '_'"]),
        (line(1, "a", "FOO"), ["line 1, field 'UPOS'", "'FOO' is none of ADJ,"]),
        (fused(1, 3, "ab") + line(1, "a") + line(2, "b"), ["line 1, field 'ID'", "no words of its own: 1-3"]),
        (fused(1, 2, "ab") + line(1, "a") + fused(2, 3, "bc") + line(2, "b") + line(3, "c"), ["line 3, field 'ID'"]),
        (line(1, "a").encode() + b"\xff\n", ["line 2", "not UTF-8"]),
        (line(1, "a").replace("\n", "\r\n") + "\r\n", ["line 2", "found 1"]),
    ],
)
def test_bad_lines_are_named(tmp_path, content, expected):
    with pytest.raises(DataError) as error:
        read_text(tmp_path, content)
    for part in [str(tmp_path / "t.conllu"), *expected]:
        assert part in str(error.value)


FORM = st.text(
    st.characters(exclude_categories=("Cs", "Zs", "Cc", "Zl", "Zp"), exclude_characters="\u200c_"), min_size=1
)
WORDS = st.lists(st.tuples(FORM, st.sampled_from(conllu.UPOS)), min_size=1, max_size=6)


@given(st.lists(WORDS, max_size=4), st.booleans())
def test_words_without_multi_word_tokens_are_what_was_written(tmp_path_factory, sentences, end):
    content = "".join(sentence(*(line(i, *word) for i, word in enumerate(words, 1))) for words in sentences)
    examples, tally = read_text(tmp_path_factory.mktemp("ud"), content if end else content.removesuffix("\n"))
    assert [list(zip(e.tokens, e.tags, strict=True)) for e in examples] == sentences
    assert tally == ({"rows": len(sentences)} if sentences else {})
