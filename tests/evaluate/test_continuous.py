"""Continuous decoding: greedy decoding's tokens, whatever is decoded beside them, in a bounded number of shapes."""

import collections
import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtr import preemption
from xtr.errors import Preempted
from xtr.evaluate import batching, continuous
from xtr.evaluate.decoding import greedy_decode
from xtr.models import spec as spec_lib
from xtr.models.bloom import BloomConfig
from xtr.models.mt5 import MT5Config
from xtr.parallel.mesh import MeshConfig, make_mesh

PAD, EOS = 3, 2
ONE = MeshConfig(fsdp=1)
NETWORKS = {
    "mt5": MT5Config(40, 16, 2, 8, 32, 1, 2, dtype="float32"),
    "umt5": MT5Config(40, 16, 2, 8, 32, 1, 2, dtype="float32", relpos_per_layer=True),
    "bloom": BloomConfig(40, 16, 2, 2, dtype="float32"),
}


def generate(config, params, sequences, mesh=ONE, **settings):
    """(tokens, log-probabilities) in the order of the sequences, and the sizes of the groups they came in."""
    sizes = mesh.sizes(mesh.fsdp * mesh.tensor)
    found, groups = {}, []

    def on_rows(numbers, values):
        groups.append(len(numbers))
        for number, value in zip(numbers, values, strict=True):
            assert int(number) not in found
            found[int(number)] = value

    settings = {"length_buckets": (8, 16), "tokens_per_batch": 128, "max_length": 12, "eos_id": EOS} | settings
    devices = jax.devices()[: int(np.prod(sizes))]
    continuous.generate(config, params, make_mesh(mesh, devices), sequences, on_rows=on_rows, **settings)
    assert sorted(found) == list(range(len(sequences)))
    ordered = [found[i] for i in range(len(sequences))]
    return np.stack([t for t, _ in ordered]), np.array([p for _, p in ordered]), groups


def expected(config, params, sequences, max_length=12, cut=16, eos_id=EOS):
    """The same by greedy decoding of all at once."""
    tokens = np.full((len(sequences), cut), config.pad_id, np.int32)
    for row, sequence in enumerate(sequences):
        tokens[row, : len(sequence)] = sequence[:cut]
    return jax.jit(
        lambda params, tokens: greedy_decode(config.network(params), tokens, max_length=max_length, eos_id=eos_id)
    )(params, tokens)


def sequences_of(count, longest=16, seed=0, vocab=40):
    rng = np.random.default_rng(seed)
    return [rng.integers(4, vocab, rng.integers(1, longest + 1)).astype(np.int32) for _ in range(count)]


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    config = NETWORKS[request.param]
    params = jax.jit(lambda key: spec_lib.init_params(config.param_specs(), key))(jax.random.key(1))
    # Larger weights, so that outputs differ from input to input and some end.
    return config, jax.tree.map(lambda a: a * 3 if a.ndim > 1 else a, params)


def test_networks_give_greedy_decoding_s_tokens(network):
    config, params = network
    sequences = sequences_of(23)
    sequences[4] = np.zeros(0, np.int32)
    sequences[9] = np.full(3, config.pad_id, np.int32)
    # An EOS that about half of the rows find, at different steps.
    free = np.asarray(expected(config, params, sequences, eos_id=config.vocab_size + 1)[0])
    found_in = {token: (free == token).any(axis=1).sum() for token in set(free.ravel().tolist()) - {config.pad_id}}
    eos = min(found_in, key=lambda token: abs(found_in[token] - 11))
    tokens, log_probs = expected(config, params, sequences, eos_id=eos)
    assert len(set((np.asarray(tokens) != config.pad_id).sum(axis=1).tolist())) > 2
    for buckets, tokens_per_batch, order in (((16,), 4096, 1), ((9, 16), 90, -1)):
        own, own_log_probs, groups = generate(
            config, params, sequences[::order], length_buckets=buckets, tokens_per_batch=tokens_per_batch, eos_id=eos
        )
        np.testing.assert_array_equal(own[::order], tokens)
        np.testing.assert_allclose(own_log_probs[::order], log_probs, rtol=1e-4, atol=1e-5)
        assert len(groups) > 1 + (tokens_per_batch == 90)  # results come while others go on
    assert (own[::-1][[4, 9]] == config.pad_id).all() and not own_log_probs[::-1][[4, 9]].any()


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(0, 20), max_size=30), st.sampled_from([40, 100, 400]), st.sampled_from([1, 6]))
def test_any_lengths(table_model, lengths, tokens_per_batch, max_length):
    """Inputs of no token, longer than the longest bucket, few or many; outputs of one token."""
    model = table_model(12, seed=5, pad_id=PAD)
    rng = np.random.default_rng(len(lengths))
    sequences = [rng.integers(4, 12, n).astype(np.int32) for n in lengths]
    if not sequences:
        continuous.generate(
            model.config, model.table, make_mesh(ONE, jax.devices()[:1]), [], length_buckets=(8,), tokens_per_batch=64,
            max_length=4, eos_id=EOS, on_rows=lambda *_: pytest.fail("there is nothing to find"),
        )  # fmt: skip
        return
    limits = {"tokens_per_batch": tokens_per_batch, "max_length": max_length}
    own, own_log_probs, _ = generate(model.config, model.table, sequences, **limits)
    tokens, log_probs = expected(model.config, model.table, sequences, max_length)
    np.testing.assert_array_equal(own, tokens)
    np.testing.assert_allclose(own_log_probs, log_probs, rtol=1e-5)


def test_everything_ends_at_the_first_step(table_model):
    model = table_model(8, seed=2, pad_id=PAD)
    table = model.table.at[:, EOS].set(100.0)
    tokens, log_probs, _ = generate(model.config, table, sequences_of(20, vocab=8))
    assert (tokens[:, 0] == EOS).all() and (tokens[:, 1:] == PAD).all()
    np.testing.assert_allclose(log_probs, 0, atol=1e-6)


def test_long_outputs_are_decoded_in_a_second_room(table_model):
    """Some end before a quarter of the limit, on it, after it, or never; some inputs begin in the second at once."""
    model = table_model(30, seed=11, pad_id=PAD)
    table = model.table.at[:, EOS].add(-1.0)
    assert continuous.rooms(256) == (64, 256) and continuous.rooms(255) == (255,)
    sequences = sequences_of(50, vocab=30) + sequences_of(10, longest=120, vocab=30)
    tokens, log_probs = expected(model.config, table, sequences, max_length=256, cut=96)
    own, own_log_probs, _ = generate(
        model.config, table, sequences, max_length=256, tokens_per_batch=2000, length_buckets=(16, 96)
    )
    np.testing.assert_array_equal(own, tokens)
    np.testing.assert_allclose(own_log_probs, log_probs, rtol=1e-5)
    written, sizes = (np.asarray(tokens) != PAD).sum(axis=1), np.array([len(s) for s in sequences])
    assert (written[sizes <= 80] < 64).any() and (written[sizes <= 80] > 64).any() and (sizes > 80).any()


@given(
    st.lists(st.integers(0, 40), max_size=120),
    st.sampled_from([(8,), (4, 8, 16, 24), (5, 30, 40)]),
    st.sampled_from([1, 2]),
    st.integers(8, 600),
)
def test_a_schedule_begins_every_sequence_once_in_few_shapes(sizes, buckets, groups, tokens):
    def slots_of(bucket):
        return batching.rows_per_batch(bucket, tokens, groups)

    refills = list(continuous.schedule(sizes, buckets, slots_of, groups))
    assert sorted(i for refill in refills for i in refill.indices) == list(range(len(sizes)))
    for refill in refills:
        assert len(refill.indices) <= continuous.refilled_at_once(refill.slots, groups)
        assert refill.slots == slots_of(refill.length) and refill.bucket <= refill.length
        assert all(min(sizes[i], buckets[-1]) <= refill.bucket for i in refill.indices)
    lengths = [refill.length for refill in refills]
    assert lengths == sorted(lengths)
    assert len({(refill.slots, refill.length, refill.bucket) for refill in refills}) <= len(buckets) + 2
    # What fills all slots at last begins with the longest.
    begun = [sizes[i] for refill in refills for i in refill.indices][-slots_of(lengths[-1]) if lengths else 0 :]
    assert begun == sorted(begun, reverse=True)


@pytest.mark.parametrize("mesh", [MeshConfig(fsdp=8), MeshConfig(fsdp=2, tensor=2)], ids=str)
def test_several_devices(mesh):
    config = NETWORKS["mt5"]
    params = spec_lib.init_params(config.param_specs(), jax.random.key(3))
    sequences = sequences_of(37, seed=4)
    tokens, log_probs = expected(config, params, sequences, eos_id=7)
    own, own_log_probs, _ = generate(config, params, sequences, mesh, eos_id=7, tokens_per_batch=1024)
    np.testing.assert_array_equal(own, tokens)
    np.testing.assert_allclose(own_log_probs, log_probs, rtol=1e-4, atol=1e-5)


def test_shapes_are_bounded(table_model, monkeypatch):
    """What a bucket needs is traced once, however many sequences there are."""
    model = table_model(12, seed=7, pad_id=PAD)
    config = dataclasses.replace(model.config, causal=False)  # equal to no other test's, so that nothing is compiled
    traced = collections.Counter()
    for name in ("start", "decode_step"):
        method = getattr(type(model), name)

        def counted(*arguments, method=method, name=name):
            traced[name] += 1
            return method(*arguments)

        monkeypatch.setattr(type(model), name, counted)
    buckets = (4, 6, 8, 12, 16)
    generate(config, model.table, sequences_of(400), length_buckets=buckets, tokens_per_batch=600)
    # `start` twice more for the last that begin, and once for the shapes of the cache; the table's steps do not depend
    # on the inputs' length.
    assert traced["start"] <= len(buckets) + 3 and traced["decode_step"] <= len(buckets)
    before = traced.copy()
    generate(config, model.table, sequences_of(700, seed=1), length_buckets=buckets, tokens_per_batch=600)
    assert traced == before


def test_a_request_to_stop_is_heeded(table_model, monkeypatch):
    model = table_model(12, seed=5, pad_id=PAD)
    monkeypatch.setattr(preemption, "requested", lambda: True)
    with pytest.raises(Preempted):
        generate(model.config, model.table, sequences_of(3, vocab=12))
