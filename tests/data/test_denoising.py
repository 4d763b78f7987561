from collections import Counter

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
    target_length,
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


@pytest.mark.parametrize("length, masked, spans", [(190, 29, 10), (350, 53, 18), (390, 59, 20), (670, 101, 34)])
def test_counts_that_end_in_a_half_are_rounded_in_float32(length, masked, spans):
    """What TensorFlow gives for T5's formula; in float64 the products are 28.5, 52.5, 58.5 and 100.5, and one less."""
    assert [int(n) for n in noise_counts(length, SpanCorruption())] == [masked, spans]


def test_every_split_into_spans_is_equally_likely():
    """T5's _random_segmentation: 2 of the 5 places between 6 tokens are cut, 10 ways."""
    rng, config = np.random.default_rng(0), SpanCorruption(0.5, 2.0)
    assert [int(n) for n in noise_counts(12, config)] == [6, 3]
    masks = [tuple(noise_mask(12, config, rng)) for _ in range(20_000)]
    counts = np.array(list(Counter(masks).values()))
    assert len(counts) == 100 and ((counts - 200) ** 2 / 200).sum() < 170  # chi-squared, 99 degrees: p < 1e-5


@given(st.integers(8, 600), st.integers(1, 100), _CONFIGS)
def test_targets_of_that_length_never_shorten_a_text(inputs_length, sentinels, config):
    needed = target_length(inputs_length, sentinels, config)
    longest = raw_length(inputs_length, 100 * inputs_length, sentinels, config)
    assert raw_length(inputs_length, needed, sentinels, config) == longest
    assert corrupted_lengths(longest, config)[1] == needed


def test_target_length_is_t5s():
    assert target_length(512, 100, SpanCorruption()) == 114 and target_length(1024, 100, SpanCorruption()) == 229


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
