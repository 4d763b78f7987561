"""The training step on simulated devices: any mesh and any number of microbatches gives the result of one device."""

import dataclasses

import jax
import numpy as np
import pytest

from xtr.checkpoints.manager import CheckpointManager
from xtr.errors import UserError
from xtr.models import mt5
from xtr.parallel.mesh import MeshConfig, make_mesh
from xtr.parallel.sharding import DEFAULT_RULES, batch_sharding, global_batch, tree_shardings
from xtr.train import objectives
from xtr.train.adafactor import AdafactorConfig
from xtr.train.step import (
    TrainOptions,
    TrainState,
    abstract_state,
    init_state,
    make_eval_step,
    make_train_step,
    max_logits_bytes,
    state_shardings,
)

CONFIG = mt5.MT5Config(
    vocab_size=64,
    emb_dim=32,
    num_heads=4,
    head_dim=8,
    mlp_dim=48,
    num_encoder_layers=2,
    num_decoder_layers=2,
    dtype="float32",
)
SPECS = mt5.param_specs(CONFIG)
# Small enough for half of the parameters to be factored, so that both kinds of statistics are sharded.
OPTIONS = TrainOptions(
    loss_normalizing_factor="NUM_REAL_TARGET_TOKENS", optimizer=AdafactorConfig(min_dim_size_to_factor=33)
)
LEARNING_RATE = 0.01


def one_device():
    return make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])


def make_batch(rows=16, seed=0):
    """Packed rows: two examples each, of uneven lengths, so that rows differ in their number of targets."""
    rng = np.random.default_rng(seed)
    batch = {}
    for side, length in (("encoder", 12), ("decoder", 8)):
        segments = np.zeros((rows, length), np.int32)
        for row in segments:
            first = rng.integers(1, length - 2)
            row[:first] = 1
            row[first : rng.integers(first + 1, length)] = 2
        tokens = np.where(segments > 0, rng.integers(1, CONFIG.vocab_size, size=segments.shape), 0).astype(np.int32)
        batch[f"{side}_segment_ids"] = segments
        batch[f"{side}_{'input' if side == 'encoder' else 'target'}_tokens"] = tokens
    targets, segments = batch["decoder_target_tokens"], batch["decoder_segment_ids"]
    starts = np.concatenate([np.ones((rows, 1), bool), segments[:, 1:] != segments[:, :-1]], axis=1)
    batch["decoder_input_tokens"] = np.where(starts, 0, np.roll(targets, 1, axis=1))
    batch["decoder_loss_weights"] = (targets > 0).astype(np.int32)
    return batch


def start(mesh):
    """The same fresh state on any mesh; drawn on one device, which compiles once."""
    state = init_state(SPECS, OPTIONS, one_device(), DEFAULT_RULES, jax.random.key(0))
    return jax.device_put(state, state_shardings(SPECS, OPTIONS, mesh, DEFAULT_RULES))


def run(mesh, options=OPTIONS, steps=2):
    """(state, metrics of each step), on the host."""
    step, state, history = make_train_step(CONFIG, options, mesh, DEFAULT_RULES), start(mesh), []
    for i in range(steps):
        state, metrics = step(state, global_batch(make_batch(seed=i), mesh), None, LEARNING_RATE)
        history.append(metrics)
    return jax.device_get((state, history))


@pytest.fixture(scope="module")
def expected():
    return run(one_device())


def assert_same_training(got, expected):
    (state, history), (expected_state, expected_history) = got, expected
    for metrics, expected_metrics in zip(history, expected_history, strict=True):
        assert metrics.keys() == expected_metrics.keys()
        for name in metrics:
            np.testing.assert_allclose(metrics[name], expected_metrics[name], rtol=1e-5, atol=1e-6, err_msg=name)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), state, expected_state)


@pytest.mark.parametrize(
    ("config", "microbatches"),
    [
        (MeshConfig(fsdp=4, tensor=2), 4),
        pytest.param(MeshConfig(fsdp=8), 1, marks=pytest.mark.slow),
        pytest.param(MeshConfig(replica=2, fsdp=4), 1, marks=pytest.mark.slow),
    ],
    ids=["fsdp 4 x tensor 2, 4 microbatches", "fsdp 8", "replica 2 x fsdp 4"],
)
def test_every_mesh_and_accumulation_gives_the_training_of_one_device(config, microbatches, expected):
    assert_same_training(run(make_mesh(config), dataclasses.replace(OPTIONS, microbatches=microbatches)), expected)


def test_metrics_are_sums_over_the_batch(expected):
    _, history = expected
    batch = make_batch(seed=0)
    metrics = history[0]
    assert metrics["weight"] == metrics["target_tokens"] == (batch["decoder_target_tokens"] > 0).sum()
    assert metrics["input_tokens"] == (batch["encoder_input_tokens"] > 0).sum()
    assert (metrics["input_positions"], metrics["target_positions"]) == (16 * 12, 16 * 8)
    assert metrics["examples"] == 32
    assert metrics["objective"] == pytest.approx(metrics["loss"] / metrics["weight"])
    assert 0 <= metrics["accuracy"] <= metrics["weight"]
    assert metrics["skipped_updates"] == 0
    assert metrics["grad_norm"] > 0


def test_training_learns():
    mesh = one_device()
    step, state = make_train_step(CONFIG, OPTIONS, mesh, DEFAULT_RULES), start(mesh)
    losses = []
    for _ in range(12):
        state, metrics = step(state, make_batch(), None, 0.05)
        losses.append(float(metrics["objective"]))
    assert losses[-1] < 0.6 * losses[0]


def test_a_step_that_is_not_finite_is_skipped_and_counted():
    mesh = one_device()
    step, state = make_train_step(CONFIG, OPTIONS, mesh, DEFAULT_RULES), start(mesh)
    scale = state.params["decoder"]["decoder_norm"]["scale"]
    state.params["decoder"]["decoder_norm"]["scale"] = jax.device_put(
        np.full(scale.shape, np.inf, "f4"), scale.sharding
    )
    before = jax.device_get(state)
    state, metrics = step(state, make_batch(), None, LEARNING_RATE)
    assert metrics["skipped_updates"] == 1
    assert not np.isfinite(metrics["loss"])
    jax.tree.map(np.testing.assert_array_equal, state.params, before.params)
    jax.tree.map(np.testing.assert_array_equal, state.opt_state, before.opt_state)
    assert int(state.step) == 1


def test_equal_arguments_share_one_compiled_step():
    first = make_train_step(CONFIG, OPTIONS, one_device(), DEFAULT_RULES)
    again = make_train_step(dataclasses.replace(CONFIG), dataclasses.replace(OPTIONS), one_device(), DEFAULT_RULES)
    assert first is again
    assert first is not make_train_step(CONFIG, TrainOptions(), one_device(), DEFAULT_RULES)


def test_nothing_compiles_twice(tmp_path):
    """Not for another learning rate, a NumPy batch, a key that is not needed, or a state from a checkpoint."""
    mesh = one_device()
    step, state = make_train_step(CONFIG, OPTIONS, mesh, DEFAULT_RULES), start(mesh)
    state, _ = step(state, global_batch(make_batch(), mesh), None, 0.1)
    manager = CheckpointManager(tmp_path)
    manager.save(1, state, {})
    restored, _ = manager.restore(1, abstract_state(SPECS, OPTIONS, mesh, DEFAULT_RULES))
    manager.close()
    key, traces = jax.random.key(0), []
    with pytest.MonkeyPatch.context() as patch:
        traced = dataclasses.replace(objectives.OBJECTIVES["seq2seq"], loss=lambda *a, **k: traces.append(a))
        patch.setitem(objectives.OBJECTIVES, "seq2seq", traced)
        state, _ = step(state, make_batch(), None, np.float32(0.2))
        state, _ = step(state, make_batch(), key, 0.3)
        state, _ = step(restored, global_batch(make_batch(), mesh), None, 0.2)
    assert traces == []


def test_the_state_is_donated():
    mesh = one_device()
    state = start(mesh)
    make_train_step(CONFIG, OPTIONS, mesh, DEFAULT_RULES)(state, make_batch(), None, 0.1)
    assert all(x.is_deleted() for x in jax.tree.leaves(state.params))


def test_dropout_needs_a_key_and_depends_on_nothing_else():
    config, mesh = dataclasses.replace(CONFIG, dropout_rate=0.3), one_device()
    step = make_train_step(config, OPTIONS, mesh, DEFAULT_RULES)
    with pytest.raises(ValueError, match="pass a dropout key"):
        step(start(mesh), make_batch(), None, 0.1)
    losses = [float(step(start(mesh), make_batch(), jax.random.key(key), 0.1)[1]["loss"]) for key in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_an_uneven_batch_is_refused_with_the_number_to_use():
    mesh = make_mesh(MeshConfig(fsdp=8))
    step = make_train_step(CONFIG, dataclasses.replace(OPTIONS, microbatches=2), mesh, DEFAULT_RULES)
    with pytest.raises(UserError, match="24 rows does not divide over 8 devices.*multiple of 16"):
        step(start(mesh), make_batch(rows=24), None, 0.1)


def test_parameters_and_statistics_are_sharded_and_weights_gathered_layer_by_layer():
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
    state = init_state(SPECS, OPTIONS, mesh, DEFAULT_RULES, jax.random.key(0))
    kernel = state.params["encoder"]["layers"]["mlp"]["wi_0"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (2, 8, 24)
    table = state.opt_state["token_embedder"]["embedding"]["v"]
    assert table.sharding.shard_shape(table.shape) == (32, 8)
    assert jax.tree.map(lambda x: x.sharding, state) == state_shardings(SPECS, OPTIONS, mesh, DEFAULT_RULES)
    batch = jax.eval_shape(make_batch)
    lowered = make_train_step(CONFIG, OPTIONS, mesh, DEFAULT_RULES).jitted.lower(
        abstract_state(SPECS, OPTIONS, mesh, DEFAULT_RULES), batch, None, 0.1
    )
    # The gather is in the program as written, one for each layer's weight, whole along 'embed' and split along 'mlp'.
    text = lowered.as_text()
    assert any(
        "sharding_constraint" in line and '[{}, {"tensor"}]' in line and "32x48" in line for line in text.split("\n")
    )


def test_abstract_state_describes_the_state():
    mesh = make_mesh(MeshConfig(fsdp=8))
    described = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), start(mesh))
    assert described == abstract_state(SPECS, OPTIONS, mesh, DEFAULT_RULES)
    assert isinstance(described, TrainState)


def test_the_same_key_gives_the_same_parameters_on_every_mesh():
    alone = start(one_device())
    spread = init_state(SPECS, OPTIONS, make_mesh(MeshConfig(fsdp=4, tensor=2)), DEFAULT_RULES, jax.random.key(0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), alone.params, spread.params)


def test_evaluation_is_the_loss_without_z_loss(expected):
    mesh = make_mesh(MeshConfig(fsdp=8))
    params = jax.device_put(start(one_device()).params, tree_shardings(SPECS, mesh))
    batch = jax.device_put(make_batch(), batch_sharding(mesh))
    metrics = make_eval_step(CONFIG, mesh, DEFAULT_RULES)(params, batch)
    trained = expected[1][0]
    np.testing.assert_allclose(metrics["loss"], trained["loss"] - trained["z_loss"], rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], trained["accuracy"])
    assert metrics["z_loss"] == 0


@pytest.mark.parametrize(
    "settings", [{"microbatches": 0}, {"label_smoothing": 1.0}, {"loss_normalizing_factor": "SUM"}]
)
def test_options_are_checked(settings):
    with pytest.raises(UserError):
        TrainOptions(**settings)


def test_logits_are_made_in_pieces_where_every_device_would_hold_the_states_of_all_tokens():
    whole = 4 * 2**30
    alone = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    assert max_logits_bytes(250_880, 14_336, alone, DEFAULT_RULES) == whole
    mesh = make_mesh(MeshConfig(2, 4, 1))
    tokens = 2 * 2**30 // (4 * 14_336)  # of two replicas, whose tokens are apart
    assert max_logits_bytes(250_880, 14_336, mesh, DEFAULT_RULES) == min(8 * whole, tokens * 4 * 250_880)
    assert max_logits_bytes(250_880, 16, mesh, DEFAULT_RULES) == 8 * whole
    assert max_logits_bytes(250_002, 14_336, mesh, DEFAULT_RULES) == 8 * whole  # is not spread over 4 devices
