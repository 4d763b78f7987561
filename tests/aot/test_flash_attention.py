"""Flash attention compiled by the real TPU compiler for chips that are not here.

Axes: B batch, H heads, Q query length, M key length, K head size, W offsets of the bias, N = H*K.
"""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from xtr.models.flash_attention import is_for, sharded
from xtr.parallel import topology
from xtr.parallel.mesh import MeshConfig, make_mesh

pytestmark = [
    pytest.mark.skipif(not topology.has_compiler(), reason="libtpu, the TPU compiler, is not installed"),
    pytest.mark.slow,
]
HEADS, HEAD_DIM = 64, 64  # mT5-XXL's
ATTENTIONS = {
    "encoder": (1024, 1024, True, False),
    "decoder": (256, 256, True, True),
    "cross": (256, 1024, False, False),
}


def compiled(name: str, attention: str, dtype: str = "bfloat16", layers: int = 2):
    """Gradients of a scan over rematerialised attentions, on a mesh of two by two devices."""
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=2), topology.compile_only_devices(topology.parse(name)))
    assert is_for(mesh, HEAD_DIM)
    attend = sharded(mesh)
    queries, keys, biased, causal = ATTENTIONS[attention]

    def loss(x_BQN, memory_BMN, bias_HW, query_ids_BQ, key_ids_BM):
        def heads(x):
            return x.reshape(*x.shape[:2], HEADS, HEAD_DIM).swapaxes(1, 2)

        @jax.checkpoint
        def body(x_BQN, _):
            memory = (heads(memory_BMN), heads(memory_BMN))
            ids = {"query_ids_BQ": query_ids_BQ, "key_ids_BM": key_ids_BM}
            return x_BQN + attend(heads(x_BQN), memory, bias_HW=bias_HW, causal=causal, **ids), None

        return jax.lax.scan(body, x_BQN, None, length=layers)[0].astype(jnp.float32).sum()

    def shape(dims, kind, *axes):
        return jax.ShapeDtypeStruct(dims, kind, sharding=NamedSharding(mesh, PartitionSpec(*axes)))

    arguments = (
        shape((4, queries, HEADS * HEAD_DIM), dtype, "fsdp", None, "tensor"),
        shape((4, keys, HEADS * HEAD_DIM), dtype, "fsdp", None, "tensor"),
        shape((HEADS, queries + keys - 1), "float32", "tensor") if biased else None,
        shape((4, queries), "int32", "fsdp"),
        shape((4, keys), "int32", "fsdp"),
    )
    argnums = (0, 1, 2) if biased else (0, 1)
    return jax.jit(jax.grad(loss, argnums=argnums)).lower(*arguments).compile()


@pytest.mark.parametrize("attention", list(ATTENTIONS))
@pytest.mark.parametrize("name", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_it_compiles_and_holds_no_scores(name, attention):
    program = compiled(name, attention)
    # Forward, forward again, backward; each once, in the bodies of two loops.
    assert program.as_text().count('custom_call_target="tpu_custom_call"') == 3
    queries, keys, *_ = ATTENTIONS[attention]
    scores = 2 * (HEADS // 2) * queries * keys * 4  # bytes on one device, for the half of the batch and of the heads
    if attention == "encoder":
        assert program.memory_analysis().temp_size_in_bytes < scores / 2


@pytest.mark.parametrize("name", ["v5e:2x2", "v6e:2x2"])
def test_it_compiles_in_f32(name):
    assert "tpu_custom_call" in compiled(name, "encoder", dtype="float32").as_text()
