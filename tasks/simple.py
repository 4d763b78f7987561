"""A data set of one's own in one call: a file of JSON lines or a table, read as one of xtr's kinds of example.

    import seqio, xtr.tasks

    xtr.tasks.jsonl_task(
        "my_nli", kind="classification", language="en", label_names=("entailment", "neutral", "contradiction"),
        files={"train": "nli.jsonl"}, text_a="premise", text_b="hypothesis", label="gold_label")
    seqio.MixtureRegistry.add("my_mixture", [("my_nli", 1.0), ("squad_v1", 0.5)])

Such a task has every format, and the metrics and the language that follow from its kind, as xtr's own ones have.
"""

import functools
import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtr.errors import UserError, did_you_mean

from .datasets import Dataset, Split
from .datasets.mapped import Field, Layout, read_examples
from .examples import KINDS
from .info import TaskInfo, describe
from .languages import CODES, short_code


@dataclass(frozen=True)
class _Kind:
    """What a kind of example is made of: fields that must be named, fields that may be, and the default metrics."""

    required: tuple[str, ...]
    optional: tuple[str, ...]
    metrics: tuple[str, ...]


_KINDS = {
    "classification": _Kind(("text_a", "label"), ("id", "text_b"), ("accuracy",)),
    "multiple_choice": _Kind(("choices", "label"), ("id", "context", "question"), ("accuracy",)),
    "span_qa": _Kind(("context", "question", "answers"), ("id",), ("em", "f1")),
    "tagging": _Kind(("tokens", "tags"), ("id",), ("token_accuracy",)),
    "retrieval": _Kind(("text",), ("id", "gold"), ("accuracy",)),
    "pairs": _Kind(("query", "positive"), ("id", "group"), ()),
    "text": _Kind(("text",), ("id",), ()),
}
_SPLITS = ("train", "validation", "test")
_RETRIEVAL_SPLITS = ("queries", "candidates")


def jsonl_task(
    name: str,
    *,
    kind: str,
    files: Mapping[str, str | Sequence[str]],
    language: str,
    label_names: Sequence[str] = (),
    target: str | None = None,
    metrics: Sequence[str] | None = None,
    style: str = "",
    **fields: Field,
):
    """Registers a task over files with one JSON object a line, UTF-8, and returns the SeqIO task.

    Args:
      name: of the task; `<data set>.<language>` for one of several languages.
      kind: 'classification', 'multiple_choice', 'span_qa', 'tagging', 'retrieval', 'pairs' or 'text'.
      files: split -> file or files; the splits are 'train', 'validation' and 'test', of retrieval 'queries' and
        'candidates'. A relative path starts at the folder of the module that calls.
      language: its ISO 639-1 code, such as 'en'; 639-3 where there is none.
      label_names: of classification and tagging, the labels in the order of their numbers; of multiple choice, the
        names that the file has for the choices ('A', 'B', ...), where these are not their numbers from 0.
      target: the name under which its languages are averaged; default the task's name without the language.
      metrics: names of metrics; default those of the kind.
      style: a rendering other than the kind's own: 'nli', 'paws' or 'qqp', as xtr's tasks of that kind have.
      fields: what the fields of the kind are called in the file:
        classification: text_a, label; text_b. A label is a label's name, or its number from 0.
        multiple_choice: choices (a list, or the names of one field each), label; context, question.
        span_qa: context, question, answers (SQuAD's: [{"text", "answer_start"}, ...], or {"text": [...],
          "answer_start": [...]}; or the names of two fields, of one answer's text and start). No answers: unanswerable.
        tagging: tokens, tags (lists).
        retrieval: text; gold (an id of the other side, or a list).
        pairs: query, positive; group (of positives that are one; default: those of the same text).
        text: text.
        Each has an optional id; default the number of the row from 0.

    Raises:
      UserError: an unknown kind, field, split or language, a file that is not there, or a format that lacks the kind.
      DataError (when the task is cached): names file, line and field of what cannot be read.
    """
    layout = Layout(kind, fields, tuple(label_names), table=False)
    return _register(name, layout, files, language, target, metrics, style, _calling_file())


def tsv_task(
    name: str,
    *,
    kind: str,
    files: Mapping[str, str | Sequence[str]],
    language: str,
    columns: Sequence[str] | None = None,
    label_names: Sequence[str] = (),
    target: str | None = None,
    metrics: Sequence[str] | None = None,
    style: str = "",
    **fields: Field,
):
    """Registers a task over tab-separated tables, UTF-8, without quoting: as `jsonl_task`, but for what is said here.

    Args:
      columns: names of the columns, of tables without a header line.
      fields: lists (choices, tokens, tags, gold) are one field with spaces between, or, of choices, one field each;
        answers are the names of two fields, of one answer's text and start; an empty text: unanswerable.
    """
    layout = Layout(kind, fields, tuple(label_names), table=True, columns=tuple(columns) if columns else None)
    return _register(name, layout, files, language, target, metrics, style, _calling_file())


def _calling_file() -> Path | None:
    """The file of the module that calls the function that calls this one; None in an interactive session."""
    path = sys._getframe(2).f_globals.get("__file__")
    return Path(path).absolute() if path else None


def _register(name, layout: Layout, files, language, target, metrics, style, calling_file: Path | None):
    from . import catalog, registration
    from .formats import STYLES, form_of, labelled_form

    _check(name, layout, language)
    if style and style not in STYLES:
        raise UserError(f"{name}: there is no style {style!r}, but {', '.join(STYLES)}.{did_you_mean(style, STYLES)}")
    settings = catalog().settings
    (example_type,) = (each for each, kind in KINDS.items() if kind == layout.kind)
    folder = calling_file.parent if calling_file else Path.cwd()
    read = functools.partial(read_examples, layout=layout)
    splits = {split: Split(_paths(name, named, folder), read) for split, named in _splits(name, layout.kind, files)}
    names = layout.label_names if layout.kind in ("classification", "tagging") else ()
    dataset = Dataset(name, language, example_type, splits, label_names=names)
    if layout.kind == "classification" and not style:
        called = (layout.fields["text_a"], layout.fields.get("text_b", ""), layout.fields["label"])
        form = labelled_form(settings.format, name, called)
    else:
        form = form_of(example_type, settings.format, style)
    if form is None:
        raise UserError(f"{name} cannot be had: {registration.no_form(style or layout.kind, settings.format)}.")
    task = registration.register(dataset, form, settings, detail=repr((layout, style)))
    group = target or name.removesuffix(f".{language}")
    scored = _metrics(layout) if metrics is None else tuple(metrics)
    describe(name, TaskInfo(layout.kind, language, group, form.predictor, scored, label_names=names))
    return task


def _metrics(layout: Layout) -> tuple[str, ...]:
    spans = layout.kind == "tagging" and any(tag.startswith("B-") for tag in layout.label_names)
    return ("span_f1", *_KINDS[layout.kind].metrics) if spans else _KINDS[layout.kind].metrics


def _check(name: str, layout: Layout, language: str) -> None:
    """Raises UserError where a call cannot be meant so."""
    if layout.kind not in _KINDS:
        raise UserError(
            f"{name}: kind is {layout.kind!r}; it must be one of {', '.join(_KINDS)}."
            + did_you_mean(str(layout.kind), _KINDS)
        )
    kind = _KINDS[layout.kind]
    known = (*kind.required, *kind.optional)
    for field in layout.fields:
        if field not in known:
            options = [p for p in inspect.signature(tsv_task).parameters if p != "fields"]
            raise UserError(
                f"{name}: {layout.kind} has no field {field!r}; it has {', '.join(known)}."
                + did_you_mean(field, (*known, *options))
            )
    if missing := [field for field in kind.required if field not in layout.fields]:
        example = f"{missing[0]}='<its name in the file>'"
        raise UserError(f"{name}: {layout.kind} needs {' and '.join(missing)}: give {example}.")
    if layout.kind in ("classification", "tagging") and len(layout.label_names) < 2:
        raise UserError(f"{name}: {layout.kind} needs label_names, in the order of their numbers.")
    if len(set(layout.label_names)) < len(layout.label_names):
        raise UserError(f"{name}: label_names has a name twice: {', '.join(layout.label_names)}.")
    several = {"choices", "answers"}
    for field, called in layout.fields.items():
        if not isinstance(called, str) and field not in several:
            raise UserError(f"{name}: {field} is {called!r}; it must be the name of one field.")
    if language not in CODES and not (len(language) == 3 and language.isalpha() and short_code(language) == language):
        plain = short_code(language.replace("_", "-").partition("-")[0].lower())
        near = f" Did you mean {plain}?" if plain in CODES else did_you_mean(language, CODES)
        raise UserError(f"{name}: language is {language!r}, which is no code of ISO 639-1 or 639-3.{near}")


def _splits(name: str, kind: str, files: Mapping) -> list[tuple[str, Any]]:
    known = _RETRIEVAL_SPLITS if kind == "retrieval" else _SPLITS
    for split in files:
        if split not in known:
            raise UserError(f"{name}: {split!r} is no split, but {', '.join(known)}.{did_you_mean(split, known)}")
    if not files:
        raise UserError(f"{name}: files is empty; give it like {{'{known[0]}': 'file.jsonl'}}.")
    return list(files.items())


def _paths(name: str, named: str | Sequence[str], folder: Path) -> tuple[Path, ...]:
    paths = tuple(folder / path for path in ([named] if isinstance(named, str | Path) else named))
    for path in paths:
        if not path.is_file():
            near = did_you_mean(path.name, (p.name for p in path.parent.glob("*") if p.is_file()))
            raise UserError(f"{name}: there is no file {path}.{near}")
    return paths
