"""Specs: exact parameter counts, initialisation, and the layouts that follow from them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xtr.errors import UserError
from xtr.models import spec as spec_lib
from xtr.models.mt5 import MT5Config, param_specs

# emb, heads, layers of each stack, mlp, parameters: the published mT5 (vocabulary 250112, head size 64).
SIZES = {
    "small": (512, 6, 8, 1024, 300_176_768),
    "base": (768, 12, 12, 2048, 582_401_280),
    "large": (1024, 16, 24, 2816, 1_229_581_312),
    "xl": (2048, 32, 24, 5120, 3_742_619_648),
    "xxl": (4096, 64, 24, 10240, 12_921_057_280),
}
MICRO = MT5Config(384, 64, 4, 16, 128, 2, 3, dtype="float32")


def published(name: str) -> MT5Config:
    emb, heads, layers, mlp, _ = SIZES[name]
    return MT5Config(250112, emb, heads, 64, mlp, layers, layers)


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes_have_exactly_their_parameters(name):
    assert spec_lib.count(param_specs(published(name))) == SIZES[name][-1]


def test_small_has_the_190_arrays_of_its_t5x_checkpoint():
    specs = param_specs(published("small"))
    arrays = spec_lib.to_layers(specs, spec_lib.map_specs(lambda s: np.broadcast_to(np.float32(0), s.shape), specs))
    assert len(arrays) == 190
    assert arrays["encoder.layers_7.attention.query.kernel"].shape == (512, 384)
    assert arrays["decoder.layers_0.encoder_decoder_attention.out.kernel"].shape == (384, 512)
    assert arrays["decoder.logits_dense.kernel"].shape == (512, 250112)
    assert arrays["encoder.relpos_bias.rel_embedding"].shape == (6, 32)


def test_specs_of_equal_configs_are_equal():
    assert param_specs(MICRO) == param_specs(MT5Config(384, 64, 4, 16, 128, 2, 3, dtype="float32"))


def test_abstract_and_map_follow_the_tree():
    specs = param_specs(MICRO)
    abstract = spec_lib.abstract(specs)
    assert abstract["encoder"]["layers"]["mlp"]["wi_0"]["kernel"] == jax.ShapeDtypeStruct((2, 64, 128), jnp.float32)
    axes = spec_lib.map_specs(lambda s, a: s.axes[: a.ndim], specs, abstract)
    assert axes["decoder"]["layers"]["mlp"]["wo"]["kernel"] == ("layers", "mlp", "embed")


def test_initialisers_have_t5x_scales():
    specs = param_specs(MT5Config(1024, 256, 8, 32, 512, 3, 3))
    params = jax.jit(lambda key: spec_lib.init_params(specs, key))(jax.random.key(0))
    layers = params["encoder"]["layers"]
    expected = {
        "embedding": (params["token_embedder"]["embedding"], 1.0),
        "query": (layers["attention"]["query"]["kernel"], 1 / np.sqrt(256 * 32)),
        "key": (layers["attention"]["key"]["kernel"], 1 / np.sqrt(256)),
        "wi_0": (layers["mlp"]["wi_0"]["kernel"], 1 / np.sqrt(256)),
        "wo": (layers["mlp"]["wo"]["kernel"], 1 / np.sqrt(512)),
        "head": (params["decoder"]["logits_dense"]["kernel"], 1 / np.sqrt(256)),
        # fan_avg over heads and buckets
        "relpos": (params["encoder"]["relpos_bias"]["rel_embedding"], 1 / np.sqrt((8 + 32) / 2)),
    }
    for name, (array, std) in expected.items():
        assert np.std(array) == pytest.approx(std, rel=0.1 if name == "relpos" else 0.02), name
        assert abs(np.mean(array)) < 0.15 * std, name
    # The truncated normal ends at two deviations of the untruncated one; the attention's normal does not end.
    assert np.abs(layers["mlp"]["wi_0"]["kernel"]).max() < 2.3 / np.sqrt(256)
    assert np.abs(layers["attention"]["key"]["kernel"]).max() > 3.0 / np.sqrt(256)
    assert np.abs(params["encoder"]["relpos_bias"]["rel_embedding"]).max() <= np.sqrt(3 / 20)
    assert np.all(params["decoder"]["decoder_norm"]["scale"] == 1.0)
    assert not np.allclose(layers["mlp"]["wi_0"]["kernel"][0], layers["mlp"]["wi_0"]["kernel"][1])


def test_a_parameter_is_drawn_by_its_own_path():
    specs = param_specs(MICRO)
    key = jax.random.key(3)
    all_of_them = spec_lib.init_params(specs, key)
    one = spec_lib.init_params({"token_embedder": specs["token_embedder"]}, key)
    np.testing.assert_array_equal(one["token_embedder"]["embedding"], all_of_them["token_embedder"]["embedding"])


def test_layers_round_trip():
    specs = param_specs(MICRO)
    params = jax.tree.map(np.asarray, spec_lib.init_params(specs, jax.random.key(0)))
    arrays = spec_lib.to_layers(specs, params)
    np.testing.assert_array_equal(
        arrays["decoder.layers_2.mlp.wo.kernel"], params["decoder"]["layers"]["mlp"]["wo"]["kernel"][2]
    )
    back = spec_lib.from_layers(specs, arrays)
    jax.tree.map(np.testing.assert_array_equal, back, params)
    assert all(isinstance(a, np.ndarray) for a in jax.tree.leaves(back))


def test_from_layers_names_every_fault_at_once():
    specs = param_specs(MICRO)
    arrays = spec_lib.to_layers(specs, spec_lib.map_specs(lambda s: np.zeros(s.shape, np.float32), specs))
    del arrays["encoder.layers_1.mlp.wo.kernel"]
    arrays["encoder.layers_9.mlp.wo.kernel"] = np.zeros((2, 2))
    arrays["decoder.decoder_norm.scale"] = np.zeros((65,))
    with pytest.raises(UserError) as error:
        spec_lib.from_layers(specs, arrays)
    for text in (
        "missing: encoder.layers_1.mlp.wo.kernel (128, 64)",
        "not expected: encoder.layers_9.mlp.wo.kernel (2, 2)",
        "shape of decoder.decoder_norm.scale: (65,), not (64,)",
    ):
        assert text in str(error.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("emb_dim", 0),
        ("num_heads", 2.0),
        ("dropout_rate", 1.0),
        ("dtype", "float16"),
        ("remat", "ful"),
        ("relpos_buckets", 30),
        ("relpos_max_distance", 16),
    ],
)
def test_config_refuses_what_no_mt5_can_have(field, value):
    sizes = {"vocab_size": 8, "emb_dim": 8, "num_heads": 1, "head_dim": 8, "mlp_dim": 8}
    with pytest.raises(UserError, match=field):
        MT5Config(**{**sizes, "num_encoder_layers": 1, "num_decoder_layers": 1, field: value})
