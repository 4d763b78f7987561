"""What compiled programs do: flops and loops, memory traffic, cycles, asynchronous collectives; on CPU and for TPUs."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtr.models.flops import training_flops
from xtr.models.mt5 import MT5Config
from xtr.parallel import topology
from xtr.parallel.mesh import MeshConfig, make_mesh
from xtr.parallel.sharding import DEFAULT_RULES, batch_sharding
from xtr.plan.hlo import Flops, analyse, device_slices
from xtr.plan.hlo_costs import product_flops
from xtr.plan.hlo_text import Op, parse_shape
from xtr.train.step import TrainOptions, abstract_state, make_train_step

N = 64
PRODUCT = 2 * N**3


def matrix(*leading):
    return jax.ShapeDtypeStruct((*leading, N, N), jnp.float32)


def compiled(f, *shapes):
    return jax.jit(f).lower(*shapes).compile().as_text()


# ---------------------------------------------------------------------------------------------------------------------
# Loops
# ---------------------------------------------------------------------------------------------------------------------


def test_loops_count_by_their_trips():
    def nested(w, x):
        def layer(x, w):
            return jax.lax.fori_loop(2, 7, lambda i, x: jnp.tanh(x @ w), x), None

        return jax.lax.scan(layer, x, w, reverse=True)[0] @ x

    found = analyse(compiled(nested, matrix(3), matrix()))
    assert sorted((loop.trips, loop.executions, loop.known) for loop in found.loops) == [(3, 1, True), (5, 3, True)]
    assert found.flops.total == 16 * PRODUCT and found.assumed_loops == ()


def decoding(w, x, limit):
    return jax.lax.while_loop(
        lambda c: (c[0] < limit) & (jnp.max(c[1]) < 1e9), lambda c: (c[0] + 1, c[1] @ w), (jnp.int32(0), x)
    )


def test_a_loop_that_stops_by_what_it_computes():
    """It is named, counted as often as it may run at most, or as often as one says."""
    text = compiled(functools.partial(decoding, limit=17), matrix(), matrix())
    for assumed, trips in ((None, 17), (4, 4)):
        found = analyse(text, assumed_trips=assumed)
        (loop,) = found.assumed_loops
        assert (loop.trips, loop.known, loop.at_most) == (trips, False, 17)
        assert found.flops.total == trips * PRODUCT
    unbounded = analyse(compiled(decoding, matrix(), matrix(), jax.ShapeDtypeStruct((), jnp.int32)))
    assert [(loop.trips, loop.known, loop.at_most) for loop in unbounded.loops] == [(1, False, None)]


# ---------------------------------------------------------------------------------------------------------------------
# Products
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "recomputed"),
    [(None, 0), (jax.checkpoint_policies.nothing_saveable, 2), (jax.checkpoint_policies.everything_saveable, 0)],
    ids=["none", "full", "saved"],
)
def test_forward_backward_and_rematerialised(policy, recomputed):
    """A stack of two products a layer: two products for the gradients of each, and what is computed anew."""

    def layer(x, w):
        return jnp.sin(jnp.sin(x @ w) @ w), None

    body = layer if policy is None else jax.checkpoint(layer, policy=policy, prevent_cse=False)

    def loss(w, x):
        return jnp.sum(jax.lax.scan(body, x, w)[0])

    flops = analyse(compiled(jax.grad(loss, argnums=(0, 1)), matrix(3), matrix())).flops
    assert flops == Flops(6.0 * PRODUCT, 12.0 * PRODUCT, 3.0 * recomputed * PRODUCT)
    assert flops.total - flops.without_rematerialisation == flops.rematerialised


sizes = st.integers(1, 4)


@given(
    st.tuples(*[st.integers(1, 9)] * 2), st.tuples(*[st.integers(1, 3)] * 2), sizes, sizes, sizes,
    st.tuples(*[st.integers(1, 3)] * 2), st.tuples(*[st.integers(1, 3)] * 2), st.tuples(*[st.integers(1, 3)] * 2),
    st.tuples(*[st.tuples(st.integers(0, 3), st.integers(0, 3))] * 2),
)  # fmt: skip
def test_a_convolution_counts_taps_on_elements(extent, window, batch, features, out, stride, lhs, rhs, pad):
    """Against a convolution of ones, whose sum is the number of multiply-adds."""
    spatial = [
        (low + high + (n - 1) * dilate + 1 - ((k - 1) * r + 1)) // s + 1
        for n, k, s, dilate, r, (low, high) in zip(extent, window, stride, lhs, rhs, pad, strict=True)
    ]
    if min(spatial) < 1:
        return
    total = np.ones((batch, out, features))
    per_dimension = [
        sum(
            0 <= o * s + t * r - low <= (n - 1) * dilate and (o * s + t * r - low) % dilate == 0
            for o in range(m) for t in range(k)
        )
        for m, n, k, s, dilate, r, (low, _) in zip(spatial, extent, window, stride, lhs, rhs, pad, strict=True)
    ]  # fmt: skip

    def joined(values):
        return "x".join(str(v) if isinstance(v, int) else f"{v[0]}_{v[1]}" for v in values)

    attributes = (
        f"window={{size={joined(window)} stride={joined(stride)} pad={joined(pad)} lhs_dilate={joined(lhs)} "
        f"rhs_dilate={joined(rhs)}}}, dim_labels=01bf_01io->01bf"
    )

    def array(*dims):
        return parse_shape(f"f32[{','.join(map(str, dims))}]")

    operands = {"l": (*extent, batch, features), "r": (*window, features, out)}
    computation = {name: Op(name, array(*dims), "parameter", (), "", "", False) for name, dims in operands.items()}
    op = Op("c", array(*spatial, batch, out), "convolution", ("l", "r"), "", attributes, False)
    assert product_flops(op, computation) == 2 * total.sum() * np.prod(per_dimension)


def test_dots_with_batches():
    found = analyse(compiled(lambda x, y: jnp.einsum("bhqk,bhmk->bhqm", x, y), *[matrix(2, 3)] * 2))
    assert found.flops.total == 6 * PRODUCT


# ---------------------------------------------------------------------------------------------------------------------
# Memory
# ---------------------------------------------------------------------------------------------------------------------


def test_a_layer_of_a_stack_is_read_alone_and_written_in_place():
    """Ten layers of one matrix each: every trip reads a slice of the stack and writes a slice of the result."""
    layers, bytes_of_one = 10, N * N * 4

    def double(w, x):
        return jax.lax.scan(lambda x, w: (x, w * 2.0), x, w)[1]

    found = analyse(compiled(double, matrix(layers), matrix()))
    assert 2 * layers * bytes_of_one <= found.hbm_bytes <= 8 * layers * bytes_of_one


# ---------------------------------------------------------------------------------------------------------------------
# What TPU compilers write
# ---------------------------------------------------------------------------------------------------------------------

TPU = Path(__file__).with_name("fused_collectives.hlo").read_text()


def test_fused_collectives_of_a_tpu():
    """A gather whose parts are in several fusions is one; an all-reduce fused with its slicing is a reduce-scatter."""
    found = analyse(TPU, {"replica": 1, "fsdp": 4, "tensor": 1})
    gather, scatter = found.collectives
    assert (gather.kind, gather.form, gather.payload_bytes, gather.ici_bytes) == ("all-gather", "async", 32768, 24576)
    assert (gather.op_name, gather.phase, gather.axes) == ("jit(step)/jvp()/gather", "forward", ("fsdp",))
    assert (scatter.kind, scatter.form, scatter.payload_bytes) == ("reduce-scatter", "sync", 65536)
    assert scatter.ici_bytes == 65536 * 3 / 4 and scatter.phase == "backward"
    row = {"count": 1, "executions": 1, "payload_bytes": 32768, "wire_bytes": 24576}
    assert found.counts()["all-gather fsdp bf16"] == row
    facts = json.loads(json.dumps(found.to_json(operations=1)))
    assert facts["counts"] == found.counts() and len(facts["operations"]) == 1 and len(facts["collectives"]) == 2


@pytest.mark.parametrize("opcode", ["async", "call"], ids=["wrapped", "sparsecore"])
def test_a_collective_in_a_computation_beside(opcode):
    """It counts once, though both the operation that starts it and the one that waits for it name it."""
    called = "calls=%beside" if opcode == "async" else 'async_execution_thread="sparsecore", to_apply=%beside'
    text = f"""HloModule jit_f, num_partitions=4
%beside (p: f32[2]) -> f32[8] {{
  %p = f32[2]{{0}} parameter(0)
  ROOT %g = f32[8]{{0}} all-gather(%p), replica_groups=[1,4]<=[4], dimensions={{0}}
}}
ENTRY %main (x: f32[2]) -> f32[8] {{
  %x = f32[2]{{0}} parameter(0)
  %s = ((f32[2]{{0}}), f32[8]{{0}}) {opcode}-start(%x), {called}
  ROOT %d = f32[8]{{0}} {opcode}-done(%s), {called}, metadata={{op_name="jit(f)/all_gather"}}
}}
"""
    (found,) = analyse(text).collectives
    assert (found.kind, found.form, found.executions, found.payload_bytes) == ("all-gather", "async", 1, 32)


def test_cycles_kernels_and_memory_of_a_tpu():
    """What passes through a fusion or lies in the chip's own memory is no traffic of the main memory."""
    found = analyse(TPU)
    assert found.cycles == 1000 and found.seconds(1e9) == 1e-6
    assert dict(found.kernels) == {"tpu_custom_call": 1} and found.without_cycles == {"fusion": 2}
    assert {o.name: o.flops for o in found.operations if o.flops} == {"work": 2 * 128**3, "kernel": 77}
    traffic = {o.name: o.hbm_bytes for o in found.operations if o.hbm_bytes}
    assert traffic == {"begin": 32 * 128 * 2 + 128 * 128 * 2, "work": 128 * 128 * 2, "scatter": (128 + 32) * 128 * 4}
    (work,) = (o for o in found.costliest(1))
    assert (work.name, work.phase, work.flops) == ("work", "backward", 2 * 128**3)


needs_libtpu = pytest.mark.skipif(not topology.has_compiler(), reason="libtpu, the TPU compiler, is not installed")


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize(("slices", "remat"), [(1, "none"), (1, "full"), (2, "full")])
def test_a_training_step_for_a_tpu(slices, remat):
    config = MT5Config(512, 128, 4, 32, 256, 3, 2, remat=remat)
    rows, inputs, targets = 8 * slices, 128, 64
    devices = topology.compile_only_devices(topology.parse("v5e:2x2", slices))
    mesh = make_mesh(MeshConfig(replica=slices), devices)
    state = abstract_state(config.param_specs(), TrainOptions(), mesh, DEFAULT_RULES)
    lengths = {"encoder_input_tokens": inputs, "decoder_input_tokens": targets, "decoder_target_tokens": targets}
    batch = {
        name: jax.ShapeDtypeStruct((rows, length), jnp.int32, sharding=batch_sharding(mesh))
        for name, length in lengths.items()
    }
    step = make_train_step(config, TrainOptions(), mesh).jitted
    text = step.lower(state, batch, None, jax.ShapeDtypeStruct((), jnp.float32)).compile().as_text()
    found = analyse(text, mesh.shape, device_slices(mesh))

    model = training_flops(config, "seq2seq", rows, inputs, targets)
    assert found.devices * found.flops.without_rematerialisation == pytest.approx(model, rel=0.05)
    assert (found.flops.rematerialised > 0) == (remat == "full")
    assert found.cycles > 0 and found.assumed_loops == () and found.hbm_bytes > 0
    assert {loop.executions for loop in found.loops} == {1}
    assert (found.dcn_bytes > 0) == (slices == 2) and found.ici_bytes > 0
    kinds = {c.kind for c in found.collectives if "fsdp" in c.axes}
    assert {"all-gather", "reduce-scatter"} <= kinds
    crossing = {c.axes for c in found.collectives if c.dcn_bytes}
    assert crossing == ({("replica",)} if slices == 2 else set())
    assert any(c.source.startswith("xtr/models/layers.py:") for c in found.collectives)
