"""Gradients of the heads' objectives on simulated devices: of any mesh and any microbatches those of one device."""

import functools

import jax
import numpy as np
import pytest

from xtr.models import spec as spec_lib
from xtr.models.bert import BertConfig
from xtr.models.heads import WithHead
from xtr.parallel.mesh import MeshConfig, make_mesh
from xtr.parallel.sharding import DEFAULT_RULES, global_batch, tree_shardings
from xtr.train.state import TrainOptions
from xtr.train.step import loss_and_gradient

BODY = BertConfig("xlmr", 64, 16, 2, 24, 1, 24, dtype="float32", remat="none")
ROWS, LENGTH, CHOICES, PAD = 16, 8, 3, 1
KINDS = {"choose": "choose", "tag": "tag", "span": "span", "contrastive": "embed"}


def sequences(rng, shape, side="encoder"):
    real = np.arange(LENGTH) < rng.integers(3, LENGTH + 1, (*shape, 1))
    tokens = np.where(real, rng.integers(5, 64, (*shape, LENGTH)), PAD).astype(np.int32)
    return {f"{side}_input_tokens": tokens, f"{side}_segment_ids": real.astype(np.int32)}


def batch_of(objective):
    """Rows of uneven weights, one of them padding."""
    rng = np.random.default_rng(0)
    batch = sequences(rng, (ROWS, CHOICES) if objective == "choose" else (ROWS,))
    match objective:
        case "choose":
            batch["encoder_segment_ids"][::2, 2] = 0  # every other example has two choices
            batch["labels"] = rng.integers(0, 2, ROWS).astype(np.int32)
        case "tag":
            weights = batch["encoder_segment_ids"] * rng.integers(0, 2, (ROWS, LENGTH))
            batch |= {"encoder_loss_weights": weights.astype(np.int32)}
            batch["encoder_target_tokens"] = rng.integers(0, 4, (ROWS, LENGTH)).astype(np.int32)
        case "span":
            batch |= {f"{end}_positions": rng.integers(0, 3, ROWS).astype(np.int32) for end in ("start", "end")}
        case "contrastive":
            batch |= sequences(rng, (ROWS,), "target")
            batch["groups"] = rng.integers(0, 4, (ROWS, 2)).astype(np.int32)
    for name in batch:
        if name.endswith(("segment_ids", "loss_weights")):
            batch[name][5] = 0
    return batch


def gradients(config, params, objective, mesh, microbatches):
    options = TrainOptions(
        objective=objective, microbatches=microbatches, loss_normalizing_factor="NUM_REAL_TARGET_TOKENS"
    )
    function = functools.partial(loss_and_gradient, config, options, mesh, DEFAULT_RULES)
    placed = jax.device_put(params, tree_shardings(config.param_specs(), mesh))
    compiled = jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})
    return jax.device_get(compiled(placed, global_batch(batch_of(objective), mesh), None))


@pytest.mark.parametrize("objective", KINDS)
def test_meshes_and_microbatches_change_nothing(objective):
    """In-batch negatives are those of the global batch: a mesh that spreads its rows compares the same ones."""
    config = WithHead(BODY, KINDS[objective], num_labels=4 if objective == "tag" else None)
    params = jax.jit(lambda key: spec_lib.init_params(config.param_specs(), key))(jax.random.key(0))
    metrics, grads = gradients(config, params, objective, make_mesh(MeshConfig(fsdp=1), jax.devices()[:1]), 1)
    assert metrics["weight"] > 0 and all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads["head"]))
    pieces = 1 if objective == "contrastive" else 4
    got_metrics, got = gradients(
        config, params, objective, make_mesh(MeshConfig(replica=2, fsdp=2), jax.devices()[:4]), pieces
    )
    for name, value in metrics.items():
        np.testing.assert_allclose(got_metrics[name], value, rtol=1e-5, err_msg=name)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6), got, grads)
