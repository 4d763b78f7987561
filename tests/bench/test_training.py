"""Both contenders of `xtr bench train` do the same work: same losses, same weights after steps of Adafactor."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from xtr.bench import contenders, parts, steps, training
from xtr.cli.main import run
from xtr.errors import UserError
from xtr.models import spec as spec_lib
from xtr.models.flops import training_flops
from xtr.models.mt5 import MT5Config

TINY = MT5Config(512, 128, 4, 32, 256, 2, 2, dtype="float32")


def test_packed_batches_are_packed():
    first, second = steps.packed_batches(2, 3, 20, 12, 100)
    assert {name: (array.shape, array.dtype.name) for name, array in first.items()} == {
        f"{side}_{name}": ((3, length), "int32")
        for side, length, names in (
            ("encoder", 20, ("input_tokens", "segment_ids", "positions")),
            (
                "decoder",
                12,
                ("input_tokens", "target_tokens", "loss_weights", "segment_ids", "positions"),
            ),
        )
        for name in names
    }
    assert not np.array_equal(first["encoder_input_tokens"], second["encoder_input_tokens"])
    for row in range(3):
        ids, positions = first["decoder_segment_ids"][row], first["decoder_positions"][row]
        assert (np.diff(ids) >= 0).all() and ids[0] == 1
        for number in np.unique(ids):
            places = ids == number
            np.testing.assert_array_equal(positions[places], np.arange(places.sum()))
            targets = first["decoder_target_tokens"][row][places]
            np.testing.assert_array_equal(first["decoder_input_tokens"][row][places], [0, *targets[:-1]])
            assert targets.min() >= 3 and targets.max() < 100


@pytest.mark.slow
def test_both_do_the_same_work():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    batches = steps.packed_batches(2, 3, 40, 24, TINY.vocab_size)
    params = jax.jit(lambda key: spec_lib.init_params(TINY.param_specs(), key))(jax.random.key(0))
    weights = contenders._as_hugging_face(TINY, params, transformers, torch).state_dict()
    ours = steps.xtr_stepper(TINY, batches, jax.tree.map(np.array, params))
    theirs = steps.hugging_face_stepper(TINY, batches, weights=weights)
    losses = np.array([[ours.step(i), theirs.step(i)] for i in range(4)])
    np.testing.assert_allclose(losses[0, 0], losses[0, 1], rtol=1e-6)
    # Transformers factors the second moments of the relative biases too, which are too small for T5X's rule.
    np.testing.assert_allclose(losses[:, 0], losses[:, 1], rtol=1e-3)
    assert losses[-1, 0] < losses[1, 0]
    assert ours.peak_bytes() > 0 and theirs.peak_bytes() > 0


def test_figures_follow_from_steps():
    bench = training.Bench(TINY, rows=2, lengths=(30, 20))
    seen = training._Run([9.0, 2.0, 1.0, 4.0], [9.0, 3.0, 2.0, 5.0], [7.0, 6.0, 5.0, 4.0], 123)
    found = training._figures(bench, "xtr", seen, 1e12)
    assert (found.step_seconds, found.spread, found.first_seconds, found.processor_seconds) == (2.0, 4.0, 7.0, 3.0)
    assert found.tokens_per_second == 2 * 50 / 2.0
    assert found.flops_per_second == training_flops(TINY, "seq2seq", 2, 30, 20) / 2
    assert found.mfu == pytest.approx(found.flops_per_second / 1e12)
    assert (found.first_loss, found.last_loss, found.peak_bytes) == (7.0, 4.0, 123)
    assert training._figures(bench, "xtr", seen, None).mfu is None


def test_a_contender_that_cannot_run_is_left_out(monkeypatch):
    answers = {"xtr": [{"platform": "gpu", "peak_flops": 1e15}], "hugging_face": [UserError("not installed")]}

    class Worker(training._Worker):
        def __enter__(self):
            assert (self.who == "xtr") or self.device == "cuda"
            return self

        def close(self):
            pass

        def _receive(self):
            queue = answers[self.who]
            message = queue.pop(0) if queue else ([(1.0, 1.0, 5.0)], None)
            if isinstance(message, UserError):
                raise message
            return message

    monkeypatch.setattr(training, "_Worker", Worker)
    monkeypatch.setattr("multiprocessing.connection.Connection.send", lambda self, message: None)
    found, skipped = training.measure(training.Bench(TINY, repeats=2))
    assert [own.contender for own in found] == ["xtr"] and found[0].mfu > 0 and found[0].peak_bytes is None
    assert skipped == {"hugging_face": "not installed"}


@pytest.mark.slow
@pytest.mark.parametrize("dtype, dropout", [("float32", "0.0"), ("bfloat16", "0.1")])
def test_figures_as_json(dtype, dropout, capsys):
    few = ["--model=micro", "--batch=2", "--lengths", "16", "8", "--repeats=2", "--json"]
    assert run(["bench", "train", *few, f"--dtype={dtype}", f"--dropout_rate={dropout}"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["rows"], facts["lengths"], facts["repeats"]) == (2, [16, 8], 2)
    measured = {own["contender"]: own for own in facts["contenders"]}
    assert set(measured) | set(facts["skipped"]) == {"xtr", "hugging_face"} and "xtr" in measured
    for own in measured.values():
        assert own["step_seconds"] > 0 and own["spread"] >= 1 and own["peak_bytes"] > 0 and own["mfu"] is None
        assert own["tokens_per_second"] == pytest.approx(2 * 24 / own["step_seconds"])
        assert own["last_loss"] > 0


def test_parts_add_up(capsys):
    assert (
        run(
            ["bench", "train", "--model=micro", "--batch=2", "--lengths", "16", "8", "--repeats=1", "--parts", "--json"]
        )
        == 0
    )
    product, layers, loss, optimizer, whole = json.loads(capsys.readouterr().out)
    assert whole["name"] == parts.WHOLE and product["name"] == parts.LARGE_PRODUCT
    assert min(part["seconds"] for part in (product, layers, loss, optimizer, whole)) > 0
    assert loss["gflop"] == pytest.approx(3 * product["gflop"]) and optimizer["gflop"] == 0
    assert whole["gflop"] == pytest.approx(layers["gflop"] + loss["gflop"])
    assert product["gflop"] == pytest.approx(2e-9 * 2 * 8 * 64 * 250_112)


def test_wrong_numbers_are_refused():
    with pytest.raises(UserError, match="--repeats must be at least 1, not 0"):
        run(["bench", "train", "--repeats=0"])


def test_it_starts_without_tensorflow_and_torch():
    code = "import sys, xtr.bench.training; sys.exit(bool({'tensorflow', 'seqio', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
