"""Model FLOPs by arithmetic, against the products that XLA makes of the very networks."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from xtr.errors import UserError
from xtr.models.bert import BertConfig
from xtr.models.bloom import BloomConfig
from xtr.models.flops import forward_flops, training_flops
from xtr.models.heads import WithHead
from xtr.models.mt5 import MT5Config
from xtr.models.spec import abstract
from xtr.plan.hlo import analyse
from xtr.train.objectives import OBJECTIVES

ROWS, S, T, CHOICES = 4, 48, 16, 2
XLMR = BertConfig("xlmr", 512, 64, 4, 96, 3, 64, dtype="float32", remat="none", mlm_head=True)
BODIES = {
    "mt5": MT5Config(512, 64, 4, 24, 96, 3, 2, dtype="float32", remat="none"),
    "umt5": MT5Config(512, 64, 4, 24, 96, 3, 2, dtype="float32", remat="none", relpos_per_layer=True),
    "xlmr": XLMR,
    "mbert": dataclasses.replace(XLMR, kind="mbert", type_vocab_size=2, pooler=True),
    "xlmr-xl": dataclasses.replace(XLMR, pre_norm=True),
    "bloom": BloomConfig(512, 64, 4, 3, dtype="float32", remat="none"),
}
CASES = [
    ("mt5", "seq2seq", None),
    ("umt5", "seq2seq", None),
    ("bloom", "causal", None),
    ("xlmr", "mlm", None),
    ("xlmr-xl", "mlm", None),
    ("mbert", "mlm", None),
    ("mt5", "classify", "attention"),
    ("mbert", "choose", "last"),
    ("bloom", "tag", "attention"),
    ("xlmr", "span", "last"),
    ("umt5", "contrastive", "last"),
]


def case(family, objective, read):
    config = BODIES[family]
    if read is not None:
        labels = 3 if objective in ("classify", "tag") else None
        config = WithHead(config, "embed" if objective == "contrastive" else objective, labels, read=read)
    shapes = {
        "seq2seq": {"encoder_input_tokens": S, "decoder_input_tokens": T, "decoder_target_tokens": T},
        "causal": {"decoder_input_tokens": S, "decoder_target_tokens": S},
        "mlm": {"encoder_input_tokens": S, "encoder_target_tokens": S, "encoder_loss_weights": S},
        "tag": {"encoder_input_tokens": S, "encoder_target_tokens": S, "encoder_loss_weights": S},
        "contrastive": {"encoder_input_tokens": S, "target_input_tokens": T, "groups": 2},
    }.get(objective, {"encoder_input_tokens": S})
    batch = {name: jax.ShapeDtypeStruct((ROWS, size), jnp.int32) for name, size in shapes.items()}
    one = jax.ShapeDtypeStruct((ROWS,), jnp.int32)
    if objective == "choose":
        batch["encoder_input_tokens"] = jax.ShapeDtypeStruct((ROWS, CHOICES, S), jnp.int32)
    if objective in ("classify", "choose"):
        batch["labels"] = one
    if objective == "span":
        batch |= {"start_positions": one, "end_positions": one}
    targets = T if objective in ("seq2seq", "contrastive") else 0
    return config, batch, (ROWS * (CHOICES if objective == "choose" else 1), S, targets)


def compiled_flops(config, objective, batch, *, training):
    kind = OBJECTIVES[objective]
    settings = {"z_loss": 1e-4, "label_smoothing": 0.0} if kind.over_vocabulary else {}

    def loss(params, batch):
        network = config.network(params)
        return kind.loss(network, batch, pad_id=config.pad_id, dropout_key=None, **settings)[0]

    program = jax.jit(jax.grad(loss) if training else loss)
    return analyse(program.lower(abstract(config.param_specs()), batch).compile().as_text()).flops.total


def _slow(of, training):
    return [pytest.mark.slow] if training and of[1] in ("contrastive", "choose", "tag", "span") else []


@pytest.mark.parametrize(
    ("of", "training"),
    [
        pytest.param(of, training, id=f"{of[0]}-{of[1]}-{name}", marks=_slow(of, training))
        for of in CASES
        for training, name in ((False, "forward"), (True, "training"))
    ],
)
def test_the_count_is_that_of_the_compiled_network(of, training):
    family, objective, read = of
    config, batch, sizes = case(family, objective, read)
    count = (training_flops if training else forward_flops)(config, objective, *sizes)
    assert compiled_flops(config, objective, batch, training=training) == pytest.approx(count, rel=0.01)


def test_mt5_xxl():
    """The arithmetic of the published sizes: 12.92e9 parameters, 4.49e13 FLOPs for an example of 1024 / 256 tokens."""
    xxl = MT5Config(250112, 4096, 64, 64, 10240, 24, 24)
    assert training_flops(xxl, "seq2seq", 1, 1024, 256) == pytest.approx(4.49e13, rel=2e-3)


def test_a_batch_is_so_many_rows():
    config = BODIES["mt5"]
    assert forward_flops(config, "seq2seq", 6, S, T) == pytest.approx(6 * forward_flops(config, "seq2seq", 1, S, T))


def test_an_objective_that_the_network_lacks_is_refused():
    with pytest.raises(UserError, match="no count of FLOPs; this one has seq2seq"):
        forward_flops(BODIES["mt5"], "causal", 1, 8)
