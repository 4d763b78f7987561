"""Heads at evaluation: the same answers for every batch size, bucket and padding, on every family."""

import dataclasses
import itertools
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from xtr.data.cached_task import CachedTask
from xtr.data.framing import longest_first
from xtr.errors import UserError
from xtr.evaluate import engine, heads, retrieval, retrieve
from xtr.evaluate.grading import Grading, grade
from xtr.evaluate.methods import LABEL, Asked, inputs_of
from xtr.evaluate.predictor import Predictor, open_predictor
from xtr.evaluate.run import EvaluateRun
from xtr.models.bert import BertConfig
from xtr.models.bloom import BloomConfig
from xtr.models.heads import WithHead
from xtr.models.mt5 import MT5Config
from xtr.models.multitask import WithHeads
from xtr.models.spec import init_params
from xtr.parallel.mesh import MeshConfig, make_mesh

BERT = dict(vocab_size=60, emb_dim=16, num_heads=2, mlp_dim=32, num_layers=1, dtype="float32")
BODIES = {
    "xlmr": BertConfig("xlmr", max_positions=34, **BERT),
    "mbert": BertConfig("mbert", max_positions=32, type_vocab_size=2, **BERT),
    "bloom": BloomConfig(60, 16, 2, 1, dtype="float32"),
    "mt5": MT5Config(60, 16, 2, 8, 32, 1, 1, dtype="float32"),
}
RNG = np.random.default_rng(0)
LABELS = ["entailment", "neutral", "contradiction"]


def example(number, a, b):
    """A pair of a and b tokens between special ones, the second text of type 1."""
    return {
        "inputs": RNG.integers(6, 60, a + b + 3).astype(np.int32),
        "token_types": np.repeat([0, 1], [a + 2, b + 1]).astype(np.int32),
        "text_spans": np.array([1, 1 + a, a + 2, a + 2 + b], np.int32),
        "meta": {"id": str(number), "choices": LABELS, "label": number % 3},
    }


INFO = {"task": "t", "metrics": ["accuracy"], "language": "en"}
EXAMPLES = [example(i, a, b) for i, (a, b) in enumerate([(3, 2), (20, 4), (1, 1), (9, 9), (0, 5), (4, 14), (12, 2)])]


@pytest.fixture(scope="module", params=BODIES)
def made(request):
    """A family's config with a head, and parameters large enough to tell texts apart."""
    config = WithHead(BODIES[request.param], "classify", 3)
    params = init_params(config.param_specs(), jax.random.key(0))
    return config, params | {"head": jax.tree.map(lambda x: x * 30, params["head"])}


@pytest.fixture(scope="module")
def predictor(made):
    """A function: (buckets, tokens of a batch) -> a predictor on one device."""
    mesh = make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])
    return lambda buckets, tokens: Predictor(*made, None, mesh, buckets, tokens)


def answer(method, predictor, examples, run, length, info, grading=None):
    """The graded records and the values of the metrics."""
    asked = Asked(run, info, length)
    said = method.predict(predictor, examples, asked, lambda n: None)
    records = method.records(predictor.vocabulary, examples, said, asked)
    return records, grade(records, info, grading or Grading())


def scores(predictor, length=32):
    run = EvaluateRun(predictor.config, "c", "xnli", "e", "v")
    records, values = answer(LABEL, predictor, EXAMPLES, run, length, INFO)
    return np.array([record["scores"] for record in records]), records, values


def test_scores_depend_neither_on_batches_nor_on_buckets_nor_on_padding(predictor, made):
    whole, records, values = scores(predictor((32,), 4096))
    deviations = [np.abs(scores(predictor(*how))[0] - whole).max() for how in [((8, 16, 32), 32), ((24, 32), 128)]]
    print(f"{made[0].family}: largest deviation of a log-probability {max(deviations):.1e}")
    assert max(deviations) < 2e-6
    np.testing.assert_allclose(np.exp(whole).sum(axis=1), 1.0, rtol=1e-5)
    assert np.ptp(whole, axis=0).min() > 0.1
    assert [r["prediction"] for r in records] == [LABELS[i] for i in whole.argmax(axis=1)]
    assert [r["gold"] for r in records] == [LABELS[i % 3] for i in range(7)]
    assert values["accuracy"] == pytest.approx(100 * np.mean(whole.argmax(axis=1) == np.arange(7) % 3))


def test_scores_are_the_heads_own(predictor, made):
    config, params = made
    network, (found, *_) = config.network(params), scores(predictor((32,), 4096))
    for example, row in zip(EXAMPLES[:3], found, strict=False):
        tokens, types = (example[name][None] for name in ("inputs", "token_types"))
        expected = jax.nn.log_softmax(jax.jit(lambda t, u: network.classify(t, token_types_BS=u))(tokens, types))[0]
        np.testing.assert_allclose(row, expected, atol=2e-6)


def test_token_types_are_read_where_the_family_has_them(predictor, made):
    whole, *_ = scores(predictor((32,), 4096))
    flat = [dict(e, token_types=np.zeros_like(e["token_types"])) for e in EXAMPLES]
    run = EvaluateRun(made[0], "c", "xnli", "e", "v")
    records, _ = answer(LABEL, predictor((32,), 4096), flat, run, 32, INFO)
    same = np.allclose([r["scores"] for r in records], whole, atol=1e-6)
    assert same == (made[0].family != "mbert")


def test_long_pairs_keep_their_special_tokens(predictor):
    """A cut to 12 tokens is the example of the shorter texts."""
    cut, *_ = scores(predictor((16, 32), 4096), length=12)
    kept = []
    for e in EXAMPLES:
        places = longest_first(e["text_spans"], len(e["inputs"]), 12)
        assert len(places) <= 12 and {0, e["text_spans"][1], len(e["inputs"]) - 1} <= set(places.tolist())
        kept.append({name: e[name][places] for name in ("inputs", "token_types")})
    found = predictor((32,), 4096).classify(
        [e["inputs"] for e in kept], [e["token_types"] for e in kept], lambda n: None
    )
    np.testing.assert_allclose(cut, found, atol=2e-6)


def test_buckets_end_at_the_models_longest_text(monkeypatch):
    config = WithHead(BODIES["xlmr"], "classify", 3)
    run = EvaluateRun(config, "c", "xnli", "e", "v", length_buckets=(8, 64, 128), mesh=MeshConfig())
    origin = type("Origin", (), {"step": 5})
    monkeypatch.setattr("xtr.evaluate.predictor.open_vocabulary", lambda *args: None)
    monkeypatch.setattr("xtr.checkpoints.load.load_params", lambda *args, **options: ({}, origin))
    predictor, step = open_predictor(run, config)
    assert predictor.length_buckets == (8, 32) and step == 5
    shorter = dataclasses.replace(run, task_feature_lengths={"inputs": 24, "targets": 12})
    assert open_predictor(shorter, config)[0].length_buckets == (8, 24)
    plain = dataclasses.replace(run, model=WithHead(BODIES["mt5"], "classify", 3))
    assert open_predictor(plain, plain.model)[0].length_buckets == (8, 64, 128)


# ---------------------------------------------------------------------------------------------------------------------
# Choices, tags, spans, vectors: against a plain computation, a row at a time and without padding
# ---------------------------------------------------------------------------------------------------------------------

# What stands before, between and behind texts.
FRAMES = {"xlmr": ([0], [2, 2], [2]), "mbert": ([2], [3], [3]), "mt5": ([], [1], [1]), "bloom": ([], [], [])}
WAYS = [((32,), 4096), ((8, 16, 32), 32), ((24, 32), 128)]
FAMILIES = ("mbert", "bloom", "mt5")
NEWLINE = 5


def framed(family, first, second=None):
    """A text or a pair with its special tokens, and the types of mBERT."""
    before, between, behind = FRAMES[family]
    tokens = [*before, *first, *behind] if second is None else [*before, *first, *between, *second, *behind]
    second_one = 0 if second is None else len(second) + len(behind)
    return tokens, [0] * (len(tokens) - second_one) + [int(family == "mbert")] * second_one


def vocabulary_of(family):
    return SimpleNamespace(
        with_special_tokens=lambda a, b=None: framed(family, a, b), encode=lambda text: [NEWLINE], eos_id=1
    )


def with_head(family, kind, *labels, **settings):
    """A network with a head, its parameters, and a function: (buckets, tokens of a batch) -> a predictor."""
    config = WithHead(BODIES[family], kind, *labels, **settings)
    params = init_params(config.param_specs(), jax.random.key(0))
    params |= {"head": jax.tree.map(lambda x: x * 30, params["head"])}
    mesh = make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])
    made = lambda how: Predictor(config, params, vocabulary_of(family), mesh, *how)  # noqa: E731
    return config.network(params), EvaluateRun(config, "c", "t", "e", "v"), made


def alone(network, method):
    """A function: a row's tokens and types -> the head's answer to it, the row alone in a batch."""
    compiled = jax.jit(method)

    def answer(tokens, types):
        rows = np.full((1, 32), network.config.pad_id), np.zeros((1, 32), int)
        for row, values in zip(rows, (tokens, types), strict=True):
            row[0, : len(values)] = values
        return np.asarray(compiled(*rows)[0])

    return answer


def answers(method, made, examples, run, length=32, info=INFO):
    """The records in every way of batching."""
    return [answer(method, made(how), examples, run, length, info) for how in WAYS]


def choice_example(family, number, prompt, choices):
    """A question of so many tokens, and so many of each choice."""
    prompt = RNG.integers(6, 60, prompt).tolist()
    pairs = [(prompt, RNG.integers(6, 60, n).tolist()) for n in choices]
    rows, before, between = [framed(family, *pair) for pair in pairs], *map(len, FRAMES[family][:2])
    spans = [[before, before + len(a), before + len(a) + between, before + len(a) + between + len(b)] for a, b in pairs]
    return {
        "inputs": np.concatenate([tokens for tokens, _ in rows]).astype(np.int32),
        "token_types": np.concatenate([types for _, types in rows]).astype(np.int32),
        "choice_lengths": np.array([len(tokens) for tokens, _ in rows], np.int32),
        "text_spans": np.array(spans, np.int32).reshape(-1),
        "meta": {"id": str(number), "choices": [f"choice {c}" for c in range(len(pairs))], "label": number % 2},
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_choices(family):
    network, run, made = with_head(family, "choose")
    shapes = [(3, [2, 5]), (9, [1, 12, 3]), (1, [1, 1, 2, 7]), (14, [4, 3])]
    examples = [choice_example(family, i, *shape) for i, shape in enumerate(shapes)]
    (records, values), *others = answers(heads.CHOOSE, made, examples, run)
    choose = alone(network, lambda t, u: network.choose(t[:, None], token_types_BCS=u[:, None])[:, 0])
    right = 0
    for n, (example, record) in enumerate(zip(examples, records, strict=True)):
        ends = np.cumsum(example["choice_lengths"])
        logits = [
            choose(*text)
            for text in zip(*(np.split(example[x], ends[:-1]) for x in ("inputs", "token_types")), strict=True)
        ]
        expected = np.asarray(jax.nn.log_softmax(np.array(logits)))
        np.testing.assert_allclose(record["scores"], expected, atol=5e-6)
        assert np.ptp(expected) > 1e-4
        assert record["prediction"] == f"choice {expected.argmax()}" and record["gold"] == f"choice {n % 2}"
        right += expected.argmax() == n % 2
        for other, _ in others:
            np.testing.assert_allclose(other[n]["scores"], record["scores"], atol=5e-6)
    assert values == {"accuracy": 25.0 * right}


def test_a_long_choice_is_cut_by_itself():
    _, run, made = with_head("mbert", "choose")
    whole = choice_example("mbert", 0, 9, [2, 15])
    (records, _), *_ = answers(heads.CHOOSE, made, [whole], run, length=16)
    ends = np.cumsum(whole["choice_lengths"])
    kept = [
        start + longest_first(spans, end - start, 16)
        for start, end, spans in zip([0, ends[0]], ends, whole["text_spans"].reshape(2, 4), strict=True)
    ]
    assert [len(places) for places in kept] == [14, 16]
    cut = {name: whole[name][np.concatenate(kept)] for name in ("inputs", "token_types")}
    cut |= {"choice_lengths": np.array([14, 16]), "text_spans": np.zeros(8, int), "meta": whole["meta"]}
    (found, _), *_ = answers(heads.CHOOSE, made, [cut], run)
    np.testing.assert_allclose(records[0]["scores"], found[0]["scores"], atol=5e-6)
    assert [heads.is_cut(made(WAYS[0]), whole, run, length) for length in (25, 26, 27)] == [True, True, False]


TAG_NAMES = ["B-PER", "I-PER", "O"]


@pytest.mark.parametrize("family", FAMILIES)
def test_tags(family):
    """Each word's tag is that at its first sub-token, a causal model's at its last, of the row that the word is in."""
    network, run, made = with_head(family, "tag", 3)
    words = [[1, 2, 1], [3, 3, 2, 1, 1, 2, 3], [], [1] * 30, [20, 2]]
    examples = [
        {
            "inputs": RNG.integers(6, 60, sum(own)).astype(np.int32),
            "word_lengths": np.array(own, np.int32),
            "tags": RNG.integers(0, 3, len(own)).astype(np.int32),
            "meta": {"id": str(number)},
        }
        for number, own in enumerate(words)
    ]
    info = {"metrics": ["span_f1", "token_accuracy"], "language": "en", "label_names": TAG_NAMES}
    (records, values), *others = answers(heads.TAG, made, examples, run, length=16, info=info)
    for other in others:
        assert other == (records, values)
    special, tag = len(framed(family, [])[0]), alone(network, lambda t, u: network.tag(t, token_types_BS=u))
    right, seen = 0, set()
    for example, own, record in zip(examples, words, records, strict=True):
        assert record["gold"] == [TAG_NAMES[t] for t in example["tags"]]
        ends, row, expected = np.cumsum([0, *own]).tolist(), [], []
        texts = [example["inputs"][a:b].tolist() for a, b in itertools.pairwise(ends)]
        if family == "bloom":
            texts = [text[-16:] for text in texts]
        texts = [text[: 16 - special] for text in texts]
        while texts:  # as many whole words as fit
            row = [texts.pop(0)]
            while texts and sum(map(len, row)) + len(texts[0]) + special <= 16:
                row.append(texts.pop(0))
            tokens, types = framed(family, sum(row, []))
            tags = tag(tokens, types).argmax(axis=-1)
            at = len(FRAMES[family][0])
            for text in row:
                expected.append(TAG_NAMES[tags[at + len(text) - 1 if family == "bloom" else at]])
                at += len(text)
        assert record["prediction"] == expected
        right += sum(a == b for a, b in zip(expected, record["gold"], strict=True))
        seen.update(expected)
    assert len(seen) > 1 and set(values) == {"span_f1", "token_accuracy"}
    assert values["token_accuracy"] == pytest.approx(100 * right / sum(map(len, words)))
    cut = [heads.is_cut(made(WAYS[0]), example, run, 16) for example in examples]
    assert cut == [False, False, False, False, True]


def span_example(number, question, context, answerable=True):
    """Every token but the first is of three characters, with one between them."""
    starts = np.arange(context) * 4
    text = "".join(chr(0x1F600 + i % 60) for i in range(4 * context))
    return {
        "question": RNG.integers(6, 60, question).astype(np.int32),
        "inputs": RNG.integers(6, 60, context).astype(np.int32),
        "starts": starts,
        "ends": starts + 3,
        "meta": {
            "id": str(number), "context": text, "answers": [text[:3]] if answerable else [], "answerable": answerable
        },
    }  # fmt: skip


def plain_span(span, family, example, run, length):
    """The best span, its logit and the null one, by loops over windows and spans."""
    question, context = example["question"][: run.max_query_length].tolist(), example["inputs"].tolist()
    joint = [NEWLINE] if family == "bloom" else []
    room = length - len(question) - len(framed(family, [], joint)[0])
    windows, null, start = [], np.inf, 0
    while True:
        tokens, types = framed(family, question + joint, context[start : start + room])
        logits = np.asarray(span(tokens, types)[: len(tokens)], np.float64)
        null = min(null, logits[0].sum())
        offset = len(framed(family, question + joint, [])[0]) - len(FRAMES[family][2])
        windows.append((start, min(start + room, len(context)), logits[offset:]))
        if start + room >= len(context):
            break
        start += min(run.doc_stride, room)

    def context_in(window, i):
        start, end, _ = window
        return min(i - start, end - 1 - i) + 0.01 * (end - start) if start <= i < end else -1

    best = -np.inf, None
    for i in range(len(context)):
        start, end, logits = max(windows, key=lambda window: context_in(window, i))
        for j in range(i, min(i + run.max_answer_length, end)):
            score = logits[i - start, 0] + logits[j - start, 1]
            best = max(best, (score, (i, j)), key=lambda found: found[0])
    return best[1], best[0], null


@pytest.mark.parametrize("family", FAMILIES)
def test_spans(family):
    network, run, made = with_head(family, "span")
    run = dataclasses.replace(run, doc_stride=6, max_query_length=5, n_best=100, max_answer_length=4)
    examples = [span_example(i, *sizes) for i, sizes in enumerate([(3, 5), (7, 12), (4, 40), (1, 19), (2, 1), (0, 26)])]
    info = {"metrics": ["em", "f1"], "language": "en"}
    (records, values), *others = answers(heads.SPAN, made, examples, run, length=20, info=info)
    span = alone(network, lambda t, u: network.span(t, token_types_BS=u))
    for n, (example, record) in enumerate(zip(examples, records, strict=True)):
        (first, last), logit, null = plain_span(span, family, example, run, 20)
        assert record["prediction"] == record["span"] == example["meta"]["context"][4 * first : 4 * last + 3]
        found = record["span_logit"], record["null_logit"]
        np.testing.assert_allclose(found, (logit, null), atol=1e-5)
        for other, same in others:
            assert other[n]["prediction"] == record["prediction"] and same == values
            np.testing.assert_allclose((other[n]["span_logit"], other[n]["null_logit"]), found, atol=1e-5)
    assert len({record["span_logit"] for record in records}) == 6
    cut = [heads.is_cut(made(WAYS[0]), example, run, 20) for example in examples]
    assert cut == [False, True, False, False, False, False]


def test_no_answer_is_for_tasks_that_have_questions_without_one():
    _, run, made = with_head("mbert", "span")
    predictor = made(WAYS[0])
    sizes = [(3, 5), (7, 12), (4, 40), (1, 19)]
    examples = [span_example(i, *size, answerable=i != 2) for i, size in enumerate(sizes)]
    info = {"metrics": ["squad2_em"], "language": "en"}

    def predictions(examples, threshold):
        return answer(heads.SPAN, predictor, examples, run, 20, info, Grading(null_threshold=threshold))

    records, _ = predictions(examples, 1e9)
    assert all(record["prediction"] == record["span"] != "" for record in records)
    differences = [record["null_logit"] - record["span_logit"] for record in records]
    middle = float(np.mean(sorted(differences)[1:3]))
    records, _ = predictions(examples, middle)
    assert [record["prediction"] == "" for record in records] == [d > middle for d in differences]
    records, values = predictions(examples, -1e9)
    assert [record["prediction"] for record in records] == [""] * 4 and values == {"squad2_em": 25.0}
    info = info | {"metrics": ["f1"]}
    records, _ = predictions(examples[:2], -1e9)
    assert [record["prediction"] for record in records] == [record["span"] for record in records]


@pytest.mark.parametrize("settings", [{"pooling": "mean", "pooler": True}, {"pooling": "last", "read": 0}])
def test_a_dual_encoder_retrieves_by_its_own_vectors(settings):
    network, run, made = with_head("mbert", "embed", **settings)

    def text(number, size, gold=None):
        inputs = np.array(framed("mbert", RNG.integers(6, 60, size))[0], np.int32)
        return {"inputs": inputs, "text_spans": np.array([1, 1 + size]), "meta": {"id": str(number), "gold": gold}}

    queries = [text(i, size, "3") for i, size in enumerate([1, 9, 4, 12])]
    candidates = [text(i, size) for i, size in enumerate([5, 2, 13, 7, 20])]
    run = dataclasses.replace(run, task_feature_lengths={"inputs": 10, "targets": 17})

    def retrieved(predictor):
        def side(examples, length):
            vectors = predictor.vectors(inputs_of(predictor, examples, length), lambda n: None)
            return retrieve.Side([example["meta"]["id"] for example in examples], {0: vectors})

        sides = map(side, (queries, candidates), retrieval._lengths(predictor, run))
        return retrieve.nearest(*sides, [example["meta"]["gold"] for example in queries], INFO["metrics"], 0)

    found = [retrieved(made(how)) for how in WAYS]

    embed = alone(network, lambda t, u: network.embed(t, token_types_BS=u))

    def vector(example, length):
        places = longest_first(example["text_spans"], len(example["inputs"]), length)
        return embed(example["inputs"][places], [])

    query_QD, candidate_CD = (np.stack([vector(e, n) for e in side]) for side, n in ((queries, 10), (candidates, 17)))
    cosines = query_QD @ candidate_CD.T
    expected = cosines.argmax(axis=1)
    assert np.diff(np.sort(cosines, axis=1))[:, -1].min() > 1e-5
    for records in found:
        assert [r["prediction"] for r in records] == [str(c) for c in expected]
        assert grade(records, INFO) == {"accuracy": 25.0 * (expected == 3).sum()}


def test_of_several_heads_the_tasks_own_answers():
    config = WithHeads(BODIES["mbert"], {"other": ("tag", 2), "names": ("tag", 3), "choice": "choose"})
    params = init_params(config.param_specs(), jax.random.key(0))
    task = CachedTask("t", 0.0, "/t", {"kind": "tagging", "predictor": "tag", "label_names": TAG_NAMES})
    own = heads.for_task(config, task, "test")
    inputs = RNG.integers(6, 60, (1, 8))
    single = config.head("names"), params | {"head": params["head"]["names"]}
    found = [c.network(p).tag(inputs) for c, p in ((own, params), single)]
    np.testing.assert_array_equal(*found)
    assert found[0].shape == (1, 8, 3) and own.objectives == ("tag",)
    search = dataclasses.replace(task, info={"kind": "retrieval", "predictor": "embed"})
    assert heads.for_task(config, search, "test") is config and heads.for_task(single[0], task, "test") is single[0]
    with pytest.raises(UserError, match="no head for t: add one like {'t': 'span'}"):
        heads.for_task(config, dataclasses.replace(task, info={"kind": "span_qa", "predictor": "span"}), "test")


@pytest.mark.parametrize(
    ("kind", "has", "message"),
    [
        ("classification", ("tag", 3), "t needs a classification head, which this xlmr lacks: give heads/classify.gin"),
        ("multiple_choice", ("classify", 3), "t needs a multiple-choice head, .* heads/choose.gin after the target's"),
        ("tagging", ("span",), "t needs a tagging head, .* heads/tag.gin"),
        ("tagging", ("tag", 2), r"t has 3 tags \(B-PER, I-PER, O\), but the head has 2: set NUM_LABELS=3"),
        ("span_qa", ("choose",), "t needs a span head, .* heads/span.gin"),
    ],
)
def test_a_model_without_the_head(kind, has, message):
    predictor = {"tagging": "tag", "span_qa": "span"}.get(kind, "rank")
    first = {"word_lengths": [1], "inputs": [9], "tags": [0]}
    info = {"kind": kind, "predictor": predictor, "metrics": ["accuracy"], "features": [], "label_names": TAG_NAMES}
    task = SimpleNamespace(name="t", info=info, examples=lambda split: SimpleNamespace(read=lambda numbers: [first]))
    with pytest.raises(UserError, match=message):
        engine.check_can_do(WithHead(BODIES["xlmr"], *has), task, "test")
