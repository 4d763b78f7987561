import json

import jax
import pytest

from xtr import rundir
from xtr.study.graph import Stage
from xtr.study.jobs import Job
from xtr.study.spent import spent


def job(root, kind, seed, seconds=None, devices=None):
    stage = Stage(kind, "m", "nli", "xnli" if kind != "intermediate" else "", seed)
    directory = root / f"{kind}{seed}"
    directory.mkdir()
    if devices:
        (directory / "environment.json").write_text(json.dumps({"devices": devices}))
    if seconds is not None:
        rundir.mark_done(directory, {"seconds": seconds})
    return Job(stage, None, {}, (), "", directory)


def test_seconds_and_chip_hours_by_model_kind_and_device(tmp_path):
    slices = {"kind": "TPU v5e", "count": 16}
    jobs = [
        job(tmp_path, "intermediate", 0, 3600.0, slices),
        job(tmp_path, "target", 0, 900.0, slices),
        job(tmp_path, "target", 1, 900.0, slices),
        job(tmp_path, "target", 2, 1800.0, {"kind": "cpu", "count": 1}),
        job(tmp_path, "target", 3, None, slices),  # not done
        job(tmp_path, "evaluate", 0, 360.0),
    ]
    found = {(one.kind, one.device): one for one in spent(jobs)}
    assert list(found) == [("intermediate", "TPU v5e"), ("target", "TPU v5e"), ("target", "cpu"), ("evaluate", "")]
    assert found["target", "TPU v5e"].stages == 2
    assert found["target", "TPU v5e"].chip_hours == pytest.approx(8.0)
    assert found["target", "cpu"].chip_hours == pytest.approx(0.5)
    assert found["evaluate", ""].unmeasured == 1 and found["evaluate", ""].chip_hours == pytest.approx(0.1)


def test_starts_that_were_interrupted_count_with_the_devices_that_each_had(tmp_path, monkeypatch):
    one = job(tmp_path, "target", 0, devices={"kind": "TPU v5e", "count": 16})
    clock = [100.0]
    monkeypatch.setattr(rundir.time, "monotonic", lambda: clock[0])
    for devices, seconds in ((16, 3600), (8, 1800)):  # killed an hour on, and gone on with on a smaller slice
        monkeypatch.setattr(jax, "device_count", lambda devices=devices: devices)
        session = rundir.Session(one.directory)
        clock[0] += seconds
        kept = session.keep()
        clock[0] += 60  # lost with what was done since
    assert [start["devices"] for start in kept] == [16, 8]
    clock[0] -= 60
    rundir.mark_done(one.directory, session.summary())
    (found,) = spent([one])
    assert found.seconds == 5400 and found.chip_hours == pytest.approx(16 + 4)
    assert rundir.done_summary(one.directory)["starts"] == 2


def test_nothing_done_is_nothing_spent(tmp_path):
    assert spent([job(tmp_path, "target", 0)]) == []
