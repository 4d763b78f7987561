"""What holds of every metric for any predictions, and of retrieval and mining for any vectors."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from xtr.errors import DataError, UserError
from xtr.evaluate.metrics import METRICS, mining, mlqa, squad2, top_k, value_of_mean
from xtr.evaluate.metrics.rank import rank_classification
from xtr.evaluate.metrics.tags import chunks

ANSWERS = st.text(alphabet="ab the.«的中 الã-", max_size=8)
UPOS = st.sampled_from(["NOUN", "VERB", "SCONJ", "SYM", "INTJ", "X", "PROPN"])
IOB2 = st.sampled_from(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"])
ENTITIES = st.sampled_from(["PER: a", "LOC: b $$ PER: a", "PER: a $$ PER: a", "None", "::", ""])
IDS = st.sampled_from("abcdef")


def pairs(prediction, gold):
    return st.lists(st.tuples(st.none() | prediction, gold), min_size=1, max_size=8)


def tagged(tag):
    return st.lists(st.tuples(tag, tag), min_size=1, max_size=6).map(lambda both: tuple(zip(*both, strict=True)))


def sentences(tag):
    return st.lists(tagged(tag).flatmap(lambda both: st.sampled_from([both, (None, both[1])])), min_size=1, max_size=6)


answers = pairs(ANSWERS, st.lists(ANSWERS, min_size=1, max_size=3))
lists = pairs(st.lists(IDS, max_size=25), IDS | st.lists(IDS, min_size=1, unique=True))
tags = sentences(UPOS) | sentences(IOB2)
EXAMPLES = {
    "accuracy": pairs(IDS, IDS | st.lists(IDS, max_size=3)),
    "em": answers,
    "f1": answers,
    "squad2_em": pairs(ANSWERS, st.lists(ANSWERS, max_size=3)),
    "squad2_f1": pairs(ANSWERS, st.lists(ANSWERS, max_size=3)),
    "mlqa_em": answers,
    "mlqa_f1": answers,
    "span_f1": tags,
    "token_accuracy": tags,
    "map@20": lists,
    "bucc_f1": pairs(IDS | st.lists(IDS), st.none() | IDS | st.lists(IDS)),
    "mt5_span_f1": pairs(
        st.sampled_from(["PER: a", "LOC: b $$ PER: a", "None", "::", ""]), st.just("PER: a $$ PER: a")
    ),
    "f1_with_invalid": pairs(st.integers(-1, 2), st.integers(0, 1)),
}
# An example of MultiCheckList counts with the others of its case: test_checklist_metric.py.
OF_EXAMPLES = [name for name in METRICS if name != "failure_rate"]
COUNTS = {"span_f1", "token_accuracy", "bucc_f1", "mt5_span_f1", "f1_with_invalid"}


@pytest.mark.parametrize("name", OF_EXAMPLES)
@given(data=st.data())
def test_bounds_order_and_what_examples_contribute(name, data):
    examples = data.draw(EXAMPLES[name])
    info = {"language": data.draw(st.sampled_from(mlqa.LANGUAGES)), "no_answer": ""}
    predictions, golds = map(list, zip(*examples, strict=True))
    value, contributions = METRICS[name](predictions, golds, **info)
    counts = name in COUNTS
    assert 0 <= value <= 100 and len(contributions) == len(examples) and contributions.dtype == np.float64
    assert contributions.ndim == 1 + counts and (contributions >= 0).all()
    # The value follows from the mean contribution, also of many resamples at once.
    assert float(value_of_mean(contributions.mean(axis=0), counts)) == pytest.approx(value, abs=1e-8)
    picks_RN = data.draw(st.lists(st.lists(st.integers(0, len(examples) - 1), min_size=1), min_size=1, max_size=3))
    for picks in picks_RN:
        of_picks = METRICS[name]([predictions[n] for n in picks], [golds[n] for n in picks], **info)
        resampled = value_of_mean(contributions[picks].mean(axis=0), counts)
        assert float(resampled) == pytest.approx(of_picks[0], abs=1e-8)
    # An example's contribution does not depend on the others, nor on their order.
    order = data.draw(st.permutations(range(len(examples))))
    shuffled = METRICS[name]([predictions[n] for n in order], [golds[n] for n in order], **info)
    assert shuffled[0] == pytest.approx(value, abs=1e-9)
    np.testing.assert_array_equal(shuffled[1], contributions[order])


@pytest.mark.parametrize("name", OF_EXAMPLES)
@given(data=st.data())
def test_no_prediction_is_never_better_than_one(name, data):
    examples = data.draw(EXAMPLES[name])
    golds = [gold for _, gold in examples]
    info = {"language": "en", "no_answer": ""}
    value, contributions = METRICS[name]([None] * len(golds), golds, **info)
    if name == "f1_with_invalid":  # None is the wrong class, which is no right one
        assert contributions[:, 0].sum() == 0
    else:
        assert value == 0 and (contributions if contributions.ndim == 1 else contributions[:, 0]).sum() == 0
    for predictions in ([None] * (len(golds) + 1), []):
        with pytest.raises(DataError):
            METRICS[name](predictions, golds, **info)


@pytest.mark.parametrize("metric", [metric for metric in METRICS.values() if metric.needs])
def test_what_a_metric_needs_must_be_told(metric):
    with pytest.raises(UserError, match=f"{metric.name} must be told the {metric.needs[0]}"):
        metric(["a"], [["a"]])


@given(ANSWERS, st.sampled_from(mlqa.LANGUAGES))
def test_an_answer_equals_itself(text, language):
    assert METRICS["em"]([text], [[text]])[0] == 100
    assert METRICS["mlqa_em"]([text], [[text]], language=language)[0] == 100
    assert METRICS["squad2_f1"]([text], [[text]], no_answer="")[0] == 100
    normal = mlqa.normalize_answer(text, language)
    assert METRICS["mlqa_f1"]([text], [[text]], language=language)[0] == (100 if normal else 0)


def test_empty_answers_by_version():
    golds = [["x"], ["the"]]
    assert METRICS["em"](["", ""], golds)[1].tolist() == [0, 100]
    assert METRICS["f1"](["", ""], golds)[1].tolist() == [0, 0]
    for name in ("squad2_em", "squad2_f1"):
        assert METRICS[name](["", "", "", "x"], [*golds, [], []], no_answer="")[1].tolist() == [0, 100, 100, 0]
        assert METRICS[name]([None, None], [[], ["x"]], no_answer="")[0] == 0
        texts = ["unanswerable", "Unanswerable.", " unanswerable\n", ""]
        assert METRICS[name](texts, [[]] * 4, no_answer="unanswerable")[1].tolist() == [100, 0, 100, 100]
        assert METRICS[name](["unanswerable"], [["unanswerable"]], no_answer="")[0] == 100


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans(), st.booleans(), st.integers(-3, 3)), min_size=1, max_size=6))
def test_the_best_threshold_of_squad_2_is_that_of_a_search(questions):
    score_N, answerable_N, answered_N, null_N = map(np.array, zip(*questions, strict=True))
    assume(len(set(null_N)) == len(null_N))  # ties are split officially, where a threshold cannot
    score_N = np.where(answerable_N, score_N, 100.0 * ~answered_N)
    best, threshold = squad2.best_threshold(score_N, answerable_N, answered_N, null_N)
    means = [squad2.answers_given_up(score_N, answerable_N, null_N, t).mean() for t in (-np.inf, *null_N)]
    assert best == pytest.approx(max(means))
    assert squad2.answers_given_up(score_N, answerable_N, null_N, threshold).mean() == pytest.approx(best)
    if answerable_N.any():
        assert 0 <= squad2.average_precision(score_N, answerable_N, null_N) <= 100 + 1e-9


@given(st.lists(UPOS, max_size=9))
def test_chunks_of_bare_tags_are_runs_but_for_s(sequence):
    runs, start = set(), 0
    for tag, run in itertools.groupby(sequence):
        length = len(list(run))
        if tag.startswith("S"):
            runs |= {(tag, n, n) for n in range(start, start + length)}
        else:
            runs.add((tag, start, start + length - 1))
        start += length
    assert chunks(sequence) == runs


@given(st.lists(st.tuples(st.sampled_from(["PER", "LOC", ""]), st.integers(1, 3)), max_size=5))
def test_chunks_of_well_formed_iob2_are_its_entities(entities):
    sequence, wanted = [], set()
    for kind, length in entities:
        if kind:
            wanted.add((kind, len(sequence), len(sequence) + length - 1))
        sequence += [f"B-{kind}", *[f"I-{kind}"] * (length - 1)] if kind else ["O"] * length
    assert chunks(sequence) == wanted


VECTORS = st.integers(0, 2**32 - 1).map(np.random.default_rng)


@pytest.mark.parametrize("count", [1, 7, 1024, 2600])
@given(rng=VECTORS, k=st.integers(1, 30))
def test_top_k_is_that_of_a_full_sort(count, rng, k):
    # Few distinct vectors: ties everywhere, within blocks and across them.
    queries = rng.integers(-1, 2, (rng.integers(1, 5), 3)).astype(np.float32)
    candidates = rng.integers(-1, 2, (count, 3)) * rng.choice([1.0, 3.0], (count, 1))
    index_QK, score_QK = top_k(queries, candidates, k)
    length = np.maximum(np.linalg.norm(candidates, axis=1), 1e-30) * np.maximum(
        np.linalg.norm(queries, axis=1, keepdims=True), 1e-30
    )
    cosine_QC = np.round(queries @ candidates.T / length, 9)
    wanted_QK = np.argsort(-cosine_QC, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(index_QK, wanted_QK)
    np.testing.assert_allclose(score_QK, np.take_along_axis(cosine_QC, wanted_QK, axis=1), atol=1e-8)


@given(rng=VECTORS, sizes=st.tuples(st.integers(1, 12), st.integers(1, 12)))
def test_mining_is_one_to_one_and_that_of_the_full_matrix(rng, sizes):
    source_SD, target_TD = (rng.normal(size=(n, 4)) + 0.5 for n in sizes)
    sources, targets, scores = mining.mine(source_SD, target_TD)
    assert len(set(sources)) == len(sources) == len(set(targets)) and (np.diff(scores) <= 0).all()
    unit = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in (source_SD, target_TD)]
    cosine_ST = unit[0] @ unit[1].T
    near_S = np.sort(cosine_ST, axis=1)[:, -4:].mean(axis=1)
    near_T = np.sort(cosine_ST, axis=0)[-4:].mean(axis=0)
    margin_ST = 2 * cosine_ST / (near_S[:, None] + near_T)
    np.testing.assert_allclose(scores, margin_ST[sources, targets], rtol=1e-6)
    backwards = mining.mine(target_TD, source_SD)
    assert set(zip(sources, targets, strict=True)) == set(zip(backwards[1], backwards[0], strict=True))


@given(st.lists(st.tuples(st.floats(0.1, 2), st.booleans()), min_size=1, max_size=12), st.integers(1, 3))
def test_the_best_threshold_of_mining_is_that_of_a_search(found, missed):
    assume(len({score for score, _ in found}) == len(found))
    mined = [(f"s{n}", f"t{n}", score) for n, (score, _) in enumerate(found)]
    gold = {(s, t) for (s, t, _), (_, right) in zip(mined, found, strict=True) if right}
    gold |= {(f"m{n}", f"m{n}") for n in range(missed)}

    def of(threshold):
        taken = {pair[:2] for pair in mined if pair[2] >= threshold}
        return 200 * len(taken & gold) / (len(taken) + len(gold))

    threshold, best = mining.best_threshold(mined, gold)
    assert best == pytest.approx(max(of(score) for *_, score in mined))
    assert best == 0 or of(threshold) == pytest.approx(best)


def test_repeated_texts_are_mined_once_and_dropped():
    vectors = np.eye(4)
    texts = ["a", "b", "a", "c"]
    pairs_ = mining.mine_pairs(list("0123"), texts, vectors, list("wxyz"), list("WXYZ"), vectors)
    assert {pair[:2] for pair in pairs_} == {("1", "x"), ("3", "z")}
    with pytest.raises(DataError, match="4 ids, 4 texts and 3 vectors"):
        mining.mine_pairs(list("0123"), texts, vectors[:3], list("wxyz"), list("WXYZ"), vectors)
    with pytest.raises(DataError, match="there are none"):
        mining.best_threshold(pairs_, [])
    assert mining.best_threshold(pairs_, [("9", "9")]) == (0, 0)


@given(
    st.lists(st.tuples(st.sampled_from([-2.0, 0.0, 0.5]), st.booleans(), st.floats(0.5, 2)), min_size=2, max_size=9),
    st.randoms(use_true_random=False),
)
def test_rank_classification_of_two_classes(rows, random):
    choices = [((n, c), right == bool(c), weight) for n, (_, right, weight) in enumerate(rows) for c in (0, 1)]
    scores = [value for score, *_ in rows for value in (0.0, score)]
    order = random.sample(range(len(choices)), len(choices))
    found = rank_classification([choices[i] for i in order], [scores[i] for i in order], 2)
    total = sum(weight for *_, weight in rows)
    assert found["accuracy"] == pytest.approx(sum(100 * w / total for s, right, w in rows if (s > 0) == right))
    positive, negative = ([(s, w) for s, right, w in rows if right is side] for side in (True, False))
    if not positive or not negative:
        assert np.isnan(found["auc-roc"])
        return
    # The chance that a positive is above a negative.
    above = sum(w * v * ((s > t) + 0.5 * (s == t)) for s, w in positive for t, v in negative)
    weights = [sum(w for _, w in side) for side in (positive, negative)]
    assert found["auc-roc"] == pytest.approx(100 * above / weights[0] / weights[1])
    # The precision where each positive is found.
    precisions = [w * sum(v for t, v in positive if t >= s) / sum(v for t, _, v in rows if t >= s) for s, w in positive]
    assert found["auc-pr"] == pytest.approx(100 * sum(precisions) / weights[0])
