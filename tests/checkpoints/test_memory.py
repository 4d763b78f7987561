"""Two processes read a checkpoint of mT5-XL's width, each its half: how much memory that takes beside the half itself.

    pytest -n 0 -s -m slow tests/checkpoints/test_memory.py                       2 + 2 layers, 5 GB
    XTR_XL_LAYERS=24 pytest -n 0 -s -m slow tests/checkpoints/test_memory.py      all of mT5-XL, 15 GB

It takes as much memory as the checkpoint is large, and as much room on the disk of the temporary folder.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import zlib

import numpy as np
import pytest

from xtr.checkpoints import layout, write
from xtr.checkpoints.source import HUGGING_FACE, Source, StoredArray
from xtr.models.mt5 import MT5Config
from xtr.train import adafactor

pytestmark = pytest.mark.slow

LIMIT = 1e9  # bytes beside a process's own shards
LAYERS = int(os.environ.get("XTR_XL_LAYERS", "2"))
XL = dict(vocab_size=250112, emb_dim=2048, num_heads=32, head_dim=64, mlp_dim=5120)
MODEL = MT5Config(**XL, num_encoder_layers=LAYERS, num_decoder_layers=LAYERS)


def random_array(name, shape, index):
    """A slice of the array of that name: every value hashed from its place, so that any slice is known, and random
    enough not to be compressed away."""
    columns = np.arange(index[-1].start, index[-1].stop, dtype=np.uint32)
    rows = np.arange(index[0].start, index[0].stop, dtype=np.uint32)[:, None] if len(shape) > 1 else np.uint32(0)
    out = np.empty([s.stop - s.start for s in index], np.float32)
    for at in range(0, len(out), 4096):
        part = slice(at, at + 4096)
        x = (rows[part] * np.uint32(shape[-1]) + columns) if len(shape) > 1 else columns[part]
        x = x * np.uint32(0x9E3779B1) + np.uint32(zlib.crc32(name.encode()))
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):  # as MurmurHash3 ends
            x ^= x >> np.uint32(shift)
            x *= np.uint32(factor)
        out[part] = ((x >> np.uint32(9)) | np.uint32(0x3F800000)).view(np.float32) - 1.5
    return out


PROGRAM = """
import json, os, sys, threading, time
sys.path.insert(0, sys.argv[3])
import jax, numpy as np
from xtr.parallel.distributed import initialize
initialize()
from xtr.checkpoints import load
from xtr.models.mt5 import MT5Config
from xtr.parallel.mesh import MeshConfig, make_mesh
from xtr.parallel.sharding import tree_shardings

def anonymous():
    fields = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return 1024 * int(fields["RssAnon"].split()[0])

def read_bytes():
    return int(open("/proc/self/io").readline().split()[1])

model = MT5Config(**json.loads(sys.argv[2]))
shardings = tree_shardings(model.param_specs(), make_mesh(MeshConfig(**json.loads(sys.argv[4]))))
jax.jit(lambda x: x + 1)(np.ones(3)).block_until_ready()
peak, running = 0, True

def watch():
    global peak
    while running:
        peak = max(peak, anonymous())
        time.sleep(0.01)

before, read_before, start = anonymous(), read_bytes(), time.monotonic()
watcher = threading.Thread(target=watch)
watcher.start()
params, origin = load.load_params(sys.argv[1], model, shardings)
jax.block_until_ready(params)
seconds, read = time.monotonic() - start, read_bytes() - read_before
running = False
watcher.join()
own = sum(shard.data.nbytes for x in jax.tree.leaves(params) for shard in x.addressable_shards)
from xtr.models.spec import flatten, layer_names
from test_memory import random_array
specs, checked = flatten(model.param_specs()), 0
for path, array in flatten(params).items():
    spec = specs[path]
    (shard,) = array.addressable_shards
    place = [slice(*s.indices(n)[:2]) for s, n in zip(shard.index, array.shape)]
    for i, name in enumerate(layer_names(spec, "hf")):
        found = np.asarray(shard.data)[i] if spec.stacked else np.asarray(shard.data)
        held = place[1:] if spec.stacked else place
        for first in {0, len(found) // 2, max(0, len(found) - 7)}:
            rows = slice(first, min(first + 7, len(found)))
            index = [slice(held[0].start + rows.start, held[0].start + rows.stop), *held[1:]]
            shape = spec.layer_shape
            if spec.hf_transpose:
                wanted = random_array(name, shape[::-1], index[::-1]).T
            else:
                wanted = random_array(name, shape, index)
            np.testing.assert_array_equal(found[rows], wanted)
        checked += 1
print("RESULT", json.dumps(dict(before=before, peak=peak, own=own, read=read, seconds=seconds, kind=origin.kind,
                                checked=checked)))
"""


@pytest.fixture(scope="module", params=["t5x", "hf"])
def checkpoint(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("xl") / "checkpoint"
    specs = MODEL.param_specs()
    places = layout.parts(Source(HUGGING_FACE, "", "", 0, {}), specs)

    def stored(name, shape):
        return StoredArray(shape, np.dtype(np.float32), lambda index: random_array(name, shape, index))

    arrays = {name: stored(name, shape) for name, shape in layout.expected(places).items()}
    source = Source(HUGGING_FACE, "", "random arrays", 0, arrays)
    if request.param == "hf":
        write.write_huggingface(source, places, MODEL, str(folder))
    else:
        slots = adafactor.slot_specs(adafactor.AdafactorConfig(), specs)
        write.write_t5x(source, places, MODEL, slots, str(folder))
    yield request.param, folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("axis", ["fsdp", "tensor"])
def test_a_process_reads_its_half_in_bounded_memory(checkpoint, axis):
    kind, folder = checkpoint
    mesh = json.dumps({"fsdp": 1, "tensor": 1, axis: 2})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    sizes = json.dumps(XL | {"num_encoder_layers": LAYERS, "num_decoder_layers": LAYERS})
    processes = []
    for index in range(2):
        env = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "",
            "XTR_COORDINATOR": f"127.0.0.1:{port}",
            "XTR_NUM_PROCESSES": "2",
            "XTR_PROCESS_ID": str(index),
        }
        command = [sys.executable, "-c", PROGRAM, str(folder), sizes, os.path.dirname(__file__), mesh]
        processes.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    outputs = [process.communicate(timeout=3600) for process in processes]
    for index, (process, (out, err)) in enumerate(zip(processes, outputs, strict=True)):
        assert process.returncode == 0, err
        result = json.loads(next(line for line in out.split("\n") if line.startswith("RESULT")).partition(" ")[2])
        beside = result["peak"] - result["before"] - result["own"]
        held, read = result["own"] / 1e9, result["read"] / 1e9
        print(f"\n{kind}, {axis}, process {index}: holds {held:.2f} GB, peak beside it {beside / 1e9:.3f} GB")
        print(f"  read {read:.2f} GB in {result['seconds']:.0f} s, {result['checked']} arrays compared")
        assert result["kind"] == kind
        assert result["checked"] > 10
        assert beside < LIMIT
        # Of safetensors exactly the half is read. Zarr is read by whole chunks: T5X's run along the vocabulary, hence
        # half of the two large tables, and all of a layer's matrices, which are one chunk each.
        tables = 2 * 4 * XL["vocab_size"] * XL["emb_dim"]
        if kind == "hf" or axis == "tensor":
            limit = result["own"] if kind == "hf" else tables / 2 + 2 * (result["own"] - tables / 2)
            assert result["read"] < 1.02 * limit + 50e6
