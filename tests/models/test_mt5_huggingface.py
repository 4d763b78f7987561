"""mT5 against Hugging Face's, weights drawn at random, f32."""

import jax
import numpy as np
import pytest

from xtr.evaluate.decoding import greedy_decode
from xtr.models import spec as spec_lib
from xtr.models.mt5 import MT5, MT5Config, param_specs

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

CONFIG = MT5Config(128, 48, 3, 16, 96, 3, 2, dtype="float32")
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def pair():
    """Hugging Face's network, and ours with its weights."""
    config = transformers.MT5Config(
        vocab_size=CONFIG.vocab_size,
        d_model=CONFIG.emb_dim,
        d_kv=CONFIG.head_dim,
        d_ff=CONFIG.mlp_dim,
        num_layers=CONFIG.num_encoder_layers,
        num_decoder_layers=CONFIG.num_decoder_layers,
        num_heads=CONFIG.num_heads,
        dropout_rate=0.0,
        tie_word_embeddings=False,
        attn_implementation="eager",
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
    )
    torch.manual_seed(0)
    theirs = transformers.MT5ForConditionalGeneration(config).eval()
    # Built from scratch, the head is the embedding, whatever the config says; mT5's is not.
    theirs.lm_head.weight = torch.nn.Parameter(torch.randn(CONFIG.vocab_size, CONFIG.emb_dim))
    specs = param_specs(CONFIG)
    flat = spec_lib.flatten(specs)
    with torch.no_grad():
        state = theirs.state_dict()
        for spec in flat.values():
            for name in spec_lib.layer_names(spec, "hf"):
                scale = 1.0 if spec.init is spec_lib.ones else 0.0
                state[name].copy_(scale + torch.randn_like(state[name]) * (0.2 if state[name].ndim > 1 else 0.1))
    named = {name for spec in flat.values() for name in spec_lib.layer_names(spec, "hf")}
    aliases = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    assert set(state) - aliases == named
    arrays = {name: state[name].numpy() for name in named}
    return theirs, MT5(CONFIG, spec_lib.from_layers(specs, arrays, "hf"))


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return rng.integers(2, CONFIG.vocab_size, (3, 150)), rng.integers(2, CONFIG.vocab_size, (3, 20))


def deviation(ours, theirs) -> float:
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("padded", [False, True])
def test_logits_and_hidden_states(pair, batch, padded):
    theirs, model = pair
    encoder, decoder = (a.copy() for a in batch)
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
    print(f"largest relative deviation of logits, {'padded' if padded else 'unpadded'}: {measured:.2e}")
    assert measured < TOLERANCE


def test_greedy_tokens(pair, batch):
    theirs, model = pair
    encoder = batch[0][:, :40].copy()
    encoder[1, 11:] = 0
    with torch.no_grad():
        out = theirs.generate(
            torch.tensor(encoder), attention_mask=torch.tensor(encoder != 0).long(), max_new_tokens=24, do_sample=False
        ).numpy()[:, 1:]
    expected = np.zeros((3, 24), np.int32)
    expected[:, : out.shape[1]] = out
    tokens, _ = jax.jit(lambda t: greedy_decode(model, t, max_length=24))(encoder)
    np.testing.assert_array_equal(tokens, expected)
    assert len(np.unique(expected)) > 5
