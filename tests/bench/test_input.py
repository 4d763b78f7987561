"""`xtr bench input`: what is counted in batches, and what is made of it. The command itself is in tests/cli."""

import itertools
import time
import types

import numpy as np
import pytest

from xtr.bench import feed
from xtr.bench import input as bench_input
from xtr.data.packing import build_batch
from xtr.errors import UserError

_ROWS = [[([7, 0, 8], [5]), ([9], [6, 6])], [([1] * 8, [2])], [([], [3, 4]), ([5], [])], []]
_PLACES = {"vocabulary_path": "x", "data_dir": "x", "cache_dir": "x"}
_LENGTHS = {"inputs": 8, "targets": 4}


def _batch():
    rows = [[tuple(np.array(side, np.int64) for side in example) for example in row] for row in _ROWS]
    return build_batch(rows, 8, 4)


def test_tokens_examples_and_rows_are_counted():
    before = time.monotonic()
    found = feed.count(itertools.repeat(_batch(), 3), None)
    assert (found["batches"], found["rows"], found["examples"]) == (3, 9, 15)
    assert (found["encoder_tokens"], found["decoder_tokens"]) == (3 * 13, 3 * 6)
    assert (found["timed_examples"], found["timed_encoder_tokens"]) == (10, 26)  # behind the first batch
    assert found["slots"] == (8, 4) and before <= found["first"] <= time.monotonic() and found["seconds"] >= 0
    assert len(found["resident_bytes"]) in (0, 5)
    assert feed.count(itertools.repeat(_batch()), 2)["batches"] == 2
    with pytest.raises(ValueError, match="no batch"):
        feed.count(iter(()), None)


def test_figures_are_medians_of_the_runs():
    def run(seconds, start):
        return {
            "cold_start_seconds": start, "seconds": seconds, "processor_seconds": 2 * seconds, "batches": 3, "rows": 4,
            "examples": 15, "encoder_tokens": 24, "decoder_tokens": 8, "timed_examples": 10, "slots": [8, 4],
            "timed_encoder_tokens": 20, "resident_bytes": [5, 6, 7, 8, 9], "tensorflow": False,
        }  # fmt: skip

    own = bench_input._figures("xtr", [run(1.0, 3.0), run(4.0, 9.0), run(2.0, 2.0)])
    assert (own.encoder_tokens_per_second, own.examples_per_second, own.cold_start_seconds) == (10, 5, 3)
    assert (own.processor_seconds, own.spread) == (4 / 20 * 1e6, 4)
    assert (own.encoder_density, own.decoder_density) == (24 / 32, 8 / 16)
    assert own.resident_bytes == (5, 6, 7, 8, 9)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"batch": 0}, "--batch is 0"),
        ({"repeats": 0}, "--repeats is 0"),
        ({"most": 0}, "--batches is 0"),
        ({"lengths": {"inputs": 8}}, "it must be like inputs=512,targets=114"),
    ],
)
def test_what_cannot_be_measured(options, words):
    with pytest.raises(UserError, match=words):
        bench_input.Bench(**{"name": "mnli", "cache": _PLACES, "lengths": _LENGTHS, **options})


def test_plain_text_has_no_pairs_to_pack(monkeypatch):
    text = types.SimpleNamespace(name="text.corpus", rate=1.0, info={"kind": "text"})
    monkeypatch.setattr(bench_input, "ensure_cached", lambda names, **_: {names[0]: [text]})
    with pytest.raises(UserError, match="text.corpus is plain text"):
        bench_input.measure(bench_input.Bench("text.corpus", _PLACES, _LENGTHS))


def test_a_process_that_fails_is_shown(tmp_path, capfd):
    with pytest.raises(RuntimeError, match="xtr.bench.feed ended with code 1"):
        bench_input._run("xtr.bench.feed", {}, tmp_path)
    assert "KeyError" in capfd.readouterr().err
