"""XLM-R and mBERT against themselves: packing, padding, remat, dropout, sharding, compute dtypes, refusals."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xtr import config as gin_config
from xtr.errors import UserError
from xtr.models import spec as spec_lib
from xtr.models.bert import BertConfig
from xtr.parallel.mesh import MeshConfig, make_mesh
from xtr.parallel.sharding import OnMesh, global_batch, tree_shardings

SIZES = {"vocab_size": 96, "emb_dim": 32, "num_heads": 2, "mlp_dim": 64, "num_layers": 3, "max_positions": 34}
CONFIGS = {
    "xlmr": BertConfig("xlmr", **SIZES, dtype="float32", remat="none", mlm_head=True),
    "xlmr-xl": BertConfig("xlmr", **SIZES, pre_norm=True, dtype="float32", remat="none", mlm_head=True),
    "mbert": BertConfig(
        "mbert",
        **SIZES,
        type_vocab_size=2,
        norm_epsilon=1e-12,
        dtype="float32",
        remat="none",
        pooler=True,
        mlm_head=True,
    ),
}
BOTH_NORMS = ["xlmr-xl", "mbert"]  # what is slow to compile is tried on one network of each kind of layer
RNG = np.random.default_rng(0)
EXAMPLES = [RNG.integers(5, 96, n) for n in (5, 9, 14)]


@functools.cache
def params_of(name: str):
    """Parameters five times as spread as fresh ones, so that attention is not uniform, and biases that are not 0."""
    specs = CONFIGS[name].param_specs()
    fresh = jax.jit(lambda key: spec_lib.init_params(specs, key))(jax.random.key(0))
    noise = spec_lib.map_specs(lambda s: 0.1 * np.random.default_rng(len(s.hf)).standard_normal(s.shape), specs)
    return jax.tree.map(lambda p, n: (p + n).astype(jnp.float32), fresh, noise)


def types_of(example: np.ndarray) -> np.ndarray:
    return (np.arange(len(example)) >= len(example) // 2).astype(np.int32)


def rows_of(config: BertConfig, examples, length: int) -> dict[str, np.ndarray]:
    """One example a row, padded on the right."""
    tokens = np.full((len(examples), length), config.pad_id)
    types = np.zeros_like(tokens)
    for i, example in enumerate(examples):
        tokens[i, : len(example)], types[i, : len(example)] = example, types_of(example)
    return {"tokens_BS": tokens, "token_types_BS": types}


def packed_row(config: BertConfig, examples, padding: int) -> dict[str, np.ndarray]:
    """All examples in one row, and padding."""

    def row(parts, fill):
        return np.concatenate([*parts, np.full(padding, fill)])[None]

    return {
        "tokens_BS": row(examples, config.pad_id),
        "segment_ids_BS": row([np.full(len(e), i + 1) for i, e in enumerate(examples)], 0),
        "positions_BS": row([np.arange(len(e)) for e in examples], 0),
        "token_types_BS": row([types_of(e) for e in examples], 0),
    }


@functools.partial(jax.jit, static_argnums=(0, 4))
def run(config: BertConfig, params, batch, dropout_key=None, constrain=None) -> jax.Array:
    return config.network(params, constrain).encode(**batch, dropout_key=dropout_key)


@pytest.mark.parametrize("name", CONFIGS)
def test_packed_examples_do_not_see_each_other(name):
    config, params = CONFIGS[name], params_of(name)
    examples = [*EXAMPLES, EXAMPLES[0]]  # 33 tokens and 7 of padding: more than the 32 (mBERT: 34) of one example
    packed, start = run(config, params, packed_row(config, examples, 7))[0], 0
    assert np.all(np.isfinite(packed))
    alone = run(config, params, rows_of(config, EXAMPLES, 16))
    for row, example in zip([*alone, alone[0]], examples, strict=True):
        np.testing.assert_allclose(packed[start : start + len(example)], row[: len(example)], rtol=1e-5, atol=1e-5)
        start += len(example)


@pytest.mark.parametrize("name", CONFIGS)
def test_batch_and_padding_change_nothing(name):
    config, params = CONFIGS[name], params_of(name)
    together = run(config, params, rows_of(config, EXAMPLES, 16))
    for i in (0, 2):
        alone = run(config, params, rows_of(config, [EXAMPLES[i]], len(EXAMPLES[i])))[0]
        np.testing.assert_allclose(together[i, : len(EXAMPLES[i])], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", BOTH_NORMS)
def test_positions_and_types_matter(name):
    config, params, batch = CONFIGS[name], params_of(name), rows_of(CONFIGS[name], EXAMPLES, 16)
    counted, real = run(config, params, batch), batch["tokens_BS"] != config.pad_id

    def states(positions_BS, types_BS=batch["token_types_BS"]):
        return run(config, params, batch | {"positions_BS": positions_BS, "token_types_BS": types_BS})

    positions_BS = np.tile(np.arange(16), (3, 1))
    np.testing.assert_allclose(states(positions_BS), counted, atol=1e-6)
    assert not np.allclose(states(positions_BS[:, ::-1]), counted, atol=1e-2)
    untyped = np.allclose(states(positions_BS, 0 * positions_BS)[real], counted[real], atol=1e-2)
    assert untyped == (config.type_vocab_size == 1)
    # A position outside the table is a fault of the caller's; it must not pass for another.
    assert np.all(np.isnan(states(positions_BS + config.max_length)[real]))


def mlm_gradient(config: BertConfig, params, batch, key=None, constrain=None):
    """Loss and gradient of predicting each token from its neighbours' states, with the pooler in it where there is
    one."""

    def loss(params):
        model = config.network(params, constrain)
        x_BSD = model.encode(**batch, dropout_key=key)
        log_probs = jax.nn.log_softmax(model.logits(model.mlm_states(x_BSD)))
        total = -jnp.take_along_axis(log_probs, batch["tokens_BS"][..., None], axis=-1).mean()
        return total + (jnp.square(model.pooled(x_BSD)).mean() if config.pooler else 0.0)

    return jax.value_and_grad(loss)(params)


def assert_same_gradients(one, other, tolerance: float) -> float:
    """Largest deviation of any array, relative to the largest value of it or (for keys' biases, 0 but for rounding)
    1."""
    deviations = jax.tree.map(lambda a, b: np.abs(a - b).max() / max(np.abs(a).max(), 1e-3), one, other)
    worst = max(jax.tree.leaves(deviations))
    assert worst < tolerance, deviations
    return float(worst)


def test_remat_changes_no_gradient():
    name = "mbert"
    batch, key = rows_of(CONFIGS[name], EXAMPLES, 16), jax.random.key(1)

    def gradient(remat):
        config = dataclasses.replace(CONFIGS[name], dropout_rate=0.1, remat=remat)
        return jax.jit(functools.partial(mlm_gradient, config, batch=batch, key=key))(params_of(name))[1]

    none = gradient("none")
    for remat in ("full", "minimal"):
        print(f"{name}, {remat}: {assert_same_gradients(none, gradient(remat), 1e-5):.1e}")


@pytest.mark.parametrize("name", ["mbert", pytest.param("xlmr-xl", marks=pytest.mark.slow)])
def test_sharded_on_eight_devices_equals_one(name):
    config, params = CONFIGS[name], params_of(name)
    batch = rows_of(config, [*EXAMPLES, EXAMPLES[1]], 16)
    alone = jax.jit(functools.partial(mlm_gradient, config))(params, batch)
    mesh = make_mesh(MeshConfig(replica=2, fsdp=2, tensor=2))
    gradient = jax.jit(functools.partial(mlm_gradient, config, constrain=OnMesh(mesh)))
    placed = jax.device_put(params, tree_shardings(config.param_specs(), mesh))
    sharded = gradient(placed, global_batch(batch, mesh))
    assert len(sharded[1]["layers"]["mlp"]["wi"]["kernel"].sharding.device_set) == 8
    np.testing.assert_allclose(sharded[0], alone[0], rtol=1e-5)
    worst = assert_same_gradients(alone[1], jax.device_get(sharded[1]), 1e-5)
    print(f"{name}: largest deviation of gradients on 8 devices {worst:.1e}")


@pytest.mark.parametrize("name", BOTH_NORMS)
def test_bfloat16_stays_near_float32_with_f32_logits(name):
    config = dataclasses.replace(CONFIGS[name], dtype="bfloat16")
    batch = rows_of(config, EXAMPLES, 16)
    model = config.network(params_of(name))
    x_BSD = run(config, params_of(name), batch)
    y_BSD = model.mlm_states(x_BSD)
    assert x_BSD.dtype == y_BSD.dtype == jnp.bfloat16
    assert model.head().dtype == model.head_bias().dtype == model.logits(y_BSD).dtype == jnp.float32
    np.testing.assert_allclose(model.logits(y_BSD), y_BSD.astype(jnp.float32) @ model.head() + model.head_bias(), 1e-5)
    exact = run(CONFIGS[name], params_of(name), batch)
    real = batch["tokens_BS"] != config.pad_id
    deviation = np.abs(np.asarray(x_BSD, np.float32) - exact)[real].max() / np.abs(exact)[real].max()
    print(f"{name}: largest deviation of bf16 {deviation:.1e}")
    assert deviation < 0.05


@pytest.mark.parametrize("name", BOTH_NORMS)
def test_dropout_needs_a_key_and_follows_it(name):
    plain, params = CONFIGS[name], params_of(name)
    config, batch = dataclasses.replace(plain, dropout_rate=0.1), rows_of(CONFIGS[name], EXAMPLES, 16)
    np.testing.assert_array_equal(run(config, params, batch), run(plain, params, batch))
    one, again, other = (run(config, params, batch, jax.random.key(k)) for k in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other)
    assert not np.allclose(one, run(plain, params, batch))


class Bare:
    """A pre-norm layer of zeros, with dropout of a half; what is added to its arrays comes out by a mask alone."""

    config = dataclasses.replace(CONFIGS["xlmr-xl"], dropout_rate=0.5, num_layers=1, mlm_head=False)

    def __init__(self):
        self.flat = {path: jnp.zeros(s.shape) for path, s in spec_lib.flatten(self.config.param_specs()).items()}

    def set(self, path: str, value) -> "Bare":
        self.flat[path] += value
        return self

    def states(self) -> np.ndarray:
        return np.asarray(self._states(self.flat))

    @staticmethod
    @jax.jit
    def _states(flat) -> jax.Array:
        model = Bare.config.network(spec_lib.unflatten(flat))
        model.outer_norm = lambda x_BSD: x_BSD
        return model.encode(np.full((4, 30), 7), dropout_key=jax.random.key(0))


def test_dropout_falls_on_each_element_of_embeddings_and_sublayers():
    paths = ["token_embedder/embedding", "layers/attention/out/bias", "layers/mlp/wo/bias"]
    masks = [Bare().set(path, 1.0).states() for path in paths]
    for mask in masks:
        assert set(np.unique(mask)) == {0.0, 2.0}
        assert mask.mean() == pytest.approx(1.0, abs=0.1)
        assert all(not np.array_equal(mask[0, 0], other) for other in (mask[0, 1], mask[1, 0]))
    assert not np.array_equal(masks[0], masks[1]) and not np.array_equal(masks[1], masks[2])
    both = Bare().set(paths[1], 1.0).set(paths[2], 1.0).states()
    np.testing.assert_array_equal(both, masks[1] + masks[2])


def test_dropout_falls_on_each_attention_probability():
    # Values of 1 at each of 30 keys, of equal probability: what comes out is the kept share, doubled, one for each
    # query and head (of 16 numbers), and doubled or dropped once more by the sublayer's own mask.
    bare = Bare().set("layers/attention/value/bias", 1.0).set("layers/attention/out/kernel", jnp.eye(32))
    shares = bare.states().reshape(4, 30, 2, 16) / 2
    per_head = shares.max(axis=-1)
    np.testing.assert_allclose(shares, np.where(shares == 0, 0, per_head[..., None]), rtol=1e-5)
    kept = per_head * 30 / 2
    np.testing.assert_allclose(kept, np.round(kept), atol=1e-4)
    assert per_head.mean() == pytest.approx(1.0, abs=0.05) and len(np.unique(np.round(kept))) > 5


@pytest.mark.parametrize("name", BOTH_NORMS)
def test_readout_and_layers(name):
    config, batch = CONFIGS[name], rows_of(CONFIGS[name], EXAMPLES, 16)
    model = config.network(params_of(name))
    layers = model.encode(**batch, all_layers=True)
    assert layers.shape == (config.num_layers + 1, 3, 16, 32)
    means = model.encode(**batch, all_layers=True, readout=lambda x_BSD: x_BSD.mean(axis=1))
    np.testing.assert_allclose(means, layers.mean(axis=2), rtol=1e-5, atol=1e-6)


def test_the_encoder_alone_has_neither_pooler_nor_head():
    config, params, batch = CONFIGS["mbert"], params_of("mbert"), rows_of(CONFIGS["mbert"], EXAMPLES, 16)
    assert not {"pooler", "mlm_head"} & set(config.encoder().param_specs())
    assert config.objectives == ("mlm",) and config.encoder().objectives == ()
    np.testing.assert_array_equal(run(config.encoder(), params, batch), run(config, params, batch))


@pytest.mark.parametrize("name", CONFIGS)
def test_too_long_rows_are_refused_with_the_limit(name):
    config = CONFIGS[name]
    limit = {"xlmr": 32, "xlmr-xl": 32, "mbert": 34}[name]
    assert config.max_length == limit
    model = config.network(params_of(name))
    assert jax.eval_shape(model.encode, jax.ShapeDtypeStruct((1, limit), jnp.int32)).shape == (1, limit, 32)
    with pytest.raises(UserError, match=f"Rows of {limit + 1} tokens.* positions for {limit}"):
        jax.eval_shape(model.encode, jax.ShapeDtypeStruct((1, limit + 1), jnp.int32))


def test_a_part_that_is_not_there_says_how_to_get_it():
    model = dataclasses.replace(CONFIGS["xlmr"], mlm_head=False).network(params_of("xlmr"))
    with pytest.raises(UserError, match="set bert.BertConfig.pooler = True"):
        model.pooled(jnp.zeros((1, 4, 32)))
    for use in (model.head, model.head_bias, lambda: model.mlm_states(jnp.zeros((1, 4, 32)))):
        with pytest.raises(UserError, match="set bert.BertConfig.mlm_head = True"):
            use()


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"kind": "xlm"}, "kind must be one of xlmr, mbert.*Did you mean xlmr"),
        ({"num_layers": 0}, "num_layers must be a whole number of at least 1"),
        ({"emb_dim": 30.0}, "emb_dim must be a whole number"),
        ({"max_positions": 2}, "max_positions must be a whole number of at least 3"),
        ({"num_heads": 5}, "emb_dim must be a multiple of num_heads"),
        ({"type_vocab_size": 3}, "type_vocab_size must be 1 or 2"),
        ({"norm_epsilon": 0.0}, "norm_epsilon must lie between 0 and 1"),
        ({"pre_norm": 1}, "pre_norm must be True or False"),
        ({"kind": "mbert", "pre_norm": True}, "with kind 'mbert' it must be False"),
        ({"pooler": True}, "no XLM-R has both"),
        ({"dropout_rate": 1.0}, "dropout_rate must lie in"),
        ({"remat": "ful"}, "Did you mean full"),
    ],
)
def test_impossible_values_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(CONFIGS["xlmr"], **changes)


@pytest.mark.parametrize("family", ["xlmr", "mbert"])
def test_micro_gin(family):
    files = [f"models/{family}/micro.gin", "runs/finetune.gin", "targets/xnli.gin"]
    gin_config.load(files, ["MODEL_DIR=/run", "VOCABULARY_PATH=/v", "VOCAB_SIZE=500"], entry="train")
    model = gin_config.build_macro("MODEL")
    assert (model.family, model.width, model.num_layers, model.dtype) == (family, 64, 2, "float32")
    assert (model.vocabulary_kind, model.pad_id) == {"xlmr": ("xlmr", 1), "mbert": ("wordpiece", 0)}[family]
