"""What one evaluation and one inference run is: the dataclasses that gin builds for `xtr eval` and `xtr infer`."""

import dataclasses
from collections.abc import Mapping

from xtr.data.formats import format_of
from xtr.data.lengths import AUTO
from xtr.errors import UserError, did_you_mean
from xtr.evaluate.batching import LENGTH_BUCKETS
from xtr.evaluate.decoding import Decoding
from xtr.evaluate.ranking import Ranking
from xtr.models.interface import ModelConfig
from xtr.parallel import watchdog
from xtr.parallel.mesh import MeshConfig

# What a user is told of an evaluation that was asked to stop.
STOPPED = "the evaluation under way stopped; the next run goes on behind what it wrote"


@dataclasses.dataclass(frozen=True)
class EvaluateRun:
    """One evaluation of one checkpoint on every language of a target.

    Attributes:
      model: the network.
      checkpoint_path: a run directory, one of its checkpoints, a T5X checkpoint or a Hugging Face folder, local or
        gs://.
      allow_pickle: whether weights may be unpickled (pytorch_model.bin), which can run code of their author.
      mixture_or_task_name: a mixture of per-language tasks, or one task.
      eval_output_dir: where rows, predictions and TensorBoard files go.
      vocabulary_path: the model's vocabulary.
      split: the split to score (retrieval tasks have `queries` and `candidates` instead and ignore it).
      target: name of the target in the rows; default the mixture's name.
      dev_task_name: an English task scored too, on `dev_split`; model selection may look at it alone.
      task_feature_lengths: longest `inputs` and `targets` in tokens; longer ones are cut and counted. None or 'auto':
        the longest bucket.
      max_decode_length: tokens generated at the most.
      decoding: how they are generated.
      tokens_per_batch: encoder tokens of a batch (batch size = this over the bucket's length).
      length_buckets: encoder lengths that are compiled for; an example goes into the shortest that holds it.
        Lengths above the model's `max_length`, or all of `task_feature_lengths`, count as that.
      embedding_layer: layer that retrieval reads (0 = embeddings, -1 = after the final norm); a dual encoder's head
        reads its own.
      embedding_pooling: how its states are pooled: 'mean', 'first' or 'last'.
      layers_bytes: every layer is scored where the vectors of all, in float32, take no more.
      search_block_bytes: memory that a search among candidates takes.
      index_dir: where the vectors of many candidates are kept for the next evaluation; None: until this one's end.
      ranking: by which scores one of several choices is taken, where texts are ranked.
      doc_stride, max_query_length: how contexts and questions are cut for a span head, see `xtr.data.spans.Windowing`.
      n_best, max_answer_length: a span is made of the so many likeliest starts and ends of a window, and has no more
        than so many tokens.
      null_threshold: by how much the score of no answer must exceed that of the best span; 'dev': the difference that
        is best on the development set, of which `dev_task_name` must be one with such questions.
      languages: score only these (None: all found).
      limit: score only the first examples of each split (a test of the setup; rows say n).
      examples_per_shard: predictions are written whenever about so many are made.
      hang_timeout: seconds; ten times as long without progress, and the watchdog ends the evaluation.
      log_samples: examples of each language whose records hold their input too: the same ones in every evaluation.
      run_id, stage, intermediate, seed: what the rows say of the model's history.
      counts_encoder: whether the rows' parameters are those of the encoder alone, where nothing reads the decoder.
    """

    model: ModelConfig
    checkpoint_path: str
    mixture_or_task_name: str
    eval_output_dir: str
    vocabulary_path: str
    split: str = "test"
    target: str | None = None
    dev_task_name: str | None = None
    dev_split: str = "validation"
    task_feature_lengths: Mapping[str, int] | str | None = None
    allow_pickle: bool = False
    max_decode_length: int = 32
    decoding: Decoding = Decoding()
    ranking: Ranking = Ranking()
    tokens_per_batch: int = 16_384
    length_buckets: tuple[int, ...] = LENGTH_BUCKETS
    embedding_layer: int = -1
    embedding_pooling: str = "mean"
    layers_bytes: int = 2**31
    search_block_bytes: int = 2**29
    index_dir: str | None = None
    doc_stride: int = 128
    max_query_length: int = 64
    n_best: int = 20
    max_answer_length: int = 30
    null_threshold: float | str = 0.0
    languages: tuple[str, ...] | None = None
    limit: int | None = None
    examples_per_shard: int = 1024
    log_samples: int = 5
    hang_timeout: float = watchdog.TIMEOUT
    run_id: str = "run"
    stage: str = "target"
    intermediate: str = "none"
    model_name: str | None = None
    counts_encoder: bool = False
    random_seed: int = 0
    mesh: MeshConfig = MeshConfig()
    task_modules: tuple[str, ...] = ()
    tfds_tasks: tuple[str, ...] = ()
    data_dir: str | None = None
    cache_dir: str | None = None

    def __post_init__(self):
        if self.task_feature_lengths == AUTO:
            object.__setattr__(self, "task_feature_lengths", None)
        if isinstance(self.task_feature_lengths, str):
            raise UserError(
                f"TASK_FEATURE_LENGTHS is {self.task_feature_lengths!r}; it must be None, {AUTO!r}, or like "
                f"{{'inputs': 512, 'targets': 114}}.{did_you_mean(self.task_feature_lengths, (AUTO,))}"
            )
        if list(self.length_buckets) != sorted(set(self.length_buckets)) or not self.length_buckets:
            raise UserError(f"evaluate.length_buckets {self.length_buckets} must be rising lengths.")
        for name in (
            "doc_stride", "max_query_length", "n_best", "max_answer_length", "examples_per_shard", "search_block_bytes"
        ):  # fmt: skip
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise UserError(f"evaluate.{name} is {value!r}; it must be a positive whole number.")
        if isinstance(self.null_threshold, str) and (self.null_threshold != "dev" or self.dev_task_name is None):
            raise UserError(
                f"evaluate.null_threshold is {self.null_threshold!r}; it must be a number, or 'dev' with a "
                "dev_task_name on whose examples it is chosen."
            )
        if self.limit is not None and self.limit < 1:
            raise UserError(f"evaluate.limit is {self.limit}; it must be a positive whole number.")

    @property
    def format(self) -> str:
        """The format of the data that the model reads."""
        return format_of(self.model.objectives)


@dataclasses.dataclass(frozen=True)
class InferRun:
    """Generation for a text file, one input a line.

    Attributes:
      model, checkpoint_path, allow_pickle, vocabulary_path, decoding: as in `EvaluateRun`.
      input_file: UTF-8 text, one rendered input a line.
      output_file: JSON lines {"input", "prediction", "log_prob"} in the same order; with beams or several samples also
        "alternatives", the further predictions from best to worst.
    """

    model: ModelConfig
    checkpoint_path: str
    vocabulary_path: str
    input_file: str
    output_file: str
    allow_pickle: bool = False
    max_decode_length: int = 64
    decoding: Decoding = Decoding()
    tokens_per_batch: int = 16_384
    length_buckets: tuple[int, ...] = LENGTH_BUCKETS
    mesh: MeshConfig = MeshConfig()
