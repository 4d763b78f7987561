"""Readers of LAReQA, Mewsli-X, BUCC 2018 and Tatoeba, and of the pairs that dual encoders are trained on."""

import gzip
import json
from collections import Counter

import pytest

from xtr.errors import DataError
from xtr.tasks.datasets import Sources, bucc, lareqa, mewslix, tatoeba
from xtr.tasks.datasets.sentences import sentences
from xtr.tasks.examples import Pair, Retrieval

# Line separators of Unicode, a no-break space, a right-to-left mark, decomposed letters, and one beyond the BMP.
ODD = "\u2028e\u0301\u0085 \u00a0\u200f\U0001f600\u212b"


def write(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode())
    return Sources((root,))


def jsonl(*rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def by_name(found):
    return {dataset.name: dataset for dataset in found.datasets}


def read(dataset, split):
    tally = Counter()
    part = dataset.splits[split]
    examples = list(part.read(part.files, tally))
    dropped = sum(n for what, n in tally.items() if what.startswith("dropped"))
    assert len({example.id for example in examples}) == len(examples) == tally["rows"] - dropped
    return examples, {what: n for what, n in tally.items() if what != "rows"}


def oracle(folder, name):
    path = folder / "metrics" / name
    return json.loads(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())


def refused(dataset, split, *expected):
    with pytest.raises(DataError) as error:
        read(dataset, split)
    for part in expected:
        assert part in str(error.value)


# ---------------------------------------------------------------------------------------------------------------------
# LAReQA
# ---------------------------------------------------------------------------------------------------------------------

SENTENCES = (f"One{ODD} two.", "Same.", "Same.", "Last\none.")
CONTEXT = " ".join(SENTENCES)
BREAKS = [[CONTEXT.index(SENTENCES[0]), len(SENTENCES[0])]]
for sentence in SENTENCES[1:]:
    BREAKS.append([BREAKS[-1][1] + 1, BREAKS[-1][1] + 1 + len(sentence)])


def asked(name, text, start=None, **more):
    start = CONTEXT.index(text) if start is None else start
    return {"id": name, "question": f"Q{ODD}?", "answers": [{"text": text, "answer_start": start}], **more}


def document(*questions, breaks=BREAKS, context=CONTEXT, more=()):
    paragraph = {"context": context, "qas": list(questions)}
    paragraph |= {"sentences": [], "sentence_breaks": breaks} if breaks is not None else {}
    return json.dumps({"version": "1.1", "data": [{"paragraphs": [paragraph, *more]}]}, ensure_ascii=False)


def test_questions_of_lareqa_have_answers_in_all_languages(tmp_path):
    empty = {"context": "No questions.", "qas": [], "sentence_breaks": [[0, 13]]}
    files = {
        "lareqa/xquad-r/en.json": document(asked("q0", "two"), asked("q1", "Same"), more=[empty]),
        "lareqa/xquad-r/qaz.json": document(
            asked("q0", "one"), asked("q1", " ", len(SENTENCES[0])), asked("q2", "one")
        ),
    }
    datasets = by_name(lareqa.find_lareqa(write(tmp_path, files)))
    assert list(datasets) == ["lareqa.en", "lareqa.qaz", "lareqa.candidates"]
    assert {datasets[name].candidates for name in ("lareqa.en", "lareqa.qaz")} == {"lareqa.candidates"}
    queries, notes = read(datasets["lareqa.en"], "queries")
    assert queries == [
        Retrieval("q0_en", f"Q{ODD}?", ("en_1_0", "qaz_1_3")),
        Retrieval("q1_en", f"Q{ODD}?", ("en_1_1", "en_1_2")),
    ]
    assert not notes
    queries, notes = read(datasets["lareqa.qaz"], "queries")
    assert [(q.id, q.gold) for q in queries] == [("q0_qaz", ("en_1_0", "qaz_1_3")), ("q2_qaz", ("qaz_1_3",))]
    assert notes == {"dropped: answer begins in no sentence": 1}
    candidates, notes = read(datasets["lareqa.candidates"], "candidates")
    assert [c.id for c in candidates] == [f"{language}_1_{i}" for language in ("en", "qaz") for i in range(4)]
    assert candidates[0].text == f"{SENTENCES[0]}{CONTEXT}".replace("\n", "") and candidates[0].gold == ()
    assert candidates[3].text.startswith("Lastone.One")
    assert notes == {"dropped: paragraph without questions": 1}


@pytest.mark.parametrize(
    "content, expected",
    [
        (document(asked("q0", "two"), breaks=None), ["paragraphs[0]", "'sentence_breaks'", "missing"]),
        (document(asked("q0", "two"), breaks=[[0, 9999]]), ["'sentence_breaks'", "[0, 9999]", "not within"]),
        (document(asked("q0", "two"), breaks=[[5, 4]]), ["'sentence_breaks'", "[5, 4]"]),
        (document(asked("q0", "two"), breaks=[[0, True]]), ["'sentence_breaks'", "expected [start, end]"]),
        (document(asked("q0", "two", 3)), ["'q0'", "'answer_start'", "code point 3"]),
        (document(asked("q0", "two", answers=[])), ["'q0'", "'answers'", "0 answers"]),
        (document(asked("q0", "two"), asked("q0", "two")), ["'q0'", "used twice"]),
        (document(asked("q0", "two"))[:-9], ["line 1", "not JSON"]),
    ],
)
def test_bad_files_of_lareqa_are_named(tmp_path, content, expected):
    dataset = lareqa.find_lareqa(write(tmp_path, {"lareqa/xquad-r/en.json": content})).datasets[0]
    refused(dataset, "queries", "xquad-r/en.json", *expected)


def test_lareqa_is_that_of_xtreme(oracles, tmp_path):
    record = oracle(oracles, "lareqa_retrieval.json.gz")
    files = {f"lareqa/xquad-r/{code}.json": json.dumps(data) for code, data in record["inputs"]["xquad_r"].items()}
    datasets = by_name(lareqa.find_lareqa(write(tmp_path, files)))
    expected = record["expected"]
    candidates = {c.id: c.text for c in read(datasets.pop("lareqa.candidates"), "candidates")[0]}
    assert set(candidates) == set(expected["candidate_uids"])
    assert expected["candidate_text"].items() <= candidates.items() and expected["candidate_text"]
    for name, sentence in expected["candidate_sentence"].items():
        assert candidates[name].startswith(sentence.replace("\n", ""))
    queries = {q.id: q for dataset in datasets.values() for q in read(dataset, "queries")[0]}
    assert set(queries) == set(expected["question_uids"])
    for name, query in queries.items():
        right = expected["answers_by_xling_id"][name.rpartition("_")[0]]
        assert len(query.gold) == len(right) and set(query.gold) == set(right)


def test_pairs_of_lareqa_come_of_squad(tmp_path):
    # White space between sentences belongs to none of them.
    context = f"First{ODD} one. The second\none ends here. A third?"
    gap = context.index(" The second")
    questions = [
        asked("q0", "one", context.index("one")), asked("q1", "First", 0), asked("q2", "ends", context.index("ends")),
        asked("q3", " The", gap),
    ]  # fmt: skip
    content = document(*questions, breaks=None, context=context)
    sources = write(tmp_path, {"squad/train-v1.1.json": content, "squad/dev-v1.1.json": content})
    (dataset,) = lareqa.find_lareqa_squad(sources).datasets
    assert (dataset.name, dataset.example_type, set(dataset.splits)) == ("lareqa_squad", Pair, {"train", "validation"})
    pairs, notes = read(dataset, "train")
    assert [p.id for p in pairs] == ["q0", "q1", "q2"] and notes == {"dropped: answer begins in no sentence": 1}
    flat = context.replace("\n", "")
    assert [p.positive for p in pairs] == [f"First{ODD} one." + flat] * 2 + ["The secondone ends here." + flat]
    assert pairs[0].group == pairs[1].group != pairs[2].group
    assert {p.query for p in pairs} == {f"Q{ODD}?"}


def test_sentences_end_at_marks_but_not_behind_abbreviations_and_initials():
    text = (
        " Mr. J. R. R. Tolkien met Dr. Smith at 3 p.m. on Jan. 5. He left (c. 1920). "
        "\"Why?\" It was No. 7, vol. 2 of it! \n\u00a0Plan B. This ended.[citation needed] "
        "\u201cThe rest [sic]\u201d is silence... and e.g. Nothing "
    )  # fmt: skip
    assert [text[start:end] for start, end in sentences(text)] == [
        "Mr. J. R. R. Tolkien met Dr. Smith at 3 p.m. on Jan. 5.", "He left (c. 1920).", '"Why?"',
        "It was No. 7, vol. 2 of it!", "Plan B.", "This ended.[citation needed]",
        "\u201cThe rest [sic]\u201d is silence... and e.g. Nothing",
    ]  # fmt: skip
    assert list(sentences("")) == list(sentences(" \n ")) == [] and list(sentences("word")) == [(0, 4)]


# ---------------------------------------------------------------------------------------------------------------------
# Mewsli-X
# ---------------------------------------------------------------------------------------------------------------------

ARTICLE = f"Intro.\n\n\u00a0\n{ODD}In Bern{ODD}all is {{well}}. End"
SPANS = [{"start": 0, "end": 6}, {"start": ARTICLE.index("In Bern"), "end": ARTICLE.index(" End")}]


def article(*mentions, language="de", text=ARTICLE, **more):
    context = {"document_title": "a [b] {c}", "language": language, "text": text, "sentence_spans": SPANS, **more}
    return {"context": context, "mentions": list(mentions)}


def mention(name, text="Bern", entity="Q70", start=None):
    start = ARTICLE.index(text) if start is None else start
    span = {"start": start, "end": start + len(text), "text": text}
    return {"example_id": name, "mention_span": span, "entity_id": entity, "metadata": {}}


def entity(name="Q70", description=f"Bern{ODD}is old.  It is\nnice. More.", end=None):
    end = description.index(" More") if end is None else end
    return {"entity_id": name, "description": description, "sentence_spans": [{"start": 0, "end": end}]}


def test_mentions_are_marked_in_their_sentence(tmp_path):
    rows = jsonl(article(mention("m0"), mention("m1")), article(mention("m2", "Intro", "Q1"), language="qaz"))
    files = {
        "mewslix/wikinews_mentions-test.jsonl": rows,
        "mewslix/wikinews_mentions-dev.jsonl": jsonl(article(mention("m3"), language="qaz")),
        "mewslix/candidate_set_entities.jsonl": jsonl(entity(), entity("Q1", "a\u00a0 b", 4)),
    }
    datasets = by_name(mewslix.find_mewslix(write(tmp_path, files)))
    assert {name: set(dataset.splits) for name, dataset in datasets.items()} == {
        "mewslix.de": {"queries"}, "mewslix.qaz": {"queries", "validation_queries"},
        "mewslix.candidates": {"candidates"},
    }  # fmt: skip
    assert datasets["mewslix.qaz"].candidates == "mewslix.candidates"
    # As XTREME has it: all line ends become spaces, the mention comes first, braces are its own.
    right = f"{ODD}all is (well).".replace("\u2028", " ").replace("\u0085 ", " ")
    text = f"Bern: In {{ Bern }} {right}".replace("}  ", "} ")
    queries, notes = read(datasets["mewslix.de"], "queries")
    assert queries == [Retrieval("m0", text, ("Q70",)), Retrieval("m1", text, ("Q70",))] and not notes
    assert read(datasets["mewslix.qaz"], "queries")[0] == [Retrieval("m2", "Intro: { Intro } .", ("Q1",))]
    assert [q.id for q in read(datasets["mewslix.qaz"], "validation_queries")[0]] == ["m3"]
    entities, _ = read(datasets["mewslix.candidates"], "candidates")
    assert [(e.id, e.gold) for e in entities] == [("Q70", ()), ("Q1", ())] and entities[1].text == "a\u00a0 b"
    assert entities[0].text.endswith("\u200f\U0001f600\u212bis old. It is nice.")


def test_mentions_in_xtremes_files(tmp_path):
    files = {
        "mewslix/wikinews_mentions/dev-qaz.jsonl": jsonl(article(mention("m0"), language="qaz")),
        "mewslix/wikinews_mentions/test-qaz.jsonl": jsonl(article(mention("m1", entity=""), language="qaz")),
        "mewslix/wikinews_mentions/test-fa.jsonl": jsonl(article(mention("m2", entity=""), language="fa")),
    }
    found = mewslix.find_mewslix(write(tmp_path, files))
    datasets = by_name(found)
    assert {name: set(dataset.splits) for name, dataset in datasets.items()} == {"mewslix.qaz": {"validation_queries"}}
    assert set(found.absent) == {"mewslix.fa", "mewslix.candidates"}
    assert "entities taken out" in found.absent["mewslix.fa"]
    assert "candidate_set_entities.jsonl" in found.absent["mewslix.candidates"]


def test_mentions_without_the_articles_are_explained(tmp_path):
    sources = write(tmp_path, {"mewslix/wikinews_mentions_no_text-test.jsonl": jsonl(article(mention("m0"), text=""))})
    found = mewslix.find_mewslix(sources)
    assert not found.datasets and "get-mewsli-x.sh" in found.looked_for


@pytest.mark.parametrize(
    "row, expected",
    [
        (article(mention("m7", start=3)), ["'m7'", "'mention_span'", "code point 3"]),
        (article(mention("m7", "End")), ["'m7'", "'sentence_spans'", "not within one sentence"]),
        (article(mention("m7"), text=""), ["'m7'", "'text'", "get-mewsli-x.sh"]),
        (article(mention("m7"), sentence_spans=[{"start": 0, "end": 9999}]), ["'m7'", "'sentence_spans'", "9999"]),
        (article(mention("m7", entity="")), ["'m7'", "'entity_id'", "XTREME"]),
        (article({"example_id": "m7"}), ["'m7'", "'mention_span'", "missing"]),
        (article({}), ["line 2", "'example_id'", "missing"]),
        (article(mention("m0")), ["line 2", "'m0'", "used twice"]),
        ({"mentions": []}, ["line 2", "'context'", "missing"]),
        ({"context": {}, "mentions": []}, ["line 2", "'language'", "missing"]),
    ],
)
def test_bad_mentions_are_named(tmp_path, row, expected):
    name = "mewslix/wikinews_mentions-test.jsonl"
    (dataset, *_) = mewslix.find_mewslix(write(tmp_path, {name: jsonl(article(mention("m0")), row)})).datasets
    refused(dataset, "queries", name, *expected)


def test_truncated_and_repeated_entities_are_named(tmp_path):
    name = "mewslix/candidate_set_entities.jsonl"
    for content, expected in (
        (jsonl(entity(), entity("Q1"))[:-9], ["line 2", "not JSON"]),
        (jsonl(entity(), entity()), ["line 2", "'entity_id'", "'Q70' is used twice"]),
        (jsonl(entity(end=0)), ["'Q70'", "'sentence_spans'", "0 to 0"]),
    ):
        (dataset,) = mewslix.find_mewslix(write(tmp_path, {name: content})).datasets
        refused(dataset, "candidates", name, *expected)


def test_pairs_of_mewslix(tmp_path):
    def pair(name, of):
        contextual = {"context": article(language="en")["context"], "mention": mention(name, entity=of)}
        return {"contextual_mention": contextual, "entity": entity(of)}

    rows = jsonl(pair("m0", "Q70"), pair("m1", "Q70"), pair("m2", "Q1"))
    files = {f"mewslix/wikipedia_pairs-{part}.jsonl": rows for part in ("train", "dev")}
    (dataset,) = mewslix.find_mewslix_pairs(write(tmp_path, files)).datasets
    assert (dataset.name, dataset.example_type, set(dataset.splits)) == ("mewslix_pairs", Pair, {"train", "validation"})
    pairs, _ = read(dataset, "train")
    assert [(p.id, p.group) for p in pairs] == [("m0", "Q70"), ("m1", "Q70"), ("m2", "Q1")]
    assert pairs[0].query.startswith("Bern: In { Bern } ") and pairs[0].positive.endswith("is old. It is nice.")
    write(tmp_path, {"mewslix/wikipedia_pairs-train.jsonl": jsonl({"contextual_mention": {}})})
    refused(dataset, "train", "wikipedia_pairs-train.jsonl", "line 1", "'context'", "missing")


def test_mentions_and_entities_are_rendered_as_xtreme_does(oracles, tmp_path):
    record = oracle(oracles, "render_mewslix.json")
    wanted = {m["example_id"]: m["preprocess_mention"] for m in record["expected"]["mentions"]}
    documents = record["inputs"]["documents"]
    golds = {m["example_id"]: m["entity_id"] for document in documents for m in document["mentions"]}
    seen = set()
    for document in documents:
        language = document["context"]["language"]
        sources = write(tmp_path, {"mewslix/wikinews_mentions-test.jsonl": jsonl(document)})
        (dataset, *_) = mewslix.find_mewslix(sources).datasets
        assert dataset.name == f"mewslix.{language}"
        names = {m["example_id"] for m in document["mentions"]}
        seen |= names
        if any(wanted[name] is None for name in names):
            refused(dataset, "queries", "not within one sentence")
        else:
            assert {q.id: q.text for q in read(dataset, "queries")[0]} == {name: wanted[name] for name in names}
            assert {q.gold for q in read(dataset, "queries")[0]} == {(golds[name],) for name in names}
    assert seen == set(wanted)
    sources = write(tmp_path, {"mewslix/candidate_set_entities.jsonl": jsonl(*record["inputs"]["entities"])})
    entities, _ = read(by_name(mewslix.find_mewslix(sources))["mewslix.candidates"], "candidates")
    assert [e.text for e in entities] == record["expected"]["entity_texts"]


# ---------------------------------------------------------------------------------------------------------------------
# BUCC and Tatoeba
# ---------------------------------------------------------------------------------------------------------------------

FOREIGN, ENGLISH = f"qaz-1\t {ODD}\tA \nqaz-2\tB\n", "en-1\ta\nen-2\tb\r\nen-3\ta\n"
GOLD = "qaz-2\ten-3\nqaz-2\ten-1\n"


def collections(name, foreign=FOREIGN, english=ENGLISH, gold=GOLD):
    return {f"bucc2018/{name}.qaz": foreign, f"bucc2018/{name}.en": english, f"bucc2018/{name}.gold": gold}


@pytest.mark.parametrize(
    "test, dev", [("qaz-en/qaz-en.training", "qaz-en/qaz-en.sample"), ("qaz-en.test", "qaz-en.dev")]
)
def test_bucc_has_two_collections_and_pairs_of_them(tmp_path, test, dev):
    (dataset,) = bucc.find_bucc2018(write(tmp_path, collections(test) | collections(dev, gold=""))).datasets
    assert (dataset.name, dataset.language) == ("bucc2018.qaz", "qaz")
    assert set(dataset.splits) == {"queries", "candidates", "validation_queries", "validation_candidates"}
    assert read(dataset, "queries") == (
        [Retrieval("qaz-1", f" {ODD}\tA ", ()), Retrieval("qaz-2", "B", ("en-3", "en-1"))], {},
    )  # fmt: skip
    assert read(dataset, "candidates")[0] == [
        Retrieval("en-1", "a", ("qaz-2",)), Retrieval("en-2", "b\r", ()), Retrieval("en-3", "a", ("qaz-2",)),
    ]  # fmt: skip
    assert [q.gold for q in read(dataset, "validation_queries")[0]] == [(), ()]


def test_bucc_without_the_gold_of_test_has_validation_alone(tmp_path):
    files = collections("qaz-en.dev") | collections("qaz-en.test")
    # BUCC's own test part, whose gold nobody published, is not XTREME's.
    files |= collections("qaz-en/qaz-en.test")
    del files["bucc2018/qaz-en.test.gold"]
    (dataset,) = bucc.find_bucc2018(write(tmp_path, files)).datasets
    assert set(dataset.splits) == {"validation_queries", "validation_candidates"}
    for name in files:
        if "dev" in name:
            (tmp_path / name).unlink()
    found = bucc.find_bucc2018(Sources((tmp_path,)))
    assert not found.datasets and "bucc2018/qaz-en.test.gold" in found.absent["bucc2018.qaz"]


@pytest.mark.parametrize(
    "files, expected",
    [
        ({"foreign": "qaz-1\ta\nqaz-2\n"}, [".qaz, line 2", "'qaz-2'"]),
        ({"foreign": "qaz-1\ta\nqaz-2\tb\nqaz-1\tc\n"}, [".qaz, line 3", "'qaz-1' is used twice"]),
        ({"english": "en-1\ta\nen-3\tb\nen-1\tc\n"}, [".en, line 3", "'en-1' is used twice"]),
        ({"gold": "qaz-1\ten-1\nqaz-9\ten-1\n"}, [".gold, line 2", "'qaz-9'"]),
        ({"gold": "qaz-1\ten-9\n"}, [".gold, line 1", "'en-9'"]),
        ({"gold": "en-1\tqaz-1\n"}, [".gold, line 1", "no sentence"]),
        ({"gold": "qaz-1\n"}, [".gold, line 1", "two ids"]),
    ],
)
def test_bad_collections_are_named(tmp_path, files, expected):
    (dataset,) = bucc.find_bucc2018(write(tmp_path, collections("qaz-en.dev", **files))).datasets
    for split in dataset.splits:
        refused(dataset, split, "bucc2018/qaz-en.dev", *expected)


def test_bucc_of_the_recorded_mining(oracles, tmp_path):
    inputs = oracle(oracles, "bucc_mining.json.gz")["inputs"]
    files = {}
    for part in ("dev", "test"):
        recorded = inputs[part]
        for side, code in (("src", "xx"), ("trg", "en")):
            rows = zip(recorded[f"{side}_id"], recorded[f"{side}_text"], strict=True)
            files[f"bucc2018/xx-en.{part}.{code}"] = "".join(f"{name}\t{text}\n" for name, text in rows)
        files[f"bucc2018/xx-en.{part}.gold"] = "".join(f"{pair}\n" for pair in recorded["gold"])
    (dataset,) = bucc.find_bucc2018(write(tmp_path, files)).datasets
    for part, prefix in (("dev", "validation_"), ("test", "")):
        queries, candidates = (read(dataset, f"{prefix}{side}")[0] for side in ("queries", "candidates"))
        assert [q.id for q in queries] == inputs[part]["src_id"] and [q.text for q in queries] == inputs[part][
            "src_text"
        ]
        assert [c.id for c in candidates] == inputs[part]["trg_id"]
        pairs = [f"{q.id}\t{gold}" for q in queries for gold in q.gold]
        assert sorted(pairs) == sorted(f"{gold}\t{c.id}" for c in candidates for gold in c.gold)
        assert sorted(pairs) == sorted(inputs[part]["gold"])


def test_tatoeba_that_xtreme_sorted_is_absent_with_the_reason(tmp_path):
    files = {
        "tatoeba/qaz-en.qaz": "Ba.\n",
        "tatoeba/qaz-en.en": "A.\n",
        "tatoeba/zh-en.zh": "x\n",
        "tatoeba/zh-en.en": "X\n",
    }
    sources = write(tmp_path, files)
    found = tatoeba.find_tatoeba(sources)
    assert not found.datasets and set(found.absent) == {"tatoeba.qaz", "tatoeba.zh"}
    assert "sorted" in found.absent["tatoeba.zh"] and "tatoeba/v1" in found.absent["tatoeba.zh"]
    write(tmp_path, {f"tatoeba/v1/tatoeba.cmn-eng.{side}": f"{ODD}\n" for side in ("cmn", "eng")})
    found = tatoeba.find_tatoeba(sources)
    assert list(by_name(found)) == ["tatoeba.zh"] and set(found.absent) == {"tatoeba.qaz"}
    assert read(found.datasets[0], "queries")[0] == [Retrieval("0", ODD, ("0",))]


FINDERS = (
    lareqa.find_lareqa, lareqa.find_lareqa_squad, mewslix.find_mewslix, mewslix.find_mewslix_pairs, bucc.find_bucc2018,
)  # fmt: skip


@pytest.mark.parametrize("find", FINDERS)
def test_what_is_not_there_was_looked_for(tmp_path, find):
    found = find(Sources((tmp_path,)))
    reasons = [found.looked_for, *found.absent.values()]
    assert not found.datasets and all(str(tmp_path) in reason for reason in reasons if reason) and any(reasons)
