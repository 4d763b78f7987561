"""Classification heads at evaluation: the same scores for every batch size, bucket and padding, on every family."""

import dataclasses

import jax
import numpy as np
import pytest

from xtr.data.framing import longest_first
from xtr.evaluate import engine
from xtr.evaluate.predictor import Predictor, open_predictor
from xtr.evaluate.run import EvaluateRun
from xtr.models.bert import BertConfig
from xtr.models.bloom import BloomConfig
from xtr.models.heads import WithHead
from xtr.models.mt5 import MT5Config
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


INFO = {"metrics": ["accuracy"], "language": "en"}
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


def scores(predictor, length=32):
    run = EvaluateRun(predictor.config, "c", "xnli", "e", "v")
    records, values = engine.classify(predictor, EXAMPLES, run, length, INFO, lambda n: None)
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
    records, _ = engine.classify(predictor((32,), 4096), flat, run, 32, INFO, lambda n: None)
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
    plain = dataclasses.replace(run, model=WithHead(BODIES["mt5"], "classify", 3))
    assert open_predictor(plain, plain.model)[0].length_buckets == (8, 64, 128)
