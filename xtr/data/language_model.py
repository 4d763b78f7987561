"""Training data of language models without an encoder-decoder: next tokens (causal) and masked tokens.

A batch comes from the same stream of windows as any other (`xtr.data.windows`). An example has one side there: for each
of its tokens what is read, what is to be predicted, and whether that counts.

Letters: R rows, S slots of a row, n tokens of one example.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from xtr.data.cached_task import CachedTask
from xtr.data.denoising import chunk_documents
from xtr.data.packing import Pair, layout
from xtr.data.tokens import Tokens, token_table
from xtr.data.vocabulary import Vocabulary
from xtr.errors import UserError

_NO_SIDE = np.zeros(0, np.int32)
KEPT, REPLACED = 0.1, 0.1  # of the masked tokens; the rest becomes the mask (BERT, arXiv 1810.04805, section 3.1)


def _one_sided(lengths_n: np.ndarray) -> np.ndarray:
    """int64 [2, n]: tokens of the one side, and none of the other."""
    return np.stack([lengths_n, np.zeros_like(lengths_n)])


def _texts(task: CachedTask, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Length of each document of a task of plain text, and its last token. UserError where it holds no text."""
    (raw,), (last,) = task.lengths(split, ("targets",))
    if (raw < 0).any():
        raise UserError(task.no_feature(split, int((raw < 0).argmax()), "targets"))
    return raw.astype(np.int64), last


def _next_tokens(tokens: np.ndarray, first_target: int) -> np.ndarray:
    """int32 [n - 1, 3]: each token but the last, the token behind it, and 1 where that is one of `first_target` on."""
    counts = np.arange(1, len(tokens)) >= first_target
    return np.stack([tokens[:-1], tokens[1:], counts], axis=1).astype(np.int32)


class PromptSource:
    """A task's inputs and targets, one behind the other; only the targets are learnt.

    Inputs that are too long lose their beginning, as a prompt does in evaluation; targets lose their end.

    Attributes:
      empty: examples that give nothing to train on: without targets, or with one target token and nothing before it.
        They have their place in a row all the same.
    """

    def __init__(self, task: CachedTask, split: str, inputs_length: int, targets_length: int):
        raw, _ = task.lengths(split, ("inputs", "targets"))
        for name, lengths in zip(("inputs", "targets"), raw, strict=True):
            if (lengths < 0).any():
                raise UserError(task.no_feature(split, int((lengths < 0).argmax()), name))
        self.empty = int(((raw[1] == 0) | (raw.sum(axis=0) < 2)).sum())
        self._task, self._split, self._raw_2N = task, split, raw.astype(np.int64)
        self._limits = inputs_length, targets_length

    @cached_property
    def _tokens(self) -> Tokens:
        return token_table(self._task, self._split, ("inputs", "targets"))

    def __len__(self) -> int:
        return self._raw_2N.shape[1]

    def lengths(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of examples, and tokens cut off: int64 [2, n] each."""
        raw_2n = self._raw_2N[:, numbers]
        kept_2n = np.minimum(raw_2n, np.array(self._limits)[:, None])
        return _one_sided(np.maximum(kept_2n.sum(axis=0) - 1, 0)), _one_sided((raw_2n - kept_2n).sum(axis=0))

    def read(self, numbers: np.ndarray, occurrences: np.ndarray) -> list[Pair]:
        """For each example its tokens, int32 [n, 3]; `occurrences` plays no part."""
        pairs = []
        for inputs, targets in self._tokens.read(numbers):
            inputs, targets = inputs[-self._limits[0] :], targets[: self._limits[1]]
            pairs.append((_next_tokens(np.concatenate([inputs, targets]), len(inputs)), _NO_SIDE))
        return pairs


class TextSource:
    """A text task's documents, cut into chunks of next tokens; every token of a document but its first is learnt.

    Attributes:
      empty: documents of less than two tokens.
    """

    def __init__(self, task: CachedTask, split: str, length: int):
        documents, _ = _texts(task, split)
        self._chunks = chunk_documents(np.maximum(documents - 1, 0), length)  # of tokens to be predicted
        self._task, self._split = task, split
        self.empty = int((documents < 2).sum())

    @cached_property
    def _tokens(self) -> Tokens:
        return token_table(self._task, self._split, ("targets",))

    def __len__(self) -> int:
        return len(self._chunks)

    def lengths(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of chunks; none are ever cut off: int64 [2, n] each."""
        _, _, lengths = self._chunks.locate(numbers)
        return _one_sided(lengths), _one_sided(np.zeros_like(lengths))

    def read(self, numbers: np.ndarray, occurrences: np.ndarray) -> list[Pair]:
        """For each chunk its tokens, int32 [n, 3]; `occurrences` plays no part."""
        documents, starts, lengths = self._chunks.locate(numbers)
        unique, where = np.unique(documents, return_inverse=True)
        texts = self._tokens.read(unique)
        return [
            (_next_tokens(texts[at][0][start : start + length + 1], 1), _NO_SIDE)
            for at, start, length in zip(where, starts.tolist(), lengths.tolist(), strict=True)
        ]


def causal_source(task: CachedTask, split: str, inputs_length: int, targets_length: int) -> PromptSource | TextSource:
    """A task's examples for a causal model: of inputs and targets, or of plain text (no inputs)."""
    (inputs_N, _), _ = task.lengths(split, ("inputs", "targets"))
    if (inputs_N < 1).all():
        return TextSource(task, split, inputs_length + targets_length)
    return PromptSource(task, split, inputs_length, targets_length)


def mask_tokens(
    tokens: np.ndarray, density: float, mask_id: int, ordinary: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A text in which tokens are masked: (what is read, where it was masked), int32 and bool [n].

    A share `density` of the tokens is chosen, at least one; of those a tenth stays, a tenth becomes a random token of
    `ordinary`, the others become `mask_id`.
    """
    count = min(len(tokens), max(1, round(len(tokens) * density)))
    chosen = rng.permutation(len(tokens))[:count]
    lot = rng.random(count)
    read = np.array(tokens, np.int32)
    read[chosen[lot >= KEPT]] = mask_id
    replaced = chosen[(lot >= KEPT) & (lot < KEPT + REPLACED)]
    read[replaced] = rng.choice(ordinary, len(replaced))
    masked = np.zeros(len(tokens), bool)
    masked[chosen] = True
    return read, masked


class MaskedSource:
    """A text task's documents, cut into chunks, framed by special tokens and masked anew each time a chunk is drawn.

    Attributes:
      empty: documents without tokens.
    """

    def __init__(self, task: CachedTask, split: str, length: int, vocabulary: Vocabulary, density: float, seed: int):
        if vocabulary.mask_id is None:
            raise UserError(f"The vocabulary {vocabulary.path} has no mask token, which objective='mlm' needs.")
        frame, _ = vocabulary.with_special_tokens([-1])
        self._before, self._special = frame.index(-1), len(frame) - 1
        if length <= self._special:
            raise UserError(f"Rows of {length} tokens have no room for a text beside {self._special} special tokens.")
        raw, last = _texts(task, split)
        documents = raw - (last == vocabulary.eos_id)  # the cache's texts end in it; chunks get it anew
        self._chunks = chunk_documents(documents, length - self._special)
        self._task, self._split, self._vocabulary = task, split, vocabulary
        self._density, self._seed = density, seed
        special = {vocabulary.pad_id, vocabulary.eos_id, vocabulary.bos_id, vocabulary.mask_id, vocabulary.unk_id}
        self._ordinary = np.setdiff1d(np.arange(vocabulary.size), [i for i in special if i is not None])
        self.empty = int((documents == 0).sum())

    @cached_property
    def _tokens(self) -> Tokens:
        return token_table(self._task, self._split, ("targets",))

    def __len__(self) -> int:
        return len(self._chunks)

    def lengths(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of chunks, special ones included; none are ever cut off: int64 [2, n] each."""
        _, _, lengths = self._chunks.locate(numbers)
        return _one_sided(lengths + self._special), _one_sided(np.zeros_like(lengths))

    def read(self, numbers: np.ndarray, occurrences: np.ndarray) -> list[Pair]:
        """For each chunk its tokens, int32 [n, 3]; the n-th occurrence of a chunk has its own mask."""
        documents, starts, lengths = self._chunks.locate(numbers)
        unique, where = np.unique(documents, return_inverse=True)
        texts = self._tokens.read(unique)
        pairs = []
        for i in range(len(numbers)):
            tokens = texts[where[i]][0][int(starts[i]) : int(starts[i] + lengths[i])]
            rng = np.random.default_rng([self._seed, int(occurrences[i])])
            read, masked = mask_tokens(tokens, self._density, self._vocabulary.mask_id, self._ordinary, rng)
            whole, _ = self._vocabulary.with_special_tokens(tokens.tolist())
            own = slice(self._before, self._before + len(tokens))
            example = np.stack([whole, whole, np.zeros(len(whole), np.int32)], axis=1).astype(np.int32)
            example[own, 0], example[own, 2] = read, masked
            pairs.append((example, _NO_SIDE))
        return pairs


Source = PromptSource | TextSource | MaskedSource


def build_batch(rows: Sequence[Sequence[Pair]], length: int, pad_id: int, side: str) -> dict[str, np.ndarray]:
    """Makes the arrays of a batch.

    Args:
      rows: for each row its examples as a `Source` gives them; a row may be empty (padding).
      length: slots of a row.
      pad_id: the token that fills rows.
      side: 'decoder' (next tokens) or 'encoder' (masked tokens), with which the features' names begin.

    Returns:
      int32 arrays [R, S] under SeqIO's names: {side}_{input_tokens,target_tokens,loss_weights,segment_ids,positions}.
      Segments count from 1 and positions from 0 in each example; padding has segment 0 and no weight.
    """
    columns = [layout([[tokens_n3[:, i] for tokens_n3, _ in row] for row in rows], length) for i in range(3)]
    (inputs_RS, segments_RS, positions_RS, _), (targets_RS, *_), (weights_RS, *_) = columns
    padding_RS = segments_RS == 0
    batch = {
        "input_tokens": np.where(padding_RS, pad_id, inputs_RS).astype(np.int32),
        "target_tokens": np.where(padding_RS, pad_id, targets_RS).astype(np.int32),
        "loss_weights": weights_RS,
        "segment_ids": segments_RS,
        "positions": positions_RS,
    }
    return {f"{side}_{name}": array for name, array in batch.items()}
