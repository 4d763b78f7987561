"""Rules from logical names to mesh axes, and the hook that writes the weight gather down."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from xtr.errors import UserError
from xtr.parallel.mesh import MeshConfig, make_mesh
from xtr.parallel.sharding import (
    DEFAULT_RULES,
    OnMesh,
    batch_sharding,
    batch_shards,
    global_batch,
    named_sharding,
    partition_spec,
    tree_shardings,
)


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        (("vocab", "embed"), P("tensor", "fsdp")),
        (("layers", "embed", "joined_kv"), P(None, "fsdp", "tensor")),
        (("layers", "mlp", "embed"), P(None, "tensor", "fsdp")),
        (("heads", "relpos_buckets"), P("tensor", None)),
        (("batch", "length", "embed"), P(("replica", "fsdp"), None, None)),  # the rows have taken 'fsdp'
        (("batch", "length", "heads", "kv"), P(("replica", "fsdp"), None, "tensor", None)),
        ((None, "mlp"), P(None, "tensor")),
        ((), P()),
    ],
)
def test_default_rules(axes, expected):
    assert partition_spec(axes) == expected


def test_an_unknown_name_is_named():
    with pytest.raises(UserError, match="'embd'.*Did you mean embed"):
        partition_spec(("embd",))


@given(st.lists(st.integers(1, 24), min_size=2, max_size=2))
def test_a_dimension_that_does_not_divide_stays_whole(shape):
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
    sharding = named_sharding(mesh, ("embed", "mlp"), shape=tuple(shape))
    assert sharding.spec == P("fsdp" if shape[0] % 4 == 0 else None, "tensor" if shape[1] % 2 == 0 else None)
    assert sharding.shard_shape(tuple(shape))  # legal for this shape


def test_tree_shardings_reads_shape_and_axes_of_anything():
    mesh = make_mesh(MeshConfig(fsdp=8))
    tree = {"a": {"b": SimpleNamespace(shape=(16, 3), axes=("embed", "mlp"))}}
    assert tree_shardings(tree, mesh, DEFAULT_RULES) == {"a": {"b": NamedSharding(mesh, P("fsdp", "tensor"))}}


def test_a_batch_is_spread_over_replicas_and_fsdp():
    mesh = make_mesh(MeshConfig(replica=2, fsdp=2, tensor=2))
    assert batch_shards(mesh) == 4
    batch = global_batch({"x": np.arange(8, dtype=np.int32).reshape(8, 1)}, mesh)
    assert batch["x"].sharding == batch_sharding(mesh)
    assert batch["x"].addressable_shards[0].data.shape == (2, 1)
    np.testing.assert_array_equal(batch["x"][:, 0], np.arange(8))


def test_a_weight_is_gathered_where_it_is_used():
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
    constrain = OnMesh(mesh, DEFAULT_RULES)
    weight = jax.device_put(jnp.ones((16, 8)), named_sharding(mesh, ("embed", "mlp")))
    gathered = jax.jit(lambda w: constrain(w, (None, "mlp")))(weight)
    assert gathered.sharding.spec == P(None, "tensor")
    np.testing.assert_array_equal(gathered, weight)


def test_one_device_needs_no_constraints():
    constrain = OnMesh(make_mesh(MeshConfig(fsdp=1), jax.devices()[:1]), DEFAULT_RULES)
    x = jnp.ones(3)
    assert constrain(x, ("embed",)) is x
