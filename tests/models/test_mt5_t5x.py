"""mT5 against numbers recorded from T5X: logits, loss and gradients of a packed batch, f32."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xtr.checkpoints.load import load_params
from xtr.models import spec as spec_lib
from xtr.models.mt5 import MT5, MT5Config, param_specs


@pytest.fixture(scope="module")
def recorded(oracles):
    """The recorded arrays, the network's config and the initial parameters."""
    folder = oracles / "t5x_mt5_micro"
    config = json.loads((folder / "config.json").read_text())
    config = MT5Config(**{k: v for k, v in config.items() if k in MT5Config.__dataclass_fields__})
    params, _ = load_params(folder / "t5x_legacy" / "checkpoint_0", config)
    return np.load(folder / "oracle.npz"), config, params


def logits_of(config, params, batch):
    model = MT5(config, params)
    encoded = model.encode(batch["encoder_input_tokens"], segment_ids_BS=batch["encoder_segment_ids"])
    y = model.decode(
        batch["decoder_input_tokens"],
        encoded,
        encoder_mask_BS=batch["encoder_input_tokens"] != 0,
        encoder_segment_ids_BS=batch["encoder_segment_ids"],
        segment_ids_BT=batch["decoder_segment_ids"],
        target_mask_BT=batch["decoder_target_tokens"] != 0,
    )
    return model.logits(y)


def batch_of(arrays, number):
    prefix = f"batch{number}/"
    return {name.removeprefix(prefix): arrays[name] for name in arrays.files if name.startswith(prefix)}


def test_logits_of_a_packed_batch(recorded):
    arrays, config, params = recorded
    logits = jax.jit(logits_of, static_argnums=0)(config, params, batch_of(arrays, 0))
    measured = np.abs(logits - arrays["logits0"]).max() / np.abs(arrays["logits0"]).max()
    print(f"largest relative deviation of logits: {measured:.2e}")
    assert measured < 1e-5


def test_loss_and_gradients_of_a_packed_batch(recorded):
    arrays, config, params = recorded
    batch = batch_of(arrays, 0)

    def loss(params):
        logits = logits_of(config, params, batch)
        log_z = jax.nn.logsumexp(logits, axis=-1)
        target = jnp.take_along_axis(logits, batch["decoder_target_tokens"][..., None], axis=-1)[..., 0]
        return jnp.sum((log_z - target + 1e-4 * jnp.square(log_z)) * batch["decoder_loss_weights"])

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    assert float(value) == pytest.approx(float(arrays["loss0_sum"]), rel=1e-6)
    measured = {
        name: float(np.abs(ours - theirs).max() / np.abs(theirs).max())
        for name, ours in spec_lib.to_layers(param_specs(config), gradient).items()
        for theirs in [arrays[f"grad0/{name.replace('.', '/')}"]]
    }
    worst = max(measured, key=measured.get)
    print(f"largest relative deviation of a gradient: {measured[worst]:.2e} ({worst})")
    assert measured[worst] < 1e-5
