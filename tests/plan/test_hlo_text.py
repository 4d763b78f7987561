"""The text of HLO modules: shapes, operations, source lines."""

import pytest

from xtr.plan.hlo_text import parse, parse_shape, source, stack_lines

MODULE = r"""HloModule jit_f, is_scheduled=true, entry_computation_layout={(f32[8]{0})->f32[8]{0}}, num_partitions=4
FileNames
1 "/home/u/site-packages/xtr/models/layers.py"
2 "/home/u/site-packages/xtr/parallel/sharding.py"
3 "/home/u/run.py"

FunctionNames
1 "Dense.__call__"
2 "constrain"
3 "<module>"

FileLocations
1 {file_name_id=1 function_name_id=1 line=172 end_line=172 column=4 end_column=9}
2 {file_name_id=2 function_name_id=2 line=160 end_line=160 column=4 end_column=9}
3 {file_name_id=3 function_name_id=3 line=7 end_line=7 column=0 end_column=9}

StackFrames
1 {file_location_id=3 parent_frame_id=1}
2 {file_location_id=1 parent_frame_id=2}
3 {file_location_id=2 parent_frame_id=3}

%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %negate.1 = f32[8]{0} negate(%p), metadata={op_name="jit(f)/neg[a=(1, \"x\")]" stack_frame_id=2}
}

ENTRY %main.3 (x: f32[8]) -> (f32[8], s32[]) {
  %x = f32[8]{0:T(256)S(1)} parameter(0)
  %one = s32[]{:T(128)} constant(1)
  %fusion.1 = f32[8]{0:T(256)} fusion(%x), calls=%fused, backend_config={"window_config":{"cycles":"123"},"a":"\"}\""}
  ROOT %tuple.1 = (f32[8]{0:T(256)}, /*index=1*/s32[]{:T(128)}) tuple(%fusion.1, %one), metadata={stack_frame_id=3}
}
"""


def test_a_module():
    module = parse(MODULE)
    assert (module.entry, module.devices, list(module.computations)) == ("main.3", 4, ["fused", "main.3"])
    ops = module.computations["main.3"]
    assert list(ops) == ["x", "one", "fusion.1", "tuple.1"]
    fusion, root = ops["fusion.1"], module.root("main.3")
    assert (fusion.opcode, fusion.operands, fusion.calls) == ("fusion", ("x",), ("fused",))
    assert fusion.backend_config["window_config"] == {"cycles": "123"}
    assert ops["one"].literal == "1" and ops["x"].shape[0].space == 1
    assert (root.name, root.operands, [a.dtype for a in root.shape]) == ("tuple.1", ("fusion.1", "one"), ["f32", "s32"])


def test_lines_of_source():
    """The innermost first; the file from the package on; a line that only states a sharding is not the one named."""
    module = parse(MODULE)
    inner = stack_lines(module, module.root("fused"))
    assert inner == ("xtr/models/layers.py:172", "run.py:7") and source(inner) == "xtr/models/layers.py:172"
    outer = stack_lines(module, module.root("main.3"))
    assert outer[0] == "xtr/parallel/sharding.py:160" and source(outer) == "xtr/models/layers.py:172"
    assert stack_lines(module, module.computations["main.3"]["fusion.1"]) == () and source(()) == ""
    assert module.root("fused").op_name == r"jit(f)/neg[a=(1, \"x\")]"


@pytest.mark.parametrize(
    ("text", "plain", "padded", "space"),
    [
        ("f32[4,256]{1,0:T(8,128)}", 4096, 8192, 0),
        ("f32[4,256]{0,1:T(8,128)}", 4096, 256 * 128 * 4, 0),  # the order says which dimensions the tile pads
        ("bf16[2,128,128]{2,1,0:T(8,128)(2,1)S(1)}", 65536, 65536, 1),
        ("f32[3,2,128,1]{2,1,3,0:T(2,128)}", 3072, 3072, 0),
        ("s32[]{:T(128)}", 4, 4, 0),
        ("bf16[100]{0:T(256)(128)(2,1)}", 200, 512, 0),
        ("pred[3,5]", 15, 15, 0),
        ("s4[7]{0}", 4, 4, 0),
        ("f8e4m3fn[16]{0}", 16, 16, 0),
    ],
)
def test_bytes_of_a_shape(text, plain, padded, space):
    (array,) = parse_shape(text)
    assert (array.bytes, array.padded_bytes, array.space) == (plain, padded, space)


def test_text_that_is_no_module():
    with pytest.raises(ValueError, match="no HLO module"):
        parse("module @jit_f {")
