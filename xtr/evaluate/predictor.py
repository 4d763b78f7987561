"""A checkpoint ready to predict: it scores, generates and embeds, whatever the batches that it takes for it.

Its functions are compiled once an architecture and a purpose, and shared by all checkpoints that a process evaluates.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import jax
import numpy as np
from jax.sharding import Mesh

from xtr.checkpoints import load
from xtr.data.vocabulary import Vocabulary, open_vocabulary
from xtr.errors import Preempted
from xtr.evaluate import batching, continuous, decoding, embedding, ranking, scoring
from xtr.evaluate.run import STOPPED, EvaluateRun, InferRun
from xtr.models.interface import ModelConfig
from xtr.parallel import watchdog
from xtr.parallel.mesh import make_mesh
from xtr.parallel.sharding import (
    DEFAULT_RULES,
    OnMesh,
    Rules,
    batch_shards,
    for_every_host,
    spread_batch,
    tree_shardings,
)

# Told which inputs have ended, by number and in no order, and the result of each, while the device goes on with others.
OnRows = Callable[[np.ndarray, Sequence], None]


@functools.lru_cache(maxsize=64)
def compiled(config: ModelConfig, mesh: Mesh, rules: Rules, purpose: str, **static) -> Callable:
    """A jitted `f(params, tokens_BS, ...)` for 'rank', 'generate', 'embed' or what a head does; `static` goes to what
    it calls."""
    functions = {
        "rank": scoring.rank_scores,
        "classify": scoring.label_scores,
        "choose": scoring.choice_logits,
        "tag": scoring.best_tags,
        "span": scoring.span_logits,
        "vectors": embedding.own_vectors,
        "generate": decoding.decode,
        "embed": embedding.layer_vectors,
    }
    function = functions[purpose]
    # Where token after token is generated, weights are not gathered at their use: the activations are smaller.
    constrain = None if purpose == "generate" else OnMesh(mesh, rules)
    return jax.jit(lambda params, *arrays: function(config.network(params, constrain), *arrays, **static))


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A checkpoint ready to predict: parameters on their devices, vocabulary, and how to batch."""

    config: ModelConfig
    params: Mapping
    vocabulary: Vocabulary
    mesh: Mesh
    length_buckets: tuple[int, ...]
    tokens_per_batch: int
    rules: Rules = DEFAULT_RULES

    def _compiled(self, purpose: str, **static) -> Callable:
        return compiled(self.config, self.mesh, self.rules, purpose, **static)

    def _run(
        self,
        function: Callable,
        sequences: Sequence[np.ndarray],
        arrays: Sequence[np.ndarray],
        advance,
        continuations: int = 1,
        aligned: Sequence[Sequence[np.ndarray]] = (),
        on_rows: OnRows | None = None,
    ) -> list:
        """Applies function(params, tokens_BS, *aligned, *array rows) bucket by bucket; results in the order of
        `sequences`.

        Args:
          sequences: tokens of each input.
          arrays: one row an input.
          continuations: of each input; a batch has as many fewer inputs.
          aligned: more sequences, each as long as the input's tokens; padded with 0.
          on_rows: given each batch's results as they come, see `OnRows`.
        """
        out: list = [None] * len(sequences)
        waiting: list[tuple[np.ndarray, object]] = []

        def collect():
            indices_b, result = waiting.pop(0)
            for row, values in zip(indices_b, zip(*jax.tree.leaves(jax.device_get(result)), strict=True), strict=False):
                out[row] = values
            if on_rows is not None:
                on_rows(indices_b, [out[row] for row in indices_b])
            advance(len(indices_b))

        for indices_b, tokens_BS in batching.batches(
            sequences,
            self.length_buckets,
            self.tokens_per_batch // continuations,
            batch_shards(self.mesh),
            self.config.pad_id,
        ):
            if watchdog.stop_here():
                raise Preempted(STOPPED)
            rows = np.concatenate([indices_b, np.repeat(indices_b[:1], len(tokens_BS) - len(indices_b))])
            extra = [batching.pad([s[i] for i in indices_b], *tokens_BS.shape, 0) for s in aligned]
            extra += [array[rows] for array in arrays]
            # One batch is always in flight, so that the host collects a result while the device works on the next.
            result = function(self.params, *spread_batch((tokens_BS, *extra), self.mesh))
            waiting.append((indices_b, for_every_host(result, self.mesh)))
            if len(waiting) > 1:
                collect()
        while waiting:
            collect()
        return out

    def cut(self, tokens: Sequence[int], length: int) -> np.ndarray:
        """The tokens of an input that fit into `length`: the first; of a decoder's prompt the last, where it asks."""
        return np.asarray(tokens[-length:] if self.config.causal else tokens[:length], np.int32)

    def rank(self, inputs: Sequence[np.ndarray], choices: Sequence[Sequence[str]], advance) -> list[np.ndarray]:
        """Log-probabilities of each input's choices (EOS included), however many: float32 [C]."""
        return self._rank(inputs, self._choice_tokens(choices), advance)

    def choice_lengths(self, choices: Sequence[Sequence[str]]) -> list[list[int]]:
        """Tokens of each choice, the EOS included."""
        return [[len(tokens) for tokens in own] for own in self._choice_tokens(choices)]

    def priors(self, choices: Sequence[Sequence[str]], text: str) -> list[np.ndarray]:
        """Log-probabilities of choices after an input that says nothing (`Ranking.calibrate`): as `rank`.

        An empty prompt is the token that begins a text, or the one that ends it where there is none, as in
        lm-evaluation-harness; an empty input of an encoder is its EOS.
        """
        tokens = self.vocabulary.encode(text) + ([] if self.config.causal else [self.vocabulary.eos_id])
        begin = self.vocabulary.eos_id if self.vocabulary.bos_id is None else self.vocabulary.bos_id
        distinct = sorted({choice for own in choices for choice in own})
        (scores_C,) = self._rank(
            [self.cut(tokens or [begin], self.length_buckets[-1])], self._choice_tokens([distinct]), lambda rows: None
        )
        score_of = dict(zip(distinct, scores_C, strict=True))
        return [np.array([score_of[choice] for choice in own], np.float32) for own in choices]

    def _choice_tokens(self, choices: Sequence[Sequence[str]]) -> list[list[list[int]]]:
        return [[[*self.vocabulary.encode(text), self.vocabulary.eos_id] for text in own] for own in choices]

    def _rank(
        self, inputs: Sequence[np.ndarray], choices: Sequence[Sequence[Sequence[int]]], advance
    ) -> list[np.ndarray]:
        """Log-probabilities of each input's choices, given as tokens: float32 [C]; 0 for one of padding alone."""
        pad_id = self.config.pad_id
        choices = [[tuple(int(t) for t in choice if t != pad_id) for choice in own] for own in choices]
        groups = ranking.choice_rows(
            inputs,
            choices,
            buckets=self.length_buckets,
            tokens_per_batch=self.tokens_per_batch,
            pad_id=pad_id,
            causal=self.config.causal,
        )
        by_rows = counted(advance, sum(len(group.examples) for group in groups), len(inputs))
        score_of: list[dict[tuple[int, ...], np.float32]] = [{(): np.float32(0)} for _ in inputs]
        for group in groups:
            rows = [inputs[example] for example in group.examples]
            found = self._run(
                self._compiled("rank"), rows, [group.tokens_NCT], by_rows, continuations=group.continuations
            )
            for example, row, (scores_C,) in zip(group.examples, group.choices, found, strict=True):
                score_of[example].update(zip(row, scores_C, strict=False))
        return [np.array([s[choice] for choice in own], np.float32) for s, own in zip(score_of, choices, strict=True)]

    def classify(self, inputs: Sequence[np.ndarray], token_types: Sequence[np.ndarray], advance) -> np.ndarray:
        """Log-probability of each of the head's labels: float [N, C]."""
        scores = self._run(self._compiled("classify"), inputs, [], advance, aligned=[token_types])
        return np.stack([s for (s,) in scores])

    def choose(self, inputs: Sequence[np.ndarray], token_types: Sequence[np.ndarray], advance) -> np.ndarray:
        """The logit of each text that stands for a choice, by itself: float32 [N]."""
        logits = self._run(self._compiled("choose"), inputs, [], advance, aligned=[token_types])
        return np.array([logit for (logit,) in logits], np.float32)

    def tag(self, inputs: Sequence[np.ndarray], advance) -> list[np.ndarray]:
        """The best tag at each token: int [S], longer than the input where its row is."""
        return [tags for (tags,) in self._run(self._compiled("tag"), inputs, [], advance)]

    def span(self, inputs: Sequence[np.ndarray], token_types: Sequence[np.ndarray], advance) -> list[np.ndarray]:
        """Logits of a span that starts and of one that ends at each token: float32 [S, 2], longer than the input where
        its row is."""
        logits = self._run(self._compiled("span"), inputs, [], advance, aligned=[token_types])
        return [own for (own,) in logits]

    def generate(
        self, inputs: Sequence[np.ndarray], max_length: int, how: decoding.Decoding, advance
    ) -> list[list[tuple[str, float]]]:
        """Texts for each input and their log-probabilities, the best first; more than one where `how` finds more."""
        return [
            [(self.vocabulary.decode(tokens.tolist()), log_prob) for tokens, log_prob in found]
            for found in self.generate_tokens(inputs, max_length, how, advance)
        ]

    def generate_tokens(
        self,
        inputs: Sequence[np.ndarray],
        max_length: int,
        how: decoding.Decoding,
        advance,
        on_rows: OnRows | None = None,
        row_ids: Sequence[int] | None = None,
    ) -> list[list[tuple[np.ndarray, float]]]:
        """As `generate`, but tokens, int [max_length], with padding behind their EOS.

        Args:
          row_ids: what tells the inputs apart where tokens are drawn; by default their numbers.
          on_rows: given what is returned, as it comes.
        """
        eos_id = self.vocabulary.eos_id
        out: list = [None] * len(inputs)

        def keep(indices_b: np.ndarray, found: Sequence[list[tuple[np.ndarray, float]]]) -> None:
            for row, own in zip(indices_b, found, strict=True):
                out[row] = own
            if on_rows is not None:
                on_rows(indices_b, found)

        if how.method == "greedy":

            def ended(indices_b: np.ndarray, values: Sequence[tuple[np.ndarray, np.float32]]) -> None:
                keep(indices_b, [[(tokens, float(log_prob))] for tokens, log_prob in values])
                advance(len(indices_b))

            continuous.generate(
                self.config,
                self.params,
                self.mesh,
                inputs,
                length_buckets=self.length_buckets,
                tokens_per_batch=self.tokens_per_batch,
                max_length=max_length,
                eos_id=eos_id,
                on_rows=ended,
                rules=self.rules,
            )
            return out

        def several(indices_b: np.ndarray, values: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
            best_first = [
                [
                    (tokens, float(log_prob))
                    for tokens, log_prob in zip(tokens_CT[::-1], log_prob_C[::-1], strict=True)
                    if not np.isneginf(log_prob)
                ]
                for tokens_CT, log_prob_C in values
            ]
            keep(indices_b, best_first)

        generate = self._compiled("generate", decoding=how, max_length=max_length, eos_id=eos_id)
        # Not a row's place in a batch tells it apart: draws do not depend on the batching.
        row_ids_N = np.asarray(range(len(inputs)) if row_ids is None else row_ids, np.uint32)
        self._run(generate, inputs, [row_ids_N], advance, how.continuations, on_rows=several)
        return out

    def score(self, inputs: Sequence[np.ndarray], targets: Sequence[np.ndarray], advance) -> np.ndarray:
        """Log-probability of each input's target: float32 [N]; 0 for one without tokens."""
        return np.concatenate(self._rank(inputs, [[target] for target in targets], advance))

    def vectors(self, inputs: Sequence[np.ndarray], advance) -> np.ndarray:
        """A dual encoder's vectors: float32 [N, D]."""
        return np.stack([v for (v,) in self._run(self._compiled("vectors"), inputs, [], advance)])

    def embed(
        self,
        inputs: Sequence[np.ndarray],
        advance,
        layers: Sequence[int] | Literal["all"] = "all",
        pooling: str = "mean",
    ) -> np.ndarray:
        """Pooled encoder states of the layers that are asked for, see `embedding.layer_vectors`: float32 [K, N, D]."""
        layers = layers if layers == "all" else tuple(layers)
        vectors = self._run(self._compiled("embed", layers=layers, pooling=pooling), inputs, [], advance)
        return np.stack([v for (v,) in vectors], axis=1)


def counted(advance: Callable[[int], None], rows: int, examples: int) -> Callable[[int], None]:
    """`advance` for rows, where progress counts examples."""
    done = 0

    def by_rows(n: int) -> None:
        nonlocal done
        before, done = done, done + n
        if more := done * examples // rows - before * examples // rows:
            advance(more)

    return by_rows


def _longest(run: EvaluateRun | InferRun) -> int | None:
    """What no row is longer than, where that is set."""
    lengths = run.task_feature_lengths if isinstance(run, EvaluateRun) else None
    return max(lengths.values()) if lengths else None


def open_predictor(run: EvaluateRun | InferRun, model: ModelConfig) -> tuple[Predictor, int]:
    """Loads what `model`, the run's model or its encoder, needs of a checkpoint; returns the predictor and the
    checkpoint's step."""
    vocabulary = open_vocabulary(run.vocabulary_path, model.vocab_size, model.vocabulary_kind)
    mesh = make_mesh(run.mesh)
    shardings = tree_shardings(model.param_specs(), mesh, run.mesh.rules)
    params, origin = load.load_params(run.checkpoint_path, model, shardings, allow_pickle=run.allow_pickle)
    most = min(filter(None, (run.length_buckets[-1], model.max_length, _longest(run))))
    buckets = tuple(sorted({min(bucket, most) for bucket in run.length_buckets}))
    return Predictor(model, params, vocabulary, mesh, buckets, run.tokens_per_batch, run.mesh.rules), origin.step
