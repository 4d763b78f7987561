"""What one operation of an HLO module costs: floating-point operations of its products, bytes of main memory.

Only products (dot and convolution) are counted as floating-point operations: 2 for each multiply-add of two elements
that exist, which of a convolution is XLA's own count (`HloCostAnalysis`): taps that fall on padding or between dilated
elements are none. TPU compilers write every dot as such a convolution. Hand-written kernels count what they declare.
"""

import functools
import math
import re

import numpy as np

from xtr.plan.hlo_text import Array, Module, Op, users

HBM = 0

# They move nothing: names for what lies in memory already, and control.
FREE = frozenset(
    (
        "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call",
        "after-all", "partition-id", "replica-id", "optimization-barrier", "add-dependency", "domain", "opt-barrier",
        "async-start", "async-update", "async-done", "copy-done", "send-done", "recv-done", "all-gather-done",
        "all-reduce-done", "collective-permute-done", "reduce-scatter-done", "all-to-all-done", "get-dimension-size",
        "call-start", "call-done", "iota-token", "rng-get-and-update-state",
    )
)  # fmt: skip
# Custom calls that are programs of their own: Pallas on TPU and GPU, libraries.
KERNELS = frozenset(("tpu_custom_call", "__gpu$xla.gpu.triton", "mosaic_gpu", "__cublas$gemm", "__cudnn$fmhaSoftmax"))
_FREE_TARGETS = frozenset(("AllocateBuffer", "AsyncCollectiveDone", "AssumeGatherIndicesInBound", "Sharding"))


def _dims(text: str) -> list[int]:
    return [int(n) for n in text.strip("{}").split(",") if n.strip()]


def _window(op: Op) -> dict[str, list]:
    """The window's fields, one entry a spatial dimension: size, stride, pad, lhs_dilate, rhs_dilate, rhs_reversal."""
    fields = {}
    for name, value in re.findall(r"(\w+)=([^ }]+)", op.attribute("window")):
        fields[name] = value.split("x")
    return fields


@functools.lru_cache(maxsize=4096)
def _valid_taps(out: int, size: int, stride: int, low: int, lhs_dilate: int, rhs_dilate: int, extent: int) -> int:
    """How many pairs (output position, kernel tap) of one dimension meet an element of the input."""
    at = np.arange(out)[:, None] * stride + np.arange(size)[None] * rhs_dilate - low
    return int(np.sum((at >= 0) & (at < (extent - 1) * lhs_dilate + 1) & (at % lhs_dilate == 0)))


def _convolution(op: Op, lhs: Array, rhs: Array) -> float:
    lhs_labels, rhs_labels, out_labels = re.match(r"(\w+)_(\w+)->(\w+)", op.attribute("dim_labels")).groups()
    window, out = _window(op), op.shape[0]
    feature_groups = int(op.attribute("feature_group_count") or 1)
    batch_groups = int(op.attribute("batch_group_count") or 1)
    taps = 1
    for i, label in enumerate(sorted(c for c in out_labels if c.isdigit())):

        def field(name, default, i=i):
            return int(window[name][i]) if name in window else default

        low = int(window["pad"][i].split("_")[0]) if "pad" in window else 0
        taps *= _valid_taps(
            out.dims[out_labels.index(label)],
            field("size", 1),
            field("stride", 1),
            low,
            field("lhs_dilate", 1),
            field("rhs_dilate", 1),
            lhs.dims[lhs_labels.index(label)],
        )
    batch, features = lhs.dims[lhs_labels.index("b")], lhs.dims[lhs_labels.index("f")]
    out_features = rhs.dims[rhs_labels.index("o")]
    return 2.0 * (features // feature_groups) * out_features * (batch // batch_groups) * taps


def product_flops(op: Op, computation: dict[str, Op]) -> float:
    """Floating-point operations of a dot or a convolution, 2 a multiply-add, or those that a kernel declares
    (`pl.CostEstimate`); 0 of any other operation."""
    if op.opcode == "custom-call" and op.target in KERNELS:
        declared = op.backend_config.get("custom_call_config", {}).get("cost_estimate", {})
        return float(declared.get("flops", 0))
    if op.opcode not in ("dot", "convolution"):
        return 0.0
    lhs, rhs = (computation[name].shape[0] for name in op.operands[:2])
    if op.opcode == "dot":
        return 2.0 * op.shape[0].size * math.prod(lhs.dims[i] for i in _dims(op.attribute("lhs_contracting_dims")))
    return _convolution(op, lhs, rhs)


# ---------------------------------------------------------------------------------------------------------------------
# Bytes of main memory
# ---------------------------------------------------------------------------------------------------------------------


def _in_hbm(arrays: tuple[Array, ...]) -> float:
    return sum(a.padded_bytes for a in arrays if a.space == HBM)


def continues(op: Op) -> bool:
    """Whether this is a later part of an asynchronous collective, which a TPU's compiler repeats in every fusion that
    runs meanwhile."""
    config = op.backend_config.get("async_collective_fusion_config", {})
    return config.get("flag_start", "-1") != "-1"


def _sliced(op: Op) -> bool:
    return op.opcode in ("dynamic-slice", "slice", "gather")


def _reads(module: Module, name: str, computation: str) -> float:
    """Bytes that a fused computation reads of its parameter `name`: the whole, or the slices that alone it uses."""
    ops = module.computations[computation]
    whole, total = float(sum(a.padded_bytes for a in ops[name].shape)), 0.0
    pending, found = [name], users(ops)
    while pending:
        current = pending.pop()
        for user in found[current]:
            if _sliced(user) and user.operands[0] == current:
                total += sum(a.padded_bytes for a in user.shape)
            elif user.opcode in ("dynamic-update-slice", "scatter") and user.operands[0] == current:
                continue  # in place: what is not written is not touched
            elif (user.opcode in ("tuple", "custom-call") and user.root) or continues(user):
                continue  # passed on
            elif user.opcode == "bitcast":
                pending.append(user.name)
            elif user.opcode == "fusion":
                inner = user.calls[0]
                for place, operand in enumerate(user.operands):
                    if operand == current:
                        total += _reads(module, _parameter(module, inner, place), inner)
            else:
                return whole
            if total >= whole:
                return whole
    return total


def _parameter(module: Module, computation: str, place: int) -> str:
    """The name of a computation's parameter number `place`."""
    for op in module.computations[computation].values():
        if op.opcode == "parameter" and op.literal == str(place):
            return op.name
    raise KeyError(f"{computation} has no parameter {place}")


def _writes(module: Module, computation: str, name: str) -> float:
    """Bytes that a fused computation writes for its result `name`: an updated slice alone where it is in place."""
    ops = module.computations[computation]
    op = ops[name]
    while op.opcode in ("bitcast", "convert", "copy") and op.operands:
        op = ops[op.operands[0]]
    if op.opcode == "tuple":
        return sum(_writes(module, computation, operand) for operand in op.operands)
    if op.opcode == "parameter" or continues(op):
        return 0.0
    if op.opcode == "dynamic-update-slice":
        return float(sum(a.padded_bytes for a in ops[op.operands[1]].shape))
    if op.opcode == "scatter":
        return 2.0 * sum(a.padded_bytes for a in ops[op.operands[2]].shape)  # read, added to, written
    if op.opcode == "fusion":
        return _writes(module, op.calls[0], module.root(op.calls[0]).name)
    return float(sum(a.padded_bytes for a in ops[name].shape))


def _fusion_bytes(module: Module, op: Op, computation: dict[str, Op]) -> float:
    called = op.calls[0]
    total = 0.0
    for place, operand in enumerate(op.operands):
        arrays = computation[operand].shape
        if len(arrays) == 1 and arrays[0].space == HBM:
            total += _reads(module, _parameter(module, called, place), called)
        elif len(arrays) > 1:
            total += _in_hbm(arrays)
    root = module.root(called)
    outputs = root.operands if root.opcode == "tuple" else (root.name,)
    if root.target == "AsyncCollectiveStart":
        return total + _in_hbm(op.shape[1:2])  # operand, result, flags
    if root.target == "AsyncCollectiveDone":
        return total
    if len(outputs) != len(op.shape):
        return total + _in_hbm(op.shape)
    return total + sum(
        _writes(module, called, name) for name, array in zip(outputs, op.shape, strict=True) if array.space == HBM
    )


def memory_bytes(module: Module, op: Op, computation: dict[str, Op]) -> float:
    """Bytes that one execution of a top-level operation reads from and writes to main memory.

    Arrays in other memory spaces do not count. Of an operand that is only sliced, the slices count, of one that is
    updated in place, the update twice (it is read where it comes from and written). Padding of tiles counts.
    """
    if op.opcode in FREE or (op.opcode == "custom-call" and op.target in _FREE_TARGETS):
        return 0.0
    if op.opcode == "fusion":
        return _fusion_bytes(module, op, computation)
    operands = [computation[name].shape for name in op.operands if name in computation]
    if op.opcode == "send":
        return _in_hbm(operands[0])
    if op.opcode == "recv":
        return _in_hbm(op.shape[:1])
    if op.opcode == "copy-start":
        return _in_hbm(op.shape[:2])  # destination and source
    if op.opcode.endswith("-start"):
        return _in_hbm(op.shape)  # its operands and its results
    if _sliced(op):
        out = _in_hbm(op.shape)
        source = sum(a.padded_bytes for a in op.shape) if operands[0][0].space == HBM else 0
        return out + source
    if op.opcode == "dynamic-update-slice":
        update = operands[1][0]
        return (update.padded_bytes if update.space == HBM else 0) + (
            update.padded_bytes if op.shape[0].space == HBM else 0
        )
    if op.opcode == "scatter":
        updates = operands[2][0].padded_bytes
        return _in_hbm(operands[1]) + _in_hbm(operands[2]) + (2 * updates if op.shape[0].space == HBM else 0)
    if op.opcode in ("broadcast", "iota", "rng-bit-generator"):
        return _in_hbm(op.shape)
    return sum(map(_in_hbm, operands)) + _in_hbm(op.shape)
