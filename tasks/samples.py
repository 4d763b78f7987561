"""The first examples of a task at every step of their way: as read, as strings, as tokens."""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from xtr.errors import UserError, did_you_mean

from . import register_all, task_info
from .modules import import_task_module, import_tensorflow


def samples(name: str, n: int | None = None, split: str = "", task_modules: Sequence[str] = ()) -> list[dict]:
    """The first examples of a task, or of every task of a mixture, in the order of their files.

    Reads XTR_DATA_DIR, XTR_CACHE_DIR, XTR_FORMAT, XTR_TFDS_TASKS and, for tokens, XTR_VOCABULARY_PATH. Nothing is
    prepared or cached: official files are read as far as the n-th example.

    Args:
      n: examples of each task; None: 3 of a task, 1 of each task of a mixture.
      split: '' takes 'train', or a task's first split where it has none.

    Returns:
      A dict for each task: `task`, `kind`, `language`, `scored by`, `split`, `tokenised` (whether there is a
      vocabulary) and `examples`. An example has `raw` (as the data set's reader, or SeqIO's source, gives it), and
      `made`: what the preprocessors make of it, mostly one example, each with
        strings: the texts that are tokenised, and the `choices` that are scored;
        tokens: name -> ids, pieces, text (decoded) of each sequence;
        label, words (with their pieces and tags), answer: where the example has any;
        others: the other features.

    Raises:
      UserError: no such task or split, or preprocessors that fail.
      DataError: an official file that cannot be understood.
    """
    import_tensorflow()
    import seqio

    catalog = register_all(tokenise=False)
    for module in task_modules:
        import_task_module(module, catalog.absent)
    provider = catalog.provider(name)
    several = isinstance(provider, seqio.Mixture)
    tasks = provider.tasks if several else [provider]
    count = (1 if several else 3) if n is None else n
    if split and not any(split in task.splits for task in tasks):
        known = dict.fromkeys(s for task in tasks for s in task.splits)
        raise UserError(f"{name} has no split {split!r}; it has {', '.join(known)}.{did_you_mean(split, known)}")
    return [_of_task(task, count, split) for task in tasks if not split or split in task.splits]


def _of_task(task, count: int, split: str) -> dict:
    from .registration import vocabulary

    info = task_info(task.name)
    split = split or ("train" if "train" in task.splits else next(iter(task.splits)))
    tokenised = all(feature.vocabulary is not vocabulary("") for feature in task.output_features.values())
    strings = _until_tokens(task)
    examples = []
    for number, (raw, data) in enumerate(_raw(task, split, count)):
        try:
            rendered = _run(strings, data) if strings else []
            made = _run(task, data) if tokenised else rendered
        except Exception as error:
            raise _told(error, f"{task.name}, example {number} of {split!r}") from error
        # One example may become several or none; only then do strings and tokens not belong together one by one.
        rendered = rendered if len(rendered) == len(made) else [{}] * len(made)
        parts = [_made(task, info, raw, r, m if tokenised else {}) for r, m in zip(rendered, made, strict=True)]
        examples.append({"raw": raw, "made": parts})
    return {
        "task": task.name,
        "kind": info.kind,
        "language": info.language,
        "scored by": info.predictor,
        "split": split,
        "tokenised": tokenised,
        "examples": examples,
    }


def _told(error: BaseException, where: str) -> UserError:
    """The user's mistake among an error and its causes, else the error itself in words."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return UserError(f"{where}: its preprocessors fail: {type(error).__name__}: {str(error).strip()}")


def _raw(task, split: str, count: int) -> Iterator[tuple[dict, Any]]:
    """The first examples as plain values, each beside a tf.data dataset of it alone."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    from .datasets.builder import OfficialFilesSource, tfds_features
    from .datasets.files import readable

    if isinstance(task.source, OfficialFilesSource):
        dataset = task.source.dataset
        part = dataset.splits[split]
        spec = tfds.features.FeaturesDict(tfds_features(dataset.example_type)).get_tensor_spec()
        with readable():
            read = list(islice(part.read(part.files, Counter()), count))
        for example in read:
            plain = dataclasses.asdict(example)
            encoded = _tensors(spec, plain)
            yield plain, tf.data.Dataset.from_generator(lambda one=encoded: iter([one]), output_signature=spec)
        return
    data = task.source.get_dataset(split=split, shuffle=False)
    for example in data.take(count):
        one = tf.data.Dataset.from_generator(lambda one=example: iter([one]), output_signature=data.element_spec)
        yield _plain(next(one.as_numpy_iterator())), one


def _tensors(spec: Any, value: Any) -> Any:
    """Plain values as tensors of a spec: TFDS has a list of objects as an object of lists."""
    import tensorflow as tf

    if not isinstance(spec, dict):
        return tf.constant(value, spec.dtype)
    lists = {name: [one[name] for one in value] for name in spec} if not isinstance(value, dict) else value
    return {name: _tensors(inner, lists[name]) for name, inner in spec.items()}


def _plain(value: Any) -> Any:
    """NumPy values as plain Python ones; bytes as text."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if hasattr(value, "to_list"):  # a ragged tensor's value
        return _plain(value.to_list())
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def _until_tokens(task):
    """The task as far as its strings; None where SeqIO does not tokenise it."""
    import seqio

    tokenising = (seqio.preprocessors.tokenize, seqio.preprocessors.tokenize_and_append_eos)
    for i, step in enumerate(task.preprocessors):
        if getattr(step, "func", step) in tokenising:
            return task.replace(preprocessors=task.preprocessors[:i])
    return None


def _run(task, data) -> list[dict]:
    prepared = task.preprocess_postcache(task.preprocess_precache(data), None)
    return [_plain(example) for example in prepared.as_numpy_iterator()]


def _made(task, info, raw: dict, rendered: dict, features: dict) -> dict:
    """One example behind the preprocessors, see `samples`."""
    names = tuple(task.output_features)
    texts = {name: value for name, value in rendered.items() if name in names}
    others = {
        name: value
        for name, value in (rendered | features).items()
        if name not in names and not name.endswith("_pretokenized")
    }
    meta = others.pop("meta", None)
    meta = json.loads(meta) if isinstance(meta, str) and meta.startswith("{") else {}
    out: dict[str, Any] = {"strings": texts, "tokens": {}}
    choices = meta.get("choices", [])
    if choices and texts:
        out["strings"] = texts | {"choices": choices}
    vocabularies = {name: feature.vocabulary for name, feature in task.output_features.items()}
    is_span = {"question", "answer", "starts", "ends"} <= others.keys() and "inputs" in vocabularies
    if is_span:  # its question has tokens too, but is none of SeqIO's features
        vocabularies = {"question": vocabularies["inputs"], **vocabularies}
        del others["question"]
    for name, vocabulary in vocabularies.items():
        sequences = {name: features.get(name)}
        if name == "inputs" and "choice_lengths" in features:
            ends = np.cumsum([0, *features["choice_lengths"]]).tolist()
            parts = zip(ends, ends[1:], strict=False)
            sequences = {f"inputs, choice {i}": features[name][a:b] for i, (a, b) in enumerate(parts)}
        for part, ids in sequences.items():
            if ids == []:  # a feature that the kind does not have
                continue
            if isinstance(ids, list) and all(isinstance(i, int) for i in ids):
                pieces, text = _read(vocabulary, ids)
                out["tokens"][part] = {"ids": ids, "pieces": pieces, "text": text}
            elif ids is not None:
                others[name] = ids
    if isinstance(label := others.get("label", meta.get("label")), int):
        called = raw.get("label_names") or raw.get("choices") or choices
        out["label"] = [label, called[label]] if 0 <= label < len(called) else [label]
    pieces = out["tokens"].get("inputs", {}).get("pieces", [])
    if "word_lengths" in others and "tags" in others:
        out["words"] = _words(raw, info, others, pieces)
    if is_span:
        out["answer"] = _answer(raw, others, pieces)
    return out | {"others": others}


def _words(raw: dict, info, others: dict, pieces: Sequence[str]) -> list[dict]:
    """The words of a sentence, each with its sub-tokens and its tag."""
    ends = np.cumsum([0, *others["word_lengths"]]).tolist()
    tags = [info.label_names[tag] if 0 <= tag < len(info.label_names) else str(tag) for tag in others["tags"]]
    rows = zip(raw.get("tokens") or [""] * len(tags), tags, ends, ends[1:], strict=False)
    return [{"word": word, "pieces": list(pieces[a:b]), "tag": tag} for word, tag, a, b in rows]


def _answer(raw: dict, others: dict, pieces: Sequence[str]) -> dict:
    """The gold answer's tokens and the text that they cover; none where the question has no answer."""
    first, last = others["answer"]
    if first < 0:
        return {"tokens": [], "pieces": [], "covers": "", "gold": ""}
    covers = raw.get("context", "")[others["starts"][first] : others["ends"][last]]
    gold = raw["answers"][0]["text"] if raw.get("answers") else ""
    return {"tokens": [first, last], "pieces": list(pieces[first : last + 1]), "covers": covers, "gold": gold}


def _read(vocabulary, ids: Sequence[int]) -> tuple[list[str], str]:
    """The pieces of token ids, and the text that they are decoded to, the parts before each EOS joined by ' | '."""
    import seqio

    from .registration import settings
    from .registration import vocabulary as seqio_vocabulary_of
    from .vocabularies import family_vocabulary

    path = settings(tokenise=False).vocabulary_path
    if path and vocabulary == seqio_vocabulary_of(path):
        own = family_vocabulary(path)
        piece, decode, eos = own.piece, own.decode, own.eos_id
    else:
        decode, eos = vocabulary.decode, vocabulary.eos_id
        sentencepiece = isinstance(vocabulary, seqio.SentencePieceVocabulary)

        def piece(token: int) -> str:
            known = sentencepiece and token < vocabulary.tokenizer.vocab_size()
            return vocabulary.tokenizer.id_to_piece(token) if known else vocabulary.decode([token])

    parts: list[list[int]] = [[]]
    for token in ids:
        if token == eos:
            parts.append([])
        else:
            parts[-1].append(token)
    return [piece(token) for token in ids], " | ".join(text for part in parts if (text := decode(part)))
