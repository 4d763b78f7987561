"""Start-up of several processes, with real processes on this machine."""

import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtr.errors import UserError
from xtr.parallel import distributed
from xtr.parallel.sharding import batch_part

VARIABLES = ("XTR_COORDINATOR", "XTR_NUM_PROCESSES", "XTR_PROCESS_ID", "XTR_EXPECT_PROCESSES")
VARIABLES += distributed._TASK_COUNTS

PROGRAM = """
import jax, numpy as np
from xtr.parallel.distributed import initialize
print("joined", *initialize(), *initialize())
from xtr.parallel.mesh import MeshConfig, make_mesh
from xtr.parallel.sharding import global_batch
mesh = make_mesh(MeshConfig())
rows = np.full((2, 1), 1.0 + jax.process_index(), np.float32)
batch = global_batch({"x": rows}, mesh)
print("sum", float(jax.jit(lambda b: b["x"].sum())(batch)), batch["x"].shape, mesh.size)
from xtr import preemption
from xtr.errors import UserError
from xtr.parallel import distributed
told = distributed.from_first(lambda: {"by": jax.process_index()})
def mistaken():
    raise UserError("no such folder")
try:
    distributed.from_first(mistaken)
except UserError as error:
    told["error"] = str(error)
stops = [distributed.asked_to_stop()]
if jax.process_index() == 1:
    preemption._requested.set()
stops += [distributed.asked_to_stop()]
print("told", told, stops)
"""

# As the command does it, with less patience.
ALONE = """
import sys
from xtr.cli import main as command
from xtr.parallel import distributed
distributed._JOIN_SECONDS = 2
command.run = lambda arguments: distributed.initialize()
command.main()
"""


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_one_process_does_nothing():
    assert distributed.initialize() == (0, 1)
    assert distributed.initialize(num_processes=1) == (0, 1)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"XTR_NUM_PROCESSES": "2"}, "not set: XTR_COORDINATOR, XTR_PROCESS_ID"),
        ({"XTR_NUM_PROCESSES": "two"}, "XTR_NUM_PROCESSES must be an integer"),
        ({"XTR_COORDINATOR": "a:1", "XTR_NUM_PROCESSES": "2", "XTR_PROCESS_ID": "2"}, r"must lie in 0\.\.1"),
        ({"XTR_COORDINATOR": "a", "XTR_NUM_PROCESSES": "2", "XTR_PROCESS_ID": "1"}, "must be host:port, .* is 'a'"),
    ],
)
def test_half_a_topology_is_refused(environment, message, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        distributed.initialize()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("DEADLINE_EXCEEDED: Barrier timed out. Some tasks are missing.\nmore"), distributed.CannotJoin),
        (RuntimeError("UNAVAILABLE: failed to connect to all addresses"), distributed.CannotJoin),
        (RuntimeError("UNKNOWN: Failed to start RPC server"), distributed.CannotJoin),
        (OSError("no answer of the metadata server"), distributed.CannotJoin),
        (RuntimeError("INVALID_ARGUMENT: Unexpected task registered with task_name=/job:jax_worker/task:3"), UserError),
        (ValueError("Number of processes must be defined."), UserError),
    ],
)
@pytest.mark.parametrize(("expected", "seconds"), [(None, 300), ("2", 1800)])
def test_who_does_not_come_is_no_mistake(error, kind, expected, seconds, monkeypatch):
    asked = []

    def initialize(**settings):
        asked.append(settings["initialization_timeout"] - distributed._BEFORE_JAX)
        raise error

    monkeypatch.setattr(distributed.jax.distributed, "initialize", initialize)
    topology = {"XTR_COORDINATOR": "a:1", "XTR_NUM_PROCESSES": "2", "XTR_PROCESS_ID": "1"}
    for name, value in (topology | ({"XTR_EXPECT_PROCESSES": expected} if expected else {})).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(kind, match="as process 1 of 2: .*" + str(error).split("\n")[0]) as raised:
        distributed.initialize()
    assert type(raised.value) is kind and asked == [seconds] and f"within {seconds} s" in str(raised.value)


@pytest.mark.parametrize("index", [0, 1])
def test_a_process_whose_others_do_not_come_leaves_with_1(index):
    topology = {"XTR_COORDINATOR": f"127.0.0.1:{free_port()}", "XTR_NUM_PROCESSES": "2", "XTR_PROCESS_ID": str(index)}
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""} | topology
    found = subprocess.run([sys.executable, "-c", ALONE], env=env, capture_output=True, text=True, timeout=120)
    assert found.returncode == 1, found
    said = [line for line in found.stderr.splitlines() if line.startswith("xtr: ")]
    assert said and f"Cannot join the run's other processes as process {index} of 2: 2 s are over." in said[0]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_two_processes_share_a_batch():
    port = free_port()
    processes = []
    for index in range(2):
        env = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "",
            "XTR_COORDINATOR": f"127.0.0.1:{port}",
            "XTR_NUM_PROCESSES": "2",
            "XTR_PROCESS_ID": str(index),
        }
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    for index, process in enumerate(processes):
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        lines = [line for line in out.split("\n") if line.startswith(("joined", "sum", "told"))]  # Gloo prints too
        told = "told {'by': 0, 'error': 'no such folder'} [False, True]"
        assert lines == [f"joined {index} 2 {index} 2", "sum 6.0 (4, 1) 2", told]


def mesh_over(processes: int, devices: int, tensor: int, replica: int = 1) -> SimpleNamespace:
    """A mesh over so many processes with so many devices each, as far as `batch_part` looks at it."""
    grid = [SimpleNamespace(process_index=p) for p in range(processes) for _ in range(devices)]
    shape = (replica, processes * devices // tensor // replica, tensor)
    return SimpleNamespace(
        devices=np.array(grid).reshape(shape), shape=dict(zip(("replica", "fsdp", "tensor"), shape, strict=True))
    )


@given(st.integers(0, 3), st.integers(0, 3), st.integers(0, 6), st.booleans())
def test_each_row_of_a_batch_is_in_one_part(processes, devices, tensor, replicas):
    processes, devices, tensor = 2**processes, 2**devices, 2 ** min(tensor, processes + devices)
    mesh = mesh_over(processes, devices, tensor, 2 if replicas and processes * devices >= 2 * tensor else 1)
    shards = mesh.shape["replica"] * mesh.shape["fsdp"]
    held = {p: {n for n, row in enumerate(mesh.devices.reshape(shards, -1)) if p in {d.process_index for d in row}}
            for p in range(processes)}  # fmt: skip
    parts = {p: batch_part(mesh, p) for p in range(processes)}
    (count,) = {n for _, n in parts.values()}
    assert {i for i, _ in parts.values()} == set(range(count))
    for p, (i, _) in parts.items():
        assert held[p] == set(range(i * shards // count, (i + 1) * shards // count))


def test_a_mesh_that_cuts_rows_across_processes_is_refused():
    with pytest.raises(UserError, match="cuts a batch's rows across them"):
        batch_part(mesh_over(2, 3, 2), 0)
