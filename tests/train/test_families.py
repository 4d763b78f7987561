"""Every family under each objective that it can do: it learns, and neither mesh nor microbatches matter."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from xtr.models.bert import BertConfig
from xtr.models.bloom import BloomConfig
from xtr.models.heads import KINDS, WithHead
from xtr.models.mt5 import MT5Config
from xtr.parallel.mesh import MeshConfig, make_mesh
from xtr.parallel.sharding import DEFAULT_RULES, global_batch, tree_shardings
from xtr.train.adamw import AdamWConfig
from xtr.train.step import TrainOptions, init_state, loss_and_gradient, make_eval_step, make_train_step, state_shardings

V, ROWS, S = 64, 16, 8
XLMR = BertConfig("xlmr", V, 16, 2, 24, 2, 24, dtype="float32", remat="none", mlm_head=True)
BODIES = {
    "mt5": MT5Config(V, 16, 2, 8, 24, 2, 1, dtype="float32", remat="none"),
    "xlmr": XLMR,
    "mbert": dataclasses.replace(XLMR, kind="mbert", type_vocab_size=2),
    "bloom": BloomConfig(V, 16, 2, 2, dtype="float32", remat="none"),
}
OWN = [("mt5", "seq2seq"), ("bloom", "causal"), ("xlmr", "mlm"), ("mbert", "mlm")]
OBJECTIVES = {"contrastive" if kind == "embed" else kind: kind for kind in KINDS}
ALL = OWN + [(family, objective) for family in BODIES for objective in OBJECTIVES]
# One head of each kind, each family at least once; the rest are slow.
QUICK = [
    *OWN[1:3],
    ("mt5", "classify"),
    ("mbert", "choose"),
    ("bloom", "tag"),
    ("xlmr", "span"),
    ("mt5", "contrastive"),
]
CASES = [pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow, id="-".join(case)) for case in ALL]


def config_of(family, objective):
    body = BODIES[family]
    if objective not in OBJECTIVES:
        return body
    read = {"mt5": "attention", "xlmr": "last", "mbert": 1, "bloom": "attention"}[family]
    return WithHead(body, OBJECTIVES[objective], num_labels=3 if objective in ("classify", "tag") else None, read=read)


def make_batch(config, objective):
    """16 rows with padding; labels that the tokens say, so that they can be learnt. Ids 0 to 3 are special."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(4, S + 1, ROWS)
    real = np.arange(S) < lengths[:, None]
    tokens = np.where(real, rng.integers(4, V, (ROWS, S)), config.pad_id).astype(np.int32)
    tokens[:, 0] = 0 if config.pad_id else 2  # XLM-R's <s> is 0
    segments = np.where(real, 1 + (np.arange(S) >= 3), 0).astype(np.int32)  # two examples a row, where packing is done
    positions = np.tile(np.where(np.arange(S) >= 3, np.arange(S) - 3, np.arange(S)), (ROWS, 1)).astype(np.int32)
    packed = {"segment_ids": segments, "positions": positions}
    encoder = {"encoder_input_tokens": tokens}
    if objective == "seq2seq":
        targets = np.where(real, tokens[:, ::-1], 0)
        return encoder | {
            "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
            "decoder_target_tokens": targets,
        }
    if objective == "causal":
        batch = {
            "input_tokens": tokens,
            "target_tokens": np.roll(tokens, -1, axis=1),
            "loss_weights": real.astype(np.int32),
        }
        return {f"decoder_{name}": x for name, x in (batch | packed).items()}
    if objective == "mlm":
        masked = real & (rng.random((ROWS, S)) < 0.4)
        batch = {
            "input_tokens": np.where(masked, 3, tokens),
            "target_tokens": tokens,
            "loss_weights": masked.astype(np.int32),
        }
        return {f"encoder_{name}": x for name, x in (batch | packed).items()}
    if objective == "tag":
        encoder = {f"encoder_{name}": x for name, x in (packed | {"input_tokens": tokens}).items()}
        return encoder | {"encoder_target_tokens": tokens % 3, "encoder_loss_weights": real.astype(np.int32)}
    if objective == "span":
        return encoder | {
            "start_positions": (lengths - 3).astype(np.int32),
            "end_positions": (lengths - 2).astype(np.int32),
        }
    if objective == "contrastive":  # rows in pairs of one group; the first row is padding
        tokens[0] = config.pad_id
        positives = np.where(real, (tokens * 7) % (V - 4) + 4, config.pad_id).astype(np.int32)
        return encoder | {"target_input_tokens": positives, "groups": np.indices((ROWS, 2))[0].astype(np.int32) // 2}
    labels = (tokens[:, 1] % 3).astype(np.int32)
    if objective == "classify":
        return encoder | {"labels": labels}
    # The right choice holds the token 5; one example has a choice less.
    choices = np.stack([tokens] * 3, axis=1)
    for row, label in enumerate(labels):
        choices[row, label, 1:4] = 5
    absent = (labels[0] + 1) % 3
    choices[0, absent] = config.pad_id
    return {"encoder_input_tokens": choices, "labels": labels}


def one_device():
    return make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])


@functools.cache
def drawn(config):
    return jax.device_get(init_state(config.param_specs(), OPTIONS, one_device(), DEFAULT_RULES, jax.random.key(0)))


OPTIONS = TrainOptions(loss_normalizing_factor="NUM_REAL_TARGET_TOKENS", optimizer=AdamWConfig())


def start(config, options, mesh):
    return jax.device_put(drawn(config), state_shardings(config.param_specs(), options, mesh, DEFAULT_RULES))


@pytest.mark.parametrize(("family", "objective"), CASES)
def test_it_learns(family, objective):
    config, mesh = config_of(family, objective), one_device()
    options = dataclasses.replace(OPTIONS, objective=objective)
    batch = make_batch(config, objective)
    step, state = make_train_step(config, options, mesh, DEFAULT_RULES), start(config, options, mesh)
    losses = []
    for _ in range(80):
        state, metrics = step(state, batch, None, 0.005)
        losses.append(float(metrics["objective"]))
        assert metrics["skipped_updates"] == 0
    print(f"{family} {objective}: loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("family", "objective"),
    [
        pytest.param(
            *case,
            marks=[] if case in [("xlmr", "mlm"), ("mbert", "choose"), ("mt5", "contrastive")] else pytest.mark.slow,
        )
        for case in [*QUICK, ("xlmr", "tag"), ("bloom", "span")]
    ],
)
def test_mesh_and_microbatches_change_nothing(family, objective):
    """Metrics and gradients on 4 x 2 devices in two microbatches (of 'contrastive', whose negatives are those of the
    global batch, in one), against one device and one batch."""
    config, results, rng = config_of(family, objective), [], np.random.default_rng(1)
    # Away from the start, where the choices of an example have all but the same gradient, and their difference is
    # rounding.
    params = jax.tree.map(lambda x: x + rng.normal(size=x.shape).astype(np.float32) * 0.2, drawn(config).params)
    for mesh, pieces in (
        (one_device(), 1),
        (make_mesh(MeshConfig(fsdp=4, tensor=2)), 2 - (objective == "contrastive")),
    ):
        options = dataclasses.replace(OPTIONS, objective=objective, microbatches=pieces)
        run = jax.jit(functools.partial(loss_and_gradient, config, options, mesh, DEFAULT_RULES, dropout_key=None))
        batch = global_batch(make_batch(config, objective), mesh)
        placed = jax.device_put(params, tree_shardings(config.param_specs(), mesh))
        results.append(jax.device_get(run(params=placed, batch=batch)))
    (metrics, grads), (expected_metrics, expected) = results[1], results[0]
    assert metrics.keys() == expected_metrics.keys()
    for name in metrics:
        np.testing.assert_allclose(metrics[name], expected_metrics[name], rtol=1e-5, atol=1e-6, err_msg=name)
    scale = max(np.abs(g).max() for g in jax.tree.leaves(expected))
    measured = jax.tree.map(lambda a, b: float(np.abs(a - b).max() / scale), grads, expected)
    print(f"{family} {objective}: largest deviation of gradients {max(jax.tree.leaves(measured)):.1e}")
    assert max(jax.tree.leaves(measured)) < 1e-5


def test_evaluation_takes_an_objective():
    config = config_of("bloom", "tag")
    batch = make_batch(config, "tag")
    metrics = make_eval_step(config, one_device(), DEFAULT_RULES, "tag")(
        start(config, OPTIONS, one_device()).params, batch
    )
    assert metrics["weight"] == batch["encoder_loss_weights"].sum()
    assert metrics["loss"] / metrics["weight"] == pytest.approx(np.log(3), rel=0.2)  # untrained
