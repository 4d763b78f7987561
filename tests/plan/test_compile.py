"""Shapes of batches against the data's own, programs against the real compiler, out of memory as a result."""

import dataclasses

import pytest

from xtr.data.pipeline import TrainData
from xtr.errors import UserError
from xtr.models import spec
from xtr.parallel import topology
from xtr.plan import batches, compile, store
from xtr.train.adamw import AdamWConfig


@pytest.mark.parametrize(
    "objective", ["seq2seq", "denoise", "causal", "mlm", "classify", "tag", "span", "contrastive", "choose"]
)
def test_batches_have_the_shapes_of_real_ones(objective):
    lengths = {"inputs": 24, "targets": 12}
    data = TrainData(tasks=(), lengths=lengths, batch_size=3, objective=objective)
    if objective == "choose":
        data.__dict__["num_choices"] = batches.CHOICES
    real = {name: array.shape for name, array in data.batch([[], [], []]).items()}

    class Run:
        batch_size, task_feature_lengths, loss = 3, lengths, "seq2seq" if objective == "denoise" else objective

    assert batches.shapes(Run) == real


@pytest.mark.parametrize(
    ("message", "gib"),
    [
        ("RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (20.14G) exceeds"
         " available HBM (15.75G).", 4.39),
        ("RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 17.97G of"
         " 15.75G hbm. Exceeded hbm capacity by 2.22G.", 2.22),
        ("RESOURCE_EXHAUSTED: Used 1.50T of 15.75G hbm", 1520.25),
    ],
)  # fmt: skip
def test_what_is_missing_is_read_from_the_message(message, gib):
    assert compile.missing_bytes(message) == pytest.approx(gib * 2**30, rel=1e-6)


def test_other_errors_are_no_lack_of_memory():
    assert compile.missing_bytes("INTERNAL: something else") is None


def test_programs_are_those_that_the_model_has(plan_run, encoder_run):
    assert compile.programs_of((), plan_run) == ("train", "score", "decode_step", "decode_refill")
    assert compile.programs_of(("score",), plan_run) == ("score",)
    assert compile.programs_of((), encoder_run) == ("train", "score")
    with pytest.raises(UserError, match="writes no text"):
        compile.programs_of(("decode",), encoder_run)


def test_a_program_is_known_by_all_that_shapes_it(plan_run):
    slice_ = topology.parse("v5e:2x2")
    known = store.facts(plan_run, slice_, "train")
    train = plan_run.train

    def changed(program="train", slice_=slice_, **fields):
        own = dataclasses.replace(plan_run, train=dataclasses.replace(train, **fields))
        return store.facts(own, slice_, program) != store.facts(plan_run, topology.parse("v5e:2x2"), program)

    assert store.facts(plan_run, slice_, "train") == known
    assert changed(batch_size=32) and changed(num_microbatches=2) and changed(z_loss=0.0)
    assert changed(compiler_options="none") and changed(optimizer=AdamWConfig())
    assert changed(model=dataclasses.replace(train.model, remat="full"))
    assert changed(slice_=topology.parse("v5e:2x2", 2))
    assert not changed(train_steps=77) and not changed(model_dir="/elsewhere") and not changed(random_seed=3)
    assert not changed("score", num_microbatches=2) and not changed("decode_step", batch_size=32)


def test_a_damaged_file_is_none(plan_run, tmp_path):
    kept, slice_ = store.Store(str(tmp_path)), topology.parse("v5e:2x2")
    path = kept.path(plan_run, slice_, "train")
    path.parent.mkdir()
    path.write_bytes(b"not gzip")
    assert kept.find(plan_run, slice_, "train") is None


@pytest.mark.slow
@pytest.mark.skipif(not topology.has_compiler(), reason="libtpu, the TPU compiler, is not installed")
class TestRealCompiler:
    def test_a_program_is_compiled_once(self, plan_run, tmp_path, monkeypatch):
        kept, slice_ = store.Store(str(tmp_path)), topology.parse("v5e:2x2")
        first = kept.compiled(plan_run, slice_, "score")
        monkeypatch.setattr(store, "compile_apart", None)
        assert kept.compiled(plan_run, slice_, "score") == first
        count = spec.count(plan_run.train.model.param_specs())
        assert 4 * count / 4 <= first.parameters <= 1.05 * 4 * count / 4 + 2**20
        assert first.memory.arguments >= first.parameters
        assert first.hlo.startswith("HloModule")

    @pytest.mark.parametrize("program", ["score", "decode_step"])
    def test_out_of_memory_is_a_result(self, plan_run, program):
        wide = dataclasses.replace(plan_run.train, model=dataclasses.replace(plan_run.train.model, vocab_size=2**27))
        run = dataclasses.replace(plan_run, train=wide if program == "score" else plan_run.train)
        run = dataclasses.replace(run, tokens_per_batch=2**30 if program == "decode_step" else 1024)
        found = store.compile_apart(run, topology.parse("v5e:2x2"), program)
        assert found.memory is None and found.out_of_memory > 2**30
        assert "RESOURCE_EXHAUSTED" in found.message

    def test_a_batch_that_does_not_divide_is_the_users_mistake(self, plan_run):
        odd = dataclasses.replace(plan_run, train=dataclasses.replace(plan_run.train, batch_size=6))
        with pytest.raises(UserError, match="Make BATCH_SIZE a multiple of 4"):
            store.compile_apart(odd, topology.parse("v5e:2x2"), "train")
