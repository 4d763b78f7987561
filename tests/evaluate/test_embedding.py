"""Mean-pooled sentence embeddings."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xtr.errors import UserError
from xtr.evaluate.embedding import mean_pooled
from xtr.models import spec as spec_lib
from xtr.models.mt5 import MT5, MT5Config, param_specs

CONFIG = MT5Config(96, 32, 2, 16, 64, 3, 1, dtype="float32")
TOKENS = np.array([[5, 6, 7, 1, 0, 0], [9, 1, 0, 0, 0, 0], [0] * 6], np.int32)


@pytest.fixture(scope="module")
def model():
    return MT5(CONFIG, jax.jit(lambda key: spec_lib.init_params(param_specs(CONFIG), key))(jax.random.key(0)))


@pytest.fixture(scope="module")
def pooled(model):
    return np.asarray(jax.jit(lambda t: mean_pooled(model, t, "all"))(TOKENS))


def test_every_layer_is_the_mean_over_real_tokens(model, pooled):
    assert pooled.shape == (4, 3, 32) and pooled.dtype == np.float32
    states = np.asarray(model.encode(TOKENS, all_layers=True))
    np.testing.assert_allclose(pooled[:, 0], states[:, 0, :4].mean(axis=1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pooled[:, 1], states[:, 1, :2].mean(axis=1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(pooled[:, 2], np.zeros((4, 32)))


def test_one_layer_is_that_of_all(model, pooled):
    for layer, index in ((None, 3), (-1, 3), (3, 3), (1, 1), (0, 0), (-4, 0)):
        np.testing.assert_allclose(mean_pooled(model, TOKENS, layer), pooled[index], rtol=1e-5, atol=1e-6)


def test_embeddings_do_not_depend_on_batch_or_padding(model, pooled):
    alone = jax.jit(lambda t: mean_pooled(model, t, "all"))(TOKENS[1:2, :2])
    np.testing.assert_allclose(alone[:, 0], pooled[:, 1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layer", [4, -5, "last", True])
def test_a_layer_that_is_not_there(model, layer):
    with pytest.raises(UserError, match="layers 0 .* to 3"):
        mean_pooled(model, TOKENS, layer)


def test_padding_is_the_config_s_own_id():
    class Words:
        """An encoder whose states are its tokens."""

        config = SimpleNamespace(pad_id=3, num_layers=1)

        def encode(self, tokens_BS, **_):
            return jnp.asarray(tokens_BS, jnp.bfloat16)[..., None]

    tokens = np.array([[0, 4, 5, 3], [7, 3, 3, 3], [3, 3, 3, 3]], np.int32)
    np.testing.assert_array_equal(mean_pooled(Words(), tokens)[:, 0], [3.0, 7.0, 0.0])
