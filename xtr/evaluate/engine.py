"""The evaluation engine: one checkpoint on every language of a target -> rows and predictions.

Examples are predicted shard by shard (`journal`), and a shard's records are written while the device works on the next
one. A killed evaluation goes on behind its last whole shard, with the same bits. Grading reads records alone, so that
`regrade` needs no model.

Of several processes every one predicts and grades the same; the first alone reads and writes the evaluation's folder,
and tells the others what it found there.
"""

import dataclasses
import functools
import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from xtr import rundir
from xtr.data.cache import as_names, ensure_cached
from xtr.data.cached_task import CachedTask, eval_examples
from xtr.data.formats import ENCODER, format_of
from xtr.errors import DataError, Preempted, UserError, did_you_mean
from xtr.evaluate import heads, own_metrics
from xtr.evaluate.embedding import check_readout
from xtr.evaluate.grading import ENGLISH_DEV, Grading, best_null_threshold, grade, may_lack_answers
from xtr.evaluate.journal import Journal, plan_shards
from xtr.evaluate.methods import GENERATE, LABEL, SCORE, Asked, Method
from xtr.evaluate.metrics import METRICS, forms
from xtr.evaluate.predictor import Predictor, open_predictor
from xtr.evaluate.results import Place, ResultRow, ResultStore, mean_rows, sample_order
from xtr.evaluate.retrieval import Retrieval, is_dual
from xtr.evaluate.retrieve import layer_values
from xtr.evaluate.run import STOPPED, EvaluateRun
from xtr.models import spec
from xtr.models.interface import ModelConfig
from xtr.parallel import watchdog
from xtr.parallel.distributed import asked_to_stop, check_same, first_alone, from_first, is_first, wait
from xtr.progress import progress

# ---------------------------------------------------------------------------------------------------------------------
# What can be evaluated how
# ---------------------------------------------------------------------------------------------------------------------

_METHODS = {"rank": LABEL, "generate": GENERATE, "score": SCORE, "tag": heads.TAG, "span": heads.SPAN}
_RETRIEVAL = "embed"
_INDEX = "index"  # the folder of the candidates' vectors while an evaluation lasts


def method_of(model: ModelConfig, info: Mapping) -> Method:
    """How a model predicts the examples of a task, given what it does and the task's facts."""
    chooses = info["predictor"] == "rank" and "choose" in model.objectives
    return heads.CHOOSE if chooses else _METHODS[info["predictor"]]


def check_can_do(model: ModelConfig, task: CachedTask, split: str) -> None:
    """Raises UserError where a model cannot be evaluated on a task.

    Args:
      model: the network.
      task: the task, cached in the format that the model reads.
      split: the split that is scored.
    """
    predictor, writes = task.info["predictor"], format_of(model.objectives) != ENCODER
    if predictor not in (*_METHODS, _RETRIEVAL):
        raise UserError(f"{task.name} is not evaluated by prediction (its predictor is {predictor!r}).")
    if unknown := [name for name in task.info["metrics"] if name not in METRICS]:
        hint = did_you_mean(unknown[0], METRICS)
        raise UserError(f"{task.name} is scored by {', '.join(unknown)}, which xtr eval cannot compute.{hint}")
    if wrong := task.info.get("own_metrics", {}).get("wrong"):
        raise UserError(wrong)
    if (own_metrics.outputs(task.info) or predictor in ("generate", "score")) and not writes:
        raise UserError(
            f"{task.name} is answered by text, generated or scored: that takes a whole mT5 or a BLOOM without a head; "
            f"this {model.family} cannot."
        )
    lacking = sorted({"inputs", "targets"} - set(task.info["features"]))
    if lacking and predictor in ("generate", "score"):
        raise UserError(
            f"{task.name} cannot be evaluated by text: it lacks the feature {' and '.join(lacking)}; it has "
            f"{', '.join(task.info['features'])}."
        )
    if predictor in heads.PREDICTORS and not writes:
        heads.check_head(model, task, split)


def _select(tasks: Sequence[CachedTask], languages: Sequence[str] | None, name: str) -> list[CachedTask]:
    if languages is None:
        return list(tasks)
    languages = as_names(languages)
    found: dict[str, list[CachedTask]] = {}
    for task in tasks:
        found.setdefault(task.info["language"], []).append(task)
    unknown = [language for language in languages if language not in found]
    if unknown:
        raise UserError(
            f"{name} has no {', '.join(unknown)}; found: {', '.join(sorted(found))}.{did_you_mean(unknown[0], found)}"
        )
    return [task for language in languages for task in found[language]]


@dataclasses.dataclass(frozen=True)
class _Part:
    """One task and split of an evaluation: what one predictions file holds."""

    run: EvaluateRun
    task: CachedTask
    split: str
    retrieval: Retrieval | None = None  # where the task is one of retrieval

    @property
    def place(self) -> Place:
        info = self.task.info
        return Place(self.run.run_id, self.run.target or info["group"], info["language"], self.split)

    def count(self) -> int:
        """Examples that are read."""
        if self.retrieval:
            return self.retrieval.count()
        n = self.task.num_examples(self.split)
        return min(n, self.run.limit or n)


def _parts(run: EvaluateRun, found: Mapping[str, Sequence[CachedTask]]) -> list[_Part]:
    """The parts of an evaluation, each checked; the development set comes first, where others wait for it."""
    parts = []
    for name in as_names(run.mixture_or_task_name):
        parts += [_Part(run, task, run.split) for task in _select(found[name], run.languages, name)]
    if run.dev_task_name:
        dev = [_Part(run, task, run.dev_split) for task in found[run.dev_task_name]]
        parts = dev + parts if run.null_threshold == ENGLISH_DEV else parts + dev
    seen: dict[Place, str] = {}
    for part in parts:
        check_can_do(heads.for_task(run.model, part.task, part.split), part.task, part.split)
        if (other := seen.setdefault(part.place, part.task.name)) != part.task.name:
            raise UserError(
                f"{other} and {part.task.name} would both be target {part.place.target}, language "
                f"{part.place.language} in the results: leave evaluate.target unset, or say the tasks' languages and "
                "groups by xtr.tasks.describe()."
            )
    return _with_candidates(run, list({part.place: part for part in parts}.values()))


def _with_candidates(run: EvaluateRun, parts: Sequence[_Part]) -> list[_Part]:
    """The parts, those of retrieval with the candidates that are searched, which several may share."""
    of = {p.task.name: p.task.info.get("candidates") for p in parts if p.task.info["predictor"] == _RETRIEVAL}
    shared = {name: found[0] for name, found in _cached(run, sorted(filter(None, of.values()))).items()}
    with_candidates = [
        dataclasses.replace(
            part, retrieval=Retrieval(run, part.task, shared.get(of[part.task.name], part.task), part.split)
        )
        if part.task.name in of
        else part
        for part in parts
    ]
    for part in with_candidates:
        part.count()  # says what is lacking
        if part.retrieval and not is_dual(run.model):
            check_readout(run.model, (run.embedding_layer,), run.embedding_pooling)
    return with_candidates


# ---------------------------------------------------------------------------------------------------------------------
# The run
# ---------------------------------------------------------------------------------------------------------------------


def _cached(run: EvaluateRun, names: Sequence[str]) -> Mapping[str, Sequence[CachedTask]]:
    if not names:
        return {}
    return first_alone(
        lambda: ensure_cached(
            names,
            task_modules=run.task_modules,
            tfds_tasks=run.tfds_tasks,
            vocabulary_path=run.vocabulary_path,
            data_dir=rundir.data_dir(run.data_dir),
            cache_dir=rundir.cache_dir(run.cache_dir),
            format=run.format,
            lengths=run.task_feature_lengths,
        )
    )


def evaluate(
    run: EvaluateRun,
    gin_texts: Mapping[str, str] | None = None,
    on_rows: Callable[[Sequence[ResultRow]], None] = lambda rows: None,
) -> list[ResultRow]:
    """Evaluates one checkpoint; a finished evaluation is recognised and its rows are read back.

    Args:
      on_rows: is told the rows of each task and language, as soon as it is graded; in the first process alone.

    Returns:
      The rows, also written to `eval_output_dir/results.parquet`, with the predictions beside them.
    """
    store = ResultStore(run.eval_output_dir)
    check_same("their configuration", rundir.digest(rundir.identity(run)))
    if (rows := from_first(lambda: _finished(run, store))) is not None:
        if is_first():
            on_rows(rows)
        return rows
    session = rundir.Session(run.eval_output_dir)
    names = list(as_names(run.mixture_or_task_name))
    found = _cached(run, names + ([run.dev_task_name] if run.dev_task_name else []))
    parts = _parts(run, found)
    # Retrieval reads no head but a dual encoder's, and published checkpoints have none.
    embeds = all(part.task.info["predictor"] == _RETRIEVAL for part in parts)
    headless = run.format == ENCODER and embeds and not is_dual(run.model)
    predictor, step = open_predictor(run, run.model.encoder() if headless else run.model)
    from_first(lambda: rundir.create(run.eval_output_dir, rundir.identity(run), gin_texts or {}))
    total = sum(part.count() for part in parts)
    due = _languages_due(run, [task for name in names for task in found[name]])
    grader = _Grader(run, store, on_rows)
    with (
        grader,
        progress(f"evaluate {run.target or ', '.join(names)}", total) as bar,
        watchdog.watch(run.eval_output_dir, run.hang_timeout) as watch,
    ):

        def advance(n: int) -> None:
            bar.advance(n)
            watch.beat("evaluating", bar.done, slow=True)  # a new shape compiles at any time

        for part in parts:
            records, meta = from_first(functools.partial(_saved, store, part, step)) or (None, None)
            if records is None:
                records, meta = _predict(part, predictor, step, store, advance)
                meta["languages"] = due.get(part.place.target, [])
            else:
                advance(part.count())
            grader.grade(part.place, records, meta, part.task)
            if is_first():
                session.keep()
    return grader.finish(session)


def _finished(run: EvaluateRun, store: ResultStore) -> list[ResultRow] | None:
    """The rows of this very evaluation, where it is done."""
    if not rundir.is_done(run.eval_output_dir, rundir.identity(run)):
        return None
    return [ResultRow(**row) for row in store.read().to_dict("records")]


def _digest(part: _Part, step: int) -> str:
    """Names what a part's predictions are of: the run, the checkpoint's step, and the cached examples."""
    return rundir.digest(
        {"run": rundir.identity(part.run), "step": step, "task": Path(part.task.directory).name, "split": part.split}
    )


def _saved(store: ResultStore, part: _Part, step: int) -> tuple[list[dict], dict] | None:
    """The part's predictions, where an earlier process finished them."""
    meta = store.read_meta(part.place)
    if meta is None or meta["digest"] != _digest(part, step):
        return None
    return store.read_predictions(*part.place), meta


def _predict(
    part: _Part, predictor: Predictor, step: int, store: ResultStore, advance: Callable[[int], None]
) -> tuple[list[dict], dict]:
    """Predicts a part; returns its records in the examples' order, not graded yet, and what they are of."""
    run, task = part.run, part.task
    predictor = dataclasses.replace(predictor, config=heads.for_task(predictor.config, task, part.split))
    longest = predictor.length_buckets[-1]
    length = min((run.task_feature_lengths or {}).get("inputs", longest), longest)
    if part.retrieval:
        directory = Path(run.index_dir) if run.index_dir else store.directory / _INDEX
        records = part.retrieval.predict(predictor, directory, advance)
        queries, candidates = part.retrieval.pairs(predictor)[0]
        cut = queries.cut() + candidates.cut()
        chance = 100.0 / len(candidates) if "accuracy" in task.info["metrics"] else None
        examples = functools.partial(eval_examples, task, queries.split)
    else:
        asked, own = Asked(run, task.info, length), eval_examples(task, part.split)[: run.limit]
        records = _predict_shards(part, predictor, asked, own, _digest(part, step), store, advance)
        cut = sum(heads.is_cut(predictor, example, run, length) for example in own)
        chance = _chance(own)
        examples = functools.partial(map, own.__getitem__)
    _add_inputs(records, examples, predictor, run.log_samples, length)
    meta = {
        "digest": _digest(part, step),
        "task": task.name,
        "info": dict(task.info),
        "row": {
            "family": run.model.family,
            "model": run.model_name or run.model.family,
            "parameters": _parameters(run),
            "stage": run.stage,
            "intermediate": run.intermediate,
            "seed": run.random_seed,
            "step": step,
        },
        "examples": len(records),
        "truncated": cut,
        "chance": chance,
    }
    return records, meta


def _parameters(run: EvaluateRun) -> int:
    """Of the network, or of its encoder. A head is the task's; the network is one for all targets."""
    network = run.model.encoder() if run.counts_encoder else getattr(run.model, "body", run.model)
    return spec.count(network.param_specs())


def _predict_shards(
    part: _Part,
    predictor: Predictor,
    asked: Asked,
    examples: Sequence[Mapping],
    digest: str,
    store: ResultStore,
    advance: Callable[[int], None],
) -> list[dict]:
    """Predicts examples shard by shard, those aside that the journal holds."""
    method, outputs = method_of(predictor.config, asked.info), own_metrics.outputs(asked.info)
    shards = plan_shards([len(example["inputs"]) for example in examples], part.run.examples_per_shard)
    plan = hashlib.sha256(json.dumps(shards).encode()).hexdigest()[:16]
    journal = Journal(store.journal_path(part.place), f"{digest} {plan}", writes=is_first())
    found: dict[int, list[dict]] = from_first(lambda: dict(journal.shards))

    def finish(number: int, own: Sequence[Mapping], said: Sequence, entries: Sequence[Mapping]) -> None:
        records = method.records(predictor.vocabulary, own, said, dataclasses.replace(asked, numbers=shards[number]))
        for record, entry in zip(records, entries, strict=True):
            record |= {"model_outputs": entry} if entry else {}
        found[number] = records
        journal.add(number, records)

    # The host makes and writes the records of one shard while the device works on the next.
    waiting: list[Future] = []
    with ThreadPoolExecutor(1) as host:
        for number, members in enumerate(shards):
            if number in found:
                advance(len(members))
                continue
            if asked_to_stop():
                raise Preempted(STOPPED)
            own, these = [examples[i] for i in members], dataclasses.replace(asked, numbers=members)
            said = method.predict(predictor, own, these, advance)
            entries = own_metrics.predict(predictor, outputs, own, said, method, these) if outputs else [{}] * len(own)
            while waiting and (waiting[0].done() or len(waiting) > 1):
                waiting.pop(0).result()
            waiting.append(host.submit(finish, number, own, said, entries))
        for future in waiting:
            future.result()
    records: list = [None] * len(examples)
    for number, members in enumerate(shards):
        for i, record in zip(members, found[number], strict=True):
            records[i] = record
    return records


def _add_inputs(
    records: Sequence[dict],
    examples: Callable[[Sequence[int]], Iterable[Mapping]],
    predictor: Predictor,
    count: int,
    length: int,
) -> None:
    """Adds the input's text to so many records, chosen by their ids alone."""
    numbers = sorted(range(len(records)), key=lambda n: sample_order(records[n]["id"]))[:count]
    for n, example in zip(numbers, examples(numbers), strict=True):
        tokens = [*example.get("question", ()), *example["inputs"]][:length]
        records[n]["input"] = predictor.vocabulary.decode([int(token) for token in tokens])


def _chance(examples: Sequence[Mapping]) -> float | None:
    """Percentage right by guessing one of the choices; None where there are none."""
    choices = [len(example["meta"].get("choices", ())) for example in examples]
    return float(np.mean([100.0 / n for n in choices])) if all(choices) else None


class _Grader:
    """Grades the parts of an evaluation one after the other, and writes predictions, rows and the run's end."""

    def __init__(self, run: EvaluateRun, store: ResultStore, on_rows: Callable[[Sequence[ResultRow]], None]):
        self.writes = is_first()
        self.run, self.store, self.on_rows = run, store, on_rows if self.writes else lambda rows: None
        self.own = own_metrics.OwnMetrics(run)
        self.rows: list[ResultRow] = []
        self.metas: list[tuple[Place, dict]] = []
        self.threshold = 0.0 if run.null_threshold == ENGLISH_DEV else float(run.null_threshold)

    def __enter__(self) -> "_Grader":
        self.own.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self.own.__exit__(*error)

    def grade(self, place: Place, records: list[dict], meta: dict, task: CachedTask | None) -> None:
        """Grades one part.

        Args:
          task: where its own metrics read the examples from.
        """
        run, info = self.run, meta["info"]
        values = {}
        is_dev = run.dev_task_name is not None and place.split == run.dev_split
        if run.null_threshold == ENGLISH_DEV and is_dev and may_lack_answers(info):
            self.threshold = values["null_threshold"] = best_null_threshold(records)
        values |= grade(records, info, Grading(self.threshold, run.ranking))
        values |= layer_values(records)
        if outputs := [record["model_outputs"] for record in records if "model_outputs" in record]:
            if task is None:
                raise DataError(f"{meta['task']} is not cached any more; its own metrics read its examples.")
            examples = eval_examples(task, place.split)[: run.limit]
            values |= from_first(functools.partial(self.own.values, task, place.split, examples, outputs))
        rows = [
            ResultRow(
                **place._asdict(), **meta["row"], metric=name, value=float(value), n=len(records),
                higher_is_better=_higher_is_better(name),
            )
            for name, value in values.items()
        ]  # fmt: skip
        if self.writes:
            self.store.write_predictions(*place, records)
            self.store.write_meta(place, meta)
            self.store.append(rows)
            self.store.journal_path(place).unlink(missing_ok=True)
        self.rows += rows
        self.metas.append((place, meta))
        self.on_rows(rows)

    def finish(self, session: rundir.Session) -> list[ResultRow]:
        """Adds the means over languages and marks the run as done; returns all rows."""
        run = self.run
        due = {place.target: meta["languages"] for place, meta in self.metas if place.split == run.split}
        for target, languages in due.items():
            if len(languages) > 1:
                own = [r for r in self.rows if (r.target, r.split) == (target, run.split) and r.language in languages]
                means = mean_rows(own, languages)
                self.rows += means
                self.on_rows(means)
        wait("evaluation: predicted")  # The others may still read the index.
        if self.writes:
            shutil.rmtree(self.store.directory / _INDEX, ignore_errors=True)
            self.store.append(self.rows)
            chance = {place.language: meta["chance"] for place, meta in self.metas if meta["chance"] is not None}
            rundir.mark_done(
                run.eval_output_dir,
                {
                    "rows": len(self.rows),
                    "examples": sum(meta["examples"] for _, meta in self.metas),
                    "truncated": sum(meta["truncated"] for _, meta in self.metas),
                    "chance": chance,
                    "languages": due,
                    "skipped_metrics": self.own.skipped,
                    **session.summary(),
                },
            )
        wait("evaluation: written")
        return self.rows


def _higher_is_better(metric: str) -> bool:
    known = METRICS.get(metric.partition("/")[0])
    return metric not in forms.NAMES and (known is None or known.higher_is_better)


def _languages_due(run: EvaluateRun, tasks: Sequence[CachedTask]) -> dict[str, list[str]]:
    """Target -> every language that it should have, found or not, sorted."""
    due: dict[str, set[str]] = {}
    for task in tasks:
        languages = due.setdefault(run.target or task.info["group"], set())
        languages.update((task.info["language"], *task.info.get("languages", ())))
    return {target: sorted(languages) for target, languages in due.items()}


def regrade(
    run: EvaluateRun,
    predictions_dir: str,
    gin_texts: Mapping[str, str] | None = None,
    on_rows: Callable[[Sequence[ResultRow]], None] = lambda rows: None,
) -> list[ResultRow]:
    """Grades the whole predictions of an evaluation again, without a model and without its data.

    Tasks that bring metrics of their own are the exception: these read the cached examples.

    Args:
      run: says how to grade, and where rows and graded predictions go; of its languages the others are left out.
      predictions_dir: the `eval_output_dir` of the evaluation.

    Raises:
      UserError: there are no predictions; or several processes were started.
    """
    if watchdog.processes() > 1:
        raise UserError("Grading again needs no model: start it as one process, where the predictions lie.")
    session = rundir.Session(run.eval_output_dir)
    source, store = ResultStore(predictions_dir), ResultStore(run.eval_output_dir)
    rundir.is_done(run.eval_output_dir, rundir.identity(run))
    languages = as_names(run.languages) if run.languages else None
    places = [place for place in source.places() if languages is None or place.language in languages]
    if not places:
        raise UserError(f"{predictions_dir} holds no whole predictions: give the EVAL_OUTPUT_DIR of an evaluation.")
    for partial in sorted(source.directory.glob("predictions/*/*.partial")):
        print(f"{partial} is not whole and left out; the same `xtr eval` again finishes it.", file=sys.stderr)
    metas = {place: source.read_meta(place) for place in places}
    with_own = sorted({meta["task"] for meta in metas.values() if own_metrics.outputs(meta["info"])})
    tasks = {name: found[0] for name, found in _cached(run, with_own).items()} if with_own else {}
    rundir.create(run.eval_output_dir, rundir.identity(run), gin_texts or {})
    first = run.dev_split if run.null_threshold == ENGLISH_DEV else run.split
    with _Grader(run, store, on_rows) as grader:
        for place in sorted(places, key=lambda place: place.split != first):
            meta = metas[place]
            grader.grade(place, source.read_predictions(*place), meta, tasks.get(meta["task"]))
    return grader.finish(session)
