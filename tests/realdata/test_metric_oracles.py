"""Every metric against the numbers that the official programs gave (XTR_ORACLES/metrics)."""

import gzip
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from xtr.errors import DataError
from xtr.evaluate.metrics import (
    METRICS,
    accuracy,
    exact_match,
    f1,
    mining,
    mlqa,
    nearest,
    squad2,
    top_k,
    unpad_answer,
    value_of_mean,
)
from xtr.evaluate.metrics import benchmark as benchmarks
from xtr.evaluate.metrics.labels import class_id, entity_text_f1, f1_with_invalid
from xtr.evaluate.metrics.metric import precision_recall_f1
from xtr.evaluate.metrics.rank import rank_classification
from xtr.evaluate.metrics.retrieval import average_precision, map_at_20, reciprocal_rank
from xtr.evaluate.metrics.tags import chunks, span_f1, token_accuracy
from xtr.tasks.datasets import Sources
from xtr.tasks.datasets import mlqa as mlqa_files
from xtr.tasks.datasets import squad as squad_files
from xtr.tasks.formats.text2text import pad_punctuation

EXACT = 1e-9
FLOAT32 = 1e-4


def pytest_generate_tests(metafunc):
    """One test a file of each kind, so that a new language is a new test."""
    if "oracle_name" in metafunc.fixturenames:
        folder = Path(os.environ.get("XTR_ORACLES", "no folder"), "metrics")
        names = sorted(file.name.partition(".")[0] for file in folder.glob("*.json*"))
        found = [name for name in names if name.startswith(metafunc.function.kinds)]
        metafunc.parametrize("oracle_name", found or ["no file"])  # which `oracles` skips with a reason


def of_kinds(*kinds):
    def mark(function):
        function.kinds = kinds
        return function

    return mark


@pytest.fixture
def load(oracles):
    """`load(name)`: the record of that name."""

    def read(name):
        path = oracles / "metrics" / f"{name}.json"
        if path.is_file():
            return json.loads(path.read_bytes())
        return json.loads(gzip.decompress(path.with_suffix(".json.gz").read_bytes()))

    return read


@pytest.fixture
def arrays(oracles):
    return lambda name: np.load(oracles / "metrics" / name)


def questions(record):
    return [qa for article in record["inputs"]["data"] for p in article["paragraphs"] for qa in p["qas"]]


def assert_close(found, wanted, rel=EXACT):
    """Recursively equal; numbers within a relative tolerance."""
    if isinstance(wanted, dict):
        assert set(found) == set(wanted)
        for key in wanted:
            assert_close(found[key], wanted[key], rel)
    elif wanted == "nan":
        assert np.isnan(found)
    else:
        assert found == pytest.approx(wanted, rel=rel, abs=rel)


def test_accuracy(load):
    record = load("accuracy")
    for case in record["inputs"]["cases"]:
        expected = record["expected"][case["name"]]
        read = (lambda line: json.loads(line)["label"]) if case["task"] == "xcopa" else str.strip
        sides = (case["prediction_file"], case["label_file"])
        predictions, golds = ([read(line) for line in side.removesuffix("\n").split("\n")] for side in sides)
        if "error" in expected["official"]:
            with pytest.raises(DataError):
                accuracy(predictions, golds)
        else:
            assert_close(accuracy(predictions, golds)[0], expected["official"]["accuracy"])


# ---------------------------------------------------------------------------------------------------------------------
# Question answering
# ---------------------------------------------------------------------------------------------------------------------


@of_kinds("squad_v1", "xquad_", "tydiqa_", "mlqa_")
def test_answers_score_as_the_official_scripts_say(oracle_name, load):
    record = load(oracle_name)
    asked = questions(record)
    golds = [[answer["text"] for answer in qa["answers"]] for qa in asked]
    predictions = [record["inputs"]["predictions"].get(qa["id"]) for qa in asked]
    language = record["inputs"].get("language", "")
    prefix = "mlqa_" if oracle_name.startswith("mlqa") else ""
    for metric, key in (("em", "exact_match"), ("f1", "f1")):
        value, contributions_N = METRICS[prefix + metric](predictions, golds, language=language)
        assert_close(value, record["expected"]["official"][key])
        wanted = [100 * record["expected"]["per_question"][qa["id"]][key] for qa in asked]
        np.testing.assert_allclose(contributions_N, wanted, rtol=EXACT)
        assert float(value_of_mean(contributions_N.mean(), counts=False)) == pytest.approx(value)
    if contrast := record["expected"].get("squad_script_on_same_input_for_contrast"):
        assert_close(exact_match(predictions, golds)[0], contrast["exact_match"])
        assert_close(f1(predictions, golds)[0], contrast["f1"])
    if only := record["expected"].get("mt5_mlqa_on_predicted_only"):
        rows = [n for n, text in enumerate(predictions) if text is not None]
        predicted, wanted = [predictions[n] for n in rows], [golds[n] for n in rows]
        assert len(rows) == only["items"]
        assert_close(mlqa.exact_match(predicted, wanted, language=language)[0], only["em"])
        assert_close(mlqa.f1(predicted, wanted, language=language)[0], only["f1"])


def test_squad_2_reports_what_the_official_script_does(load):
    record = load("squad_v2")
    asked = questions(record)
    golds = [[answer["text"] for answer in qa["answers"]] for qa in asked]
    predictions = [record["inputs"]["predictions"][qa["id"]] for qa in asked]
    null_N = [record["inputs"]["na_probs"][qa["id"]] for qa in asked]
    expected = record["expected"]
    assert_close(squad2.evaluate(predictions, golds), expected["no_na_prob_file"])
    for threshold in (1.0, 0.5):
        wanted = expected[f"na_prob_file_threshold_{threshold}"]
        assert_close(squad2.evaluate(predictions, golds, null_N, threshold), wanted)
    for metric, key in (("squad2_em", "exact"), ("squad2_f1", "f1")):
        value, contributions_N = METRICS[metric](predictions, golds, no_answer="")
        assert_close(value, expected["no_na_prob_file"][key])
        wanted = [100 * expected["per_question_raw"][qa["id"]][key] for qa in asked]
        np.testing.assert_allclose(contributions_N, wanted, rtol=EXACT)


@pytest.mark.parametrize("name", ["render_xquad", "render_squad", "render_tydiqa", "render_mlqa"])
def test_a_perfect_padded_target_scores_as_its_gold(name, load):
    record = load(name)
    raw, rendered = record["inputs"]["examples_tfds"], record["expected"]["mt5_xquad"]
    golds = [example["answers"]["text"] for example in raw]
    for texts in (rendered, record["expected"].get("t5_squad", rendered)):
        assert [example["id"] for example in texts] == [example["id"] for example in raw]
        padded = [example["targets"] for example in texts]
        predictions = [unpad_answer(text, example["context"]) for text, example in zip(padded, raw, strict=True)]
        assert exact_match(predictions, golds)[0] == 100
        assert f1(predictions, golds)[0] == 100
        assert exact_match(padded, golds)[0] < 100


@pytest.mark.parametrize("find", [squad_files.find_squad, squad_files.find_xquad, mlqa_files.find_mlqa])
def test_perfect_padded_targets_of_the_official_files_score_as_their_golds(data_dir, find):
    """In every language, which is 100 but for answers that are articles alone: F1 of nothing is 0, officially."""
    seen = set()
    for dataset in find(Sources((data_dir,))).datasets:
        pair = "mlqa_" if dataset.name.startswith("mlqa") else ""
        for name, split in dataset.splits.items():
            if name == "train":
                continue
            examples = [example for example in split.read(split.files, Counter()) if example.answers]
            golds = [[answer.text for answer in example.answers] for example in examples]
            predictions = [
                unpad_answer(pad_punctuation(example.answers[0].text), example.context) for example in examples
            ]
            assert METRICS[f"{pair}em"](predictions, golds, language=dataset.language)[0] == 100, dataset.name
            first = METRICS[f"{pair}f1"]([texts[0] for texts in golds], golds, language=dataset.language)
            assert METRICS[f"{pair}f1"](predictions, golds, language=dataset.language)[0] == first[0], dataset.name
            seen.add(dataset.name)
            if dataset.name in ("squad_v1", "xquad.zh", "mlqa.en"):
                assert first[0] == 100
    if not seen:
        pytest.skip("no such files are there")


# ---------------------------------------------------------------------------------------------------------------------
# Tags
# ---------------------------------------------------------------------------------------------------------------------


@of_kinds("tags_udpos_", "tags_panx_")
def test_tags_score_as_xtremes_script_says(oracle_name, load):
    record = load(oracle_name)
    golds, predictions = ([line.split(" ") for line in record["inputs"][side]] for side in ("gold", "predicted"))
    wanted = record["expected"]["xtreme_seqeval_0.0.12"]
    value, counts_N3 = METRICS["span_f1"](predictions, golds)
    assert_close(value, wanted["f1"])
    precision, recall, _ = precision_recall_f1(counts_N3.sum(axis=0))
    assert_close([precision, recall], [wanted["precision"], wanted["recall"]])
    right, false, missed = counts_N3.sum(axis=0)
    chunk_counts = (right, right + false, right + missed)
    assert chunk_counts == tuple(wanted[f"n_{side}_chunks"] for side in ("correct", "predicted", "gold"))
    assert float(value_of_mean(counts_N3.mean(axis=0), counts=True)) == pytest.approx(value)
    wanted = record["expected"]["token_accuracy"]
    value, counts_N3 = METRICS["token_accuracy"](predictions, golds)
    assert_close(value, wanted["accuracy"])
    assert counts_N3[:, 0].sum() == wanted["correct"] and counts_N3[:, :2].sum() == wanted["tokens"]


def read_tags(text):
    """Sentences of a file as evaluate.py reads them."""
    sentences = [[]]
    for line in text.strip("\n").split("\n"):
        if line.strip():
            sentences[-1].append(line.strip())
        else:
            sentences.append([])
    return sentences


def test_chunks_of_the_edge_cases(load):
    record = load("tags_edge_cases")
    for case in record["inputs"]["cases"]:
        name, expected = case["name"], record["expected"]["cases"][case["name"]]
        wanted = expected["xtreme_seqeval_0.0.12"]
        golds, predictions = read_tags(case["label_file"]), read_tags(case["prediction_file"])
        if "error" in wanted or list(map(len, golds)) != list(map(len, predictions)):
            with pytest.raises(DataError):
                span_f1(predictions, golds)
        else:
            value, counts_N3 = span_f1(predictions, golds)
            assert_close(value, wanted["f1"])
            precision, recall, _ = precision_recall_f1(counts_N3.sum(axis=0))
            assert_close([precision, recall], [wanted["precision"], wanted["recall"]])
            if accuracy_ := expected.get("token_accuracy"):
                assert_close(token_accuracy(predictions, golds)[0], accuracy_["accuracy"])
        if "error" in wanted:
            continue
        for side, sentences in (("gold", golds), ("predicted", predictions)):
            joined = [tag for sentence in sentences for tag in (*sentence, "O")]
            assert chunks(joined) == {tuple(chunk) for chunk in wanted[f"{side}_chunks"]}, name
            assert case.get(side, sentences) == sentences
            # Sentence by sentence it is the same.
            starts = np.cumsum([0, *(len(sentence) + 1 for sentence in sentences)])
            shifted = {
                (kind, first + start, last + start)
                for sentence, start in zip(sentences, starts[:-1], strict=True)
                for kind, first, last in chunks(sentence)
            }
            assert shifted == chunks(joined), name


# ---------------------------------------------------------------------------------------------------------------------
# Retrieval
# ---------------------------------------------------------------------------------------------------------------------


def test_tatoeba(load, arrays):
    record, found = load("tatoeba_retrieval"), arrays("tatoeba_embeddings.npz")
    for language in record["inputs"]["languages"]:
        foreign, english, gold = (found[f"{language}_{side}"] for side in ("x", "y", "gold"))
        wanted = record["expected"][language]
        rows = nearest(english, foreign).tolist()
        assert rows == wanted["predictions"]
        value, contributions_N = accuracy(rows, gold.tolist())
        assert_close([value, contributions_N.sum() / 100], [wanted["official_accuracy"], wanted["correct"]])
        backwards = accuracy(nearest(foreign, english).tolist(), np.argsort(gold).tolist())[0]
        assert_close(backwards, wanted["WRONG_direction_foreign_queries_english"]["accuracy"])


def bucc(record, found, split):
    """Mined pairs (source id, target id, score) and the gold pairs of a split."""
    inputs = record["inputs"][split]
    vectors = found[f"{split}_x"], found[f"{split}_y"]
    source, target = ((inputs[f"{side}_id"], inputs[f"{side}_text"]) for side in ("src", "trg"))
    pairs = mining.mine_pairs(*source, vectors[0], *target, vectors[1])
    return vectors, pairs, {tuple(pair.split("\t")) for pair in inputs["gold"]}


def test_bucc(load, arrays):
    record, found = load("bucc_mining"), arrays("bucc_embeddings.npz")
    _, dev, gold = bucc(record, found, "dev")
    threshold, best = mining.best_threshold(dev, gold)
    assert threshold == pytest.approx(record["expected"]["dev"]["bucc_eval"]["best-threshold"], rel=FLOAT32)
    assert best == pytest.approx(record["expected"]["dev"]["bucc_eval"]["F1"], rel=EXACT)
    for split in ("dev", "test"):
        inputs, wanted = record["inputs"][split], record["expected"][split]
        (source_SD, target_TD), pairs, gold = bucc(record, found, split)
        # What mining itself finds, of distinct texts.
        last = [{text: row for row, text in enumerate(inputs[side])} for side in ("src_text", "trg_text")]
        mined = mining.mine(source_SD[list(last[0].values())], target_TD[list(last[1].values())])
        texts = [list(side) for side in last]
        candidates = [(texts[0][s], texts[1][t]) for s, t, _ in zip(*mined, strict=True)]
        assert candidates == [tuple(pair) for _, *pair in wanted["candidates_in_file_order"]]
        scores = [score for score, *_ in wanted["candidates_in_file_order"]]
        np.testing.assert_allclose(mined[2], scores, rtol=FLOAT32)
        # What is left of it above the threshold of dev.
        taken = [pair[:2] for pair in pairs if pair[2] >= threshold]
        assert sorted("\t".join(pair) for pair in taken) == sorted(wanted["predicted_pairs"])
        rows = {source: [] for source in inputs["src_id"]}
        predictions, golds = dict(rows), {source: [] for source in rows}
        for source, target in taken:
            predictions[source] = [*predictions[source], target]
        for source, target in gold:
            golds[source].append(target)
        value, counts_N3 = METRICS["bucc_f1"](list(predictions.values()), list(golds.values()))
        precision, recall, _ = precision_recall_f1(counts_N3.sum(axis=0))
        assert_close({"f1": value, "precision": precision, "recall": recall}, wanted["evaluate_py_bucc_f1"])


def test_mewslix(load, arrays):
    record, found = load("mewslix_retrieval"), arrays("mewslix_embeddings.npz")
    inputs, expected = record["inputs"], record["expected"]
    values = {}
    for language in inputs["languages"]:
        index_QK, score_QK = top_k(found[f"queries_{language}"], found["candidates"], 20)
        assert (np.diff(score_QK, axis=1) <= 0).all()
        ranked = [[inputs["candidate_ids"][i] for i in row] for row in index_QK]
        ids = inputs["example_ids"][language]
        assert dict(zip(ids, ranked, strict=True)) == expected["top20"][language]
        golds = [inputs["gold"][language][i] for i in ids]
        values[language], _ = METRICS["map@20"](ranked, golds)
        wanted = expected["per_language"][language]
        assert values[language] == pytest.approx(wanted["map@20"], rel=FLOAT32)
        for k in (1, 10):
            ranks = [reciprocal_rank(row, gold[0], k) for row, gold in zip(ranked, golds, strict=True)]
            assert np.mean(ranks) == pytest.approx(wanted[f"mrr@{k}"], rel=FLOAT32)
    assert np.mean(list(values.values())) == pytest.approx(expected["mean_over_languages_map@20"], rel=FLOAT32)


def test_mewslix_ranked_lists(load):
    record = load("mewslix_ranked_lists")
    golds, predictions = record["inputs"]["gold"], record["inputs"]["predictions"]
    for key, wanted in record["expected"].items():
        if key.startswith("k="):
            k = int(key.removeprefix("k="))
            ranks = [reciprocal_rank(predictions.get(i, ()), gold[0].strip(), k) for i, gold in golds.items()]
            assert_close(np.mean(ranks), wanted["mrr"])
            assert len(golds.keys() - predictions.keys()) == wanted["unpredicted"]
    ranked = [predictions.get(i) for i in golds]
    value, _ = map_at_20(ranked, [gold[0].strip() for gold in golds.values()])
    assert_close(value, record["expected"]["evaluate_py_map20"]["map@20"])


def test_lareqa(load, arrays):
    record, found = load("lareqa_retrieval"), arrays("lareqa_embeddings.npz")
    expected = record["expected"]
    uids, candidates = expected["question_uids"], expected["candidate_uids"]
    golds = [expected["answers_by_xling_id"][uid.rpartition("_")[0]] for uid in uids]
    index_QK, _ = top_k(found["questions"], found["candidates"], len(candidates))
    ranked = [[candidates[i] for i in row] for row in index_QK]
    value, contributions_N = METRICS["map@20"](ranked, golds)
    assert value == pytest.approx(100 * expected["mAP@20"], rel=FLOAT32)
    wanted = [100 * expected["per_question_ap@20"][uid] for uid in uids]
    np.testing.assert_allclose(contributions_N, wanted, rtol=FLOAT32)
    for name, k in (("mAP@3", 3), ("mAP@1", 1), ("mAP_no_cutoff", None)):
        values = [average_precision(row, gold, k) for row, gold in zip(ranked, golds, strict=True)]
        assert np.mean(values) == pytest.approx(expected[name], rel=FLOAT32)
    languages = np.array([uid.rpartition("_")[2] for uid in uids])
    for language, wanted in expected["mean_ap@20_by_question_language_COMPUTED_HERE"].items():
        assert contributions_N[languages == language].mean() == pytest.approx(100 * wanted, rel=FLOAT32)


def test_average_precision_of_lists(load):
    record = load("average_precision_lists")
    for case, wanted in zip(record["inputs"]["cases"], record["expected"]["ap"], strict=True):
        arguments = case["ranked"], case["targets"], case["k"]
        if isinstance(wanted, str):
            with pytest.raises(DataError, match="right answer"):
                average_precision(*arguments)
        else:
            assert_close(average_precision(*arguments), wanted)


# ---------------------------------------------------------------------------------------------------------------------
# Benchmarks
# ---------------------------------------------------------------------------------------------------------------------

BENCHMARKS = {"xtreme": benchmarks.XTREME, "xtreme-r": benchmarks.XTREME_R}
OFFICIAL = {"em": "exact_match", "mlqa_em": "exact_match", "span_f1": "f1", "mlqa_f1": "f1", "bucc_f1": "f1"}


def official_means(means):
    """What the official script calls them, without xtr's own."""
    own = (benchmarks.WITHOUT_RETRIEVAL, benchmarks.WITHOUT_LAREQA)
    return {"all_task" if name == benchmarks.OVERALL else name: v for name, v in means.items() if name not in own}


@of_kinds("overall_xtreme")
def test_averages_of_random_tables(oracle_name, load):
    record = load(oracle_name)
    inputs, expected = record["inputs"], record["expected"]
    benchmark = BENCHMARKS[oracle_name.removeprefix("overall_")]
    assert dict(benchmark.groups) == {name: tuple(tasks) for name, tasks in inputs["groups"].items()}
    assert set(benchmark.tasks) == set(inputs["languages"])
    scores = {}
    for task, languages in inputs["languages"].items():
        table = inputs["per_task_per_language_metrics"][task]
        own = {
            language: {name: values[OFFICIAL.get(name, name)] for name in benchmarks.SCORES[task]}
            for language, values in table.items()
        }
        scores[task] = benchmarks.task_score(task, own, languages or list(own))
    cases = 0
    for case in expected.values():
        if isinstance(case, dict) and "task_scores" in case and "overall_and_groups" in case:
            tasks = case["task_scores"]
            assert_close({task: scores[task] for task in tasks}, {t: v["avg_metric"] for t, v in tasks.items()})
            means = benchmark.means({task: scores[task] for task in tasks})
            assert_close(official_means(means), case["overall_and_groups"])
            cases += 1
    assert cases >= 2
    if ours := expected.get("COMPUTED_HERE_ten_task_mean"):
        means = benchmark.means(scores)
        assert_close(scores, ours["task_scores"])
        assert_close(means[benchmarks.OVERALL], ours["mean"])
        assert_close(means[benchmarks.WITHOUT_LAREQA], expected["COMPUTED_HERE_nine_task_mean_without_lareqa"])
        rest = ("xnli", "xcopa", "udpos", "panx", "xquad", "mlqa", "tydiqa")
        assert_close(means[benchmarks.WITHOUT_RETRIEVAL], np.mean([scores[task] for task in rest]))


def score_files(task, language, gold, predicted):
    """metric -> value of one label file and one prediction file."""
    if task in ("xquad", "tydiqa", "mlqa"):
        asked = [q for article in json.loads(gold)["data"] for p in article["paragraphs"] for q in p["qas"]]
        answers = json.loads(predicted)
        sides = [answers.get(q["id"]) for q in asked], [[a["text"] for a in q["answers"]] for q in asked]
    elif task in ("udpos", "panx"):
        sides = read_tags(predicted), read_tags(gold)
    elif task == "xcopa":
        sides = [[json.loads(x)["label"] for x in side.strip().split("\n")] for side in (predicted, gold)]
    elif task == "mewslix":
        golds, ranked = json.loads(gold), json.loads(predicted)
        sides = [ranked.get(i) for i in golds], [g[0].strip() for g in golds.values()]
    elif task == "bucc2018":
        pairs = [[line.split("\t") for line in side.strip().split("\n")] for side in (predicted, gold)]
        sources = sorted({source for side in pairs for source, _ in side})
        sides = [[[t for s, t in side if s == source] for source in sources] for side in pairs]
    else:
        sides = [side.strip("\n").split("\n") for side in (predicted, gold)]
    return {name: METRICS[name](*sides, language=language)[0] for name in benchmarks.SCORES[task]}


@of_kinds("folder_xtreme")
def test_folders_of_predictions(oracle_name, load):
    record = load(oracle_name)
    files, expected = record["inputs"]["files"], record["expected"]
    benchmark = BENCHMARKS[oracle_name.removeprefix("folder_")]
    scores = {}
    for task, detail in expected["detailed_scores"].items():
        values = {}
        for path, predicted in files.items():
            if path.startswith(f"predictions/{task}/"):
                language = path.rpartition("test-")[2].partition(".")[0]
                values[language] = score_files(
                    task, language, files[path.replace("predictions/", "labels/")], predicted
                )
        for name in benchmarks.SCORES[task]:
            assert_close({x: v[name] for x, v in values.items()}, detail[OFFICIAL.get(name, name)])
        scores[task] = benchmarks.task_score(task, values, list(detail[OFFICIAL.get(name, name)]))
        assert_close(scores[task], detail["avg_metric"])
    assert_close(official_means(benchmark.means(scores)), expected["overall_and_groups"])
    if ours := expected.get("COMPUTED_HERE"):
        means = benchmark.means(scores | {"lareqa": ours["lareqa_map@20_given"]})
        assert_close(means[benchmarks.OVERALL], ours["ten_task_mean"])
        assert_close(means[benchmarks.WITHOUT_LAREQA], ours["nine_task_mean_without_lareqa"])


# ---------------------------------------------------------------------------------------------------------------------
# mT5's and T5's own
# ---------------------------------------------------------------------------------------------------------------------


def test_mt5s_span_f1(load):
    record = load("metric_mt5_span_f1")
    targets, predictions, expected = record["inputs"]["targets"], record["inputs"]["predictions"], record["expected"]
    assert_close(entity_text_f1(predictions, targets)[0], 100 * expected["span_f1"])
    assert_close(entity_text_f1(targets, targets)[0], 100 * expected["span_f1_perfect"])
    cases = record["inputs"]["corner_cases"]
    for case, wanted in zip(cases, expected["corner_cases"], strict=True):
        assert_close(entity_text_f1([case["prediction"]], [case["target"]])[0], 100 * wanted)
    together = entity_text_f1([case["prediction"] for case in cases], [case["target"] for case in cases])
    assert_close(together[0], 100 * expected["corner_cases_together"])
    assert float(value_of_mean(together[1].mean(axis=0), counts=True)) == pytest.approx(together[0], rel=EXACT)


def test_t5s_labels(load):
    record = load("metric_t5_labels")
    names, golds = record["inputs"]["label_classes"], record["inputs"]["gold_ids"]
    found = {}
    for task, texts in record["inputs"]["decoded_predictions"].items():
        found[task] = [class_id(text, names[task]) for text in texts]
        assert_close(accuracy(found[task], golds[task])[0], record["expected"]["accuracy"][task])
    assert found == record["expected"]["class_ids"]
    value, counts_N3 = f1_with_invalid(found["qqp"], golds["qqp"])
    assert_close(value, record["expected"]["qqp_f1_score_with_invalid"])
    assert float(value_of_mean(counts_N3.sum(axis=0), counts=True)) == pytest.approx(value)


def test_t5s_rank_classification(load):
    record = load("metric_t5_rank_classification")
    for case in record["inputs"]["cases"]:
        arguments = {{"idx_len": "index_length"}.get(name, name): v for name, v in case["kwargs"].items()}
        wanted = record["expected"]["cases"][case["name"]]
        if "error" in wanted:
            with pytest.raises(DataError):
                rank_classification(case["targets"], case["scores"], **arguments)
        else:
            assert_close(rank_classification(case["targets"], case["scores"], **arguments), wanted, rel=1e-6)
