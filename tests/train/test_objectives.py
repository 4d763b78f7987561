"""The loss: values and gradients against the formula written out, and what it holds in memory."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xtr.errors import UserError
from xtr.train.cross_entropy import cross_entropy
from xtr.train.objectives import check_normalizer, decoder_weights, normalize

B, T, D, V = 3, 7, 5, 11


def reference(y, head, targets, weights, z_loss, label_smoothing):
    """T5X's formula with soft targets, in the order of its paper form."""
    logits = y.astype(jnp.float32) @ head
    vocab = head.shape[1]
    confidence, low = 1 - label_smoothing, label_smoothing / (vocab - 1)
    soft = jnp.where(jax.nn.one_hot(targets, vocab) > 0, confidence, low)
    entropy = -(confidence * math.log(confidence) + (vocab - 1) * low * math.log(low + 1e-20))
    log_z = jax.nn.logsumexp(logits, axis=-1)
    loss = -jnp.sum(soft * jax.nn.log_softmax(logits), axis=-1) - entropy + z_loss * log_z**2
    correct = jnp.argmax(logits, axis=-1) == targets
    return jnp.sum(weights * loss), jnp.sum(weights * z_loss * log_z**2), jnp.sum(weights * correct)


def problem(seed, length=T, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    y = jnp.asarray(rng.normal(size=(B, length, D)), dtype)
    head = jnp.asarray(rng.normal(size=(D, V)), jnp.float32)
    targets = jnp.asarray(rng.integers(0, V, size=(B, length)), jnp.int32)
    weights = jnp.asarray(rng.integers(0, 3, size=(B, length)) / 2, jnp.float32)
    return y, head, targets, weights


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("chunk_bytes", [2**32, B * 2 * V * 4, 1])  # one piece; pieces of 2 positions; of 1
def test_values_and_gradients(label_smoothing, chunk_bytes):
    y, head, targets, weights = problem(0)
    ours = functools.partial(cross_entropy, z_loss=1e-2, label_smoothing=label_smoothing, max_logits_bytes=chunk_bytes)
    expected = reference(y, head, targets, weights, 1e-2, label_smoothing)
    np.testing.assert_allclose(jax.jit(ours)(y, head, targets, weights), expected, rtol=2e-6)

    def scaled(loss, y, head):  # a factor after the loss must reach the gradients
        return 3.0 * loss(y, head, targets, weights)[0]

    value, grads = jax.jit(jax.value_and_grad(functools.partial(scaled, ours), (0, 1)))(y, head)
    expected_value, expected_grads = jax.jit(
        jax.value_and_grad(functools.partial(scaled, lambda *a: reference(*a, 1e-2, label_smoothing)), (0, 1))
    )(y, head)
    np.testing.assert_allclose(value, expected_value, rtol=2e-6)
    for a, b in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("length", "chunks"), [(7, 3), (9, 4), (5, 12)])
def test_chunks_that_do_not_divide_the_length_change_nothing(length, chunks):
    y, head, targets, weights = problem(3, length)
    ours = functools.partial(cross_entropy, z_loss=1e-3, max_logits_bytes=max(1, targets.size * V * 4 // chunks))
    whole = reference(y, head, targets, weights, 1e-3, 0.0)
    np.testing.assert_allclose(jax.jit(ours)(y, head, targets, weights), whole, rtol=2e-6)


def test_gradients_keep_their_dtypes():
    y, head, targets, weights = problem(1, dtype=jnp.bfloat16)
    dy, dhead = jax.grad(lambda y, h: cross_entropy(y, h, targets, weights)[0], (0, 1))(y, head)
    assert (dy.dtype, dhead.dtype) == (jnp.bfloat16, jnp.float32)


def test_large_logits_are_finite():
    y, head, targets, weights = problem(2)
    loss, z_loss, _ = cross_entropy(y * 1e4, head, targets, weights, z_loss=1e-4)
    assert np.isfinite([loss, z_loss]).all()


def test_ties_go_to_the_first_index_as_with_argmax():
    y, head = jnp.ones((1, 2, D)), jnp.zeros((D, V))
    _, _, correct = cross_entropy(y, head, jnp.array([[0, 1]]), jnp.ones((1, 2)))
    assert correct == 1.0


@pytest.mark.parametrize("chunks", [1, 4])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_one_array_of_tokens_by_vocabulary_at_a_time(chunks, label_smoothing):
    """The compiled gradient's scratch memory holds one [tokens, V] array (or chunk) and nothing else of that size."""
    batch, length, dim, vocab = 8, 64, 16, 4096
    logits_bytes = batch * length * vocab * 4
    shapes = (
        jax.ShapeDtypeStruct((batch, length, dim), jnp.float32),
        jax.ShapeDtypeStruct((dim, vocab), jnp.float32),
        jax.ShapeDtypeStruct((batch, length), jnp.int32),
        jax.ShapeDtypeStruct((batch, length), jnp.float32),
    )

    def loss(y, head, targets, weights):
        return cross_entropy(
            y,
            head,
            targets,
            weights,
            z_loss=1e-4,
            label_smoothing=label_smoothing,
            max_logits_bytes=logits_bytes // chunks,
        )[0]

    memory = jax.jit(jax.grad(loss, (0, 1))).lower(*shapes).compile().memory_analysis()
    one_array = logits_bytes / chunks
    assert one_array <= memory.temp_size_in_bytes < 1.1 * one_array + 2 * dim * vocab * 4


def packed_batch():
    return {
        "decoder_target_tokens": jnp.array([[5, 6, 1, 7, 1, 0], [8, 1, 0, 0, 0, 0]]),
        "decoder_segment_ids": jnp.array([[1, 1, 1, 2, 2, 0], [1, 1, 0, 0, 0, 0]]),
        "decoder_positions": jnp.array([[0, 1, 2, 0, 1, 0], [0, 1, 0, 0, 0, 0]]),
    }


def test_weights_follow_the_targets_unless_given():
    batch = packed_batch()
    np.testing.assert_array_equal(decoder_weights(batch, 0), [[1, 1, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0]])
    batch["decoder_loss_weights"] = jnp.array([[0, 1, 1, 0, 0, 0], [2, 0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(decoder_weights(batch, 0), batch["decoder_loss_weights"])


@pytest.mark.parametrize(
    ("factor", "expected"),
    [(None, 1.0), (234496, 234496.0), ("NUM_REAL_TARGET_TOKENS", 7.0), ("NUM_TOTAL_TARGET_TOKENS", 12.0)],
)
def test_normalizers(factor, expected):
    weights, normalizer = normalize(factor, packed_batch())
    assert normalizer == expected
    np.testing.assert_array_equal(weights, decoder_weights(packed_batch(), 0))


def test_average_per_sequence_counts_packed_examples_alike():
    weights, normalizer = normalize("AVERAGE_PER_SEQUENCE", packed_batch())
    np.testing.assert_allclose(weights, [[1 / 3, 1 / 3, 1 / 3, 1 / 2, 1 / 2, 0], [1 / 2, 1 / 2, 0, 0, 0, 0]])
    assert normalizer == pytest.approx(3.0)


def test_average_per_sequence_of_unpacked_rows_and_empty_ones():
    batch = {"decoder_target_tokens": jnp.array([[5, 6, 1], [7, 0, 0], [0, 0, 0]])}
    weights, normalizer = normalize("AVERAGE_PER_SEQUENCE", batch)
    np.testing.assert_allclose(weights, [[1 / 3, 1 / 3, 1 / 3], [1, 0, 0], [0, 0, 0]])
    assert normalizer == pytest.approx(2.0)


def test_a_normalizer_is_checked():
    assert check_normalizer("num_real_target_tokens") == "NUM_REAL_TARGET_TOKENS"
    assert check_normalizer(None) is None
    with pytest.raises(UserError, match="Did you mean AVERAGE_PER_SEQUENCE"):
        check_normalizer("AVERAGE_PER_SEQUENC")
    with pytest.raises(UserError, match="positive"):
        check_normalizer(0)
