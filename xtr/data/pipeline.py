"""The training input: cached tasks -> mixed, shuffled, packed -> this host's part of each global batch.

The iterator's state is a place in the stream (window, row) and a few sums; restoring it costs the planning of one
window, however far the training has come. The global batches depend on the data and the seed alone, not on the number
of hosts.
"""

import functools
import hashlib
import json
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np

from xtr.data import choices, labelled, language_model, packing, pairs, spans, tagged
from xtr.data.cached_task import CachedTask
from xtr.data.denoising import SpanCorruption
from xtr.data.mixing import EXHAUSTED, check_exhaustion, normalized
from xtr.data.packing import Pair, build_batch
from xtr.data.vocabulary import Vocabulary, read_vocabulary
from xtr.data.windows import DenoiseSource, Seq2SeqSource, Source, WindowStream, stable_hash
from xtr.errors import UserError

Place = Callable[[dict[str, np.ndarray]], Any]  # see `train_batches`
_OBJECTIVES = ("seq2seq", "denoise", "causal", "mlm", *labelled.HEADS)
# What the second side of a row is; the other objectives have one side, which counts as the encoder's.
SECOND_SIDE = {"seq2seq": "decoder", "denoise": "decoder", "contrastive": "target"}
_TWO_FEATURES = (*SECOND_SIDE, "causal")  # the others have 'inputs' alone
# Batches made ahead. Steps are called in bursts (the loop runs ahead of the devices until it reads their metrics), and
# planning a window takes as long as making many batches of it.
_AHEAD, _AHEAD_BYTES = 16, 64 * 2**20
_BYTES_A_SLOT = 5 * 4  # of the batch with the most arrays, the decoder's side of 'seq2seq'
# What a state counts, over the global batches delivered so far.
_COUNTS = ("batches", "rows", "examples", "encoder_tokens", "decoder_tokens", "truncated_examples",
           "truncated_encoder_tokens", "truncated_decoder_tokens")  # fmt: skip


@dataclass(frozen=True)
class TrainData:
    """What to train on.

    Attributes:
      tasks: the tasks of the mixture, each with its rate.
      lengths: slots of a row, {'inputs': S, 'targets': T}; kept as a tuple of pairs. 'mlm' and the heads have no
        'targets', but for 'contrastive', where they are the positives; a row of 'causal' holds both features one behind
        the other, S + T tokens; one of 'choose' S tokens a choice.
      batch_size: rows of a GLOBAL batch.
      seed: of the shuffles and of the masking.
      split: the split that is read.
      pack: several examples a row; False gives each example its own row, as the heads' objectives do always.
      objective: 'seq2seq' (inputs -> targets; tasks of plain text are denoised), 'denoise' (span corruption of the
        feature `targets`), 'causal' (targets behind inputs, or the next token of a text) or 'mlm' (masked tokens of a
        text, see `xtr.data.language_model`); or a head's: 'classify' (the label of a text or pair, see
        `xtr.data.labelled`), 'choose' (`xtr.data.choices`), 'tag' (`xtr.data.tagged`), 'span' (`xtr.data.spans`) or
        'contrastive' (`xtr.data.pairs`).
      epochs: None repeats for ever, shuffled anew each epoch; a number is how often each task is read (the last batch
        of all is filled up with empty rows).
      exhausted: what follows when the first task has been read so often: 'stop' ends the data, 'drop' goes on with the
        others at their rates, until all have been.
      packing_window: examples that are packed together.
      corruption: density and length of the masked spans, for what is denoised; the density, for 'mlm'.
      vocabulary: for text, 'tag' and 'span', where sentinels, mask and special tokens come from; None reads
        the one the cache was made with.
      pad_id: the token that fills rows (the model's); 'seq2seq' and 'denoise' have 0.
      num_labels: labels of the head, for 'classify' and 'tag'.
      causal: whether the model is, for 'tag': which of a word's tokens its tag is read at.
      doc_stride, max_query_length: for 'span', see `spans.Windowing`.
    """

    tasks: tuple[CachedTask, ...]
    lengths: tuple[tuple[str, int], ...] | Mapping[str, int]
    batch_size: int
    seed: int = 0
    split: str = "train"
    pack: bool = True
    objective: str = "seq2seq"
    epochs: int | None = None
    exhausted: str = EXHAUSTED[0]
    packing_window: int = 1024
    corruption: SpanCorruption = SpanCorruption()
    vocabulary: Vocabulary | None = None
    pad_id: int = 0
    num_labels: int | None = None
    causal: bool = False
    doc_stride: int = 128
    max_query_length: int = 64

    def __post_init__(self):
        if self.objective not in _OBJECTIVES:
            known = ", ".join(_OBJECTIVES)
            raise UserError(f"The objective is {self.objective!r}; there are training data for {known}.")
        object.__setattr__(self, "tasks", tuple(self.tasks))
        pairs = dict(self.lengths)
        if self.objective not in _TWO_FEATURES:
            pairs.pop("targets", None)
        if self.objective in labelled.HEADS:
            object.__setattr__(self, "pack", False)
        object.__setattr__(self, "lengths", tuple(sorted((str(k), int(v)) for k, v in pairs.items())))
        sides = ["inputs", "targets"] if self.objective in _TWO_FEATURES else ["inputs"]
        if [k for k, _ in self.lengths] != sides or min(v for _, v in self.lengths) < 1:
            wanted = " and ".join(sides)
            raise UserError(f"Feature lengths are {dict(self.lengths)}; give positive lengths for {wanted}.")
        for name in ("batch_size", "packing_window"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        check_exhaustion(self.epochs, self.exhausted)
        names = [t.name for t in self.tasks]
        if repeated := sorted({n for n in names if names.count(n) > 1}):
            raise UserError(f"{', '.join(repeated)} stands in the mixture more than once.")

    @property
    def slots(self) -> tuple[int, int]:
        """Slots of a row on both of its sides (the one label, where that is all)."""
        lengths = dict(self.lengths)
        if self.objective == "causal":
            return lengths["inputs"] + lengths["targets"], 1
        if self.objective == "choose":
            return self.num_choices * lengths["inputs"], 1
        return lengths["inputs"], lengths.get("targets", 1)

    @functools.cached_property
    def num_choices(self) -> int:
        """The most choices of an example of the mixture, for 'choose'."""
        tables = [task.lengths(self.split, ("choice_lengths",))[0] for task in self.tasks if task.rate > 0]
        return max(int(lengths.max(initial=1)) for lengths in tables)

    def batch(self, rows: Sequence[Sequence[Pair]]) -> dict[str, np.ndarray]:
        """The arrays of some rows, each its examples."""
        length, pad_id = dict(self.lengths)["inputs"], self.pad_id
        match self.objective:
            case "classify":
                return labelled.build_batch(rows, length, pad_id)
            case "choose":
                return choices.build_batch(rows, self.num_choices, length, pad_id)
            case "tag":
                return tagged.build_batch(rows, length, pad_id)
            case "span":
                return spans.build_batch(rows, length, pad_id)
            case "contrastive":
                return pairs.build_batch(rows, self.slots, pad_id)
            case "causal":
                return language_model.build_batch(rows, self.slots[0], pad_id, "decoder")
            case "mlm":
                return language_model.build_batch(rows, length, pad_id, "encoder")
        return build_batch(rows, *self.slots)

    def source(self, task: CachedTask, read: Callable[[str], Vocabulary] = read_vocabulary) -> Source:
        """The examples of one task, `read` being what reads a vocabulary's file.

        Raises:
          UserError: a task that the objective cannot use.
        """
        objective, lengths, split = self.objective, dict(self.lengths), self.split
        if objective == "seq2seq" and task.info.get("kind") == "text":
            objective = "denoise"
        seed = stable_hash(objective, self.seed, task.name)
        if objective in ("denoise", "mlm", "tag", "span"):
            vocabulary = self.vocabulary or read(task.info["vocabulary"]["path"])
            if vocabulary.sha256 != task.info["vocabulary"]["sha256"]:
                raise UserError(
                    f"{task.name} was not tokenised with the vocabulary {vocabulary.path}, but with another."
                )
        match objective:
            case "denoise":
                return DenoiseSource(task, split, self.slots, vocabulary, self.corruption, seed)
            case "mlm":
                density = self.corruption.noise_density
                return language_model.MaskedSource(task, split, lengths["inputs"], vocabulary, density, seed)
            case "causal":
                return language_model.causal_source(task, split, lengths["inputs"], lengths["targets"])
            case "classify":
                return labelled.LabelledSource(task, split, lengths["inputs"], self.num_labels)
            case "choose":
                return choices.ChoiceSource(task, split, lengths["inputs"])
            case "tag":
                return tagged.TaggedSource(task, split, lengths["inputs"], self.num_labels, vocabulary, self.causal)
            case "span":
                windowing = spans.Windowing(lengths["inputs"], self.doc_stride, self.max_query_length)
                return spans.SpanSource(task, split, windowing, vocabulary)
            case "contrastive":
                return pairs.PairSource(task, split, self.slots)
        return Seq2SeqSource(task, split, self.slots)


def window_stream(spec: TrainData) -> WindowStream:
    """Plans the stream of `spec`: reads the tables of lengths, not the tokens.

    Raises:
      UserError: no tasks, no rate above 0, a task without examples, or a task that the objective cannot use.
    """
    rates = normalized([t.rate for t in spec.tasks], [t.name for t in spec.tasks])
    tasks = [t for t, rate in zip(spec.tasks, rates, strict=True) if rate > 0]
    sources = []
    read = functools.cache(read_vocabulary)
    for task in tasks:
        if task.num_examples(spec.split) == 0:
            raise UserError(f"{task.name} has no examples in {spec.split!r}. Take it out, or set its rate to 0.")
        source = spec.source(task, read)
        if len(source) == 0:
            raise UserError(f"{task.name}: every document of its split {spec.split!r} is empty.")
        sources.append(source)
    if spec.objective in ("classify", "tag"):
        labelled.check_same_labels([t.name for t in tasks], sources)
    return WindowStream(
        [t.name for t in tasks],
        sources,
        rates[rates > 0],
        spec.slots,
        size=spec.packing_window,
        seed=stable_hash("stream", spec.seed),
        packed=spec.pack,
        epochs=spec.epochs,
        exhausted=spec.exhausted,
    )


def num_batches(spec: TrainData, most: int | None = None) -> int | None:
    """Batches until the data end, the last of them filled up: None where they never do.

    Rows are as many as the packer makes, so all windows are planned, some milliseconds each.

    Args:
      most: where the data hold so many, no more are counted.
    """
    stream, rows = window_stream(spec), 0
    if stream.num_windows is None:
        return None
    for w in range(stream.num_windows):
        rows += len(stream.window(w).rows)
        if most is not None and rows >= most * spec.batch_size:
            return most
    return -(-rows // spec.batch_size)


def data_fingerprint(spec: TrainData) -> str:
    """12 hex digits of everything that decides the stream of rows; batch size and number of hosts do not."""
    tasks = [(t.name, t.directory.rstrip("/").rpartition("/")[2], t.rate) for t in spec.tasks]
    corruption = (spec.corruption.noise_density, spec.corruption.mean_span_length)
    what = [tasks, spec.lengths, spec.seed, spec.split, spec.pack, spec.objective, spec.epochs, spec.packing_window]
    what += [packing.VERSION, spec.epochs and spec.exhausted]
    own = {"seq2seq": corruption, "denoise": corruption, "mlm": corruption[0], "tag": spec.causal}
    own["span"] = (spec.doc_stride, spec.max_query_length)
    what.append(own.get(spec.objective))
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]


class _BatchIterator(grain.DatasetIterator):
    """Cuts the stream of rows into batches."""

    def __init__(self, stream: WindowStream, spec: TrainData, rows: range, place: Place):
        super().__init__()
        self._stream, self._spec, self._rows, self._place = stream, spec, rows, place
        self._fingerprint = data_fingerprint(spec)
        self._window = self._row = 0
        self._counts = dict.fromkeys(_COUNTS, 0)
        self._plan: tuple[int, object] | None = None

    def _planned(self):
        if self._plan is None or self._plan[0] != self._window:
            self._plan = self._window, self._stream.window(self._window)
        return self._plan[1]

    def __next__(self) -> Any:
        if self._stream.num_windows is not None and self._window >= self._stream.num_windows:
            raise StopIteration
        batch_size, filled, own = self._spec.batch_size, 0, []
        counts, window, row = dict(self._counts), self._window, self._row
        try:
            while filled < batch_size and (self._stream.num_windows is None or self._window < self._stream.num_windows):
                plan = self._planned()
                end = min(len(plan.rows), self._row + batch_size - filled)
                # This host's part of rows [self._row, end), which are rows [filled, ...) of the batch.
                first = max(self._row, self._row + self._rows.start - filled)
                last = min(end, self._row + self._rows.stop - filled)
                own += self._stream.read_rows(plan, range(first, last))
                self._count(plan, slice(self._row, end))
                filled += end - self._row
                self._row = end
                if self._row == len(plan.rows):
                    self._window, self._row = self._window + 1, 0
        except BaseException:
            self._counts, self._window, self._row = counts, window, row
            raise
        self._counts["batches"] += 1
        return self._place(self._spec.batch(own + [[]] * (len(self._rows) - len(own))))

    def _count(self, plan, rows: slice):
        tokens, cut = plan.tokens_R2[rows].sum(axis=0), plan.cut_R2[rows].sum(axis=0)
        values = {
            "rows": rows.stop - rows.start,
            "examples": sum(map(len, plan.rows[rows])),
            "encoder_tokens": tokens[0],
            "decoder_tokens": tokens[1],
            "truncated_examples": plan.cut_examples_R[rows].sum(),
            "truncated_encoder_tokens": cut[0],
            "truncated_decoder_tokens": cut[1],
        }
        for name, value in values.items():
            self._counts[name] += int(value)

    def get_state(self) -> dict:
        return {"data": self._fingerprint, "window": self._window, "row": self._row, **self._counts}

    def set_state(self, state: dict) -> None:
        try:
            place = {name: int(state[name]) for name in ("window", "row", *_COUNTS)}
            fingerprint = state["data"]
        except (KeyError, TypeError, ValueError) as e:
            raise UserError(f"This is not a state of the training data: {e!r} in {state!r}.") from e
        if fingerprint != self._fingerprint:
            raise UserError(
                f"The training data is not what it was when the checkpoint was written (fingerprint {fingerprint}, now "
                f"{self._fingerprint}): its tasks, rates, cached examples, feature lengths, seed or packing changed. "
                "Go on with the same data, or start a new run from that checkpoint's parameters."
            )
        self._window, self._row = place.pop("window"), place.pop("row")
        self._counts = place


class _BatchDataset(grain.IterDataset):
    def __init__(self, stream: WindowStream, spec: TrainData, rows: range, place: Place):
        super().__init__()
        self._of = stream, spec, rows, place

    def __iter__(self) -> _BatchIterator:
        return _BatchIterator(*self._of)


class TrainBatches:
    """This host's batches: an iterator with a state. Made by `train_batches`."""

    head = ""  # the one there is, as `multitask.MultitaskBatches` names them

    def __init__(self, spec: TrainData, stream: WindowStream, rows: range, prefetch: int, place: Place):
        self._spec, self._stream = spec, stream
        dataset = _BatchDataset(stream, spec, rows, place)
        iterator = iter(grain.experimental.ThreadPrefetchIterDataset(dataset, prefetch_buffer_size=prefetch))
        # Grain's iterators cannot be freed while Python shuts down: so let go of it before that.
        self._held = [iterator]
        self._release = weakref.finalize(self, _release, self._held)

    @property
    def _iterator(self) -> grain.DatasetIterator:
        if not self._held:
            raise ValueError("this iterator is closed")
        return self._held[0]

    def __iter__(self) -> "TrainBatches":
        return self

    def __next__(self) -> Any:
        return next(self._iterator)

    def get_state(self) -> dict:
        """The place behind the last delivered batch, as JSON (some 200 bytes); the same on every host."""
        return dict(self._iterator.get_state())

    def set_state(self, state: Mapping) -> None:
        """Goes to the place a state stands for; the next batch is the one that followed it, bit for bit.

        Raises:
          UserError: the state is of other data.
        """
        self._iterator.set_state(dict(state))

    def stats(self) -> dict:
        """Counts over the global batches delivered so far, those before a restart included.

        Returns:
          batches, rows, examples, {encoder,decoder}_tokens, truncated_examples, truncated_{encoder,decoder}_tokens;
          {encoder,decoder}_density (tokens / slots of the rows); examples_by_task; empty_examples (of the whole
          split, by task, where there are any). Nothing of a decoder where a row has one side; of 'contrastive' the
          second side is the 'target'. An example of 'tag' is a piece of a sentence, one of 'span' a window.
        """
        state = self.get_state()
        out = {name: state[name] for name in _COUNTS}
        for side, slots in zip(("encoder", "decoder"), self._spec.slots, strict=True):
            out[f"{side}_density"] = state[f"{side}_tokens"] / max(1, state["rows"] * slots)
        drawn = self._stream.drawn(state["window"], state["row"])
        out["examples_by_task"] = dict(zip(self._stream.names, drawn.tolist(), strict=True))
        empty = {n: s.empty for n, s in zip(self._stream.names, self._stream.sources, strict=True) if s.empty}
        out["empty_examples"] = empty
        second = SECOND_SIDE.get(self._spec.objective)
        return {
            name.replace("decoder", second or ""): value
            for name, value in out.items()
            if second or "decoder" not in name
        }

    def close(self) -> None:
        """Stops the prefetching thread."""
        self._release()


def _release(held: list) -> None:
    held.pop().close()


def train_batches(
    spec: TrainData,
    process_index: int = 0,
    process_count: int = 1,
    start_state: Mapping | None = None,
    prefetch: int | None = None,
    place: Place = dict,
) -> TrainBatches:
    """Iterates over this host's part of the global batches of `spec`.

    Args:
      spec: what to train on.
      process_index, process_count: host p of P gets rows [p * B / P, (p + 1) * B / P) of each global batch of B.
      start_state: an earlier iterator's `get_state()`; None starts at the beginning.
      prefetch: batches made ahead in a thread; 0 makes them when asked for. None: 16, or as many as 64 MiB hold, but at
        least 2.
      place: what becomes of each batch where it is made, ahead and beside the steps: `global_batch` puts it on devices.

    Yields:
      What `place` makes of dicts of int32 arrays [B / P, ...] under SeqIO's names (see the `build_batch` of the
      objective's module): without one, these.

    Raises:
      UserError: the data cannot be used, see `window_stream`; or the batch does not divide over the hosts.
      DataError: a damaged cache, when the batch is asked for.
    """
    if not 0 <= process_index < process_count:
        raise UserError(f"process_index is {process_index}, with {process_count} processes.")
    if spec.batch_size % process_count:
        raise UserError(f"batch_size {spec.batch_size} does not divide over {process_count} hosts.")
    share = spec.batch_size // process_count
    rows = range(process_index * share, (process_index + 1) * share)
    if prefetch is None:
        prefetch = max(2, min(_AHEAD, _AHEAD_BYTES // (share * sum(spec.slots) * _BYTES_A_SLOT)))
    batches = TrainBatches(spec, window_stream(spec), rows, prefetch, place)
    if start_state is not None:
        batches.set_state(start_state)
    return batches
