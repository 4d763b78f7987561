"""What one of two processes finds, or is asked, both go by: a damaged checkpoint, a place to stop at."""

import os
import socket
import subprocess
import sys

import pytest

COMMON = """
import sys, time
import jax, jax.numpy as jnp
from xtr import preemption, storage
from xtr.checkpoints.manager import CheckpointManager, committed_steps
from xtr.checkpoints.resume import resume
from xtr.parallel import distributed, watchdog
watchdog.PERIOD = 0.05
index, _ = distributed.initialize()
"""
# The second process reads the newest checkpoint's index, or its arrays, wrong: so many times.
DAMAGE = """
where, times = sys.argv[2], int(sys.argv[3])
sharding = jax.sharding.NamedSharding(jax.sharding.Mesh(jax.devices(), "x"), jax.sharding.PartitionSpec("x"))
arrays = {step: jax.jit(lambda: jnp.arange(8.0) + step, out_shardings=sharding)() for step in (1, 2)}
manager = CheckpointManager(sys.argv[1])
for step in arrays:
    manager.save(step, {"x": arrays[step]}, {"step": step})
manager.close()
left = times if index == 1 else 0

def harmed(read, harm, newest):
    def reading(*arguments, **settings):
        global left
        if newest(arguments) and left:
            left -= 1
            return harm(read, *arguments, **settings)
        return read(*arguments, **settings)
    return reading

if where == "index":
    storage.read_bytes = harmed(storage.read_bytes, lambda read, path: b"{", lambda a: "/2/index/extras.json" in a[0]
        and not a[0].endswith("crc32"))
else:
    import orbax.checkpoint as ocp
    def lost(*_, **__):
        raise ValueError("DATA_LOSS: CRC-32C checksum verification failed")
    handler = ocp.PyTreeCheckpointHandler
    handler.restore = harmed(handler.restore, lost, lambda a: str(a[1]).endswith("/2/state"))
abstract = {"x": jax.ShapeDtypeStruct((8,), jnp.float32, sharding=sharding)}
found = resume(sys.argv[1], abstract)
print("said", found.step, left, committed_steps(sys.argv[1]), flush=True)
"""
# The second process alone is asked to, at its fourth place.
PLACES = """
for number in range(1, 200):
    if watchdog.stop_here():
        break
    if (index, number) == (1, 4):
        preemption._requested.set()
    time.sleep(0.02 * (1 + index))
distributed.wait("the end")
print("said", number, flush=True)
"""


def said(program: str, *arguments: str) -> list[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    topology = {"XTR_COORDINATOR": f"127.0.0.1:{port}", "XTR_NUM_PROCESSES": "2"}
    topology |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    command = [sys.executable, "-c", COMMON + program, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = [
        subprocess.Popen(command, env=os.environ | topology | {"XTR_PROCESS_ID": str(number)}, **pipes)
        for number in range(2)
    ]
    lines = []
    try:
        for process in running:
            out, err = process.communicate(timeout=120)
            assert process.returncode == 0, err
            lines += [line for line in out.split("\n") if line.startswith("said")]
    finally:
        for process in running:
            process.kill()
    return lines


@pytest.mark.parametrize("where", ["index", "state"])
@pytest.mark.parametrize(("times", "step"), [(1, 2), (2, 1)])
def test_damage_that_one_process_finds_is_damage_to_both(where, times, step, tmp_path):
    steps = list(range(1, step + 1))
    assert said(DAMAGE, str(tmp_path), where, str(times)) == [f"said {step} 0 {steps}"] * 2
    assert (tmp_path / "2.damaged").exists() == (step == 1)


def test_two_processes_stop_at_one_place():
    first, second = said(PLACES)
    assert first == second and 4 < int(first.removeprefix("said ")) < 199
