"""Classification, choice and tagging data sets in their official files: nothing lost, nothing altered."""

import json
import re
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from xtr.tasks.datasets import Sources
from xtr.tasks.datasets.finders import FINDERS
from xtr.tasks.examples import Classification, Tagging

NAMES = (
    "mnli", "snli", "anli", "qqp", "hellaswag", "ccg", "cosmosqa", "commonsenseqa", "siqa", "copa", "xnli", "pawsx",
    "xcopa", "udpos", "panx",
)  # fmt: skip
# Their further files are compared with the first, not read.
ONE_FILE = ("siqa", "copa", "xcopa")
SENTENCES_OF_LINES = ("udpos", "panx")
HEADERS = ("multinli.train.", "xnli.", "train.tsv", "dev.tsv", "dev_2k.tsv", "test_2k.tsv", "translated_train.tsv")
ITEMS = {"train": 400, "validation": 100}


@pytest.fixture(scope="module")
def datasets(data_dir):
    return [dataset for name in NAMES for dataset in FINDERS[name](Sources((data_dir,))).datasets]


def read(split):
    tally = Counter()
    return list(split.read(split.files, tally)), tally


def lines(data):
    return data.count(b"\n") + (not data.endswith(b"\n") and data != b"")


def independent_count(path, dataset, split):
    """The number of rows that a file has for a split, counted without the readers."""
    group = dataset.name.partition(".")[0]
    if path.name.endswith(".tar.gz"):
        with tarfile.open(path) as tar:
            data = tar.extractfile({"validation": "dev"}.get(split, split)).read()
    else:
        data = path.read_bytes()
    if path.name.startswith("xnli.") and path.suffix == ".tsv":
        return data.count(f"\n{dataset.language}\t".encode())
    if path.name.startswith("xnli."):
        return len(re.findall(f'"language": "{dataset.language}"'.encode(), data))
    if group in SENTENCES_OF_LINES and path.suffix != ".conllu":
        return sum(1 for block in re.split(rb"\n\n+", data) if block.strip(b"\n"))
    if path.suffix == ".csv":
        return b"".join(data.split(b'"')[::2]).rstrip(b"\n").count(b"\n")
    if path.suffix == ".xml":
        return min(data.count(b"<item "), ITEMS.get(split, 500))
    starts = {".conllu": rb"(?m)^1\t", ".auto": rb"(?m)^ID=", ".stagged": rb"(?m)^[^# \n]+\|"}
    if path.suffix in starts:
        return len(re.findall(starts[path.suffix], data))
    return lines(data) - any(path.name.startswith(head) for head in HEADERS)


def test_every_split_has_every_row_of_its_files(datasets):
    assert datasets
    for dataset in datasets:
        for name, split in dataset.splits.items():
            examples, tally = read(split)
            files = split.files[:1] if dataset.name.partition(".")[0] in ONE_FILE else split.files
            expected = sum(independent_count(path, dataset, name) for path in files)
            dropped = sum(n for what, n in tally.items() if what.startswith("dropped: "))
            assert len(examples) + dropped == tally["rows"] == expected, (dataset.name, name)
            assert len({example.id for example in examples}) == len(examples), (dataset.name, name)


def test_labels_are_within_range_and_all_of_them_occur(datasets):
    for dataset in datasets:
        for name, split in dataset.splits.items():
            examples, _ = read(split)
            if dataset.example_type is Tagging:
                assert all(set(e.tags) <= set(dataset.label_names) for e in examples), (dataset.name, name)
                assert all(len(e.tokens) == len(e.tags) > 0 for e in examples), (dataset.name, name)
                continue
            choices = [e.label_names if dataset.example_type is Classification else e.choices for e in examples]
            assert all(0 <= e.label < len(c) for e, c in zip(examples, choices, strict=True)), (dataset.name, name)
            assert len({len(c) for c in choices}) == 1
            if len(examples) >= 100:
                assert len({e.label for e in examples}) == len(choices[0]), (dataset.name, name)


def xtremes(datasets, group):
    """The (dataset, split) of a group in XTREME's own form."""
    return [
        (dataset, split)
        for dataset in datasets
        for split in dataset.splits.values()
        if dataset.name.partition(".")[0] == group and re.fullmatch(r"(train|dev|test)-.*\.tsv", split.files[0].name)
    ]


@pytest.mark.parametrize("group", ["xnli", "pawsx", "udpos", "panx"])
def test_xtremes_files_can_be_written_again_from_the_examples(datasets, group):
    """So no line separator, blank, accent or quotation mark of theirs is lost."""
    found = xtremes(datasets, group)
    if not found:
        pytest.skip(f"no file of {group} in XTREME's form in the data folder")
    for _, split in found:
        examples, _ = read(split)
        if group in SENTENCES_OF_LINES:
            pairs = ("".join(f"{w}\t{t}\n" for w, t in zip(e.tokens, e.tags, strict=True)) for e in examples)
            written = "\n".join(pairs)
        else:
            label = str if group == "pawsx" else examples[0].label_names.__getitem__
            written = "".join(f"{e.text_a}\t{e.text_b}\t{label(e.label)}\n" for e in examples)
        (path,) = split.files
        assert written.rstrip("\n") == path.read_bytes().decode().rstrip("\n"), path


def test_rows_of_pawsx_without_a_translation_are_counted(datasets):
    for dataset, split in xtremes(datasets, "pawsx"):
        rows = [line.split("\t")[:2] for line in split.files[0].read_bytes().decode().split("\n")]
        _, tally = read(split)
        assert tally["noted: sentence not translated (NS)"] == sum("NS" in row for row in rows), dataset.name


def of(datasets, name):
    found = [dataset for dataset in datasets if dataset.name == name]
    if not found:
        pytest.skip(f"{name} is not in the data folder")
    return found[0]


def copa_questions(data_dir: Path, part: str) -> list[str]:
    name = "copa/val.jsonl" if part == "val" else "copa/copa-test.xml"
    if not (data_dir / name).is_file():
        pytest.skip(f"no {name} in the data folder")
    return re.findall(r'"question": "(\w+)"|asks-for="(\w+)"', (data_dir / name).read_text("utf-8"))


def test_copas_test_set_has_the_labels_of_the_xml(datasets):
    dataset = of(datasets, "copa")
    if "test" not in dataset.splits:
        pytest.skip("copa-test.xml is not in the data folder")
    examples, _ = read(dataset.splits["test"])
    labels = re.findall(rb'most-plausible-alternative="(\d)"', dataset.splits["test"].files[0].read_bytes())
    assert [e.label for e in examples] == [int(label) - 1 for label in labels]
    assert Counter(e.label for e in examples) == {0: 250, 1: 250} and [e.id for e in examples][:2] == ["0", "1"]


@pytest.mark.parametrize("split, part", [("validation", "val"), ("test", "test")])
def test_wrong_questions_of_xcopa_are_counted_and_kept(data_dir, datasets, split, part):
    right = [a or b for a, b in copa_questions(data_dir, part)]
    wrong = {}
    for dataset in datasets:
        if dataset.name.startswith("xcopa.") and split in dataset.splits:
            examples, tally = read(dataset.splits[split])
            rows = [json.loads(line) for line in dataset.splits[split].files[0].open("rb")]
            assert [e.question for e in examples] == [f"What was the {row['question']}?" for row in rows]
            wrong[dataset.language] = tally["noted: the question is not COPA's (kept as published)"]
            assert wrong[dataset.language] == sum(row["question"] != right[row["idx"]] for row in rows)
    if "th" in wrong:
        assert wrong["th"] == right.count("cause")
    if "tr" in wrong and split == "validation":
        assert wrong["tr"] == right.count("cause")
    assert not wrong or min(wrong.values()) == 0
