"""Generation with a cache: greedy, beam search, sampling. For every `Generator`: mT5 and BLOOM.

Axes: B inputs, S input length, T output length, C continuations of an input (beams, samples), N = B*C rows, K = 2*C
candidates of a beam step, D embedding, V vocabulary.

Every function is jit-able with all but the model and the arrays static, and a row's result depends neither on the other
rows nor on padding (up to f32 rounding of the logits). A row without any input token, such as a filler of the last
batch, has ended from the start: its output is padding, its log-probability 0.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from xtr.errors import UserError, did_you_mean
from xtr.models.interface import Generator

# Which of `Decoding`'s settings a method reads.
METHODS = {"greedy": (), "beam": ("beams", "alpha"), "sample": ("temperature", "top_k", "top_p", "samples", "seed")}


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How text is generated.

    Attributes:
      method: 'greedy', 'beam' or 'sample'.
      beams: width of the beam search.
      alpha: strength of its brevity penalty, ((5 + length) / 6)^alpha; 0 for none.
      temperature: logits are divided by it before sampling; above 0.
      top_k: sample from the k most probable tokens only; 0 for all.
      top_p: sample from the fewest most probable tokens that hold this much probability only, in (0, 1]; 1 for all.
      samples: sequences drawn for each input; the most probable one is the prediction.
      seed: of the draws.

    Raises:
      UserError: an unknown method, a value out of range, or a setting that the method does not read.
    """

    method: str = "greedy"
    beams: int = 4
    alpha: float = 0.6
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    samples: int = 1
    seed: int = 0

    def __post_init__(self):
        if self.method not in METHODS:
            raise UserError(
                f"Decoding.method (DECODE_METHOD) must be one of {', '.join(METHODS)}, not {self.method!r}."
                + did_you_mean(str(self.method), METHODS)
            )
        for name, least in (("beams", 1), ("top_k", 0), ("samples", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UserError(f"Decoding.{name} must be a whole number of at least {least}, not {value!r}.")
        for name in ("alpha", "temperature", "top_p"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
                raise UserError(f"Decoding.{name} must be a number of at least 0, not {value!r}.")
        if self.temperature == 0:
            raise UserError("Decoding.temperature must be above 0; for the most probable tokens, decode greedily.")
        if not 0 < self.top_p <= 1:
            raise UserError(f"Decoding.top_p must lie in (0, 1], where 1 keeps all tokens, not {self.top_p!r}.")
        for field in dataclasses.fields(self)[1:]:
            if getattr(self, field.name) != field.default and field.name not in METHODS[self.method]:
                (reader,) = (method for method, names in METHODS.items() if field.name in names)
                raise UserError(
                    f"Decoding.{field.name} is {getattr(self, field.name)!r}, but decoding by {self.method!r} does not "
                    f"read it: set DECODE_METHOD to {reader!r}, or leave {field.name} at {field.default!r}."
                )

    @property
    def continuations(self) -> int:
        """Sequences kept for each input, C."""
        return {"greedy": 1, "beam": self.beams, "sample": self.samples}[self.method]


def decode(
    model: Generator, tokens_BS: jax.Array, row_ids_B: jax.Array, *, decoding: Decoding, max_length: int, eos_id: int
) -> tuple[jax.Array, jax.Array]:
    """Generates as `decoding` says.

    Args:
      row_ids_B: int, what tells the inputs apart, whatever batch they are in (see `sample_decode`).

    Returns:
      tokens_BCT, the best last, and their natural log-probabilities under the model, f32 [B, C], not normalised by
      length; -inf where beam search found fewer than C sequences.
    """
    limits = {"max_length": max_length, "eos_id": eos_id}
    if decoding.method == "beam":
        tokens_BCT, scores_BC = beam_decode(model, tokens_BS, beams=decoding.beams, alpha=decoding.alpha, **limits)
        ended_BCT = tokens_BCT == eos_id
        lengths_BC = jnp.where(ended_BCT.any(-1), jnp.argmax(ended_BCT, axis=-1) + 1, 1)
        return tokens_BCT, scores_BC * brevity_penalty(lengths_BC, decoding.alpha)
    if decoding.method == "sample":
        return sample_decode(
            model,
            tokens_BS,
            jax.random.key(decoding.seed),
            row_ids_B,
            temperature=decoding.temperature,
            top_k=decoding.top_k,
            top_p=decoding.top_p,
            samples=decoding.samples,
            **limits,
        )
    tokens_BT, log_prob_B = greedy_decode(model, tokens_BS, **limits)
    return tokens_BT[:, None], log_prob_B[:, None]


def greedy_decode(
    model: Generator, tokens_BS: jax.Array, *, max_length: int, eos_id: int = 1
) -> tuple[jax.Array, jax.Array]:
    """Takes the most probable token at each step, until every row has ended or is `max_length` long.

    Args:
      tokens_BS: inputs or prompts, padded on the right with the config's `pad_id`.
      max_length: number of tokens at most, the EOS included; at least 1.
      eos_id: the token that ends a row.

    Returns:
      tokens_BT int32 [B, max_length], the EOS included and `pad_id` after it, and the natural log-probability of those
      tokens, f32 [B].
    """
    return _extend(model, tokens_BS, max_length, eos_id, 1, lambda logits_NV, _: most_probable(logits_NV)[0])


def most_probable(logits: jax.Array, axis: int = -1) -> tuple[jax.Array, jax.Array]:
    """The token of the highest logit, the first of equal ones, int32 [N], and its natural log-probability, f32 [N].

    Args:
      logits: [N, V], or [V, N] where the vocabulary is axis 0.
    """
    # Not argmax: a reduction of pairs is not vectorised on CPUs, and took five times as long there.
    best = logits.max(axis=axis, keepdims=True)
    places = jax.lax.broadcasted_iota(jnp.int32, logits.shape, axis % logits.ndim)
    token_N = jnp.where(logits == best, places, logits.shape[axis] - 1).min(axis=axis)
    return token_N, -jnp.log(jnp.exp(logits - best).sum(axis=axis))


def sample_decode(
    model: Generator,
    tokens_BS: jax.Array,
    key: jax.Array,
    row_ids_B: jax.Array,
    *,
    max_length: int,
    eos_id: int = 1,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    samples: int = 1,
) -> tuple[jax.Array, jax.Array]:
    """Draws each token from the model's distribution, warped as in `warp`.

    The draws of sample c of a row come from the key, the row's id and c alone: a row has the same samples in every
    batch, and rows of one id have the same draws.

    Args:
      tokens_BS, max_length, eos_id: as in `greedy_decode`.
      key: a typed key.
      row_ids_B: int ids of the rows.
      temperature, top_k, top_p: as in `warp`.
      samples: sequences C for each row.

    Returns:
      tokens_BCT and their natural log-probabilities, f32 [B, C], by rising probability: the most probable one is last.
      The probabilities are the model's own, before any warping. T5X's `temperature_sample` returns those of the warped
      distribution unless `rescale_log_probs=False`; they would say nothing here (0 for top_k=1).
    """
    batch = tokens_BS.shape[0]
    per_row = jax.vmap(jax.random.fold_in, (None, 0))
    per_sample = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
    keys_N = per_sample(per_row(key, row_ids_B), jnp.arange(samples)).reshape(-1)

    def draw(logits_NV: jax.Array, index: jax.Array) -> jax.Array:
        step_keys_N = jax.vmap(jax.random.fold_in, (0, None))(keys_N, index)
        warped_NV = warp(logits_NV, temperature=temperature, top_k=top_k, top_p=top_p)
        return jax.vmap(jax.random.categorical)(step_keys_N, warped_NV)

    tokens_NT, log_prob_N = _extend(model, tokens_BS, max_length, eos_id, samples, draw)
    tokens_BCT, log_prob_BC = tokens_NT.reshape(batch, samples, -1), log_prob_N.reshape(batch, samples)
    order_BC = jnp.argsort(log_prob_BC, axis=1)
    return (
        jnp.take_along_axis(tokens_BCT, order_BC[..., None], axis=1),
        jnp.take_along_axis(log_prob_BC, order_BC, axis=1),
    )


def warp(logits_NV: jax.Array, *, temperature: float, top_k: int, top_p: float) -> jax.Array:
    """Logits to sample from, -inf where a token is ruled out.

    In this order, as Hugging Face applies its warpers: division by `temperature`; the `top_k` most probable tokens
    (0: all); of what is left, renormalised, the fewest most probable tokens whose probabilities sum to `top_p` or more
    (1: all), the one that crosses it included (arXiv 1904.09751, section 3.1). As in T5X, tokens that tie with the last
    one kept are kept too.
    """
    logits_NV = logits_NV / temperature
    if 0 < top_k < logits_NV.shape[-1]:
        least_N1 = jax.lax.top_k(logits_NV, top_k)[0][:, -1:]
        logits_NV = jnp.where(logits_NV < least_N1, -jnp.inf, logits_NV)
    if top_p < 1.0:
        probs_NV = jax.nn.softmax(logits_NV, axis=-1)
        falling_NV = -jnp.sort(-probs_NV, axis=-1)
        before_NV = jnp.cumsum(falling_NV, axis=-1) - falling_NV
        least_N1 = jnp.min(jnp.where(before_NV < top_p, falling_NV, jnp.inf), axis=-1, keepdims=True)
        logits_NV = jnp.where(probs_NV < least_N1, -jnp.inf, logits_NV)
    return logits_NV


def _extend(
    model: Generator,
    tokens_BS: jax.Array,
    max_length: int,
    eos_id: int,
    continuations: int,
    choose: Callable[[jax.Array, jax.Array], jax.Array],
) -> tuple[jax.Array, jax.Array]:
    """Extends each of N rows by choose(logits_NV, index) until all have ended; tokens_NT, log-probabilities [N]."""
    pad_id = model.config.pad_id
    head_DV = model.head()
    cache, first_B = model.start(tokens_BS, max_length)
    ended_N = jnp.repeat(jnp.all(tokens_BS == pad_id, axis=-1), continuations)
    rows = ended_N.shape[0]

    def going_on(state):
        index, *_, ended_N = state
        return (index < max_length) & ~jnp.all(ended_N)

    def step(state):
        index, cache, last_N, tokens_NT, log_prob_N, ended_N = state
        y_ND, cache = model.decode_step(last_N, index, cache)
        logits_NV = y_ND.astype(jnp.float32) @ head_DV
        token_N = choose(logits_NV, index).astype(jnp.int32)
        chosen_N = jnp.take_along_axis(logits_NV, token_N[:, None], axis=-1)[:, 0]
        log_prob_N += jnp.where(ended_N, 0.0, chosen_N - jax.nn.logsumexp(logits_NV, axis=-1))
        token_N = jnp.where(ended_N, pad_id, token_N)
        tokens_NT = jax.lax.dynamic_update_slice_in_dim(tokens_NT, token_N[:, None], index, axis=1)
        return index + 1, cache, token_N, tokens_NT, log_prob_N, ended_N | (token_N == eos_id)

    state = (
        jnp.zeros((), jnp.int32),
        cache.repeat(continuations),
        jnp.repeat(first_B.astype(jnp.int32), continuations),
        jnp.full((rows, max_length), pad_id, jnp.int32),
        jnp.zeros((rows,), jnp.float32),
        ended_N,
    )
    _, _, _, tokens_NT, log_prob_N, _ = jax.lax.while_loop(going_on, step, state)
    return tokens_NT, log_prob_N


def brevity_penalty(length: jax.Array | int, alpha: float) -> jax.Array:
    """((5 + length) / 6)^alpha, by which a beam's log-probability is divided (arXiv 1609.08144, section 7)."""
    return jnp.power((5.0 + length) / 6.0, alpha)


def beam_decode(
    model: Generator,
    tokens_BS: jax.Array,
    *,
    max_length: int,
    beams: int = 4,
    alpha: float = 0.6,
    eos_id: int = 1,
) -> tuple[jax.Array, jax.Array]:
    """T5X's beam search: C = `beams` live sequences and the C best finished ones, scored with a brevity penalty.

    At each step the 2*C most probable extensions of the live sequences are the candidates: at most C of them end, so
    that C others go on. A sequence that ends competes for the finished pool with log-probability over
    `brevity_penalty(length, alpha)`, its length counting the EOS; of equal scores the one found first is kept. The
    search of a row is over when its pool is full and no live sequence can enter it any more: its log-probability over
    the penalty of length max_length + 1 (T5X counts the start token) is below the pool's worst score.

    Args:
      tokens_BS, max_length, eos_id: as in `greedy_decode`.
      beams: C; 1 is not greedy search, since a sequence that ends does not stop the other one.
      alpha: 0 or more.

    Returns:
      tokens_BCT int32 and scores f32 [B, C], rising: the best is last. Places of the pool that stayed empty hold
      padding and -inf. Of a row in which nothing ended within `max_length`, the live sequences and their
      log-probabilities, without penalty.
    """
    batch, pad_id = tokens_BS.shape[0], model.config.pad_id
    head_DV = model.head()
    cache, first_B = model.start(tokens_BS, max_length)
    empty_B = jnp.all(tokens_BS == pad_id, axis=-1)
    longest = brevity_penalty(max_length + 1, alpha)

    def going_on(state):
        index, _, _, live_scores_BC, _, pool_scores_BC, _ = state
        over_B = pool_scores_BC.min(axis=1) > live_scores_BC.max(axis=1) / longest
        return (index < max_length) & ~jnp.all(over_B | empty_B)

    def step(state):
        index, cache, last_N, live_scores_BC, live_BCT, pool_scores_BC, pool_BCT = state
        y_ND, cache = model.decode_step(last_N, index, cache)
        log_probs_NV = jax.nn.log_softmax(y_ND.astype(jnp.float32) @ head_DV, axis=-1)
        log_probs_BCV = log_probs_NV.reshape(batch, beams, -1) + live_scores_BC[..., None]

        # The best of all beams are among the best of each. Ties go to the first beam, then to the lowest token id.
        each = min(2 * beams, log_probs_BCV.shape[-1])
        best_BCk, ids_BCk = jax.lax.top_k(log_probs_BCV, each)
        scores_BK, found_BK = jax.lax.top_k(best_BCk.reshape(batch, -1), 2 * beams)
        ids_BK = jnp.take_along_axis(ids_BCk.reshape(batch, -1), found_BK, axis=1)
        beam_BK = found_BK // each
        candidates_BKT = jnp.take_along_axis(live_BCT, beam_BK[..., None], axis=1)
        candidates_BKT = jax.lax.dynamic_update_slice_in_dim(candidates_BKT, ids_BK[..., None], index, axis=2)
        ends_BK = ids_BK == eos_id

        live_scores_BC, live_BCT, kept_BC = _best_last(jnp.where(ends_BK, -jnp.inf, scores_BK), candidates_BKT, beams)
        cache = cache.reorder(jnp.take_along_axis(beam_BK, kept_BC, axis=1))
        ended_BK = jnp.where(ends_BK, scores_BK / brevity_penalty(index + 1, alpha), -jnp.inf)
        pool_scores_BC, pool_BCT, _ = _best_last(
            jnp.concatenate([pool_scores_BC, ended_BK], axis=1),
            jnp.concatenate([pool_BCT, candidates_BKT], axis=1),
            beams,
        )
        last_N = jnp.take_along_axis(ids_BK, kept_BC, axis=1).reshape(-1)
        return index + 1, cache, last_N, live_scores_BC, live_BCT, pool_scores_BC, pool_BCT

    # One live sequence at first; the others are copies of it, without any probability.
    first_alone_C = jnp.where(jnp.arange(beams) == 0, 0.0, -jnp.inf)
    no_tokens_BCT = jnp.full((batch, beams, max_length), pad_id, jnp.int32)
    state = (
        jnp.zeros((), jnp.int32),
        cache.repeat(beams),
        jnp.repeat(first_B.astype(jnp.int32), beams),
        jnp.tile(first_alone_C, (batch, 1)),
        no_tokens_BCT,
        jnp.full((batch, beams), -jnp.inf),
        no_tokens_BCT,
    )
    _, _, _, live_scores_BC, live_BCT, pool_scores_BC, pool_BCT = jax.lax.while_loop(going_on, step, state)
    none_B1 = jnp.isneginf(pool_scores_BC).all(axis=1, keepdims=True)
    scores_BC = jnp.where(none_B1, live_scores_BC, pool_scores_BC)
    tokens_BCT = jnp.where(none_B1[..., None], live_BCT, pool_BCT)
    return (
        jnp.where(empty_B[:, None, None], pad_id, tokens_BCT),
        jnp.where(empty_B[:, None], first_alone_C[::-1], scores_BC),
    )


def _best_last(scores_BM: jax.Array, tokens_BMT: jax.Array, count: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The `count` best by rising score, equal ones from last to first: scores, tokens, and where they were."""
    best_BC, places_BC = (x[:, ::-1] for x in jax.lax.top_k(scores_BM, count))
    return best_BC, jnp.take_along_axis(tokens_BMT, places_BC[..., None], axis=1), places_BC
