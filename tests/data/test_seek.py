"""Any place of a mixture of all intermediate tasks is found again: from its state alone, at once, by any number of
hosts and with any number of batches made ahead."""

import functools
import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtr.data.cache import ensure_cached
from xtr.data.pipeline import TrainData, train_batches
from xtr.data.windows import WindowStream
from xtr.demo.world import WorldSizes
from xtr.demo.write import write_world

_NAME = "all_available"
_STEPS, _BATCH = 40, 8
_FAR = 10**6


@pytest.fixture(scope="module", params=["generated", pytest.param("official", marks=pytest.mark.slow)])
def data(request, tmp_path_factory) -> TrainData:
    """The mixture of all intermediate tasks that there are: of a small generated world, or of the official files."""
    folder = tmp_path_factory.mktemp("seek")
    if request.param == "generated":
        sizes = WorldSizes(
            mnli_train=90, mnli_dev=10, xnli_dev=10, xnli_test=10, squad_train=60, squad_dev=10, xquad=10, tatoeba=10,
            monolingual=50, bilingual=50, vocabulary=500,
        )  # fmt: skip
        world = write_world(folder / "world", seed=1, sizes=sizes)
        places = {"data_dir": world.directory, "vocabulary_path": world.vocabulary_path}
        lengths = {"inputs": 64, "targets": 32}
    else:
        official = request.getfixturevalue("data_dir")
        vocabulary = official / "tokenizers" / "mt5_reduced" / "sentencepiece_cn.model"
        if not vocabulary.is_file():
            pytest.skip(f"{vocabulary} is not there")
        places = {"data_dir": official, "vocabulary_path": vocabulary}
        lengths = {"inputs": 512, "targets": 114}
    tasks = ensure_cached([_NAME], cache_dir=folder / "cache", **places)[_NAME]
    return TrainData(tasks=tasks, lengths=lengths, batch_size=_BATCH, packing_window=64, seed=5)


@functools.cache
def _walk(data: TrainData, window: int):
    """States and batches of a walk from the beginning of a window, without a stop: state i leads to batch i."""
    batches = train_batches(data, prefetch=0)
    batches.set_state({**batches.get_state(), "window": window})
    states, found = [], []
    for _ in range(_STEPS):
        states.append(json.loads(json.dumps(batches.get_state())))
        found.append(next(batches))
    return states, found


@settings(max_examples=40)
@given(
    step=st.integers(0, _STEPS - 1),
    window=st.sampled_from([0, _FAR]),
    hosts=st.sampled_from([1, 2, 4, 8]),
    prefetch=st.sampled_from([0, 1, 3]),
)
def test_a_step_is_found_again(data, step, window, hosts, prefetch):
    states, expected = _walk(data, window)
    parts = [train_batches(data, p, hosts, start_state=states[step], prefetch=prefetch) for p in range(hosts)]
    for batch in expected[step : step + 2]:
        own = [next(part) for part in parts]
        for name, array in batch.items():
            np.testing.assert_array_equal(array, np.concatenate([part[name] for part in own]), err_msg=name)
    after = [part.get_state() for part in parts]
    assert all(state == after[0] for state in after)
    if step + 2 < _STEPS:
        assert after[0] == states[step + 2]
    for part in parts:
        part.close()


def test_a_state_is_small_and_every_task_is_met(data):
    for window in (0, _FAR):
        states, _ = _walk(data, window)
        assert max(len(json.dumps(state)) for state in states) < 400
    batches = train_batches(data, prefetch=0)
    for _ in itertools.islice(batches, 300):
        pass
    assert min(batches.stats()["examples_by_task"].values()) > 0


def test_a_far_step_costs_what_a_near_one_does(data, monkeypatch):
    """What is done is counted, not timed: windows that are planned and examples that are read."""
    planned, plan = [], WindowStream.window
    read, reader = [], WindowStream.read_rows
    monkeypatch.setattr(WindowStream, "window", lambda self, w: planned.append(w) or plan(self, w))
    monkeypatch.setattr(WindowStream, "read_rows", lambda self, w, r: read.append(len(r)) or reader(self, w, r))
    for window in (10, _FAR):
        states, _ = _walk(data, window)
        planned.clear(), read.clear()
        next(train_batches(data, start_state=states[0], prefetch=0))
        assert planned == [*range(window, window + len(planned))] and len(planned) <= 2 and sum(read) == _BATCH
