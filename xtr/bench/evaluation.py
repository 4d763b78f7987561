"""`xtr bench eval`: examples a second of the evaluation engine and of others, in one run on one machine."""

import dataclasses
import statistics
import time
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from xtr.bench import contenders, lengths
from xtr.bench.contenders import Question
from xtr.data.cache import ensure_cached, eval_examples
from xtr.data.vocabulary import read_vocabulary
from xtr.errors import UserError
from xtr.models import spec as spec_lib
from xtr.models.mt5 import MT5Config
from xtr.progress import progress

# Task -> tokens generated at the most, as its gin file says; 0: ranked.
TASKS = {"xquad": 64, "xnli": 0, "udpos": 512}
# The published mT5-small has 250,112 rows; micro as many as its vocabulary and the markers need.
SHAPES = {
    "micro": {"emb_dim": 64, "num_heads": 4, "head_dim": 16, "mlp_dim": 128, "layers": 2, "vocab_size": 0},
    "small": {"emb_dim": 512, "num_heads": 6, "head_dim": 64, "mlp_dim": 1024, "layers": 8, "vocab_size": 250_112},
}
LONGEST_INPUT = 1024
_TIMES_ENGLISH = 2.0


@dataclasses.dataclass(frozen=True)
class Bench:
    """What is measured, and on what.

    Attributes:
      model: 'micro' or 'small', in float32.
      tasks: of TASKS.
      examples: of each task, taken evenly from all its languages' test sets.
      repeats: timed runs of each contender, in turns; the median counts.
      rows: of the others' batches.
      tokens_per_batch: of the engine.
      seed: of the weights.
      own_argmax: fixed batches take tokens as the engine does, see `contenders.fixed_batches`.
      languages: empty for all that the vocabulary writes in at most twice as many tokens as English (one that was cut
        down writes others in bytes).
      data_dir, vocabulary_path, cache_dir: official files, the vocabulary, where tasks are tokenised.
    """

    data_dir: str
    vocabulary_path: str
    cache_dir: str
    model: str = "micro"
    tasks: Sequence[str] = tuple(TASKS)
    examples: int = 256
    repeats: int = 3
    rows: int = 32
    tokens_per_batch: int = 16_384
    seed: int = 0
    languages: Sequence[str] = ()
    own_argmax: bool = False

    def __post_init__(self):
        for name in ("examples", "repeats", "rows", "tokens_per_batch"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} must be at least 1, not {getattr(self, name)}.")


@dataclasses.dataclass(frozen=True)
class Measured:
    """One task's figures.

    Attributes:
      examples, languages: what was predicted.
      input_tokens, output_tokens: their means; outputs as the weights make them, 0 where choices are ranked.
      per_second: contender -> examples a second.
      spread: contender -> slowest over fastest timed run.
      first_seconds: contender -> its first run, with all compilation, less the median.
      same: contender -> share of predictions equal to the engine's.
      skipped: contender -> why it was not measured.
    """

    task: str
    examples: int
    languages: tuple[str, ...]
    input_tokens: float
    output_tokens: float
    per_second: Mapping[str, float]
    spread: Mapping[str, float]
    first_seconds: Mapping[str, float]
    same: Mapping[str, float]
    skipped: Mapping[str, str]


def measure(bench: Bench) -> list[Measured]:
    """Measures each task.

    Raises:
      UserError: an unknown model or task, or none of a task's files are there.
    """
    vocabulary = read_vocabulary(bench.vocabulary_path, "t5")
    longest = max(TASKS.values())
    shape = dict(SHAPES[bench.model])
    layers = shape.pop("layers")
    needed = -(-(vocabulary.size + longest) // 128) * 128
    shape["vocab_size"] = shape["vocab_size"] or needed
    if shape["vocab_size"] < needed:
        raise UserError(
            f"{bench.vocabulary_path} has {vocabulary.size} pieces: mT5-{bench.model} has no room for them."
        )
    config = MT5Config(**shape, num_encoder_layers=layers, num_decoder_layers=layers, dtype="float32")
    drawn = jax.jit(lambda key: spec_lib.init_params(config.param_specs(), key))(jax.random.key(bench.seed))
    found = ensure_cached(
        bench.tasks, vocabulary_path=bench.vocabulary_path, data_dir=bench.data_dir, cache_dir=bench.cache_dir
    )
    measured = []
    for name in bench.tasks:
        max_length = TASKS[name]
        params = drawn
        if max_length:
            params = jax.device_put(lengths.with_lengths(config, drawn, vocabulary.size, longest, vocabulary.eos_id))
        languages, examples = _examples(found[name], bench)
        questions = _questions(examples, config, max_length)
        length = max(len(question.tokens) for question in questions)
        common = (config, params, vocabulary, max_length)
        make = {
            "engine": lambda common=common: contenders.engine(*common, bench.tokens_per_batch),
            "hugging_face": lambda common=common: contenders.hugging_face(*common, bench.rows),
            "fixed_batches": lambda common=common, length=length: contenders.fixed_batches(
                *common, bench.rows, length, bench.own_argmax
            ),
        }
        figures, predictions, skipped = _race(name, make, questions, bench.repeats)
        outputs = [len(tokens) for tokens in predictions["engine"]] if max_length else [0]
        same = {
            who: float(np.mean([a == b for a, b in zip(own, predictions["engine"], strict=True)]))
            for who, own in predictions.items()
        }
        measured.append(
            Measured(
                task=name,
                examples=len(questions),
                languages=tuple(languages),
                input_tokens=float(np.mean([len(question.tokens) for question in questions])),
                output_tokens=float(np.mean(outputs)),
                same=same,
                skipped=skipped,
                **figures,
            )
        )
    return measured


def _race(task: str, make: Mapping, questions: Sequence[Question], repeats: int):
    """Times the contenders in turns, so that what else the machine does meets all alike."""
    runs, predictions, skipped, first = {}, {}, {}, {}
    seconds: dict[str, list[float]] = {}
    with progress(f"measure {task}", len(make) * (repeats + 1)) as bar:
        for who, build in make.items():
            try:
                runs[who] = build()
            except UserError as error:
                skipped[who] = str(error)
                bar.advance(repeats + 1)
                continue
            started = time.perf_counter()
            predictions[who] = runs[who](questions)
            first[who] = time.perf_counter() - started
            bar.advance()
        for _ in range(repeats):
            for who, run in runs.items():
                started = time.perf_counter()
                run(questions)
                seconds.setdefault(who, []).append(time.perf_counter() - started)
                bar.advance()
    medians = {who: statistics.median(own) for who, own in seconds.items()}
    figures = {
        "per_second": {who: len(questions) / own for who, own in medians.items()},
        "spread": {who: max(own) / min(own) for who, own in seconds.items()},
        "first_seconds": {who: max(first[who] - own, 0.0) for who, own in medians.items()},
    }
    return figures, predictions, skipped


def _examples(tasks: Sequence, bench: Bench) -> tuple[list[str], list[Mapping]]:
    """`bench.examples` examples, evenly from the test sets of the languages that count."""
    by_language = {task.info["language"]: eval_examples(task, "test") for task in tasks if "test" in task.splits}
    if bench.languages:
        if unknown := [language for language in bench.languages if language not in by_language]:
            raise UserError(f"no {', '.join(unknown)} there; found: {', '.join(sorted(by_language))}.")
        by_language = {language: by_language[language] for language in bench.languages}
    elif "en" in by_language:
        tokens = {name: np.mean([len(e["inputs"]) for e in own]) for name, own in by_language.items()}
        by_language = {name: own for name, own in by_language.items() if tokens[name] <= _TIMES_ENGLISH * tokens["en"]}
    every = [example for own in by_language.values() for example in own]
    chosen = np.unique(np.linspace(0, len(every) - 1, min(bench.examples, len(every))).round().astype(int))
    # Not sorted by language, as a test set of many languages would not be by length.
    chosen = np.random.default_rng(bench.seed).permutation(chosen)
    return sorted(by_language), [every[i] for i in chosen]


def _questions(examples: Sequence[Mapping], config: MT5Config, max_length: int) -> list[Question]:
    """Inputs as evaluation cuts them; one that is answered by generation ends in the length of its real target."""
    if not max_length:
        return [
            Question(example["inputs"][:LONGEST_INPUT].astype(np.int32), tuple(example["meta"]["choices"]))
            for example in examples
        ]
    return [
        Question(
            np.append(
                example["inputs"][: LONGEST_INPUT - 1],
                lengths.marker(config, min(len(example["targets"]), max_length)),
            ).astype(np.int32)
        )
        for example in examples
    ]
