"""Sentence embeddings: any layer, any pooling, every family."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xtr.errors import UserError
from xtr.evaluate.embedding import check_readout, layer_vectors
from xtr.evaluate.predictor import Predictor
from xtr.models import spec as spec_lib
from xtr.models.bert import BertConfig
from xtr.models.bloom import BloomConfig
from xtr.models.heads import POOLINGS
from xtr.models.mt5 import MT5Config
from xtr.parallel.mesh import MeshConfig, make_mesh

BERT = dict(vocab_size=60, emb_dim=16, num_heads=2, mlp_dim=32, num_layers=3, dtype="float32")
CONFIGS = {
    "xlmr": BertConfig("xlmr", max_positions=34, **BERT),
    "mbert": BertConfig("mbert", max_positions=32, type_vocab_size=2, **BERT),
    "bloom": BloomConfig(60, 16, 2, 3, dtype="float32"),
    "mt5": MT5Config(60, 16, 2, 8, 32, 3, 1, dtype="float32"),
}
RNG = np.random.default_rng(0)
TEXTS = [RNG.integers(6, 60, n).astype(np.int32) for n in (4, 1, 12, 4, 12, 1)]


@pytest.fixture(scope="module", params=CONFIGS)
def made(request):
    config = CONFIGS[request.param].encoder()
    return config, jax.jit(lambda key: spec_lib.init_params(config.param_specs(), key))(jax.random.key(0))


@pytest.fixture(scope="module")
def predictor(made):
    """A function: (buckets, tokens of a batch) -> a predictor on one device."""
    mesh = make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])
    return lambda buckets, tokens: Predictor(*made, None, mesh, buckets, tokens)


def poolings(config):
    return [pooling for pooling in POOLINGS if pooling != "first" or not config.causal]


def no_progress(done):
    assert done > 0


def test_every_layer_is_pooled_from_its_states(made, predictor):
    """Of each text by itself and without padding; in one pass and in batches, with every layer or some."""
    config, params = made
    network = config.network(params)
    alone = jax.jit(lambda t: network.encode(t, all_layers=True))
    states = [np.asarray(alone(text[None]))[:, 0] for text in TEXTS]
    plain = {"mean": lambda x: x.mean(axis=1), "first": lambda x: x[:, 0], "last": lambda x: x[:, -1]}
    expected = {name: np.stack([pooled(x) for x in states], axis=1) for name, pooled in plain.items()}
    assert expected["mean"].shape == (4, 6, 16)

    def check(found, pooling, layers=slice(None)):
        np.testing.assert_allclose(found, expected[pooling][layers], rtol=1e-5, atol=2e-6)

    for pooling in poolings(config):
        check(predictor((16,), 4096).embed(TEXTS, no_progress, pooling=pooling), pooling)
    check(predictor((4, 16), 16).embed(TEXTS, no_progress), "mean")
    check(predictor((16,), 4096).embed(TEXTS, no_progress, (-1,), "last"), "last", [-1])
    found = predictor((16,), 4096).embed(TEXTS, no_progress, (0, -2))
    assert found.dtype == np.float32
    check(found, "mean", [0, -2])


def test_a_row_of_padding_has_the_mean_zero(made):
    config, params = made
    tokens = np.full((2, 4), config.pad_id, np.int32)
    tokens[0, :2] = 9
    found = jax.jit(lambda t: layer_vectors(config.network(params), t))(tokens)
    np.testing.assert_array_equal(found[1], np.zeros((4, 16)))
    assert np.abs(found[0]).min(axis=1).max() > 0


@pytest.mark.parametrize("layer", [4, -5, "last", True])
def test_a_layer_that_is_not_there(layer):
    with pytest.raises(UserError, match="layers 0 .* to 3"):
        check_readout(CONFIGS["mt5"], (0, layer), "mean")


def test_a_pooling_that_is_not_there():
    with pytest.raises(UserError, match=r"one of first, mean, last \('first' is .*\[CLS\].*, not 'cls'"):
        check_readout(CONFIGS["xlmr"], "all", "cls")
    with pytest.raises(UserError, match="first token of a bloom has not seen the text"):
        check_readout(CONFIGS["bloom"], "all", "first")
    check_readout(CONFIGS["mt5"], "all", "first")


def test_padding_is_the_config_s_own_id():
    class Words:
        """An encoder whose states are its tokens."""

        config = SimpleNamespace(pad_id=3, num_layers=1, causal=False)

        def encode(self, tokens_BS, **_):
            return jnp.asarray(tokens_BS, jnp.bfloat16)[..., None]

    tokens = np.array([[0, 4, 5, 3], [7, 3, 3, 3], [3, 3, 3, 3]], np.int32)
    np.testing.assert_array_equal(layer_vectors(Words(), tokens, (-1,))[:, 0, 0], [3.0, 7.0, 0.0])
    np.testing.assert_array_equal(layer_vectors(Words(), tokens, (1,), "first")[:2, 0, 0], [0.0, 7.0])
    np.testing.assert_array_equal(layer_vectors(Words(), tokens, (1, -1), "last")[:2, :, 0], [[5.0] * 2, [7.0] * 2])
