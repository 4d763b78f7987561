import gzip
import io
import tarfile
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtr.errors import DataError
from xtr.tasks.datasets import Sources, tagging
from xtr.tasks.datasets.conllu import UPOS
from xtr.tasks.examples import Tagging

POS = "The\tDET\ncat\u2028\tNOUN\n\n\u201cYes\u201d\tINTJ\n\n\n.\tPUNCT"
POS_EXAMPLES = [
    Tagging("0", ("The", "cat\u2028"), ("DET", "NOUN")),
    Tagging("1", ("\u201cYes\u201d",), ("INTJ",)),
    Tagging("2", (".",), ("PUNCT",)),
]
ENTITIES = [("Z\u00fcrich:", "B-LOC"), ("is", "O"), ("A\u00a0B", "B-PER"), ("C", "I-PER")]
NOTE = {"noted: a word is empty or holds white space": 1}


def write(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Sources((root,))


def entities(prefix="", words=ENTITIES, times=1):
    return ("".join(f"{prefix}{word}\t{tag}\n" for word, tag in words) + "\n") * times


def archive(members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content.encode())
            tar.addfile(entry, io.BytesIO(content.encode()))
    return gzip.compress(out.getvalue(), mtime=0)  # parametrised tests need the same bytes in every process


def by_name(found):
    return {dataset.name: dataset for dataset in found.datasets}


def read(dataset, split):
    tally = Counter()
    part = dataset.splits[split]
    examples = list(part.read(part.files, tally))
    assert [e.id for e in examples] == [str(i) for i in range(len(examples))] and tally["rows"] == len(examples)
    assert all(set(e.tags) <= set(dataset.label_names) for e in examples)
    return examples, {what: n for what, n in tally.items() if what != "rows"}


def test_udpos_in_xtremes_form(tmp_path):
    files = {f"udpos/{name}.tsv": POS for name in ("train-en", "dev-en", "test-en", "test-qaz")}
    found = tagging.find_udpos(write(tmp_path, files | {"udpos/test-qay.tsv": "The\ncat\n"}))
    assert {name: list(d.splits) for name, d in by_name(found).items()} == {
        "udpos.en": ["train", "validation", "test"],
        "udpos.qaz": ["test"],
    }
    assert "test-qay.tsv holds words without tags" in found.absent["udpos.qay"]
    for dataset in found.datasets:
        assert dataset.label_names == UPOS
        for split in dataset.splits:
            assert read(dataset, split) == (POS_EXAMPLES, NOTE)


def test_panx_in_xtremes_form(tmp_path):
    files = {f"panx/{name}.tsv": entities(times=2) for name in ("train-en", "dev-en", "test-qaz")}
    found = by_name(tagging.find_panx(write(tmp_path, files)))
    assert {name: list(d.splits) for name, d in found.items()} == {
        "panx.en": ["train", "validation"],
        "panx.qaz": ["test"],
    }
    for dataset in found.values():
        for split in dataset.splits:
            examples, notes = read(dataset, split)
            assert [list(zip(e.tokens, e.tags, strict=True)) for e in examples] == [ENTITIES] * 2
            assert notes == {"noted: a word is empty or holds white space": 2}


@pytest.mark.parametrize("folder", ["panx", "panx_dataset", "wikiann", "panx/panx_dataset", "wikiann/panx_dataset"])
@pytest.mark.parametrize("packed", [True, False])
def test_panx_as_its_authors_release_it_has_the_language_before_each_word(tmp_path, folder, packed):
    parts = {part: entities("qaz:", times=n) for n, part in enumerate(("train", "dev", "test", "extra"), 1)}
    files = {f"{folder}/qaz.tar.gz": archive(parts)}
    if not packed:
        files = {f"{folder}/qaz/{part}": content for part, content in parts.items()}
    (dataset,) = tagging.find_panx(write(tmp_path, files)).datasets
    assert dataset.name == "panx.qaz" and list(dataset.splits) == ["train", "validation", "test"]
    assert dataset.label_names == ("B-LOC", "B-ORG", "B-PER", "I-LOC", "I-ORG", "I-PER", "O")
    for n, split in enumerate(dataset.splits, 1):
        examples, _ = read(dataset, split)
        assert [list(zip(e.tokens, e.tags, strict=True)) for e in examples] == [ENTITIES] * n


def test_xtremes_form_of_panx_comes_first_and_a_released_archive_fills_in(tmp_path):
    release = {part: entities("en:") for part in ("train", "dev", "test")}
    files = {"panx/test-en.tsv": "a\tO\n", "panx/en.tar.gz": archive(release), "panx/test-qay.tsv": "a\n"}
    found = tagging.find_panx(write(tmp_path, files))
    (english,) = found.datasets
    assert list(english.splits) == ["train", "validation", "test"] and list(found.absent) == ["panx.qay"]
    assert read(english, "test")[0] == [Tagging("0", ("a",), ("O",))] and len(read(english, "train")[0][0].tokens) == 4


def test_words_that_begin_like_a_prefix_keep_it_where_others_have_none(tmp_path):
    words = [("en:", "O"), ("en:a", "O"), ("b", "O"), ("c", "O"), ("d", "O")]
    (english,) = tagging.find_panx(write(tmp_path, {"panx/test-en.tsv": entities(words=words)})).datasets
    assert read(english, "test")[0][0].tokens == ("en:", "en:a", "b", "c", "d")


def test_absent_data_sets_say_where_they_were_looked_for(tmp_path):
    for find in (tagging.find_udpos, tagging.find_panx):
        found = find(Sources((tmp_path,)))
        assert not found.datasets and not found.absent and str(tmp_path) in found.looked_for


@pytest.mark.parametrize(
    "name, content, expected",
    [
        ("udpos/test-en.tsv", "a\tDET\nb\n", ["line 2", "expected word TAB tag, found 1 columns: 'b'"]),
        ("udpos/test-en.tsv", "a\tb\tDET\n", ["line 1", "found 3 columns"]),
        ("udpos/test-en.tsv", "a\tDET\n\nb\tNN\n", ["line 3, field 'tag'", "'NN' is none of ADJ,"]),
        ("udpos/test-en.tsv", "a\tDET\r\n", ["line 1, field 'tag'", r"'DET\r'"]),
        ("udpos/test-en.tsv", b"a\tDET\n\xff\tDET\n", ["line 2", "not UTF-8"]),
        ("udpos/train-en.tsv", "a\n", ["line 1", "found 1 columns"]),
        ("panx/dev-en.tsv", "a\tB-MISC\n", ["line 1, field 'tag'", "'B-MISC' is none of B-LOC,"]),
        ("panx/en/test", "en:a\tO\nen:b\tO\nc\tO\n", ["line 3", "no 'en:' before the word"]),
        ("panx/en.tar.gz", archive({"train": ""}), ["member 'dev'", "missing"]),
        ("panx/en.tar.gz", b"no archive", ["member 'train'", "not a readable .tar.gz"]),
        ("panx/en.tar.gz", archive({"train": "en:a\tO\tx\n"}), ["train, line 1", "found 3 columns"]),
    ],
)
def test_bad_lines_are_named(tmp_path, name, content, expected):
    sources = write(tmp_path, {name: content})
    with pytest.raises(DataError) as error:
        for find in (tagging.find_udpos, tagging.find_panx):
            for dataset in find(sources).datasets:
                for split in dataset.splits:
                    read(dataset, split)
    for part in [str(tmp_path / name), *expected]:
        assert part in str(error.value)


WORD = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\t\n"))
SENTENCES = st.lists(
    st.lists(st.tuples(WORD, st.sampled_from(tagging.ENTITY_TAGS)), min_size=1, max_size=5), max_size=4
)


@given(SENTENCES, st.booleans())
def test_what_was_written_is_read_with_and_without_the_prefix(tmp_path_factory, sentences, prefixed):
    root = tmp_path_factory.mktemp("panx")
    # Some word shows that there is no prefix.
    sentences = [[("", "O"), *words] for words in sentences]
    content = "".join(entities("qaz:" if prefixed else "", words) for words in sentences)
    write(root, {"panx/train-qaz.tsv": content})
    (dataset,) = tagging.find_panx(Sources((root,))).datasets
    examples, _ = read(dataset, "train")
    assert [list(zip(e.tokens, e.tags, strict=True)) for e in examples] == sentences


def test_a_damaged_archive_is_named(tmp_path):
    content = archive({"test": entities("ka:", times=2000), "train": entities("ka:")})
    # A checksum at the end tells of text that was altered, wherever that is.
    for archived in (content[:-8] + b"\0" * 8, content[:-20], b"no archive"):
        (dataset,) = tagging.find_panx(write(tmp_path, {"panx_dataset/ka.tar.gz": archived})).datasets
        with pytest.raises(DataError, match=r"ka\.tar\.gz, member 'test'") as error:
            list(dataset.splits["test"].read(dataset.splits["test"].files, Counter()))
        assert "\n" not in str(error.value)
