"""What one training run is: the dataclass that gin builds for `xtr train` and for every training stage of a study."""

import dataclasses
from collections.abc import Mapping

from xtr.data.formats import format_of
from xtr.data.lengths import AUTO, AutoLengths
from xtr.data.mixing import Mixing
from xtr.errors import UserError, did_you_mean
from xtr.models.interface import ModelConfig
from xtr.models.multitask import MULTITASK, WithHeads
from xtr.parallel import compiler_options, watchdog
from xtr.parallel.mesh import MeshConfig
from xtr.train import telemetry
from xtr.train.adafactor import AdafactorConfig
from xtr.train.objectives import OBJECTIVES, check_microbatches, check_objective
from xtr.train.schedules import ScheduleConfig
from xtr.train.state import Optimizer, TrainOptions


@dataclasses.dataclass(frozen=True)
class SaveCheckpointConfig:
    """When to save: every `period` steps (0: at the end alone), and how many checkpoints to `keep` (None: all)."""

    period: int = 1000
    keep: int | None = None

    def __post_init__(self):
        if self.period < 0 or (self.keep is not None and self.keep < 1):
            raise UserError(
                f"checkpoints: period {self.period} and keep {self.keep} must not be negative or zero to keep."
            )


@dataclasses.dataclass(frozen=True)
class TrainRun:
    """One training run, from an initial checkpoint (or from scratch) to `train_steps` further steps.

    Attributes:
      model: the network.
      model_dir: the run directory; everything that the run writes lies below it.
      mixture_or_task_name: a SeqIO mixture or task; its `train` split is trained on.
      task_feature_lengths: tokens a packed row holds, e.g. {'inputs': 512, 'targets': 114}; for 'mlm' and the heads
        {'inputs': 512}, for 'choose' of each choice; for 'contrastive' of a query and of a positive. 'auto': the
        lengths at which training costs the fewest FLOPs an example, see `xtr.data.length_search`.
      auto_lengths: how 'auto' chooses; None where lengths are given.
      mixing: the rates of the mixture's members; as registered unless told otherwise.
      train_steps: optimizer steps of this run (a checkpoint's own steps do not count).
      vocabulary_path: SentencePiece model; its pieces must fit the model's embedding.
      batch_size: packed rows a step, over all devices and hosts.
      initial_checkpoint_path: a run directory, one of its checkpoints, a T5X checkpoint or a Hugging Face folder, local
        or gs://; None trains from scratch.
      allow_pickle: whether weights may be unpickled (pytorch_model.bin), which can run code of their author.
      objective: a name of `objectives.OBJECTIVES`, or 'denoise' (seq2seq on span corruption of a text mixture), or
        'multitask' (each batch with its head's). None: the model's own: 'seq2seq' of an mT5, 'causal' of a BLOOM,
        'mlm' of an encoder with that head, or the head's.
      loss_normalizing_factor: T5X's; 'auto' follows the checkpoint's origin (see `train.loop`).
      pack: several examples a row, or one.
      noise_density, mean_span_length: of span corruption; T5's are 0.15 and 3.
      z_loss, label_smoothing: of a loss over the vocabulary; T5X's are 1e-4 and 0.
      num_microbatches: parts that a batch's gradient is accumulated over.
      doc_stride, max_query_length: how 'span' cuts contexts and questions, see `xtr.data.spans.Windowing`.
      eval_period: steps between teacher-forced evaluations on the `validation` split; 0 for none.
      eval_steps: batches of such an evaluation.
      hang_timeout: seconds without progress after which the watchdog ends the run; what compiles, saves or starts may
        take ten times as long. More than the steps between two logs take.
      use_cached_tasks: False tokenises afresh below `model_dir` instead of using `cache_dir`.
      profile_steps: the first and the last step to write a profile of, counted from 1; None: none.
      compiler_options: which of the TPU compiler's, see `xtr.parallel.compiler_options`.
      task_modules: modules or .py files that register the user's own SeqIO tasks.
      tfds_tasks: data sets read from TensorFlow Datasets' catalogue instead of official files ('all': all it has).
      data_dir: official files (default: $XTR_DATA_DIR).
      cache_dir: tokenised tasks (default: $XTR_CACHE_DIR or ~/.cache/xtr).
    """

    model: ModelConfig
    model_dir: str
    mixture_or_task_name: str
    task_feature_lengths: Mapping[str, int] | str
    train_steps: int
    vocabulary_path: str
    batch_size: int = 128
    initial_checkpoint_path: str | None = None
    allow_pickle: bool = False
    mixing: Mixing = Mixing()
    auto_lengths: AutoLengths | None = AutoLengths()
    objective: str | None = None
    loss_normalizing_factor: float | str | None = "auto"
    z_loss: float = 1e-4
    label_smoothing: float = 0.0
    num_microbatches: int = 1
    random_seed: int = 0
    pack: bool = True
    noise_density: float = 0.15
    mean_span_length: float = 3.0
    doc_stride: int = 128
    max_query_length: int = 64
    eval_period: int = 0
    eval_steps: int = 20
    hang_timeout: float = watchdog.TIMEOUT
    use_cached_tasks: bool = True
    schedule: ScheduleConfig = ScheduleConfig()
    optimizer: Optimizer = AdafactorConfig()
    checkpoint: SaveCheckpointConfig = SaveCheckpointConfig()
    mesh: MeshConfig = MeshConfig()
    compiler_options: str = compiler_options.DEFAULT
    profile_steps: tuple[int, int] | str | None = None
    task_modules: tuple[str, ...] = ()
    tfds_tasks: tuple[str, ...] = ()
    data_dir: str | None = None
    cache_dir: str | None = None

    def __post_init__(self):
        object.__setattr__(self, "profile_steps", telemetry.check_profile_steps(self.profile_steps))
        if self.objective is None:
            if not self.model.objectives:
                raise UserError(
                    f"There is nothing to train this {self.model.family} on as it is: give it a head "
                    "(heads/classify.gin, choose, tag, span or dual_encoder, after the run's file) or, for XLM-R and "
                    "mBERT, bert.BertConfig.mlm_head = True."
                )
            object.__setattr__(self, "objective", self.model.objectives[0])
        names = (*OBJECTIVES, "denoise", MULTITASK)
        if self.objective not in names:
            raise UserError(
                f"train.objective is {self.objective!r}; it must be one of {', '.join(names)}."
                + did_you_mean(str(self.objective), names)
            )
        several = isinstance(self.model, WithHeads)
        if several != (self.objective == MULTITASK):
            raise UserError(
                f"train.objective is {self.objective!r}: {MULTITASK!r} is the objective of a model with several heads "
                "(heads/multitask.gin, after the run's file), and of no other."
            )
        for model in [self.model.on(name) for name in self.model.names] if several else [self.model]:
            objective = model.objectives[0] if several else self.loss
            check_objective(objective, model)
            TrainOptions(
                objective=objective,
                z_loss=self.z_loss,
                label_smoothing=self.label_smoothing,
                compiler_options=self.compiler_options,
            )
            check_microbatches(objective, self.num_microbatches)
        for name in ("train_steps", "batch_size", "num_microbatches", "doc_stride", "max_query_length"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise UserError(f"train.{name} is {value!r}; it must be a positive whole number.")
        if not self.hang_timeout > 0:
            raise UserError(f"train.hang_timeout is {self.hang_timeout!r}; it must be a positive number of seconds.")
        if self.task_feature_lengths != AUTO:
            object.__setattr__(self, "auto_lengths", None)
            self._check_lengths()
        if self.batch_size % self.num_microbatches:
            raise UserError(f"BATCH_SIZE {self.batch_size} does not divide into {self.num_microbatches} microbatches.")

    def _check_lengths(self) -> None:
        lengths, example = self.task_feature_lengths, {"inputs": 512, "targets": 114}
        if not isinstance(lengths, Mapping):
            raise UserError(
                f"TASK_FEATURE_LENGTHS is {lengths!r}; it must be like {example}, or {AUTO!r}."
                + did_you_mean(str(lengths), (AUTO,))
            )
        needed = set(example) if self.loss in ("seq2seq", "causal", "contrastive") else {"inputs"}
        whole = all(isinstance(n, int) and n > 0 for n in lengths.values())
        if not needed <= set(lengths) <= set(example) or not whole:
            example = {name: length for name, length in example.items() if name in needed}
            raise UserError(f"TASK_FEATURE_LENGTHS is {lengths!r}; for {self.objective!r} it must be like {example}.")
        most = self.model.max_length
        longest = max(lengths[name] for name in needed) if self.loss != "causal" else lengths["inputs"]
        if most is not None and longest > most:
            raise UserError(
                f"TASK_FEATURE_LENGTHS asks for texts of {longest} tokens, but this {self.model.family} has "
                f"positions for {most}: set TASK_FEATURE_LENGTHS={{'inputs': {min(most, 128)}}}, or give the head's "
                "gin file after the target's, which sets it too."
            )

    @property
    def loss(self) -> str:
        """The objective's name in `objectives.OBJECTIVES`: 'denoise' is seq2seq on other data."""
        return "seq2seq" if self.objective == "denoise" else self.objective

    @property
    def format(self) -> str:
        """The format of the data that the model reads."""
        return format_of(self.model.objectives)
