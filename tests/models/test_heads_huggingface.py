"""Heads against the classes of transformers that have them: names, logits, and the loss and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xtr.models import spec as spec_lib
from xtr.models.bert import BertConfig
from xtr.models.bloom import BloomConfig
from xtr.models.heads import WithHead
from xtr.models.mt5 import MT5Config
from xtr.train import objectives

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES = {"vocab_size": 67, "emb_dim": 32, "num_heads": 2, "mlp_dim": 48, "num_layers": 2, "max_positions": 40}
BODIES = {
    "xlmr": BertConfig("xlmr", **SIZES, dtype="float32"),
    "xlmr-xl": BertConfig("xlmr", **SIZES, pre_norm=True, dtype="float32"),
    "mbert": BertConfig("mbert", **SIZES, type_vocab_size=2, norm_epsilon=1e-12, dtype="float32"),
    "bloom": BloomConfig(67, 32, 2, 2, dtype="float32"),
}
KINDS = ("classify", "choose", "tag", "span")
EXACT = [(family, kind) for family in BODIES for kind in KINDS if family != "bloom" or kind in ("tag", "span")]
QUICK = [("xlmr", "classify"), ("xlmr", "span"), ("xlmr-xl", "choose"), ("mbert", "choose"), ("bloom", "tag")]
LABELS = 5
TOLERANCE = 1e-5


def config_of(family, kind, **settings) -> WithHead:
    return WithHead(BODIES[family], kind, num_labels=LABELS if kind in ("classify", "tag") else None, **settings)


def pair(config: WithHead):
    """Hugging Face's network with random weights, and our parameters with the same; their names agree."""
    torch.manual_seed(0)
    layout = config.huggingface()
    architecture = getattr(transformers, layout.architecture)
    theirs = architecture(architecture.config_class(**layout.config, attn_implementation="eager")).eval()
    specs, state = config.param_specs(), theirs.state_dict()
    flat = spec_lib.flatten(specs).values()
    names = [name for spec in flat for name in spec_lib.layer_names(spec, "hf")]
    assert len(names) == len(set(names))
    constants = {name for name in state if name.endswith(("position_ids", "token_type_ids"))}
    assert set(names) == set(state) - constants
    with torch.no_grad():
        for spec in flat:
            for name in spec_lib.layer_names(spec, "hf"):
                around = 1.0 if spec.init is spec_lib.ones else 0.0
                state[name].copy_(around + 0.2 * torch.randn_like(state[name]))
    return theirs, spec_lib.from_layers(specs, {name: state[name].numpy() for name in names}, "hf")


def make_batch(config: WithHead):
    """SeqIO's features of a batch of padded rows, and what Hugging Face calls them."""
    rng = np.random.default_rng(0)
    shape = (3, 4, 12) if config.kind == "choose" else (3, 12)
    lengths = rng.integers(5, 13, shape[:-1])
    real = np.arange(12) < lengths[..., None]
    tokens = np.where(real, rng.integers(5, 67, shape), config.pad_id)
    types = ((np.arange(12) >= 3) & real).astype(np.int64) * (config.family == "mbert")
    batch = {"encoder_input_tokens": tokens, "encoder_token_types": types}
    theirs = {"input_ids": tokens, "attention_mask": real.astype(np.int64)}
    if config.family != "bloom":
        theirs["token_type_ids"] = types
    if config.kind == "span":
        batch |= {"start_positions": np.array([1, 2, 0]), "end_positions": np.array([3, 2, 4])}
        theirs |= {name: batch[name] for name in ("start_positions", "end_positions")}
    elif config.kind == "tag":
        weights = (real & (rng.random(shape) < 0.5)).astype(np.int64)
        labels = rng.integers(0, LABELS, shape)
        batch |= {"encoder_target_tokens": labels, "encoder_loss_weights": weights}
        theirs["labels"] = np.where(weights, labels, -100)
    else:
        batch["labels"] = theirs["labels"] = rng.integers(0, 4, 3)
    return batch, {name: torch.tensor(x) for name, x in theirs.items()}, real


def deviation(ours, theirs) -> float:
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize(
    ("family", "kind"), [pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow) for case in EXACT]
)
def test_logits_loss_and_gradients(family, kind):
    config = config_of(family, kind)
    theirs, params = pair(config)
    batch, inputs, real = make_batch(config)
    out = theirs(**inputs)

    @jax.jit
    def ours(params):
        def loss(params):
            total, weight, _ = objectives.OBJECTIVES[kind].loss(
                config.network(params), batch, pad_id=config.pad_id, dropout_key=None
            )
            return total / weight

        features = ("input_tokens", "token_types")
        axes = "BCS" if kind == "choose" else "BS"
        tokens, types = (jnp.asarray(batch[f"encoder_{name}"]) for name in features)
        logits = getattr(config.network(params), kind)(tokens, **{f"token_types_{axes}": types})
        return logits, *jax.value_and_grad(loss)(params)

    logits, loss, grads = ours(params)
    if kind == "span":
        # Hugging Face lets padding take part in the softmax over places; ours does not: no loss to compare.
        expected = np.stack([out.start_logits.detach().numpy(), out.end_logits.detach().numpy()], axis=-1)
    else:
        expected = out.logits.detach().numpy()
    seen = real if kind in ("tag", "span") else np.ones(expected.shape, bool)
    measured = {"logits": deviation(np.asarray(logits)[seen], expected[seen])}
    if kind != "span":
        measured["loss"] = deviation(loss, out.loss.detach().numpy())
        out.loss.backward()
        named = dict(theirs.named_parameters())
        gradients = spec_lib.to_layers(config.param_specs(), grads, "hf")
        scale = max(float(named[name].grad.abs().max()) for name in gradients if named[name].grad is not None)
        measured["gradients"] = max(
            float(np.abs(np.asarray(g) - named[name].grad.numpy()).max()) / scale
            for name, g in gradients.items()
            if named[name].grad is not None
        )
    print(f"{family} {kind}: " + ", ".join(f"{name} {value:.1e}" for name, value in measured.items()))
    assert max(measured.values()) < TOLERANCE


def test_layouts_of_heads_that_transformers_lacks():
    """The body's class; the names of the head are never those of the body."""
    for config in (
        config_of("xlmr", "classify", read="attention"),
        config_of("xlmr", "classify", pooling="mean"),
        config_of("bloom", "classify"),
        WithHead(MT5Config(67, 32, 2, 16, 48, 2, 2), "span"),
        config_of("mbert", "embed", pooling="first", pooler=True),
        WithHead(MT5Config(67, 32, 2, 16, 48, 2, 2), "embed", pooler=True),
    ):
        layout = config.huggingface()
        assert layout.architecture == config.encoder().huggingface().architecture
        names = [n for s in spec_lib.flatten(config.param_specs()).values() for n in spec_lib.layer_names(s, "hf")]
        assert len(names) == len(set(names))


def test_a_pooler_is_the_heads_where_it_is_named_so():
    pooled, plain = config_of("mbert", "classify").huggingface(), config_of("mbert", "tag").huggingface()
    assert not any("pooler" in pattern for pattern in pooled.left_out)
    assert any("pooler" in pattern for pattern in plain.left_out)
    assert pooled.config["id2label"] == {str(i): f"LABEL_{i}" for i in range(LABELS)}
