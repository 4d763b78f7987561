"""What a run says of its speed, its memory and its steps' profile."""

import gzip
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xtr.errors import UserError
from xtr.models.bert import BertConfig
from xtr.models.bloom import BloomConfig
from xtr.models.flops import training_flops
from xtr.models.heads import WithHead
from xtr.models.mt5 import MT5Config
from xtr.train import telemetry

GiB = 2**30
MT5 = MT5Config(64, 16, 2, 8, 24, 2, 1, dtype="float32")
BLOOM = BloomConfig(64, 16, 2, 2, dtype="float32")
XLMR = BertConfig("xlmr", 64, 16, 2, 24, 2, 24, dtype="float32", mlm_head=True)


@pytest.fixture
def clock(monkeypatch):
    """Time that passes when told."""
    now = types.SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(telemetry.time, "monotonic", lambda: now.seconds)
    return now


def device(kind="TPU v4", platform="tpu", process=0, **stats):
    return types.SimpleNamespace(
        device_kind=kind, platform=platform, process_index=process, memory_stats=lambda: stats or None
    )


@pytest.mark.parametrize(
    "model, objective, shapes, counted",
    [
        (MT5, "seq2seq", {"encoder_input_tokens": (4, 10), "decoder_target_tokens": (4, 6)}, (4, 10, 6)),
        (BLOOM, "causal", {"decoder_input_tokens": (4, 10)}, (4, 10)),
        (XLMR, "mlm", {"encoder_input_tokens": (4, 10)}, (4, 10)),
        (WithHead(MT5, "choose"), "choose", {"encoder_input_tokens": (4, 3, 10)}, (12, 10)),
        (WithHead(BLOOM, "tag", 5), "tag", {"encoder_input_tokens": (4, 10)}, (4, 10)),
        (
            WithHead(XLMR, "embed"),
            "contrastive",
            {"encoder_input_tokens": (4, 10), "target_input_tokens": (4, 7)},
            (4, 10, 7),
        ),
    ],
    ids=["seq2seq", "causal", "mlm", "choose", "tag", "contrastive"],
)
def test_flops_are_those_of_the_batch(model, objective, shapes, counted):
    batch = {name: np.zeros(shape, np.int32) for name, shape in shapes.items()}
    assert telemetry.batch_flops(model, objective, batch) == training_flops(model, objective, *counted) > 0


def test_a_reading_is_of_the_steps_since_the_last(clock):
    meter = telemetry.Meter([device(), device(process=1)])  # 2 x 275e12 FLOP/s
    clock.seconds += 30
    meter.step(7.0)
    assert meter.read({"tokens": 1.0}, first=True) == {"timing/first_step_seconds": 30.0}
    for _ in range(4):
        with meter.waiting():
            clock.seconds += 0.5
        clock.seconds += 2
        meter.step(55e12)
    with meter.apart():
        clock.seconds += 1000
    assert meter.read({"tokens": 200.0, "rows": 4.0}) == {
        "timing/tokens_per_second": 20.0,
        "timing/rows_per_second": 0.4,
        "timing/data_wait_share": 0.2,
        "timing/seconds_per_step": 2.5,
        "timing/mfu": pytest.approx(0.04),
    }


@pytest.mark.parametrize("kind, platform", [("cpu", "cpu"), ("TPU v99", "tpu"), ("Tesla T4", "gpu")])
def test_no_utilisation_of_a_peak_that_nobody_knows(kind, platform):
    meter = telemetry.Meter([device(), device(kind, platform)])
    meter.step(1e12)
    assert "timing/mfu" not in meter.read({})


def test_memory_is_that_of_the_fullest_local_device():
    devices = [
        device(peak_bytes_in_use=3 * GiB, bytes_limit=8 * GiB),
        device(peak_bytes_in_use=4 * GiB, bytes_limit=8 * GiB),
        device(process=1, peak_bytes_in_use=7 * GiB, bytes_limit=8 * GiB),
        device(),
    ]
    scalars = telemetry.Meter(devices).read({})
    assert (scalars["memory/high_water_gib"], scalars["memory/high_water_share"]) == (4.0, 0.5)
    unlimited = telemetry.Meter([device(peak_bytes_in_use=GiB)]).read({})
    assert unlimited["memory/high_water_gib"] == 1.0 and "memory/high_water_share" not in unlimited
    assert telemetry.memory_high_water([device()]) is None


def test_this_machine_can_be_metered():
    meter = telemetry.Meter(jax.devices())
    meter.step(1.0)
    scalars = meter.read({"target_tokens": 5.0})
    assert scalars["timing/target_tokens_per_second"] > 0 and np.isfinite(list(scalars.values())).all()


@pytest.mark.parametrize(
    "value, steps",
    [(None, None), ((), None), ((10, 15), (10, 15)), ([2, 2], (2, 2)), ("10:15", (10, 15)), (" 3 : 4", (3, 4))],
    ids=str,
)
def test_profile_steps(value, steps):
    assert telemetry.check_profile_steps(value) == steps


@pytest.mark.parametrize("value", [5, True, "10", "15:10", (0, 3), (1, 2, 3), (1.0, 2), "a:b", (True, 2), ":"], ids=str)
def test_profile_steps_that_are_none(value):
    with pytest.raises(UserError, match="PROFILE_STEPS is .*first and the last step"):
        telemetry.check_profile_steps(value)


def steps(profiler, numbers):
    @jax.jit
    def square(x):
        return x @ x

    for number in numbers:
        with profiler.step(number):
            x = square(jnp.ones((64, 64)))
        profiler.after(number, x)
    profiler.close()


def traces(logdir):
    return sorted(path.relative_to(logdir).parts for path in logdir.rglob("*") if path.is_file())


def test_a_profile_is_what_tensorboard_and_perfetto_open(tmp_path):
    steps(telemetry.Profiler((3, 4), tmp_path), range(1, 7))
    found = traces(tmp_path)
    assert {parts[:2] for parts in found} == {("plugins", "profile")}
    assert len({parts[2] for parts in found}) == 1  # one trace
    assert sorted(parts[-1].split(".", 1)[1] for parts in found) == ["trace.json.gz", "xplane.pb"]
    (xplane,) = tmp_path.rglob("*.xplane.pb")
    assert xplane.stat().st_size > 0
    (path,) = tmp_path.rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    done = [event for event in events if event.get("ph") == "X"]
    assert [event["args"]["step_num"] for event in done if event["name"] == "train"] == ["3", "4"]
    operations = [event for event in done if event.get("args", {}).get("hlo_module") == "jit_square"]
    assert operations and all(event["args"]["hlo_op"] and event["dur"] > 0 for event in operations)


@pytest.mark.parametrize("window, count", [(None, 0), ((9, 12), 0), ((6, 9), 1), ((1, 5), 1)], ids=str)
def test_steps_outside_a_run_are_not_profiled(tmp_path, window, count):
    """A run that goes on at step 4, to 7."""
    steps(telemetry.Profiler(window, tmp_path), range(4, 8))
    assert len(list(tmp_path.rglob("*.xplane.pb"))) == count
