"""What is registered of a tiny world: every task of the study, its mixtures and their rates, and what is absent."""

import json
import re

import pytest
import seqio

import xtr.tasks
from xtr import config
from xtr.errors import DataError, UserError
from xtr.study.overlaps import not_zero_shot, overlaps
from xtr.tasks import intermediate, registration
from xtr.tasks.datasets import lareqa

NLI = ["entailment", "neutral", "contradiction"]


def _jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _nli(n, label="gold_label"):
    return [{label: NLI[i % 3], "sentence1": f"p{i}", "sentence2": f"h{i}"} for i in range(n)]


def _write_nine(root, squad_json):
    """The nine intermediate tasks in their official forms, with few examples each."""
    _jsonl(root / "snli_1.0/snli_1.0_train.jsonl", _nli(9))
    for n in (1, 2, 3):
        rows = [{"uid": str(i), "context": "c", "hypothesis": "h", "label": "e"} for i in range(n)]
        _jsonl(root / f"anli_v1.0/R{n}/train.jsonl", rows)
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    for folder in (root, root / "translated/de"):
        (folder / "QQP").mkdir(parents=True)
        (folder / "QQP/train.tsv").write_text(header + "".join(f"{i}\t1\t2\ta\tb\t{i % 2}\n" for i in range(4)))
    squad = json.loads(squad_json())
    questions = squad["data"][0]["paragraphs"][0]["qas"]
    questions.append({"id": "no", "question": "?", "answers": []})
    for question in questions:
        question["is_impossible"] = not question["answers"]
    (root / "squad/train-v2.0.json").write_text(json.dumps(squad))
    endings = {"ctx_a": "a", "ctx_b": "b", "endings": ["x", "y"], "label": 1}
    _jsonl(root / "hellaswag/hellaswag_train.jsonl", [endings] * 16)
    (root / "cosmosqa").mkdir()
    columns = "id,context,question,answer0,answer1,answer2,answer3,label\n"
    (root / "cosmosqa/train.csv").write_text(columns + "1,c,q,a,b,c,d,2\n")
    choices = [{"label": letter, "text": letter} for letter in "ABCDE"]
    _jsonl(
        root / "commonsenseqa/train_rand_split.jsonl",
        [{"id": "1", "question": {"stem": "s", "choices": choices}, "answerKey": "C"}],
    )
    (root / "ccg").mkdir()
    (root / "ccg/wsj02-21.stagged").write_text("It|PRP|NP works|VBZ|S[dcl]\\NP\n")


@pytest.fixture
def register(tmp_path, write_official_files, squad_json, vocabulary_path, monkeypatch):
    """`register(ccg, format)` registers everything of a world with the nine tasks, or with eight of them."""

    def register(ccg=True, format="text2text"):
        root = write_official_files(tmp_path / "data")
        _write_nine(root, squad_json)
        if not ccg:
            (root / "ccg/wsj02-21.stagged").unlink()
        variables = {
            "DATA_DIR": root,
            "VOCABULARY_PATH": vocabulary_path,
            "CACHE_DIR": tmp_path / "c",
            "FORMAT": format,
        }
        for name, value in variables.items():
            monkeypatch.setenv(f"XTR_{name}", str(value))
        return xtr.tasks.register_all()

    yield register
    if xtr.tasks._catalog is not None:
        xtr.tasks._catalog.clear()


def rates(name):
    mixture = seqio.get_mixture_or_task(name)
    return {task.name: mixture.get_rate(task) for task in mixture.tasks}


def test_the_nine_are_mixed_as_the_study_mixes_them(register):
    register()
    nli = {"snli": 9, "mnli": 4, "anli_r1": 1, "anli_r2": 2, "anli_r3": 3}
    assert rates("anli_plus") == nli
    plus = 19**0.5 / 19
    expected = {name: plus * n for name, n in nli.items()}
    expected["mnli"] += 4**0.5
    sizes = {"qqp": 4, "squad_v1": 2, "squad_v2": 3, "hellaswag": 16, "cosmosqa": 1, "commonsenseqa": 1, "ccg": 1}
    expected |= {name: n**0.5 for name, n in sizes.items()}
    assert rates("all_nine") == pytest.approx(expected)
    assert rates("all_available") == rates("all_nine")


def test_no_task_counts_as_more_than_the_cap():
    class Task:
        name = "big"

        def num_input_examples(self, split):
            return 392_702

    assert intermediate.STUDY_RATE(Task()) == (2**17) ** 0.5


def test_what_is_missing_is_said(register):
    catalog = register(ccg=False)
    assert "LDC2005T13" in catalog.absent["ccg"] and catalog.absent["all_nine"].startswith("ccg: ")
    assert list(catalog.left_out["all_available"]) == ["ccg"] == list(catalog.left_out["all_available_denoise"])
    assert "ccg" not in rates("all_available") and "all_available_denoise" in catalog.mixtures
    assert "mnli.ru" in catalog.absent and list(catalog.left_out["qqp_translated"]) == ["qqp.ru", "qqp.sw"]
    # Every language of every target is a task, or absent with a reason.
    for target, languages in catalog.languages.items():
        for language in languages:
            name = f"{target}.{language}"
            assert name in catalog.tasks or catalog.absent[name]


def _write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8"))


def test_what_names_of_tasks_cannot_hold_becomes_an_underscore(register, tmp_path):
    root = tmp_path / "data"
    _write(root / "panx_dataset/zh-min-nan/test", "zh-min-nan:a\tO\n")
    _write(root / "text/my corpus/zh-Hans.txt", "a\n")
    _write(root / "translated/zh-CN/QQP/train.tsv", "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n")
    catalog = register()
    languages = {"panx.zh_min_nan": "zh-min-nan", "text.my_corpus.zh_Hans": "zh-Hans", "qqp.zh_CN": "zh-CN"}
    assert {name: catalog.tasks[name].language for name in languages} == languages
    assert "text.my_corpus" in catalog.mixtures


def test_two_data_sets_of_one_name_are_an_error(register, tmp_path):
    for corpus in ("a-b", "a_b"):
        _write(tmp_path / f"data/text/{corpus}/en.txt", "a\n")
    with pytest.raises(DataError, match=r"a-b/en\.txt and .*a_b/en\.txt would both be the task text\.a_b\.en"):
        register()


def test_a_fifth_is_text_of_the_targets_languages(register):
    catalog = register()
    found = rates("hellaswag_denoise")
    assert found["hellaswag"] == pytest.approx(0.8)
    text = {name: rate for name, rate in found.items() if name != "hellaswag"}
    # pt and en_qaz are no target's language; English and qaz have two documents each.
    assert text == pytest.approx({"text.corpus.en": 0.1, "text.corpus.qaz": 0.1})
    assert "hellaswag_denoise" not in catalog.left_out and "text.multilingual" not in catalog.left_out
    data = seqio.get_mixture_or_task("hellaswag_denoise").get_dataset(None, split="train", num_epochs=1, shuffle=False)
    kinds = {len(example["inputs"]) == 0 for example in data.as_numpy_iterator()}
    assert kinds == {True, False}


def test_a_translation_is_the_official_files_in_another_language(register):
    register()
    assert rates("qqp_translated") == {"qqp.de": 4.0}
    info = xtr.tasks.task_info("qqp.de")
    assert (info.kind, info.language, info.stage) == ("classification", "de", "intermediate")


def test_candidates_that_languages_share_are_no_language(register):
    catalog = register()
    assert "lareqa.candidates" not in catalog.absent and "lareqa" not in catalog.mixtures


def test_a_mixture_of_different_features_is_absent(register):
    catalog = register()
    catalog.add_mixture("both", ["mnli", "tatoeba.zh"])
    assert "mnli has inputs, targets; tatoeba.zh has inputs" in catalog.absent["both"]


def test_encoders_have_the_same_mixtures(register):
    catalog = register(format="encoder")
    assert len(rates("all_nine")) == 12 and "all_nine_denoise" in catalog.mixtures
    data = seqio.get_mixture_or_task("squad_v1_denoise").get_dataset(None, split="train", num_epochs=1, shuffle=False)
    assert {len(example["targets"]) > 0 for example in data.as_numpy_iterator()} == {True, False}


def test_a_rate_without_a_size_is_refused():
    class Task:
        name = "foreign"

        def num_input_examples(self, split):
            return None

    with pytest.raises(UserError, match="'train' examples of foreign is unknown"):
        intermediate.STUDY_RATE(Task())


def test_the_code_behind_a_reader_is_followed():
    names = {path.name for path in registration._code(lareqa.read_pairs)}
    assert {"lareqa.py", "sentences.py", "squad.py", "files.py"} <= names


def test_every_shipped_intermediate_task_with_data_of_a_target_is_known_to_overlap(register, tmp_path):
    for language in ("de", "sw"):
        _jsonl(tmp_path / f"data/translated/{language}/multinli_1.0/multinli_1.0_train.jsonl", _nli(3))
    register()
    targets = {"xnli": ["mnli"], "xquad": ["squad_v1"], "mlqa": ["squad_v1"], "lareqa": ["lareqa.de"]}
    shipped = (config.shipped_gin_dir() / "intermediate").glob("*.gin")
    trained = {path.stem: _members(path) for path in shipped}
    found = overlaps(trained, targets)
    for name, members in trained.items():
        originals = {member.partition(".")[0] for member in members}
        assert ("xnli" in found[name]) == ("mnli" in originals), name
        squad = bool(originals & {"squad_v1", "squad_v2"})
        assert [target in found[name] for target in ("xquad", "mlqa", "lareqa")] == [squad] * 3, name
    of_mnli = {"mnli", "anli_plus", "all_nine", "all_available", "mnli_denoise", "mnli_translated", "nli_qa"}
    assert {name for name in found if "xnli" in found[name]} == of_mnli
    assert {name for name in found if "mlqa" in found[name]} == {
        "squad_v1", "squad_v2", "nli_qa", "all_nine", "all_available",
    }  # fmt: skip
    assert not_zero_shot(trained, found) == [
        "mnli_translated is trained in de, sw, on data of xnli: after it these languages are not zero-shot there."
    ]


def _members(path):
    """The tasks that a gin file of an intermediate task trains on."""
    name = re.search(r"^MIXTURE_OR_TASK_NAME = '(\w+)'", path.read_text(), re.MULTILINE)[1]
    found = seqio.get_mixture_or_task(name)
    return [task.name for task in getattr(found, "tasks", [found])]
