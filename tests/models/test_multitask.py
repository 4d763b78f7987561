"""Several heads on one body: each is the model with that head alone, and gets a gradient from its own batches alone."""

import jax
import numpy as np
import pytest

from xtr.errors import UserError
from xtr.models import spec as spec_lib
from xtr.models.bert import BertConfig
from xtr.models.heads import HEAD, WithHead
from xtr.models.multitask import WithHeads
from xtr.parallel.mesh import MeshConfig, make_mesh
from xtr.parallel.sharding import DEFAULT_RULES, global_batch
from xtr.train.state import TrainOptions
from xtr.train.step import loss_and_gradient

BODY = BertConfig("xlmr", 64, 16, 2, 24, 1, 24, dtype="float32", remat="none", mlm_head=True)
HEADS = {"nli": ("classify", 3), "same": ("classify", 2), "choice": "choose", "ccg": ("tag", 5), "qa": "span"}
MODEL = WithHeads(BODY, HEADS | {"text": "mlm"})
TOKENS = np.random.default_rng(0).integers(5, 64, (4, 8)).astype(np.int32)


@pytest.fixture(scope="module")
def params():
    return spec_lib.init_params(MODEL.param_specs(), jax.random.key(0))


@pytest.mark.parametrize("name", ["nli", "same", "ccg", "qa"])
def test_a_head_is_the_model_with_that_head_alone(params, name):
    kind, *labels = HEADS[name] if isinstance(HEADS[name], tuple) else (HEADS[name],)
    alone = WithHead(BODY, kind, *labels)
    own = {key: value for key, value in params.items() if key not in (HEAD, "mlm_head")} | {HEAD: params[HEAD][name]}
    assert jax.tree.map(np.shape, own) == spec_lib.map_specs(lambda s: s.shape, alone.param_specs())
    view = MODEL.on(name)
    assert (view.objectives, view.num_labels) == (alone.objectives, alone.num_labels)
    assert view.param_specs() == MODEL.param_specs() and view.pad_id == BODY.pad_id
    logits = getattr(view.network(params), kind)(TOKENS)
    np.testing.assert_array_equal(logits, getattr(alone.network(own), kind)(TOKENS))


@pytest.mark.parametrize("name", ["nli", "text"])
def test_other_heads_get_no_gradient(params, name):
    view = MODEL.on(name)
    (objective,) = view.objectives
    batch = {"encoder_input_tokens": TOKENS, "encoder_segment_ids": np.ones_like(TOKENS)}
    if objective == "mlm":
        batch |= {"encoder_target_tokens": TOKENS, "encoder_loss_weights": np.eye(4, 8, dtype=np.int32)}
    else:
        batch["labels"] = np.array([0, 1, 2, 0], np.int32)
    mesh, options = make_mesh(MeshConfig(), jax.devices()[:1]), TrainOptions(objective=objective)
    batch = global_batch(batch, mesh)
    _, grads = jax.jit(lambda p: loss_and_gradient(view, options, mesh, DEFAULT_RULES, p, batch, None))(params)
    moved = {path for path, g in spec_lib.flatten(grads).items() if np.abs(g).max() > 0}
    of_heads = {path.split("/")[1] for path in moved if path.startswith(f"{HEAD}/")}
    assert of_heads == ({name} if name != "text" else set())
    assert any(path.startswith("mlm_head/") for path in moved) == (name == "text")
    assert any(not path.startswith((HEAD, "mlm_head")) for path in moved)


def test_names_in_hugging_faces_layout_are_told_apart():
    flat = spec_lib.flatten(MODEL.param_specs())
    assert len({spec.hf for spec in flat.values()}) == len(flat)
    assert all(spec.fresh == path.startswith(f"{HEAD}/") for path, spec in flat.items())
    without = WithHeads(BODY, HEADS)
    assert "mlm_head" not in without.param_specs() and set(without.param_specs()[HEAD]) == set(HEADS)


def test_the_head_for_a_task():
    assert [MODEL.head_for("classify", n) for n in (2, 3, 4)] == ["same", "nli", None]
    assert [MODEL.head_for(o, None) for o in ("choose", "span", "mlm", "contrastive")] == ["choice", "qa", "text", None]


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ({}, "is empty"),
        ({"a b": "span"}, "'a b' cannot be a name"),
        ({"a": "spam"}, "must be one of .*Did you mean span"),
        ({"a": "embed"}, "must be one of classify"),
        ({"a": "classify"}, "NUM_LABELS.*at least 2, not None"),
    ],
)
def test_heads_that_cannot_be(heads, message):
    with pytest.raises(UserError, match=message):
        WithHeads(BODY, heads)


def test_masked_tokens_need_a_head_for_them():
    with pytest.raises(UserError, match="bert.BertConfig.mlm_head = True"):
        WithHeads(BODY.encoder(), {"text": "mlm"})
