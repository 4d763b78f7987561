import dataclasses
import itertools
import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtr.data.denoising import SpanCorruption
from xtr.data.multitask import check_enough
from xtr.data.pipeline import TrainData, num_batches, train_batches
from xtr.data.vocabulary import SentencePieceVocabulary
from xtr.errors import DataError, UserError

_LENGTHS = {"inputs": 32, "targets": 16}


def _examples(n, first):
    """Examples told apart by their first token, the same on both sides."""
    rng = np.random.default_rng(first)
    examples = []
    for i in range(n):
        inputs, targets = rng.integers(2, 1000, rng.integers(1, 32)), rng.integers(2, 1000, rng.integers(1, 9))
        inputs[0] = targets[0] = first + i
        examples.append({"inputs": inputs, "targets": targets})
    return examples


_A, _B = _examples(150, 10_000), _examples(40, 20_000)


@pytest.fixture(scope="session")
def tasks(shared_task_writer):
    a = shared_task_writer("a", {"train": _A, "empty": []}, shards=3)
    b = shared_task_writer("b", {"train": _B, "empty": []}, shards=1)
    return a, dataclasses.replace(b, rate=2.0)


@pytest.fixture(scope="session")
def text_task(shared_task_writer, vocabulary):
    rng = np.random.default_rng(7)
    ordinary = np.setdiff1d(np.arange(2, vocabulary.size), vocabulary.sentinels)
    documents = [{"targets": np.append(rng.choice(ordinary, n), 1)} for n in (0, 1, 5, 30, 33, 200, 70, 12)]
    info = {"path": vocabulary.path, "sha256": vocabulary.sha256, "size": vocabulary.size}
    return shared_task_writer("text", {"train": documents}, vocabulary=info), documents


def _spec(*tasks, **options):
    return TrainData(tasks, _LENGTHS, **{"batch_size": 4, "packing_window": 16, "seed": 3, **options})


def _contents(batch):
    """The examples of a batch, as pairs of lists of tokens."""
    found = []
    for row in range(len(batch["encoder_input_tokens"])):
        for segment in range(1, max(batch[f"{s}_segment_ids"][row].max() for s in ("encoder", "decoder")) + 1):
            enc = batch["encoder_input_tokens"][row][batch["encoder_segment_ids"][row] == segment]
            dec = batch["decoder_target_tokens"][row][batch["decoder_segment_ids"][row] == segment]
            found.append((tuple(enc.tolist()), tuple(dec.tolist())))
    return found


def _same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def _all(spec, **options):
    batches = train_batches(spec, **options)
    return list(batches), batches.stats()


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("epochs", [1, 3])
def test_an_epoch_holds_every_example_once(tasks, pack, epochs):
    batches, stats = _all(_spec(tasks[0], pack=pack, epochs=epochs))
    found = Counter(c for b in batches for c in _contents(b))
    assert found == Counter({(tuple(e["inputs"]), tuple(e["targets"])): epochs for e in _A})
    assert {b["encoder_input_tokens"].shape for b in batches} == {(4, 32)}
    assert {b["decoder_target_tokens"].shape for b in batches} == {(4, 16)}
    assert stats["examples"] == stats["examples_by_task"]["a"] == 150 * epochs
    assert stats["encoder_tokens"] == epochs * sum(len(e["inputs"]) for e in _A)
    assert stats["truncated_examples"] == 0 and stats["batches"] == len(batches)
    if pack:
        assert max(stats["encoder_density"], stats["decoder_density"]) > 0.8
    else:
        assert stats["rows"] == 150 * epochs


def test_every_epoch_has_its_own_order(tasks):
    batches, _ = _all(_spec(tasks[0], pack=False, epochs=2, packing_window=150))
    order = [c[0][0] for b in batches for c in _contents(b)]
    first, second = order[:150], order[150:]
    assert sorted(first) == sorted(second) and first != second and first != sorted(first)
    other, _ = _all(_spec(tasks[0], pack=False, epochs=2, packing_window=150, seed=4))
    assert [c[0][0] for b in other for c in _contents(b)] != order


def test_a_mixture_follows_its_rates(tasks):
    batches = train_batches(_spec(*tasks))
    found = Counter(c[0][0] // 10_000 for b in itertools.islice(batches, 300) for c in _contents(b))
    stats = batches.stats()
    assert stats["examples_by_task"] == {"a": found[1], "b": found[2]}
    assert abs(found[2] / (found[1] + found[2]) - 2 / 3) < 0.01
    # A task without a rate is left out, and the mixture ends when the first task does.
    (alone, _), (mixed, stats) = (
        _all(_spec(dataclasses.replace(tasks[0], rate=0), tasks[1], epochs=1)),
        _all(_spec(*tasks, epochs=1)),
    )
    assert Counter(c for b in alone for c in _contents(b)).total() == 40
    found = [c for b in mixed for c in _contents(b)]
    assert len(found) == len(set(found)) == stats["examples"]
    assert stats["examples_by_task"]["b"] == 40 and abs(stats["examples_by_task"]["a"] - 20) <= 6


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("hosts", [1, 2])
def test_a_task_that_has_been_read_is_dropped(tasks, epochs, hosts):
    """The others go on, so that every example of the mixture comes as often as it may."""
    spec = _spec(*tasks, epochs=epochs, exhausted="drop")
    parts = [_all(spec, process_index=p, process_count=hosts) for p in range(hosts)]
    batches = [{k: np.concatenate([part[i][k] for part, _ in parts]) for k in b} for i, b in enumerate(parts[0][0])]
    stats = parts[0][1]
    found = [c for b in batches for c in _contents(b)]
    assert Counter(found) == Counter({(tuple(e["inputs"]), tuple(e["targets"])): epochs for e in _A + _B})
    assert stats["examples_by_task"] == {"a": 150 * epochs, "b": 40 * epochs}
    assert num_batches(spec) == stats["batches"] == len(batches)
    # As long as there is any of it, b comes twice as often as a; behind that there is a alone.
    kinds = [c[0][0] // 10_000 for c in found]
    last = max(i for i, kind in enumerate(kinds) if kind == 2)
    assert abs(kinds[: last + 1].count(2) / (last + 1) - 2 / 3) < 0.05 and set(kinds[last + 1 :]) == {1}


def test_the_end_is_known_beforehand(tasks):
    assert num_batches(_spec(*tasks)) is None
    for spec in (_spec(*tasks, epochs=1), _spec(tasks[0], epochs=2, pack=False)):
        batches, _ = _all(spec)
        assert num_batches(spec) == len(batches) and num_batches(spec, most=3) == 3
        check_enough({"": spec}, len(batches))
        n = len(batches)
        with pytest.raises(UserError, match=f"asks for {n + 1} batches, but the data end after {n},"):
            check_enough({"": spec}, n + 1)


@settings(max_examples=20)
@given(
    seed=st.integers(0, 1000),
    at=st.integers(0, 60),
    prefetch=st.sampled_from([0, 2]),
    how=st.sampled_from(["one", "mixture", "unpacked", "denoise", "drop"]),
)
def test_a_restart_gives_the_same_batches(tasks, text_task, seed, at, prefetch, how):
    spec = {
        "one": _spec(tasks[0], seed=seed),
        "mixture": _spec(*tasks, seed=seed),
        "unpacked": _spec(*tasks, seed=seed, pack=False, packing_window=5),
        "denoise": _spec(text_task[0], seed=seed, objective="denoise"),
        "drop": _spec(*tasks, seed=seed, epochs=30, exhausted="drop"),
    }[how]
    batches = train_batches(spec, prefetch=prefetch)
    for _ in range(at):
        next(batches)
    state = json.loads(json.dumps(batches.get_state()))
    assert state == batches.get_state() and len(json.dumps(state)) < 400
    ahead = [next(batches) for _ in range(4)]
    resumed = train_batches(spec, start_state=state, prefetch=prefetch)
    assert resumed.get_state() == state
    for batch in ahead:
        _same(batch, next(resumed))
    assert resumed.get_state() == batches.get_state() and resumed.stats() == batches.stats()
    batches.set_state(state)
    _same(ahead[0], next(batches))
    batches.close()
    resumed.close()


def test_a_restart_plans_one_window(tasks, monkeypatch):
    batches = train_batches(_spec(*tasks), prefetch=0)
    state = {**batches.get_state(), "window": 10**9, "row": 1}
    from xtr.data.windows import WindowStream

    planned = []
    plan = WindowStream.window
    monkeypatch.setattr(WindowStream, "window", lambda self, w: planned.append(w) or plan(self, w))
    far = train_batches(_spec(*tasks), start_state=state, prefetch=0)
    next(far)
    assert planned == [10**9]


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_the_global_batches(tasks, hosts):
    spec = _spec(*tasks, epochs=1)
    whole, stats = _all(spec)
    parts = [_all(spec, process_index=p, process_count=hosts) for p in range(hosts)]
    assert all(s == stats for _, s in parts)
    for i, batch in enumerate(whole):
        _same(batch, {k: np.concatenate([part[i][k] for part, _ in parts]) for k in batch})
    # A state written by one topology serves another.
    it = train_batches(spec, 1, hosts)
    next(it)
    _same(next(train_batches(spec, start_state=it.get_state())), whole[1])


def test_long_examples_are_cut_and_counted(task_writer):
    raw = [{"inputs": np.arange(2, 50), "targets": np.arange(2, 12)}, {"inputs": [5, 1], "targets": np.arange(2, 22)}]
    batches, stats = _all(_spec(task_writer("long", {"train": raw}), epochs=1, batch_size=2))
    found = sorted(c for b in batches for c in _contents(b))
    assert found == [(tuple(range(2, 34)), tuple(range(2, 12))), ((5, 1), tuple(range(2, 18)))]
    assert [stats[f"truncated_{what}"] for what in ("examples", "encoder_tokens", "decoder_tokens")] == [2, 16, 4]


def test_denoising_loses_nothing(text_task, vocabulary):
    task, documents = text_task
    batches, stats = _all(_spec(task, objective="denoise", epochs=1))
    assert stats["truncated_examples"] == 0 and stats["empty_examples"] == {"text": 1}
    texts = []
    for inputs, targets in (c for b in batches for c in _contents(b)):
        assert inputs[-1] == targets[-1] == 1 and len(inputs) <= 32 and len(targets) <= 16
        spans, current = {}, None
        for token in targets[:-1]:
            if token in vocabulary.sentinels:
                current = spans.setdefault(token, [])
            else:
                current.append(token)
        texts.append([t for token in inputs[:-1] for t in spans.get(token, [token])])
    size = max(map(len, texts))
    expected = [d["targets"][:-1][i : i + size] for d in documents for i in range(0, len(d["targets"]) - 1, size)]
    assert sorted(texts) == sorted(e.tolist() for e in expected) and 30 < size < 40


def test_masks_differ_between_epochs(text_task):
    batches, _ = _all(_spec(text_task[0], objective="denoise", epochs=2, packing_window=1))
    found = [c for b in batches for c in _contents(b) if len(c[0]) > 25]
    assert len(found) > 10 and len(set(found)) > 0.8 * len(found)


def test_text_is_denoised_among_other_tasks(tasks, text_task, vocabulary, task_writer):
    task, documents = text_task
    text = [{"inputs": [], **document} for document in documents]
    kind = {"kind": "text", "vocabulary": task.info["vocabulary"]}
    mixed = _spec(tasks[0], dataclasses.replace(task_writer("plain", {"train": text}, **kind), rate=0.25))
    found = [c for b in itertools.islice(train_batches(mixed), 100) for c in _contents(b)]
    asked = {(tuple(e["inputs"]), tuple(e["targets"])) for e in _A}
    chunks = [c for c in found if c not in asked]
    assert asked <= set(found) and abs(len(chunks) / len(found) - 0.2) < 0.02
    # Sentinels stand on both sides (a document of one token has nothing to be masked in), anew each time.
    sentinels, long = set(vocabulary.sentinels), [c for c in chunks if len(c[0]) > 5]
    assert all(sentinels & set(side) for chunk in long for side in chunk)
    assert len(set(long)) > 0.5 * len(long) > 0


def test_what_cannot_be_trained_on(tasks, text_task, sentencepiece_model, task_writer):
    a, (text, _) = tasks[0], text_task
    bare, other = (SentencePieceVocabulary(sentencepiece_model(n)) for n in (0, 3))
    none = dataclasses.replace(a, rate=0.0)
    for spec, message in [
        (_spec(none), "sum to 0"),
        (_spec(), "sum to 0"),
        (_spec(a, split="empty"), "a has no examples in 'empty'"),
        (_spec(a, split="test"), "no split 'test'"),
        (_spec(text), "text: example 0 of 'train' has no feature 'inputs'.*objective='denoise'"),
        (_spec(text, objective="denoise", vocabulary=other), "not tokenised with the vocabulary"),
    ]:
        with pytest.raises(UserError, match=message):
            train_batches(spec)
    info = {"path": bare.path, "sha256": bare.sha256}
    without = task_writer("bare", {"train": [{"targets": [5, 6, 1]}]}, vocabulary=info)
    with pytest.raises(UserError, match="no sentinels"):
        train_batches(_spec(without, objective="denoise"))
    hollow = task_writer("hollow", {"train": [{"targets": [1]}]}, vocabulary=text.info["vocabulary"])
    with pytest.raises(UserError, match="every document"):
        train_batches(_spec(hollow, objective="denoise"))
    for options in ({"batch_size": 0}, {"epochs": 0}, {"packing_window": 0}, {"objective": "lm"}):
        with pytest.raises(UserError, match=next(iter(options)) if "objective" not in options else "objective is 'lm'"):
            _spec(a, **options)
    with pytest.raises(UserError, match="more than once"):
        _spec(a, a)
    with pytest.raises(UserError, match="Feature lengths"):
        TrainData((a,), {"inputs": 3}, 4)
    with pytest.raises(UserError, match="divide"):
        train_batches(_spec(a), 0, 3)
    with pytest.raises(UserError, match="process_index"):
        train_batches(_spec(a), 2, 2)


def test_a_state_of_other_data_is_refused(tasks):
    state = train_batches(_spec(*tasks)).get_state()
    others = ({"seed": 4}, {"packing_window": 17}, {"pack": False}, {"epochs": 2}, {"epochs": 2, "exhausted": "drop"})
    for other in (_spec(tasks[0]), *(_spec(*tasks, **options) for options in others)):
        with pytest.raises(UserError, match="not what it was"):
            train_batches(other, start_state=state)
    train_batches(_spec(*tasks, batch_size=2), start_state=state)
    with pytest.raises(UserError, match="not a state"):
        train_batches(_spec(*tasks), start_state={"window": 3})


def test_a_damaged_record_stops_the_training(task_writer):
    from xtr.data.cached_task import shard_paths

    examples = [{"inputs": np.random.default_rng(i).integers(2, 1000, 30), "targets": [5, 1]} for i in range(64)]
    task = task_writer("toy", {"train": examples}, shards=1)
    list(train_batches(_spec(task, epochs=1)))
    path = shard_paths(task.directory, "train", 1)[0]
    content = bytearray(path.read_bytes())
    content[2000] ^= 0xFF
    path.write_bytes(content)
    batches = train_batches(_spec(task, epochs=1))
    with pytest.raises(DataError, match="toy: record"):
        list(batches)


def test_a_spec_hashes(tasks):
    assert hash(_spec(*tasks)) == hash(_spec(*tasks)) and _spec(*tasks) == _spec(*tasks)
    assert _spec(tasks[0], corruption=SpanCorruption(0.2)) != _spec(tasks[0])


def test_no_tensorflow(tasks, text_task, vocabulary):
    """In a fresh process: neither importing nor using the training input loads TensorFlow."""
    code = f"""
import sys
from xtr.data import cache, cached_task, denoising, mixing, packing, pipeline, records, vocabulary, windows
vocabulary.SentencePieceVocabulary({vocabulary.path!r}).encode("the dog")
for directory, objective in (({tasks[0].directory!r}, "seq2seq"), ({text_task[0].directory!r}, "denoise")):
    task = cached_task.CachedTask.open(directory)
    spec = pipeline.TrainData((task,), {_LENGTHS}, batch_size=2, objective=objective)
    next(pipeline.train_batches(spec))
    cached_task.eval_examples(task, "train")
assert not [m for m in sys.modules if m.split(".")[0] in ("tensorflow", "tensorflow_datasets", "seqio")]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Exception ignored" not in done.stderr
