import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtr.data.denoising import (
    SpanCorruption,
    chunk_documents,
    corrupt,
    corrupted_lengths,
    noise_counts,
    noise_mask,
    raw_length,
)
from xtr.errors import UserError

_SENTINELS = list(range(1099, 999, -1))
_CONFIGS = st.builds(SpanCorruption, st.floats(0.01, 0.9), st.floats(1, 10))


def _restore(inputs, targets):
    """Puts the spans of the targets back in the place of their sentinels."""
    assert inputs[-1] == targets[-1] == 1
    spans, current = {}, None
    for token in targets[:-1].tolist():
        if token in _SENTINELS:
            current = spans.setdefault(token, [])
        else:
            current.append(token)
    text = []
    for token in inputs[:-1].tolist():
        text += spans.pop(token) if token in _SENTINELS else [token]
    return text, spans


@given(st.integers(1, 300), _CONFIGS, st.integers(0, 2**32))
def test_inputs_and_targets_hold_the_text(length, config, seed):
    tokens = np.arange(2, 2 + length)
    if noise_counts(length, config)[1] > len(_SENTINELS):
        return
    inputs, targets = corrupt(tokens, noise_mask(length, config, np.random.default_rng(seed)), _SENTINELS, 1)
    assert inputs.dtype == targets.dtype == np.int32
    text, left = _restore(inputs, targets)
    assert text == tokens.tolist()
    assert left == ({} if length > 1 else {_SENTINELS[0]: []})
    assert (len(inputs), len(targets)) == tuple(int(n) for n in corrupted_lengths(length, config))
    used = [t for t in targets.tolist() if t in _SENTINELS]
    assert used == _SENTINELS[: len(used)]
    if length > 1:
        assert used == [t for t in inputs.tolist() if t in _SENTINELS]


def test_counts_are_t5s():
    """random_spans_noise_mask of 512 tokens: 77 masked in 26 spans (Raffel et al. 2020)."""
    config = SpanCorruption()
    assert [int(n) for n in noise_counts(512, config)] == [77, 26]
    mask = noise_mask(512, config, np.random.default_rng(0))
    assert mask.sum() == 77 and (np.diff(np.r_[False, mask].astype(int)) == 1).sum() == 26
    assert not mask[0] and mask[-1]
    # T5 pre-training: 512 inputs and 114 targets hold 568 tokens of text.
    assert raw_length(512, 114, 100, config) == 568
    assert [int(n) for n in corrupted_lengths(568, config)] == [512, 114]


def test_masks_reach_every_place_but_the_first():
    rng = np.random.default_rng(0)
    rate = np.mean([noise_mask(40, SpanCorruption(), rng) for _ in range(4000)], axis=0)
    assert rate[0] == 0 and rate[-1] == 1 and abs(rate.mean() - 0.15) < 1e-9
    assert rate[1:].min() > 0.02


@given(st.integers(2, 400), st.integers(2, 200), st.integers(1, 100), _CONFIGS)
def test_raw_length_is_the_longest_that_fits(inputs_length, targets_length, sentinels, config):
    try:
        length = raw_length(inputs_length, targets_length, sentinels, config)
    except UserError:
        length = 1
    for n, fits in ((length, True), (length + 1, False)):
        inputs, targets = corrupted_lengths(n, config)
        spans = noise_counts(n, config)[1]
        if n > 1:
            assert (inputs <= inputs_length and targets <= targets_length and spans <= sentinels) == fits


@given(st.lists(st.integers(0, 50), max_size=20), st.integers(1, 20))
def test_chunks_hold_every_token_once(lengths, size):
    chunks = chunk_documents(np.array(lengths, np.int64), size)
    document, start, length = chunks.locate(np.arange(len(chunks)))
    assert (length > 0).all() and (length <= size).all()
    found = [(d, s + i) for d, s, n in zip(document, start, length, strict=True) for i in range(n)]
    assert found == [(d, i) for d, n in enumerate(lengths) for i in range(n)]


def test_what_cannot_be_denoised():
    with pytest.raises(UserError, match="no sentinels"):
        raw_length(512, 114, 0, SpanCorruption())
    with pytest.raises(UserError, match="too short"):
        raw_length(2, 2, 100, SpanCorruption())
    with pytest.raises(UserError, match="noise_density"):
        SpanCorruption(noise_density=1.0)
    with pytest.raises(UserError, match="mean_span_length"):
        SpanCorruption(mean_span_length=0.5)
