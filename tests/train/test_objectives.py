"""The loss: values and gradients against the formula written out, and what it holds in memory."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xtr.errors import UserError
from xtr.models.bert import BertConfig
from xtr.models.bloom import BloomConfig
from xtr.models.heads import WithHead
from xtr.models.layers import MASKED
from xtr.models.mt5 import MT5Config
from xtr.train.cross_entropy import cross_entropy
from xtr.train.objectives import (
    OBJECTIVES,
    check_microbatches,
    check_normalizer,
    check_objective,
    decoder_weights,
    normalize,
)
from xtr.train.state import TrainOptions

B, T, D, V = 3, 7, 5, 11


def reference(y, head, targets, weights, z_loss, label_smoothing, bias=0.0):
    """T5X's formula with soft targets, in the order of its paper form."""
    logits = y.astype(jnp.float32) @ head + bias
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


@pytest.mark.parametrize("chunk_bytes", [2**32, B * 2 * V * 4])
def test_a_bias_of_the_head_and_its_gradient(chunk_bytes):
    y, head, targets, weights = problem(4)
    bias = jnp.asarray(np.random.default_rng(5).normal(size=V), jnp.float32)

    def ours(y, head, bias):
        return cross_entropy(y, head, targets, weights, bias_V=bias, z_loss=1e-2, max_logits_bytes=chunk_bytes)[0]

    def expected(y, head, bias):
        return reference(y, head, targets, weights, 1e-2, 0.0, bias)[0]

    got, wanted = (jax.jit(jax.value_and_grad(f, (0, 1, 2)))(y, head, bias) for f in (ours, expected))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
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


# ---------------------------------------------------------------------------------------------------------------------
# The objectives, on networks whose outputs are the parameters themselves
# ---------------------------------------------------------------------------------------------------------------------

PAD = 1  # XLM-R's; its <s> is 0, an ordinary token


class Given:
    """A network of every kind whose states or logits are `output`; it keeps what it was given."""

    def __init__(self, output, head=None, bias=None):
        self.output, self._head, self._bias, self.inputs = output, head, bias, None

    def encode(self, tokens_BS, **inputs):
        self.inputs = {"tokens_BS": tokens_BS} | inputs
        return self.output

    def _logits(self, **inputs):
        self.inputs = inputs
        return self.output

    classify = choose = tag = span = _logits

    def mlm_states(self, x_BSD):
        return 2.0 * x_BSD

    def head(self):
        return self._head

    def head_bias(self):
        return self._bias


def loss_of(name, batch, **settings):
    """output -> loss, with the network that ran at its last call."""
    ran = []

    def loss(output, *head):
        ran.append(Given(output, *head))
        return OBJECTIVES[name].loss(ran[-1], batch, pad_id=PAD, dropout_key=None, **settings)

    return loss, ran


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def rows_of_tokens():
    """Three rows, the last one empty; 0 is a token, 1 is padding."""
    return jnp.array([[0, 5, 6, 2], [0, 7, 2, 1], [1, 1, 1, 1]])


def test_classify():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(3, 4)).astype(np.float32), np.array([2, 0, 9])
    batch = {"encoder_input_tokens": rows_of_tokens(), "labels": jnp.array(labels)}
    loss, ran = loss_of("classify", batch)
    (total, weight, metrics), grad = loss(logits), jax.grad(lambda x: loss(x)[0])(logits)
    expected = -log_softmax(logits)[[0, 1], [2, 0]].sum()
    np.testing.assert_allclose([total, metrics["loss"]], expected, rtol=1e-6)
    assert weight == metrics["weight"] == metrics["examples"] == 2  # the empty row counts nothing
    assert (metrics["input_tokens"], metrics["input_positions"]) == (7, 12)
    assert metrics["accuracy"] == (logits[:2].argmax(axis=1) == labels[:2]).sum()
    wanted = np.exp(log_softmax(logits)) - np.eye(4)[[2, 0, 0]]
    wanted[2] = 0
    np.testing.assert_allclose(grad, wanted, atol=1e-6)
    assert ran[0].inputs["segment_ids_BS"] is None

    batch["label_weights"] = jnp.array([0.5, 0.0, 0.0])
    total, weight, _ = loss_of("classify", batch)[0](logits)
    np.testing.assert_allclose(total, -0.5 * log_softmax(logits)[0, 2], rtol=1e-6)
    assert weight == 0.5


def test_a_label_that_is_no_class_is_not_passed_over():
    batch = {"encoder_input_tokens": rows_of_tokens(), "labels": jnp.array([4, 0, 0])}
    assert np.isnan(loss_of("classify", batch)[0](jnp.zeros((3, 4)))[0])
    batch["labels"] = jnp.array([-1, 0, 0])
    assert np.isnan(loss_of("classify", batch)[0](jnp.zeros((3, 4)))[0])


def test_choose_counts_absent_choices_out():
    tokens = jnp.stack([rows_of_tokens()[:2], rows_of_tokens()[1:]], axis=0)  # [2, 2, 4]; the last one is absent
    logits = np.array([[0.3, -0.2], [0.7, MASKED]], np.float32)
    batch = {"encoder_input_tokens": tokens, "labels": jnp.array([1, 0])}
    loss, ran = loss_of("choose", batch)
    (total, weight, metrics), grad = loss(logits), jax.grad(lambda x: loss(x)[0])(logits)
    np.testing.assert_allclose(total, -log_softmax(logits[:1])[0, 1], rtol=1e-6)  # the second has but one choice
    assert weight == metrics["examples"] == 2
    np.testing.assert_allclose(grad[1], 0, atol=1e-7)
    assert set(ran[0].inputs) == {"tokens_BCS", "segment_ids_BCS", "positions_BCS", "token_types_BCS", "dropout_key"}


def test_tag():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(3, 4, 5)).astype(np.float32), rng.integers(0, 5, (3, 4))
    weights = np.array([[0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]])
    labels[weights == 0] = -100
    batch = {
        "encoder_input_tokens": rows_of_tokens(),
        "encoder_segment_ids": jnp.array([[1, 1, 2, 2], [1, 1, 1, 0], [0, 0, 0, 0]]),
        "encoder_target_tokens": jnp.array(labels),
        "encoder_loss_weights": jnp.array(weights),
    }
    loss, _ = loss_of("tag", batch)
    (total, weight, metrics), grad = loss(logits), jax.grad(lambda x: loss(x)[0])(logits)
    expected = -sum(log_softmax(logits)[b, s, labels[b, s]] for b, s in np.argwhere(weights))
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    assert (weight, metrics["examples"]) == (3, 3)
    wanted = (np.exp(log_softmax(logits)) - np.eye(5)[np.maximum(labels, 0)]) * weights[..., None]
    np.testing.assert_allclose(grad, wanted, atol=1e-6)


def test_span():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 4, 2)).astype(np.float32)
    logits[np.asarray(rows_of_tokens()) == PAD] = MASKED
    batch = {
        "encoder_input_tokens": rows_of_tokens(),
        "start_positions": jnp.array([1, 0, 0]),
        "end_positions": jnp.array([3, 1, 0]),
    }
    loss, _ = loss_of("span", batch)
    (total, weight, metrics), grad = loss(logits), jax.grad(lambda x: loss(x)[0])(logits)
    start, end = log_softmax(logits[:2, :, 0].astype(np.float64)), log_softmax(logits[:2, :, 1].astype(np.float64))
    np.testing.assert_allclose(total, -(start[0, 1] + start[1, 0] + end[0, 3] + end[1, 1]) / 2, rtol=1e-6)
    assert weight == 2
    best = logits.argmax(axis=1)
    assert metrics["accuracy"] == sum((best[b] == at).all() for b, at in enumerate([(1, 3), (0, 1)]))
    np.testing.assert_allclose(grad[0, :, 0], (np.exp(start[0]) - np.eye(4)[1]) / 2, atol=1e-6)
    np.testing.assert_allclose(grad[2], 0, atol=1e-7)


class Vectors:
    """A network whose embeddings are `queries` and `positives`, told apart by their tokens, scaled by 3."""

    def __init__(self, queries, positives, query_tokens):
        self.queries, self.positives, self.query_tokens = queries, positives, query_tokens

    def embed(self, tokens_BS, *, dropout_key, **inputs):
        return self.queries if tokens_BS is self.query_tokens else self.positives

    def similarities(self, queries_BD, candidates_CD):
        return 3.0 * queries_BD @ candidates_CD.T


def test_contrastive():
    """Rows 0 and 2 are of one group, row 3 is padding, and the halves of two groups agree in one half only."""
    rng = np.random.default_rng(0)
    queries, positives = (rng.normal(size=(5, 6)).astype(np.float32) for _ in range(2))
    tokens = jnp.array([[0, 5, 2], [0, 7, 2], [0, 9, 2], [1, 1, 1], [0, 6, 2]])
    groups = jnp.array([[1, 2], [1, 3], [1, 2], [1, 2], [4, 3]])
    batch = {"encoder_input_tokens": tokens, "target_input_tokens": tokens + 0, "groups": groups}

    def loss(queries, positives):
        model = Vectors(queries, positives, tokens)
        return OBJECTIVES["contrastive"].loss(model, batch, pad_id=PAD, dropout_key=None)

    candidates = {0: [0, 1, 4], 1: [0, 1, 2, 4], 2: [1, 2, 4], 4: [0, 1, 2, 4]}
    logits = 3.0 * queries.astype(np.float64) @ positives.T
    expected = -sum(log_softmax(logits[i, of])[of.index(i)] for i, of in candidates.items())
    total, weight, metrics = loss(queries, positives)
    np.testing.assert_allclose([total, metrics["loss"]], expected, rtol=1e-6)
    assert weight == metrics["weight"] == metrics["examples"] == 4
    assert metrics["accuracy"] == sum(of[int(logits[i, of].argmax())] == i for i, of in candidates.items())
    wanted = np.zeros((5, 5))
    for i, of in candidates.items():
        wanted[i, of] = np.exp(log_softmax(logits[i, of])) - (np.array(of) == i)
    got = jax.grad(lambda *a: loss(*a)[0], (0, 1))(queries, positives)
    np.testing.assert_allclose(got[0], 3.0 * wanted @ positives, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got[1], 3.0 * wanted.T @ queries, rtol=1e-4, atol=1e-5)

    batch["label_weights"] = jnp.array([0.0, 0.5, 0.0, 0.0, 0.0])  # a row without a weight is still a negative
    total, weight, _ = loss(queries, positives)
    np.testing.assert_allclose(total, -0.5 * log_softmax(logits[1, candidates[1]])[1], rtol=1e-6)
    assert weight == 0.5


def test_a_batch_whose_rows_are_compared_is_not_cut():
    check_microbatches("contrastive", 1)
    check_microbatches("span", 4)
    with pytest.raises(UserError, match="NUM_MICROBATCHES is 4, but .*'contrastive'"):
        TrainOptions(objective="contrastive", microbatches=4)


@pytest.mark.parametrize(("name", "side"), [("causal", "decoder"), ("mlm", "encoder")])
def test_over_the_vocabulary(name, side):
    y, head, targets, weights = problem(6)
    bias = jnp.asarray(np.random.default_rng(7).normal(size=V), jnp.float32) if name == "mlm" else jnp.zeros(V)
    segments = jnp.array([[1, 1, 1, 2, 2, 2, 0], [1] * 7, [1, 1, 0, 0, 0, 0, 0]])
    positions = jnp.array([[0, 1, 2, 0, 1, 2, 0], list(range(7)), [0, 1, 0, 0, 0, 0, 0]])
    batch = {
        f"{side}_input_tokens": targets,
        f"{side}_target_tokens": targets,
        f"{side}_loss_weights": weights,
        f"{side}_segment_ids": segments,
        f"{side}_positions": positions,
    }
    loss, ran = loss_of(name, batch, z_loss=1e-2, label_smoothing=0.1)

    def expected(y, head, bias):
        return reference(2.0 * y if name == "mlm" else y, head, targets, weights, 1e-2, 0.1, bias)[0]

    got = jax.value_and_grad(lambda *a: loss(*a)[0], (0, 1, 2))(y, head, bias)
    wanted = jax.value_and_grad(expected, (0, 1, 2))(y, head, bias)
    np.testing.assert_allclose(got[0], wanted[0], rtol=2e-6)
    for a, b in list(zip(got[1], wanted[1], strict=True))[: 3 if name == "mlm" else 2]:
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6)
    _, weight, metrics = loss(y, head, bias)
    assert weight == metrics["weight"] == weights.sum()
    assert (metrics["input_tokens"], metrics["examples"]) == (15, 4)
    np.testing.assert_array_equal(ran[-1].inputs["segment_ids_BS"], segments)
    np.testing.assert_array_equal(ran[-1].inputs["positions_BS"], positions)


def test_labels_and_tags_are_normalised_as_targets_are():
    batch = {"encoder_input_tokens": rows_of_tokens(), "labels": jnp.array([1, 0, 0])}
    for factor, expected in ((None, 1), ("NUM_REAL_TARGET_TOKENS", 2), ("NUM_TOTAL_TARGET_TOKENS", 3)):
        weights, normalizer = normalize(factor, batch, "classify", PAD)
        np.testing.assert_array_equal(weights, [1, 1, 0])
        assert normalizer == expected
    batch["label_weights"] = jnp.array([0.5, 1.0, 0.0])
    weights, normalizer = normalize("AVERAGE_PER_SEQUENCE", batch, "span", PAD)
    np.testing.assert_array_equal(weights, [1, 1, 0])
    assert normalizer == 2
    batch |= {
        "encoder_loss_weights": jnp.array([[0, 1, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0]]),
        "encoder_segment_ids": jnp.array([[1, 1, 2, 2], [1, 1, 1, 0], [0, 0, 0, 0]]),
    }
    weights, normalizer = normalize("AVERAGE_PER_SEQUENCE", batch, "tag", PAD)
    np.testing.assert_allclose(weights, [[0, 1, 0.5, 0.5], [0, 1, 0, 0], [0, 0, 0, 0]])
    assert normalizer == 3


MT5 = MT5Config(64, 16, 2, 8, 24, 2, 1)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("seq2sec", MT5, "Did you mean seq2seq"),
        ("seq2seq", MT5.encoder(), "needs an encoder-decoder: mT5. This mt5 can be trained with no objective as it is"),
        ("seq2seq", BertConfig("xlmr", 64, 16, 2, 24, 2, 24), "This xlmr can be trained with no objective"),
        ("mlm", BertConfig("xlmr", 64, 16, 2, 24, 2, 24), "mlm_head = True"),
        ("mlm", BloomConfig(64, 16, 2, 2), "This bloom can be trained with 'causal'"),
        ("tag", MT5, "heads/tag.gin, after the run's file. This mt5 can be trained with 'seq2seq'"),
        ("span", WithHead(MT5, "choose"), "can be trained with 'choose'"),
        ("contrastive", WithHead(MT5, "tag", 3), "heads/dual_encoder.gin, after the run's file.*trained with 'tag'"),
    ],
)
def test_a_model_is_asked_for_what_it_can_do_alone(name, config, message):
    with pytest.raises(UserError, match=message):
        check_objective(name, config)


def test_every_objective_has_a_model_that_can_do_it():
    heads = [WithHead(MT5, kind, num_labels=3 if kind in ("classify", "tag") else None) for kind in
             ("classify", "choose", "tag", "span", "embed")]  # fmt: skip
    configs = [MT5, BloomConfig(64, 16, 2, 2), BertConfig("xlmr", 64, 16, 2, 24, 2, 24, mlm_head=True), *heads]
    for name, config in zip(OBJECTIVES, configs, strict=True):
        check_objective(name, config)
