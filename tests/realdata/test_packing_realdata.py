"""How full rows of the official intermediate data are, and which lengths they ask for."""

import numpy as np
import pytest

from xtr import config
from xtr.data.cache import ensure_cached
from xtr.data.formats import CAUSAL, TEXT2TEXT
from xtr.data.length_search import Examples
from xtr.data.lengths import AutoLengths
from xtr.data.pipeline import TrainData, window_stream
from xtr.train.lengths import flops_of

pytestmark = pytest.mark.slow
_MIXTURE, _WINDOWS = "all_available", 6
_T5X = {"inputs": 512, "targets": 114}


@pytest.fixture(scope="module")
def tasks_in(data_dir, tmp_path_factory):
    """`tasks_in(format)`: the mixture of all intermediate tasks that are there."""
    vocabulary = data_dir / "tokenizers" / "mt5_reduced" / "sentencepiece_cn.model"
    if not vocabulary.is_file():
        pytest.skip(f"{vocabulary} is not there")
    places = {"data_dir": data_dir, "vocabulary_path": vocabulary, "cache_dir": tmp_path_factory.mktemp("cache")}
    return lambda format: ensure_cached([_MIXTURE], format=format, **places)[_MIXTURE]


@pytest.mark.parametrize("format, objective", [(TEXT2TEXT, "seq2seq"), (CAUSAL, "causal")])
@pytest.mark.parametrize("lengths", [_T5X, {"inputs": 1024, "targets": 256}])
def test_rows_are_full_on_the_binding_side(tasks_in, format, objective, lengths):
    data = TrainData(tasks_in(format), lengths, batch_size=1, objective=objective)
    stream = window_stream(data)
    windows = [stream.window(w) for w in range(_WINDOWS)]
    rows = sum(len(window.rows) for window in windows)
    tokens_2 = sum(window.tokens_R2.sum(axis=0) for window in windows)
    assert (tokens_2 / (rows * np.array(data.slots))).max() >= 0.97
    for window in windows:
        assert sorted(np.concatenate(window.rows).tolist()) == list(range(len(window.task_W)))


@pytest.mark.parametrize("model", ["small", "xxl"])
def test_auto_lengths_are_cheaper_than_t5xs_and_cut_less(tasks_in, model):
    flops = flops_of(config.build_model([f"models/mt5/{model}.gin"]), "seq2seq")
    tasks = tasks_in(TEXT2TEXT)
    for group in [tasks, *[(task,) for task in tasks]]:
        examples = Examples(TrainData(group, _T5X, batch_size=1))
        auto, t5x = examples.choose(flops, AutoLengths()), examples.measure(_T5X, flops)
        assert auto.flops < t5x.flops and max(auto.cut.values()) <= 0.02
