"""The evaluation engine: one checkpoint on every language of a target -> rows and predictions."""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from xtr import rundir
from xtr.data.cache import as_names, ensure_cached
from xtr.data.cached_task import CachedTask, eval_examples
from xtr.data.formats import ENCODER, UNANSWERABLE, format_of
from xtr.data.framing import longest_first
from xtr.data.tag_text import parse_tags
from xtr.errors import UserError, did_you_mean
from xtr.evaluate import heads, own_metrics
from xtr.evaluate.metrics import METRICS, nearest, unpad_answer
from xtr.evaluate.predictor import Predictor, open_predictor
from xtr.evaluate.results import ResultRow, ResultStore, mean_rows, score_records
from xtr.evaluate.run import EvaluateRun, InferRun
from xtr.models import spec
from xtr.models.interface import ModelConfig
from xtr.progress import progress

SPLITS_OF_RETRIEVAL = ("queries", "candidates")
_RANKED = ("map@20", "bucc_f1")  # metrics of ranked or mined lists


# ---------------------------------------------------------------------------------------------------------------------
# From a task's examples to prediction records
# ---------------------------------------------------------------------------------------------------------------------


def _inputs(
    predictor: Predictor, examples: Sequence[Mapping], length: int, feature: str = "inputs"
) -> list[np.ndarray]:
    """A feature of the examples' tokens, cut to `length`: special tokens stay where the format says what they are."""
    return [
        np.asarray(example[feature][longest_first(example["text_spans"], len(example[feature]), length)], np.int32)
        if "text_spans" in example
        else predictor.cut(example[feature], length)
        for example in examples
    ]


def classify(predictor: Predictor, examples, run: EvaluateRun, length: int, info, advance):
    """The labels' scores by the head, where the model has one; else by ranking the label strings."""
    choices = [example["meta"]["choices"] for example in examples]
    inputs = _inputs(predictor, examples, length)
    if "classify" in predictor.config.objectives:
        scores_NC = predictor.classify(inputs, _inputs(predictor, examples, length, "token_types"), advance)
    else:
        scores_NC = predictor.rank(inputs, choices, advance)
    predicted_N = scores_NC.argmax(axis=1)
    golds = [int(example["meta"]["label"]) for example in examples]
    records = [
        {
            "id": example["meta"]["id"],
            "prediction": texts[p],
            "gold": texts[gold],
            "scores": [float(s) for s in scores[: len(texts)]],
            "contributions": {},
        }
        for example, texts, p, gold, scores in zip(examples, choices, predicted_N, golds, scores_NC, strict=True)
    ]
    return records, score_records(records, info, [int(p) for p in predicted_N], golds)


def answer(predictor: Predictor, examples, run: EvaluateRun, length: int, info, advance):
    """Generated answers. Those to a passage are matched back into it (mT5's rendering pads punctuation), tags are read
    out of their text, and both are scored officially; any other text is compared with the target as it is."""
    inputs = _inputs(predictor, examples, length)
    best = [found[0] for found in predictor.generate_tokens(inputs, run.max_decode_length, run.decoding, advance)]
    texts = [predictor.vocabulary.decode(tokens.tolist()) for tokens, _ in best]
    answers, golds, illegal = [], [], []
    for text, example in zip(texts, examples, strict=True):
        meta, counts = example["meta"], None
        if "answers" in meta:
            answers.append(text if text == UNANSWERABLE else unpad_answer(text, meta["context"]))
            golds.append(meta["answers"])
        elif "tags" in meta:
            tags, counts = parse_tags(text, len(meta["tokens"]), info["label_names"])
            answers.append(list(tags))
            golds.append(meta["tags"])
        else:
            answers.append(text)
            golds.append([predictor.vocabulary.decode(example["targets"].tolist())])
        illegal.append({} if counts is None else {"illegal": dict(counts)})
    records = [
        {
            "id": example["meta"].get("id", str(number)),
            "prediction": text,
            "gold": gold,
            "raw_prediction": raw,
            "log_prob": log_prob,
            "tokens": tokens,
            **wrong,
            "contributions": {},
        }
        for number, (example, text, gold, raw, (tokens, log_prob), wrong) in enumerate(
            zip(examples, answers, golds, texts, best, illegal, strict=True)
        )
    ]
    return records, score_records(records, info, answers, golds, UNANSWERABLE)


def score_targets(predictor: Predictor, examples, run: EvaluateRun, length: int, info, advance):
    """The log-probability of each target, for tasks whose own metrics read nothing else."""
    return own_metrics.scored(predictor, _inputs(predictor, examples, length), examples, run, advance), {}


def retrieve(predictor: Predictor, queries, candidates, run: EvaluateRun, length: int, info, advance):
    """Nearest candidate by cosine: of a dual encoder's vectors, else of mean-pooled states, of which every layer is
    scored and one layer makes the prediction."""
    query_inputs = _inputs(predictor, queries, length)
    candidate_inputs = _inputs(predictor, candidates, _candidate_length(predictor, run, length))
    ids = [example["meta"]["id"] for example in candidates]
    golds = [example["meta"]["gold"] for example in queries]

    def found_by(query_QD: np.ndarray, candidate_CD: np.ndarray) -> list:
        return [ids[i] for i in nearest(query_QD, candidate_CD)]

    by_layer = []
    if _is_dual(predictor.config):
        found = found_by(predictor.vectors(query_inputs, advance), predictor.vectors(candidate_inputs, advance))
    else:
        query_LQD, candidate_LCD = (predictor.embed(side, advance) for side in (query_inputs, candidate_inputs))
        by_layer = [found_by(*sides) for sides in zip(query_LQD, candidate_LCD, strict=True)]
        found = by_layer[run.embedding_layer]
    records = [
        {"id": example["meta"]["id"], "prediction": hit, "gold": gold, "contributions": {}}
        for example, hit, gold in zip(queries, found, golds, strict=True)
    ]
    values = score_records(records, info, found, golds)
    for layer, hits in enumerate(by_layer):
        values |= {f"{name}/layer_{layer}": METRICS[name](hits, golds)[0] for name in info["metrics"]}
    return records, values


def _candidate_length(predictor: Predictor, run: EvaluateRun, length: int) -> int:
    """Tokens of a candidate: a dual encoder is trained on positives (`targets`) that may be longer than queries."""
    positives = (run.task_feature_lengths or {}).get("targets", 0) if _is_dual(predictor.config) else 0
    return max(length, min(positives, predictor.length_buckets[-1]))


def _is_dual(model: ModelConfig) -> bool:
    return "contrastive" in model.objectives


_METHODS = {
    "rank": classify,
    "generate": answer,
    "score": score_targets,
    "embed": retrieve,
    "tag": heads.tag,
    "span": heads.span,
}


def _method(model: ModelConfig, info: Mapping):
    chooses = info["predictor"] == "rank" and "choose" in model.objectives
    return heads.choose if chooses else _METHODS[info["predictor"]]


# ---------------------------------------------------------------------------------------------------------------------
# The run
# ---------------------------------------------------------------------------------------------------------------------


def check_can_do(model: ModelConfig, task: CachedTask, split: str) -> None:
    """Raises UserError where a model cannot be evaluated on a task.

    Args:
      model: the network.
      task: the task, cached in the format that the model reads.
      split: the split that is scored.
    """
    predictor, writes = task.info["predictor"], format_of(model.objectives) != ENCODER
    if predictor not in _METHODS:
        raise UserError(f"{task.name} is not evaluated by prediction (its predictor is {predictor!r}).")
    if later := [name for name in task.info["metrics"] if name in _RANKED]:
        raise UserError(f"{task.name} is scored by {', '.join(later)}, for which xtr eval cannot rank candidates yet.")
    if unknown := [name for name in task.info["metrics"] if name not in METRICS]:
        hint = did_you_mean(unknown[0], METRICS)
        raise UserError(f"{task.name} is scored by {', '.join(unknown)}, which xtr eval cannot compute.{hint}")
    if wrong := task.info.get("own_metrics", {}).get("wrong"):
        raise UserError(wrong)
    if (own_metrics.needed(task) or predictor in ("generate", "score")) and not writes:
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
    found = {task.info["language"]: task for task in tasks}
    unknown = [language for language in languages if language not in found]
    if unknown:
        raise UserError(
            f"{name} has no {', '.join(unknown)}; found: {', '.join(sorted(found))}.{did_you_mean(unknown[0], found)}"
        )
    return [found[language] for language in languages]


def evaluate(run: EvaluateRun, gin_texts: Mapping[str, str] | None = None) -> list[ResultRow]:
    """Evaluates one checkpoint; a finished evaluation is recognised and its rows are read back.

    Returns:
      The rows, also written to `eval_output_dir/results.parquet`, with the predictions beside them.
    """
    store = ResultStore(run.eval_output_dir)
    if rundir.is_done(run.eval_output_dir, rundir.identity(run)):
        return [ResultRow(**row) for row in store.read().to_dict("records")]
    started = time.monotonic()
    names = [run.mixture_or_task_name] + ([run.dev_task_name] if run.dev_task_name else [])
    found = ensure_cached(
        names,
        task_modules=run.task_modules,
        tfds_tasks=run.tfds_tasks,
        vocabulary_path=run.vocabulary_path,
        data_dir=rundir.data_dir(run.data_dir),
        cache_dir=rundir.cache_dir(run.cache_dir),
        format=run.format,
        lengths=run.task_feature_lengths,
    )
    work = [(task, run.split) for task in _select(found[names[0]], run.languages, names[0])]
    if run.dev_task_name:
        work += [(task, run.dev_split) for task in found[run.dev_task_name]]
    for task, split in work:
        check_can_do(heads.for_task(run.model, task, split), task, split)
    _check_apart(run, work)
    # Retrieval reads no head but a dual encoder's, and published checkpoints have none.
    retrieval = all(task.info["predictor"] == "embed" for task, _ in work)
    headless = run.format == ENCODER and retrieval and not _is_dual(run.model)
    total = sum(_count(task, split, run.limit) for task, split in work)
    predictor, step = open_predictor(run, run.model.encoder() if headless else run.model)
    rundir.create(run.eval_output_dir, rundir.identity(run), gin_texts or {})
    rows: list[ResultRow] = []
    truncated, chance = 0, {}
    own = own_metrics.OwnMetrics(run)
    with own, progress(f"evaluate {run.target or names[0]}", total) as bar:
        for task, split in work:
            task_rows, cut, guessing = _evaluate_task(run, predictor, step, task, split, store, own, bar.advance)
            rows += task_rows
            truncated += cut
            if guessing is not None:
                chance[task.info["language"]] = guessing
    due = _languages_due(run, found[names[0]])
    for target, languages in due.items():
        if len(languages) > 1:
            own_rows = [r for r in rows if (r.target, r.split) == (target, run.split) and r.language in languages]
            rows += mean_rows(own_rows, languages)
    store.append(rows)
    seconds = round(time.monotonic() - started, 3)
    rundir.mark_done(
        run.eval_output_dir,
        {
            "rows": len(rows),
            "examples": total,
            "truncated": truncated,
            "chance": chance,
            "languages": due,
            "skipped_metrics": own.skipped,
            "seconds": seconds,
        },
    )
    return rows


def _languages_due(run: EvaluateRun, tasks: Sequence[CachedTask]) -> dict[str, list[str]]:
    """Target -> every language that it should have, found or not, sorted."""
    due: dict[str, set[str]] = {}
    for task in tasks:
        languages = due.setdefault(run.target or task.info["group"], set())
        languages.update((task.info["language"], *task.info.get("languages", ())))
    return {target: sorted(languages) for target, languages in due.items()}


def _splits(task: CachedTask, split: str) -> tuple[str, ...]:
    return SPLITS_OF_RETRIEVAL if task.info["predictor"] == "embed" else (split,)


def _count(task: CachedTask, split: str, limit: int | None) -> int:
    counts = []
    for name in _splits(task, split):
        counts.append(task.num_examples(name))
    return sum(min(n, limit or n) for n in counts)


def _check_apart(run: EvaluateRun, work: Sequence[tuple[CachedTask, str]]) -> None:
    """Raises UserError where two tasks would have one row: the same target, language and split."""
    seen: dict[tuple, str] = {}
    for task, split in work:
        place = run.target or task.info["group"], task.info["language"], split
        if seen.setdefault(place, task.name) != task.name:
            raise UserError(
                f"{seen[place]} and {task.name} would both be target {place[0]}, language {place[1]} in the results: "
                "leave evaluate.target unset, or say the tasks' languages and groups by xtr.tasks.describe()."
            )


def _evaluate_task(
    run: EvaluateRun, predictor: Predictor, step: int, task: CachedTask, split: str, store, own, advance
):
    predictor = dataclasses.replace(predictor, config=heads.for_task(predictor.config, task, split))
    sides = [eval_examples(task, name)[: run.limit] for name in _splits(task, split)]
    longest = predictor.length_buckets[-1]
    length = min((run.task_feature_lengths or {}).get("inputs", longest), longest)
    lengths = (length, _candidate_length(predictor, run, length))
    cut = sum(
        heads.is_cut(predictor, example, run, longest_kept)
        for side, longest_kept in zip(sides, lengths, strict=False)
        for example in side
    )
    records, values = _method(predictor.config, task.info)(predictor, *sides, run, length, task.info, advance)
    if needed := own_metrics.needed(task):
        inputs = _inputs(predictor, sides[0], length)
        outputs = own_metrics.model_outputs(predictor, needed, inputs, sides[0], records, run)
        values |= own.values(task, split, sides[0], outputs)
    for record in records:
        record.pop("tokens", None)
    target, language = run.target or task.info["group"], task.info["language"]
    store.write_predictions(run.run_id, target, language, split, records)
    shared = {
        "run_id": run.run_id,
        "family": run.model.family,
        "model": run.model_name or run.model.family,
        "parameters": spec.count(run.model.param_specs()),
        "stage": run.stage,
        "intermediate": run.intermediate,
        "target": target,
        "language": language,
        "split": split,
        "seed": run.random_seed,
        "step": step,
        "n": len(records),
    }
    return (
        [ResultRow(**shared, metric=metric, value=float(value)) for metric, value in values.items()],
        cut,
        _chance(sides),
    )


def _chance(sides: Sequence[Sequence[Mapping]]) -> float | None:
    """Percentage right by guessing one of the choices or candidates; None where that is not defined."""
    if len(sides) == 2:
        return 100.0 / len(sides[1])
    choices = [len(example["meta"].get("choices", ())) for example in sides[0]]
    return float(np.mean([100.0 / n for n in choices])) if all(choices) else None


def infer(run: InferRun) -> int:
    """Generates an answer for each line of a text file; returns the number of lines."""
    source = Path(run.input_file)
    if not source.is_file():
        raise UserError(f"no input file {source}")
    if format_of(run.model.objectives) == ENCODER:
        raise UserError(f"xtr infer writes text, which a whole mT5 or a BLOOM does; this {run.model.family} cannot.")
    lines = source.read_bytes().decode().removesuffix("\n").split("\n")
    predictor, _ = open_predictor(run, run.model)
    vocabulary = predictor.vocabulary
    tokens = [vocabulary.with_special_tokens(vocabulary.encode(line))[0] for line in lines]
    inputs = [predictor.cut(ids, run.length_buckets[-1]) for ids in tokens]
    with progress("infer", len(lines)) as bar:
        generated = predictor.generate(inputs, run.max_decode_length, run.decoding, bar.advance)
    records = []
    for line, found in zip(lines, generated, strict=True):
        texts = [{"prediction": text, "log_prob": log_prob} for text, log_prob in found]
        alternatives = {"alternatives": texts[1:]} if run.decoding.continuations > 1 else {}
        records.append({"input": line, **texts[0], **alternatives})
    rundir.write_atomic(run.output_file, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records))
    return len(lines)
