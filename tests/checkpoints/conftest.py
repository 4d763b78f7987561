"""Writers of other programs' checkpoints."""

from typing import Any

import flax.serialization
import ml_dtypes
import numpy as np
import pytest
import tensorstore as ts


@pytest.fixture(scope="session")
def write_t5x_orbax():
    def write_t5x_orbax(path, arrays, *, step=5, slots=None, ocdbt=True):
        """As T5X writes its checkpoints today, by the same library: one tree of arrays below `state`."""
        import orbax.checkpoint as ocp
        from flax.traverse_util import unflatten_dict

        unused = np.zeros(1, np.float32)
        leaves = {("state", "step"): np.int32(step)}
        for name, array in arrays.items():
            parts = tuple(name.split("."))
            leaves["target", *parts] = np.asarray(array)
            for slot in ("m", "v", "v_row", "v_col"):
                leaves["state", "param_states", *parts, slot] = (slots or {}).get(name, {}).get(slot, unused)
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=ocdbt, use_zarr3=False)) as writer:
            writer.save(path / "state", args=ocp.args.PyTreeSave(unflatten_dict(leaves)))
        return path

    return write_t5x_orbax


def _zarr_dtype(array):
    return "bfloat16" if array.dtype == ml_dtypes.bfloat16 else array.dtype.str


@pytest.fixture(scope="session")
def write_t5x():
    def write_t5x(path, arrays, *, step=5, slots=None, version=3, edit=lambda contents: None):
        """As T5X writes its legacy checkpoints: parameters in zarr folders, the given slots inside the msgpack file."""
        path.mkdir()

        def nest(named):
            tree: dict[str, Any] = {}
            for name, leaf in named.items():
                *parents, last = name.split(".")
                node = tree
                for parent in parents:
                    node = node.setdefault(parent, {})
                node[last] = leaf
            return tree

        target = {}
        for name, array in arrays.items():
            array = np.asarray(array)
            metadata = {
                "chunks": [max(1, n // 2) for n in array.shape],
                "compressor": {"id": "gzip", "level": 1},
                "shape": list(array.shape),
            }
            spec = {
                "driver": "zarr",
                "kvstore": {"driver": "file", "path": f"{path}/target.{name}/"},
                "metadata": metadata | {"dtype": _zarr_dtype(array), "fill_value": None},
            }
            ts.open(spec, create=True, delete_existing=True).result().write(array).result()
            target[name] = {
                "driver": "zarr",
                "dtype": "float32",
                "kvstore": {"driver": "gfile", "path": f"target.{name}/"},
                "metadata": metadata,
            }
        unused = np.zeros(1, np.float32)
        states = {
            f"{name}.{slot}": (slots or {}).get(name, {}).get(slot, unused)
            for name in arrays
            for slot in ("m", "v", "v_row", "v_col")
        }
        contents = {
            "version": version,
            "optimizer": {"target": nest(target), "state": {"step": np.int32(step), "param_states": nest(states)}},
        }
        edit(contents)
        (path / "checkpoint").write_bytes(flax.serialization.msgpack_serialize(contents))
        return path

    return write_t5x
