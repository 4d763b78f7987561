"""The same predictions in three ways: this package's engine, its kernels in fixed batches, and Hugging Face's generate.

Each contender answers a list of questions by one call and returns a prediction for each: generated tokens up to the
EOS, or the number of the best choice. Texts are decoded where tokens are generated, as an evaluation needs them.
"""

import dataclasses
import functools
import importlib.util
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xtr.checkpoints import load, source, write
from xtr.data.vocabulary import Vocabulary
from xtr.errors import UserError
from xtr.evaluate import batching
from xtr.evaluate.decoding import Decoding, greedy_decode
from xtr.evaluate.predictor import Predictor
from xtr.evaluate.scoring import score_targets
from xtr.models import spec as spec_lib
from xtr.models.interface import Generator, ModelConfig
from xtr.parallel.mesh import MeshConfig, make_mesh


@dataclasses.dataclass(frozen=True)
class Question:
    """One example: its input, and the texts to choose from where it is not answered by generation."""

    tokens: np.ndarray
    choices: tuple[str, ...] = ()


Contender = Callable[[Sequence[Question]], list]


def engine(
    config: ModelConfig, params: Mapping, vocabulary: Vocabulary, max_length: int, tokens_per_batch: int
) -> Contender:
    """`xtr eval`'s own predictor: continuous decoding, or all choices of an input after one reading of it."""
    mesh = make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])
    predictor = Predictor(config, params, vocabulary, mesh, batching.LENGTH_BUCKETS, tokens_per_batch)

    def answer(questions: Sequence[Question]) -> list:
        inputs = [question.tokens for question in questions]
        if questions[0].choices:
            scores = predictor.rank(inputs, [question.choices for question in questions], lambda rows: None)
            return [int(np.argmax(own)) for own in scores]
        found = predictor.generate_tokens(inputs, max_length, Decoding(), lambda rows: None)
        return _decoded(vocabulary, [tokens for ((tokens, _),) in found])

    return answer


def fixed_batches(
    config: ModelConfig,
    params: Mapping,
    vocabulary: Vocabulary,
    max_length: int,
    rows: int,
    length: int,
    own_argmax: bool = False,
) -> Contender:
    """T5X's way: batches of `rows` in the order of the examples, all padded to `length` tokens, decoded until every row
    has ended; a choice is an example of its own.

    Args:
      own_argmax: take tokens as this package's greedy decoding does, instead of by argmax and log-softmax as T5X does.
    """
    greedy = functools.partial(greedy_decode if own_argmax else _plain_greedy, max_length=max_length)

    @jax.jit
    def generate(params: Mapping, tokens_BS: jax.Array) -> jax.Array:
        return greedy(config.network(params), tokens_BS, eos_id=vocabulary.eos_id)[0]

    @jax.jit
    def score(params: Mapping, tokens_BS: jax.Array, targets_BT: jax.Array) -> jax.Array:
        return score_targets(config.network(params), tokens_BS, targets_BT)

    def answer(questions: Sequence[Question]) -> list:
        if not questions[0].choices:
            found = [
                np.asarray(generate(params, batching.pad([q.tokens for q in some], rows, length, config.pad_id)))
                for some in _cut(questions, rows)
            ]
            return _decoded(vocabulary, np.concatenate(found)[: len(questions)])
        pairs, targets = _pairs(questions, vocabulary)
        longest = max(map(len, targets))
        scores = [
            np.asarray(score(params, *(batching.pad(part, rows, size, config.pad_id) for part, size in batch)))
            for batch in (
                (([pairs[i] for i in some], length), ([targets[i] for i in some], longest))
                for some in _cut(range(len(pairs)), rows)
            )
        ]
        return _best(np.concatenate(scores)[: len(pairs)], questions)

    return answer


def _plain_greedy(model: Generator, tokens_BS: jax.Array, *, max_length: int, eos_id: int) -> tuple:
    """Tokens [B, max_length] and their log-probabilities [B], as `greedy_decode`'s."""
    batch, pad_id, head_DV = len(tokens_BS), model.config.pad_id, model.head()
    cache, first_B = model.start(tokens_BS, max_length)

    def step(state):
        index, cache, last_B, tokens_BT, log_prob_B, ended_B = state
        y_BD, cache = model.decode_step(last_B, index, cache)
        log_probs_BV = jax.nn.log_softmax(y_BD.astype(jnp.float32) @ head_DV)
        token_B = jnp.argmax(log_probs_BV, axis=-1).astype(jnp.int32)
        log_prob_B += jnp.where(ended_B, 0.0, jnp.take_along_axis(log_probs_BV, token_B[:, None], axis=-1)[:, 0])
        token_B = jnp.where(ended_B, pad_id, token_B)
        tokens_BT = jax.lax.dynamic_update_slice_in_dim(tokens_BT, token_B[:, None], index, axis=1)
        return index + 1, cache, token_B, tokens_BT, log_prob_B, ended_B | (token_B == eos_id)

    tokens_BT, log_prob_B = jnp.full((batch, max_length), pad_id, jnp.int32), jnp.zeros(batch)
    ended_B = (tokens_BS == pad_id).all(axis=1)
    state = jnp.int32(0), cache, first_B.astype(jnp.int32), tokens_BT, log_prob_B, ended_B
    *_, tokens_BT, log_prob_B, _ = jax.lax.while_loop(lambda s: (s[0] < max_length) & ~s[-1].all(), step, state)
    return tokens_BT, log_prob_B


def hugging_face(config: ModelConfig, params: Mapping, vocabulary: Vocabulary, max_length: int, rows: int) -> Contender:
    """transformers on PyTorch: batches of `rows` inputs of like length, each padded to its longest; greedy `generate`
    until every row has ended, or a forward pass for every choice.

    Raises:
      UserError: transformers or PyTorch is not installed.
    """
    if not all(importlib.util.find_spec(name) for name in ("torch", "transformers")):
        raise UserError("transformers and PyTorch are not installed (pip install 'xtr[huggingface]').")
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model = _as_hugging_face(config, params, transformers, torch)

    def tensors(sequences: Sequence[np.ndarray]) -> dict[str, Any]:
        tokens_BS = batching.pad(sequences, len(sequences), max(map(len, sequences)), config.pad_id)
        return {"input_ids": torch.tensor(tokens_BS), "attention_mask": torch.tensor(tokens_BS != config.pad_id).long()}

    def generated(some: Sequence[np.ndarray]) -> np.ndarray:
        out = model.generate(**tensors(some), max_new_tokens=max_length, do_sample=False, num_beams=1)
        return batching.pad(out[:, 1:].numpy(), len(some), max_length, config.pad_id)

    def scored(some: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> np.ndarray:
        labels_BT = torch.tensor(batching.pad(targets, len(targets), max(map(len, targets)), config.pad_id)).long()
        fed_BT = torch.nn.functional.pad(labels_BT[:, :-1], (1, 0))
        log_probs_BTV = model(**tensors(some), decoder_input_ids=fed_BT).logits.log_softmax(-1)
        chosen_BT = log_probs_BTV.gather(-1, labels_BT[..., None])[..., 0]
        return (chosen_BT * (labels_BT != config.pad_id)).sum(-1).numpy()

    @torch.no_grad()
    def answer(questions: Sequence[Question]) -> list:
        if not questions[0].choices:
            order = sorted(range(len(questions)), key=lambda i: len(questions[i].tokens))
            found = np.concatenate([generated([questions[i].tokens for i in some]) for some in _cut(order, rows)])
            return _decoded(vocabulary, found[np.argsort(order)])
        pairs, targets = _pairs(questions, vocabulary)
        order = sorted(range(len(pairs)), key=lambda i: len(pairs[i]))
        scores = [scored([pairs[i] for i in some], [targets[i] for i in some]) for some in _cut(order, rows)]
        return _best(np.concatenate(scores)[np.argsort(order)], questions)

    return answer


def _as_hugging_face(config: ModelConfig, params: Mapping, transformers: Any, torch: Any) -> Any:
    """The same weights as transformers' module, by way of a Hugging Face folder."""
    arrays = {f"params/{path}": source.in_memory(np.asarray(array)) for path, array in spec_lib.flatten(params).items()}
    checkpoint = source.Source(source.XTR, "", "The weights of this run", 0, arrays)
    places, _ = load.plan(checkpoint, config, draw=False)
    with tempfile.TemporaryDirectory() as folder:
        output = os.path.join(folder, "model")
        write.write_huggingface(checkpoint, places, config, output)
        architecture = getattr(transformers, config.huggingface().architecture)
        return architecture.from_pretrained(output, dtype=torch.float32).eval()


def _cut(items: Sequence, rows: int) -> list[Sequence]:
    return [items[start : start + rows] for start in range(0, len(items), rows)]


def _pairs(questions: Sequence[Question], vocabulary: Vocabulary) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Every input once for each of its choices, and the choices' tokens."""
    encode = functools.cache(lambda text: np.array([*vocabulary.encode(text), vocabulary.eos_id], np.int32))
    pairs = [(question.tokens, encode(text)) for question in questions for text in question.choices]
    return [tokens for tokens, _ in pairs], [target for _, target in pairs]


def _best(scores: np.ndarray, questions: Sequence[Question]) -> list[int]:
    ends = np.cumsum([len(question.choices) for question in questions])
    return [int(np.argmax(own)) for own in np.split(scores, ends[:-1])]


def _decoded(vocabulary: Vocabulary, tokens_NT: Sequence[np.ndarray]) -> list[tuple[int, ...]]:
    """The tokens of each row up to its EOS; their texts are made, as an evaluation does, and dropped."""
    out = []
    for tokens in tokens_NT:
        ids = tokens.tolist()
        ids = ids[: ids.index(vocabulary.eos_id) + 1] if vocabulary.eos_id in ids else ids
        vocabulary.decode(ids)
        out.append(tuple(ids))
    return out
