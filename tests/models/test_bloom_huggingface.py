"""BLOOM against Hugging Face's, weights drawn at random, f32: states, logits, loss, gradients, greedy tokens; and the
counts of every size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xtr import config as gin_config
from xtr.evaluate.decoding import greedy_decode
from xtr.models import spec as spec_lib
from xtr.models.bloom import BloomConfig, alibi_slopes

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TOLERANCE = 1e-4
CONFIGS = {
    "4 heads": BloomConfig(131, 48, 4, 3, dtype="float32"),
    "6 heads": BloomConfig(131, 48, 6, 3, dtype="float32"),  # no power of two, as 176b's 112
    "bloom-560m": BloomConfig(250_880, 1024, 16, 24, dtype="float32"),
}
PUBLISHED = {
    "560m": 559_214_592,
    "1b1": 1_065_314_304,
    "1b7": 1_722_408_960,
    "3b": 3_002_557_440,
    "7b1": 7_069_016_064,
    "176b": 176_247_271_424,
}


def build(config: BloomConfig, **options):
    """Hugging Face's network of a config, as its `huggingface()` describes it."""
    layout = config.huggingface()
    architecture = getattr(transformers, layout.architecture)
    return architecture(architecture.config_class(**layout.config), **options).eval()


def names_and_shapes(config: BloomConfig) -> dict[str, tuple[int, ...]]:
    flat = spec_lib.flatten(config.param_specs()).values()
    return {name: spec_lib.stored_shape(s, "hf") for s in flat for name in spec_lib.layer_names(s, "hf")}


@pytest.fixture(scope="module", params=["4 heads", "6 heads", pytest.param("bloom-560m", marks=pytest.mark.slow)])
def pair(request):
    """Hugging Face's network with random weights (norms near 1), our config, and our parameters with the same."""
    config = CONFIGS[request.param]
    theirs = build(config)
    state, specs = theirs.state_dict(), config.param_specs()
    spread = 2.0 / config.emb_dim**0.5  # so much that layers outweigh the token itself: greedy text does not repeat it
    torch.manual_seed(0)
    with torch.no_grad():
        for spec in spec_lib.flatten(specs).values():
            for name in spec_lib.layer_names(spec, "hf"):
                around = 1.0 if spec.init is spec_lib.ones else 0.0
                state[name].normal_(around, spread if state[name].ndim > 1 else 0.1)
    arrays = {name: state[name].numpy() for name in names_and_shapes(config)}
    return theirs, config, jax.tree.map(jnp.asarray, spec_lib.from_layers(specs, arrays, "hf"))


def prompts(config: BloomConfig, lengths: tuple[int, ...]) -> np.ndarray:
    """Rows padded on the right."""
    rng = np.random.default_rng(0)
    shape = (len(lengths), max(lengths))
    real = np.arange(shape[1]) < np.array(lengths)[:, None]
    return np.where(real, rng.integers(4, config.vocab_size, shape), config.pad_id)


def feed(tokens: np.ndarray, config: BloomConfig) -> dict:
    return {"input_ids": torch.tensor(tokens), "attention_mask": torch.tensor(tokens != config.pad_id).long()}


def deviation(ours, theirs) -> float:
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("lengths", [(150, 150), (150, 70, 9)], ids=["unpadded", "padded"])
def test_hidden_states_and_logits(pair, lengths):
    theirs, config, params = pair
    tokens = prompts(config, lengths)
    real = tokens != config.pad_id
    with torch.no_grad():
        out = theirs(**feed(tokens, config), output_hidden_states=True)
    model = config.network(params)
    layers = model.encode(tokens, all_layers=True)
    states = [deviation(ours[real], h.numpy()[real]) for ours, h in zip(layers, out.hidden_states, strict=True)]
    logits = deviation(model.logits(layers[-1])[real], out.logits.numpy()[real])
    print(f"{config.num_heads} heads, largest deviation: hidden states {max(states):.2e}, logits {logits:.2e}")
    assert len(states) == config.num_layers + 1 and max(*states, logits) < TOLERANCE


def test_loss_and_gradients(pair):
    theirs, config, params = pair
    tokens = prompts(config, (24, 15))
    real = tokens != config.pad_id
    theirs.zero_grad()
    out = theirs(**feed(tokens, config), labels=torch.tensor(np.where(real, tokens, -100)))
    out.loss.backward()

    def loss_of(params):
        model = config.network(params)
        log_probs = jax.nn.log_softmax(model.logits(model.encode(tokens)[:, :-1]))
        chosen = jnp.take_along_axis(log_probs, tokens[:, 1:, None], axis=-1)[..., 0]
        return -jnp.sum(jnp.where(real[:, 1:], chosen, 0.0)) / real[:, 1:].sum()

    loss, gradient = jax.jit(jax.value_and_grad(loss_of))(params)
    by_name = dict(theirs.named_parameters())
    measured = {
        name: deviation(ours, by_name.pop(name).grad.numpy())
        for name, ours in spec_lib.to_layers(config.param_specs(), gradient, "hf").items()
    }
    assert not by_name  # the head is the embedding
    worst = max(measured, key=measured.get)
    of_loss = deviation(loss, out.loss.detach().numpy())
    print(f"{config.num_heads} heads: loss {float(loss):.6f}, deviation {of_loss:.2e}; gradient {measured[worst]:.2e}")
    assert max(of_loss, measured[worst]) < TOLERANCE, worst


def test_greedy_tokens(pair):
    """Prompts of different lengths: padded on the right here, on the left there."""
    theirs, config, params = pair
    lengths, new = (40, 29, 17, 11, 3, 1), 24
    tokens = prompts(config, lengths)
    left = np.stack([np.roll(row, tokens.shape[1] - n) for row, n in zip(tokens, lengths, strict=True)])
    decode = jax.jit(
        lambda params, eos_id: greedy_decode(config.network(params), tokens, max_length=new, eos_id=eos_id)[0]
    )

    def compare(eos_id):
        with torch.no_grad():
            out = theirs.generate(**feed(left, config), max_new_tokens=new, do_sample=False, eos_token_id=eos_id)
        written = out.numpy()[:, tokens.shape[1] :]
        expected = np.full((len(lengths), new), config.pad_id)
        expected[:, : written.shape[1]] = written
        np.testing.assert_array_equal(decode(params, eos_id), expected)
        return expected

    written = compare(config.eos_id)
    firsts = [np.unique(row, return_index=True) for row in written]
    tokens_of, first_of = max(firsts, key=lambda first: len(first[0]))
    assert len(np.unique(written)) > 8 and len(tokens_of) > 3
    shorter = compare(int(tokens_of[np.argsort(first_of)[2]]))  # a token that ends a row early
    assert (shorter == config.pad_id).any()
    print(f"{config.num_heads} heads: {written.size} tokens equal, {len(np.unique(written))} different ones")


@pytest.mark.parametrize("num_heads", [1, 2, 3, 12, 16, 32, 100, 112])
def test_slopes(num_heads):
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    theirs = build_alibi_tensor(torch.ones(1, 2), num_heads, torch.float32).numpy()[:, 0, 1]
    np.testing.assert_allclose(alibi_slopes(num_heads), theirs, rtol=1e-5)


def test_other_architectures_and_released_files_differ_by_the_prefix_alone():
    config = CONFIGS["4 heads"]
    with torch.device("meta"):
        base = transformers.BloomModel(build(config).config)
        tagger = transformers.BloomForTokenClassification(build(config).config)
    prefix, ours = config.huggingface().base_prefix, set(names_and_shapes(config))
    assert {prefix + name for name in base.state_dict()} == ours
    assert {name for name in tagger.state_dict() if name.startswith(prefix)} == ours


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_sizes(size):
    needed = ["MODEL_DIR=/run", "VOCABULARY_PATH=/vocabulary"]
    gin_config.load([f"models/bloom/{size}.gin", "runs/finetune.gin", "targets/xnli.gin"], needed, entry="train")
    config = gin_config.build_macro("MODEL")
    assert spec_lib.count(config.param_specs()) == PUBLISHED[size]
    with torch.device("meta"):
        theirs = build(config)
    assert {name: tuple(p.shape) for name, p in theirs.named_parameters()} == names_and_shapes(config)
    assert sum(p.numel() for p in theirs.parameters()) == PUBLISHED[size]
