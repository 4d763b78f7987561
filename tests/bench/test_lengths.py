"""Weights whose outputs have given lengths: they do, in every engine, and are otherwise what they were."""

import jax
import numpy as np
import pytest

from xtr.bench.contenders import Question, engine, fixed_batches
from xtr.bench.lengths import marker, with_lengths
from xtr.models import spec as spec_lib
from xtr.models.mt5 import MT5Config

CONFIG = MT5Config(384, 32, 2, 16, 64, 2, 2, dtype="float32")
PIECES, LONGEST = 200, 130


class Letters:
    """As much of a vocabulary as contenders read."""

    eos_id = 1

    def decode(self, ids):
        return str(ids)

    def encode(self, text):
        return [ord(letter) for letter in text]


@pytest.fixture(scope="module")
def weights():
    drawn = spec_lib.init_params(CONFIG.param_specs(), jax.random.key(0))
    return drawn, jax.device_put(with_lengths(CONFIG, drawn, PIECES, LONGEST))


def test_outputs_are_as_long_as_inputs_say(weights):
    rng = np.random.default_rng(0)
    lengths = [1, 2, 3, LONGEST, LONGEST - 1, *rng.integers(1, LONGEST + 1, 25).tolist()]
    questions = [
        Question(np.append(rng.integers(2, PIECES, rng.integers(0, 30)), marker(CONFIG, n)).astype(np.int32))
        for n in lengths
    ]
    # Room for a quarter of it would be too little for some.
    found = engine(CONFIG, weights[1], Letters(), 256, 4096)(questions)
    assert [len(tokens) for tokens in found] == lengths
    assert all(tokens[-1] == 1 and min(tokens) > 0 and max(tokens) < PIECES for tokens in found)
    assert len(set(found)) > 25
    longest = max(len(question.tokens) for question in questions)
    for own_argmax in (False, True):
        assert fixed_batches(CONFIG, weights[1], Letters(), 256, 8, longest, own_argmax)(questions) == found


def test_nearly_all_weights_stay(weights):
    drawn, changed = (spec_lib.flatten(params) for params in weights)
    assert drawn.keys() == changed.keys()
    for path, array in drawn.items():
        assert array.shape == changed[path].shape and array.dtype == changed[path].dtype
        if path.startswith("encoder/") and path.endswith("kernel"):
            # Five channels of 32 are set aside.
            assert np.mean(np.asarray(array) == np.asarray(changed[path])) > 0.8
