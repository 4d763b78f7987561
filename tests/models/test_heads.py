"""Heads on the states of every family: what they read, shapes, gradients, padding, and their place in a layout."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xtr.errors import UserError
from xtr.evaluate.embedding import layer_vectors
from xtr.models import heads
from xtr.models import spec as spec_lib
from xtr.models.bert import BertConfig
from xtr.models.bloom import BloomConfig
from xtr.models.heads import WithHead
from xtr.models.layers import MASKED
from xtr.models.mt5 import MT5Config

B, S, C = 3, 8, 4

MT5 = MT5Config(64, 16, 2, 8, 24, 2, 1, dtype="float32", remat="none")
XLMR = BertConfig("xlmr", 64, 16, 2, 24, 2, 24, dtype="float32", remat="none")
BODIES = {
    "mt5": MT5,
    "umt5": dataclasses.replace(MT5, relpos_per_layer=True),
    "xlmr": XLMR,
    "xlmr-xl": dataclasses.replace(XLMR, pre_norm=True),
    "mbert": dataclasses.replace(XLMR, kind="mbert", type_vocab_size=2, pooler=True, mlm_head=True),
    "bloom": BloomConfig(64, 16, 2, 2, dtype="float32", remat="none"),
}
QUICK = {"xla_backend_optimization_level": 0}  # compiling is all that these tests cost
jit = functools.partial(jax.jit, compiler_options=QUICK)


def config_of(body, kind, **settings) -> WithHead:
    labels = {"num_labels": C} if kind in ("classify", "tag") else {}
    return WithHead(body, kind, **labels, **settings)


def randomised(config):
    """Parameters with nothing at zero, so that every part shows."""
    flat = spec_lib.flatten(jit(lambda key: spec_lib.init_params(config.param_specs(), key))(jax.random.key(0)))
    rng = np.random.default_rng(1)
    for path, array in flat.items():
        flat[path] = array + jnp.asarray(rng.normal(size=array.shape) * 0.3, jnp.float32)
    return spec_lib.unflatten(flat)


def inputs_of(config, lengths=(8, 5, 1)):
    """(tokens of the given lengths, padded; which are real)."""
    tokens = np.random.default_rng(0).integers(5, config.vocab_size, (B, S))
    real = np.arange(S) < np.array(lengths)[:, None]
    return np.where(real, tokens, config.pad_id).astype(np.int32), real


@functools.partial(jit, static_argnums=0)
def run(config, params, tokens, inputs=None, dropout_key=None):
    return getattr(config.network(params), config.kind)(tokens, dropout_key=dropout_key, **(inputs or {}))


@functools.partial(jit, static_argnums=0)
def layers_of(config, params, tokens):
    """States of all layers of the body."""
    body = {name: tree for name, tree in params.items() if name != "head"}
    return config.encoder().network(body).encode(tokens, all_layers=True)


CASES = [(kind, read) for kind in ("classify", "choose", "tag", "span") for read in ("last", 0, 1, "attention")]


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", BODIES)
def test_shapes_and_gradients(family, every):
    """Shape and dtype; and a gradient in every parameter that is read and in no other.

    Two cases a family, so that every kind and every read comes up three times; or all 16 of each.
    """
    first = list(BODIES).index(family)
    cases = CASES if every else [CASES[5 * first % 16], CASES[(5 * first + 9) % 16]]
    configs = [config_of(BODIES[family], kind, read=read) for kind, read in cases]
    tokens, _ = inputs_of(BODIES[family])
    shapes = {"classify": (B, C), "choose": (B, 2), "tag": (B, S, C), "span": (B, S, 2)}

    def loss(all_params):
        total = 0.0
        for config, params in zip(configs, all_params, strict=True):
            rows = np.stack([tokens, tokens[::-1]], axis=1) if config.kind == "choose" else tokens
            logits = getattr(config.network(params), config.kind)(rows)
            assert (logits.shape, logits.dtype) == (shapes[config.kind], jnp.float32)
            weights = jnp.asarray(np.random.default_rng(2).normal(size=logits.shape))
            total += jnp.sum(jnp.where(logits > MASKED / 2, logits, 0.0) * weights)
        return total

    for config, tree in zip(configs, jit(jax.grad(loss))([randomised(c) for c in configs]), strict=True):
        for path, grad in spec_lib.flatten(tree).items():
            assert np.isfinite(grad).all()
            seen = [np.abs(g).max() > 0 for g in (grad if "layers/" in path else grad[None])]
            if path.startswith(("head/", "token_embedder/")):
                assert all(seen), (config, path)
            elif "layers/" in path:
                expected = [config.read in ("last", "attention") or layer < config.read for layer in range(2)]
                # A bias of all keys moves the scores of a query alike: no gradient but rounding.
                inert = "key/bias" in path or (family == "bloom" and "query_key_value/bias" in path)
                assert inert or seen == expected, (config, path)


@pytest.mark.parametrize("family", ["mt5", "xlmr-xl", "bloom"])
def test_a_read_is_the_layer_it_names(family):
    configs = [config_of(BODIES[family], "tag", read=read) for read in ("last", 0, 1)]
    tokens, real = inputs_of(BODIES[family])
    params = randomised(configs[0])
    out, layers = params["head"]["out"], layers_of(configs[0], params, tokens)
    for config, index in zip(configs, (2, 0, 1), strict=True):
        expected = layers[index] @ out["kernel"] + out["bias"]
        np.testing.assert_allclose(run(config, params, tokens)[real], expected[real], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("family", ["umt5", "xlmr"])
def test_layer_attention_is_its_formula(family):
    config = config_of(BODIES[family], "tag", read="attention")
    params = randomised(config)
    tokens, real = inputs_of(config)
    layers = np.asarray(layers_of(config, params, tokens))
    query, key, value = (np.asarray(params["head"]["layer_attention"][n]["kernel"]) for n in ("query", "key", "value"))
    normed = layers / np.sqrt(np.mean(layers**2, axis=-1, keepdims=True) + 1e-6)
    scores = np.einsum("bsd,lbsd->lbs", normed[-1] @ query, normed @ key) / np.sqrt(config.width)
    shares = np.exp(scores - scores.max(axis=0))
    shares /= shares.sum(axis=0)
    states = layers[-1] + np.einsum("lbs,lbsd->bsd", shares, normed @ value)
    assert shares[:, real].std() > 0.05  # it does choose
    out = params["head"]["out"]
    expected = states @ out["kernel"] + out["bias"]
    np.testing.assert_allclose(run(config, params, tokens)[real], expected[real], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["mt5", "bloom"])
def test_attention_starts_from_the_last_layer(family):
    last, attention = (config_of(BODIES[family], "classify", read=read) for read in ("last", "attention"))
    tokens, _ = inputs_of(last)
    key = jax.random.key(0)
    params = [jit(lambda k, c=c: spec_lib.init_params(c.param_specs(), k))(key) for c in (last, attention)]
    logits = run(last, params[0], tokens), run(attention, params[1], tokens)
    np.testing.assert_allclose(*logits, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("mt5", "classify"),
        ("bloom", "classify"),
        ("xlmr", "choose"),
        ("xlmr", "span"),
        ("mbert", "tag"),
        ("bloom", "embed"),
    ],
)
def test_padding_and_how_it_is_told_change_nothing(family, kind):
    """Longer rows, and segment ids in the place of the padding id, give the same logits."""
    config = config_of(BODIES[family], kind)
    params = randomised(config)
    tokens, real = inputs_of(config)
    longer = np.pad(tokens, ((0, 0), (0, 5)), constant_values=config.pad_id)
    segments = np.pad(real.astype(np.int32), ((0, 0), (0, 5)))
    filled = np.where(segments > 0, longer, 7)  # padding told by the segment ids alone
    axes = "BCS" if kind == "choose" else "BS"
    if kind == "choose":
        tokens, longer, filled, segments = tokens[:, None], longer[:, None], filled[:, None], segments[:, None]
    expected = run(config, params, tokens)
    for rows, ids in ((longer, None), (filled, segments)):
        got = run(config, params, rows, {f"segment_ids_{axes}": ids})
        if kind in ("tag", "span"):
            got = got[:, :S][real]
            np.testing.assert_allclose(got, expected[real], rtol=1e-4, atol=1e-5)
        else:
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "settings"),
    [("mt5", {}), ("bloom", {"pooling": "last", "read": 1}), ("xlmr", {"pooling": "first", "pooler": True})],
)
def test_an_embedding_is_its_formula(family, settings):
    config = config_of(BODIES[family], "embed", **settings)
    params = randomised(config)
    tokens, real = inputs_of(config)
    states = np.asarray(layers_of(config, params, tokens))[1 if "read" in settings else -1]
    lengths = real.sum(axis=1)
    pooled = {
        "mean": (states * real[..., None]).sum(axis=1) / lengths[:, None],
        "last": states[np.arange(B), lengths - 1],
        "first": states[:, 0],
    }[config.pooling]
    if config.pooler:
        dense = params["head"]["dense"]
        pooled = np.tanh(pooled @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"]))
    expected = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    vectors = run(config, params, tokens)
    np.testing.assert_allclose(vectors, expected, rtol=1e-4, atol=1e-5)
    scale = params["head"]["logit_scale"]
    similarities = config.network(params).similarities(vectors, vectors[:2])
    np.testing.assert_allclose(similarities, float(scale[0]) * expected @ expected[:2].T, rtol=1e-4, atol=1e-4)
    fresh = jit(lambda key: spec_lib.init_params(config.param_specs(), key))(jax.random.key(0))
    assert fresh["head"]["logit_scale"].tolist() == [100.0]
    assert set(params["head"]) == ({"logit_scale", "dense"} if config.pooler else {"logit_scale"})


def test_an_embedding_is_what_retrieval_reads():
    """Without a pooler, the cosines of retrieval's vectors, of the body alone, are those that training compared."""
    config = config_of(XLMR, "embed")
    params = randomised(config)
    tokens, _ = inputs_of(config)
    body = {name: tree for name, tree in params.items() if name != "head"}
    vectors = np.array(layer_vectors(config.encoder().network(body), tokens, (-1,))[:, 0])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(run(config, params, tokens), vectors, rtol=1e-5, atol=1e-6)


def test_spans_and_choices_that_do_not_exist_are_masked():
    span, choose = config_of(XLMR, "span"), config_of(XLMR, "choose")
    tokens, real = inputs_of(span)
    logits = np.asarray(run(span, randomised(span), tokens))
    assert (logits[~real] == MASKED).all() and (logits[real] > MASKED).all()
    choices = np.stack([tokens, np.full_like(tokens, choose.pad_id)], axis=1)
    logits = np.asarray(run(choose, randomised(choose), choices))
    assert (logits[:, 1] == MASKED).all() and (logits[:, 0] > MASKED).all()


def test_a_choice_does_not_depend_on_the_others():
    config = config_of(MT5, "choose")
    params = randomised(config)
    tokens, _ = inputs_of(config)
    choices = np.stack([tokens, tokens[::-1]], axis=1)
    together = run(config, params, choices)
    for c in range(2):
        np.testing.assert_allclose(
            run(config, params, choices[:, c : c + 1])[:, 0], together[:, c], rtol=1e-5, atol=1e-6
        )


def test_pooling():
    x = np.arange(24.0, dtype=np.float32).reshape(2, 4, 3)
    real = np.array([[1, 1, 1, 0], [0, 0, 0, 0]], bool)
    np.testing.assert_array_equal(heads.pool(x, real, "first"), x[:, 0])
    np.testing.assert_allclose(heads.pool(x, real, "mean"), [x[0, :3].mean(axis=0), np.zeros(3)])
    np.testing.assert_array_equal(heads.pool(x, real, "last"), [x[0, 2], x[1, 0]])


def test_dropout_of_the_head_follows_the_key():
    body = dataclasses.replace(MT5, dropout_rate=0.3)
    for kind in ("classify", "tag"):
        config = config_of(body, kind)
        params, (tokens, _) = randomised(config), inputs_of(config)
        first, again, other, none = (
            np.asarray(run(config, params, tokens, None, None if k is None else jax.random.key(k)))
            for k in (0, 0, 1, None)
        )
        np.testing.assert_array_equal(first, again)
        assert np.abs(first - other).max() > 1e-3 and np.abs(first - none).max() > 1e-3


def test_a_config_says_what_it_is():
    config = config_of(MT5, "classify")
    assert (config.read, config.pooling) == ("last", "mean")
    assert config.objectives == ("classify",)
    assert (config.family, config.vocabulary_kind, config.pad_id, config.causal) == ("mt5", "t5", 0, False)
    assert (config.width, config.num_layers, config.vocab_size) == (16, 2, 64)
    assert config == config_of(MT5, "classify", read=-1, pooling="mean") == config_of(MT5, "classify", read=2)
    assert config_of(MT5, "classify", read=-3).read == 0
    dual = config_of(BODIES["bloom"], "embed")
    assert (dual.objectives, dual.pooling, dual.pooler) == (("contrastive",), "mean", False)
    specs = config.param_specs()
    assert "decoder" not in specs
    flat = spec_lib.flatten(specs)
    assert {path for path, spec in flat.items() if spec.fresh} == {p for p in flat if p.startswith("head/")} != set()
    assert config.encoder() == MT5.encoder()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "clasify"}, "Did you mean classify"),
        ({"kind": "classify"}, "NUM_LABELS.*at least 2, not None"),
        ({"kind": "tag", "num_labels": True}, "at least 2"),
        ({"kind": "span", "num_labels": 2}, "'span' has no labels"),
        ({"kind": "span", "read": 3}, "from 0 .* to 2"),
        ({"kind": "span", "read": -4}, "-1 to -3"),
        ({"kind": "span", "read": "all"}, "'last' or 'attention'"),
        ({"kind": "span", "pooling": "mean"}, "'span' pools nothing"),
        ({"kind": "choose", "pooling": "max"}, "first, mean, last"),
        ({"kind": "choose", "pooling": "first", "body": BODIES["bloom"]}, "has not seen"),
        ({"kind": "choose", "body": WithHead(MT5, "span")}, "a head already"),
        ({"kind": "choose", "pooler": True}, "for the kind 'embed', not for 'choose'"),
        ({"kind": "embed", "num_labels": 2}, "'embed' has no labels"),
        ({"kind": "embed", "pooling": "first", "body": BODIES["bloom"]}, "has not seen"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(UserError, match=message):
        WithHead(**({"body": MT5} | settings))
