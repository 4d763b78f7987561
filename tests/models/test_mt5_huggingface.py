"""mT5 and umT5 against Hugging Face's, weights drawn at random, f32: states, logits, loss, gradients, greedy tokens."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xtr.evaluate.decoding import greedy_decode
from xtr.models import spec as spec_lib
from xtr.models.mt5 import MT5Config
from xtr.train.objectives import seq2seq

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

MICRO = MT5Config(128, 48, 3, 16, 96, 3, 2, dtype="float32")
SMALL = MT5Config(250112, 512, 6, 64, 1024, 8, 8, dtype="float32", remat="none")
CONFIGS = {"mt5": MICRO, "umt5": dataclasses.replace(MICRO, relpos_per_layer=True), "mt5-small": SMALL}
TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=["mt5", "umt5", pytest.param("mt5-small", marks=pytest.mark.slow)])
def pair(request):
    """Hugging Face's network, our config and parameters with its weights."""
    config = CONFIGS[request.param]
    layout = config.huggingface()
    settings = layout.config | {"dropout_rate": 0.0}
    their_config = transformers.AutoConfig.for_model(settings.pop("model_type"), **settings)
    their_config._attn_implementation = "eager"
    torch.manual_seed(0)
    theirs = getattr(transformers, layout.architecture)(their_config).eval()
    # Built from scratch, the head is the embedding, whatever the config says; mT5's is not.
    theirs.lm_head.weight = torch.nn.Parameter(torch.empty(config.vocab_size, config.emb_dim))
    theirs.config.tie_word_embeddings = False
    # T5X's initial scales keep attention far from saturation; norms and biases are moved off their ones and zeros.
    specs = config.param_specs()
    params = jax.jit(lambda key: spec_lib.init_params(specs, key))(jax.random.key(0))
    rng = np.random.default_rng(0)

    def moved(spec, x):
        return np.asarray(x) + (0.1 * rng.standard_normal(x.shape, np.float32) if len(spec.layer_shape) == 1 else 0)

    params = spec_lib.map_specs(moved, specs, params)
    state, arrays = theirs.state_dict(), spec_lib.to_layers(specs, params, "hf")
    assert set(state) - {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"} == set(arrays)
    with torch.no_grad():
        for name, array in arrays.items():
            state[name].copy_(torch.tensor(array))
    return theirs, config, params


def batch_for(config, rows=3, inputs=150, targets=20):
    rng = np.random.default_rng(0)
    return rng.integers(2, config.vocab_size, (rows, inputs)), rng.integers(2, config.vocab_size, (rows, targets))


def deviation(ours, theirs) -> float:
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("padded", [False, True])
def test_logits_and_hidden_states(pair, padded):
    theirs, config, params = pair
    model = config.network(params)
    encoder, decoder = batch_for(config)
    decoder[:, 0] = 0
    if padded:
        for row, length in enumerate((150, 70, 9)):
            encoder[row, length:] = 0
    with torch.no_grad():
        out = theirs(
            input_ids=torch.tensor(encoder),
            attention_mask=torch.tensor(encoder != 0).long(),
            decoder_input_ids=torch.tensor(decoder),
            output_hidden_states=True,
        )
    layers = model.encode(encoder, all_layers=True)
    real = encoder != 0
    for ours, hidden in zip(layers, out.encoder_hidden_states, strict=True):
        assert deviation(ours[real], hidden.numpy()[real]) < TOLERANCE
    logits = model.logits(model.decode(decoder, layers[-1], encoder_mask_BS=real))
    measured = deviation(logits, out.logits.numpy())
    print(f"largest relative deviation of {config.family} logits, padded {padded}: {measured:.2e}")
    assert measured < TOLERANCE


def test_loss_and_gradients(pair):
    theirs, config, params = pair
    encoder, targets = batch_for(config, rows=2, inputs=24, targets=9)
    encoder[1, 15:], targets[1, 6:] = 0, 0
    decoder = np.pad(targets[:, :-1], ((0, 0), (1, 0)))
    theirs.zero_grad()
    out = theirs(
        input_ids=torch.tensor(encoder),
        attention_mask=torch.tensor(encoder != 0).long(),
        decoder_input_ids=torch.tensor(decoder),
        labels=torch.tensor(np.where(targets == 0, -100, targets)),
    )
    out.loss.backward()
    batch = {
        "encoder_input_tokens": jnp.asarray(encoder, jnp.int32),
        "decoder_input_tokens": jnp.asarray(decoder, jnp.int32),
        "decoder_target_tokens": jnp.asarray(targets, jnp.int32),
    }

    def loss_of(params):
        total, weight, _ = seq2seq(config.network(params), batch, dropout_key=None, z_loss=0.0, label_smoothing=0.0)
        return total / weight

    loss, gradient = jax.jit(jax.value_and_grad(loss_of))(params)
    assert float(loss) == pytest.approx(out.loss.item(), rel=TOLERANCE)
    their_gradient = {name: p.grad.numpy() for name, p in theirs.named_parameters()}
    measured = {
        name: deviation(ours, their_gradient[name])
        for name, ours in spec_lib.to_layers(config.param_specs(), gradient, "hf").items()
    }
    worst = max(measured, key=measured.get)
    print(f"{config.family} loss {float(loss):.6f} and {out.loss.item():.6f}; gradient {measured[worst]:.2e} ({worst})")
    assert measured[worst] < TOLERANCE


def test_greedy_tokens(pair):
    theirs, config, params = pair
    encoder = batch_for(config)[0][:, :40].copy()
    encoder[1, 11:] = 0
    with torch.no_grad():
        out = theirs.generate(
            torch.tensor(encoder), attention_mask=torch.tensor(encoder != 0).long(), max_new_tokens=24, do_sample=False
        ).numpy()[:, 1:]
    expected = np.zeros((3, 24), np.int32)
    expected[:, : out.shape[1]] = out
    tokens, _ = jax.jit(lambda p, t: greedy_decode(config.network(p), t, max_length=24))(params, encoder)
    np.testing.assert_array_equal(tokens, expected)
    assert len(np.unique(expected)) > 5
