"""`xtr plan` from gin to its tables: the same gin as a training run's, without data."""

import json

import pytest

from xtr.cli import main
from xtr.cli.plan import load
from xtr.errors import UserError
from xtr.parallel import topology
from xtr.plan import store
from xtr.plan.compile import Compiled, Memory

MICRO = ["models/mt5/micro.gin", "runs/finetune.gin"]
SMALL = ["VOCAB_SIZE=1024", "DTYPE=bfloat16", "TASK_FEATURE_LENGTHS={'inputs': 128, 'targets': 64}", "BATCH_SIZE=16"]
ARGUMENTS = [*(f"--gin_file={name}" for name in MICRO), *(f"--gin.{text}" for text in SMALL)]
needs_libtpu = pytest.mark.skipif(not topology.has_compiler(), reason="libtpu, the TPU compiler, is not installed")

HLO = """HloModule jit_f, entry_computation_layout={(f32[8,8]{1,0})->f32[8,8]{1,0}}, num_partitions=8

ENTRY %main (p: f32[8,8]) -> f32[8,8] {
  %p = f32[8,8]{1,0} parameter(0)
  %r = f32[8,8]{1,0} all-reduce(%p), replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  ROOT %d = f32[8,8]{1,0} dot(%r, %r), lhs_contracting_dims={1}, rhs_contracting_dims={0}, backend_config={"window_config":{"estimated_cycles":"5"}}
}
"""  # noqa: E501


def test_nothing_of_a_run_but_its_model_is_needed():
    run = load(["models/mt5/xxl.gin"], [])
    assert (run.train.task_feature_lengths, run.train.train_steps) == ({"inputs": 1024, "targets": 256}, 1000)
    assert (run.train.batch_size, run.train.model.remat, run.price_per_chip_hour) == (128, "full", None)
    assert run.decode_length == 256


def test_it_reads_what_the_training_run_reads():
    overrides = ["BATCH_SIZE=256", "train.num_microbatches=4", "partitioning.MeshConfig.tensor=2", "TRAIN_STEPS=7",
                 "PRICE_PER_CHIP_HOUR=1.2", "MAX_DECODE_LENGTH=9", "MODEL_DIR=/somewhere"]  # fmt: skip
    run = load(["models/mt5/xxl.gin", "runs/finetune.gin", "targets/xnli.gin"], overrides)
    assert (run.train.batch_size, run.train.num_microbatches, run.train.mesh.tensor) == (256, 4, 2)
    assert (run.train.train_steps, run.train.model_dir, run.price_per_chip_hour) == (7, "/somewhere", 1.2)
    assert run.train.task_feature_lengths == {"inputs": 1024, "targets": 128} and run.decode_length == 9


@pytest.mark.parametrize(
    ("files", "family", "objective", "inputs"),
    [
        (["models/mt5/small.gin", "runs/pretrain.gin"], "mt5", "denoise", 1024),
        (["models/mt5/micro.gin"], "mt5", "seq2seq", 1024),
        (["models/bloom/176b.gin"], "bloom", "causal", 1024),
        (["models/xlmr/xxl.gin", "runs/mlm.gin", "runs/adamw.gin"], "xlmr", "mlm", 512),
    ],
)
def test_every_family(files, family, objective, inputs):
    train = load(files, []).train
    assert (train.model.family, train.objective, train.task_feature_lengths["inputs"]) == (family, objective, inputs)


@pytest.mark.parametrize(
    ("files", "overrides", "message"),
    [
        ([], [], "xtr plan needs a model"),
        (["runs/finetune.gin"], [], "xtr plan needs a model"),
        (["models/mt5/xxl.gin"], ["PRICE_PER_CHIP_HOR=2"], "Did you mean PRICE_PER_CHIP_HOUR"),
        (["models/mt5/xxl.gin"], ["LIMIT=3"], "nothing in this plan run reads it"),
        (["models/mt5/xxl.gin"], ["TOKENS_PER_BATCH=0"], "TOKENS_PER_BATCH is 0"),
        (["models/mt5/xxl.gin"], ["PRICE_PER_CHIP_HOUR=-1"], "must not be negative"),
    ],
)
def test_a_configuration_that_is_wrong(files, overrides, message):
    with pytest.raises(UserError, match=message):
        load(files, overrides)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--topology=v5e:2by4"], "after the colon"),
        (["--topology=v5e:2x4", "--slices=0"], "at least 1"),
        (["--topology=v5e:2x4", "--search", "--budget=0"], "--budget is 0"),
        (["--topology=v5e:2x4", "--search", "--programs", "score"], "leave out --programs"),
        ([], "--topology"),
    ],
)
def test_wrong_use(arguments, message):
    with pytest.raises(UserError, match=message):
        main.run(["plan", *ARGUMENTS, *arguments])


@pytest.fixture
def made_up(monkeypatch):
    """A compiler that answers at once: of the third program it says that it does not fit."""
    asked = []

    def compile_apart(run, slice_, program):
        asked.append(program)
        fits = program != "decode_step"
        return Compiled(
            program=program, mesh={"replica": 1, "fsdp": 8, "tensor": 1},
            extents={"replica": (1, 1, 1), "fsdp": (2, 4, 1), "tensor": (1, 1, 1)}, parameters=2**20, optimizer=2**10,
            trace_seconds=1.0, compile_seconds=2.0,
            memory=Memory(3 * 2**20, 2**19, 2**20, 2**18, 2**22) if fits else None,
            out_of_memory=None if fits else 3 * 2**30, message="", cost={}, hlo=HLO if fits else "",
        )  # fmt: skip

    monkeypatch.setattr(store, "compile_apart", compile_apart)
    return asked


def test_json_and_the_cache(made_up, tmp_path, capsys):
    arguments = ["plan", *ARGUMENTS, "--topology=v5e:2x4", f"--cache_dir={tmp_path}", "--json", "--explain"]
    arguments += ["--gin.PRICE_PER_CHIP_HOUR=1.5", "--gin.TRAIN_STEPS=100"]
    assert main.run(arguments) == 0
    first = json.loads(capsys.readouterr().out)
    assert main.run(arguments) == 0
    assert json.loads(capsys.readouterr().out) == first
    assert made_up == ["train", "score", "decode_step", "decode_refill"]
    train, _, step, _ = first["programs"]
    assert train["fits"] and train["hardware_flops"] == 2 * 8 * 8 * 8
    # An all-reduce of 256 bytes between eight chips of two lines of links.
    assert train["ici_bytes"] == 2 * 256 * 7 / 8
    assert train["seconds"]["ici"] == pytest.approx(448 / (2 * 4.5e10))
    assert (step["fits"], step["missing"], step["memory"]) == (False, 3 * 2**30, None)
    hours = train["step_seconds"] * 100 / 3600
    assert first["cost"]["money"] == pytest.approx(hours * 8 * 1.5)
    assert first["explain"]["train"]["collectives"][0]["collective"] == "all-reduce"
    assert first["explain"]["train"]["operations"][0]["cycles"] == 5


def test_the_tables(made_up, tmp_path, capsys):
    assert main.run(["plan", *ARGUMENTS, "--topology=v5e-8", f"--cache_dir={tmp_path}", "--explain"]) == 0
    out = capsys.readouterr().out
    assert "on v5e:2x4 (v5litepod-8; 8 chips, 1 hosts)" in out
    assert "decode_step does not fit: 3.00 GiB" in out
    assert "1,000 steps take at least" in out and "chip-hours" in out
    assert "train: collectives" in out and "train: costliest operations" in out


def test_without_libtpu_it_says_what_to_install(monkeypatch, tmp_path):
    for module in (topology, store):
        monkeypatch.setattr(module, "has_compiler", lambda: False)
    with pytest.raises(UserError, match="needs libtpu, which is not installed"):
        main.run(["plan", *ARGUMENTS, "--topology=v5e-8", f"--cache_dir={tmp_path}"])


@needs_libtpu
@pytest.mark.slow
def test_the_real_compiler(tmp_path, capsys):
    common = ["plan", *ARGUMENTS, f"--cache_dir={tmp_path}", "--json"]
    assert main.run([*common, "--topology=v5e:2x2", "--slices=2", "--programs", "train", "--explain",
                     "--gin.partitioning.MeshConfig.replica=2"]) == 0  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    (train,) = found["programs"]
    assert train["fits"] and train["mesh"] == {"replica": 2, "fsdp": 4, "tensor": 1}
    assert train["dcn_bytes"] > 0 and train["ici_bytes"] > train["dcn_bytes"]
    without = train["hardware_flops"] - train["rematerialised"]
    assert without == pytest.approx(train["model_flops"], rel=0.05)
    lines = {row["line"] for row in found["explain"]["train"]["collectives"]}
    assert any(line.startswith("xtr/") for line in lines)


@needs_libtpu
@pytest.mark.slow
def test_a_search_by_the_real_compiler(tmp_path, capsys):
    arguments = ["--topology=v5e:2x2", "--search", "--budget=2", f"--cache_dir={tmp_path}", "--json"]
    assert main.run(["plan", *ARGUMENTS, *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["tried"]) == 2 and all(row["estimate"]["fits"] for row in found["tried"])
    overrides = [line.replace(" = ", "=") for line in found["best"]]
    best = load(MICRO, [*SMALL, *overrides]).train
    assert best.mesh.replica * best.mesh.fsdp * best.mesh.tensor == 4
