"""The event files' content; tests/study/test_export.py has a real TensorBoard server read them."""

import html
import re
import struct
import subprocess
import sys
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugin_util import markdown_to_safe_html

from xtr.errors import DataError
from xtr.tensorboard import SummaryWriter, markdown_table


def read(path):
    """The events of a file in TFRecord framing: length, its checksum, data, its checksum."""
    data, at, events = path.read_bytes(), 0, []
    while at < len(data):
        (length,) = struct.unpack("<Q", data[at : at + 8])
        events.append(event_pb2.Event.FromString(data[at + 12 : at + 12 + length]))
        at += length + 16
    return events


def png(width, height):
    buffer = BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def test_every_summary_says_its_plugin_and_class(tmp_path):
    with SummaryWriter(tmp_path / "new" / "run", ".x") as writer:
        writer.scalar("loss", 0.5, 7)
        assert len(read(writer.path)) == 2  # readable while it is being written
        writer.text("note", "*hello*")
        writer.image("picture", png(7, 5), 3)
        writer.layout({"group": {"chart": ["loss.*"]}})
    first, scalar, text, image, layout = read(writer.path)
    assert writer.path.name.endswith(".x") and first.file_version == "brain.Event:2"
    assert scalar.step == 7 and scalar.wall_time > 0 and image.step == 3
    values = [event.summary.value[0] for event in (scalar, text, image, layout)]
    plugins = [value.metadata.plugin_data.plugin_name for value in values]
    assert plugins == ["scalars", "text", "images", "custom_scalars"]
    assert [value.metadata.data_class for value in values] == [
        summary_pb2.DATA_CLASS_SCALAR,
        summary_pb2.DATA_CLASS_TENSOR,
        summary_pb2.DATA_CLASS_BLOB_SEQUENCE,
        summary_pb2.DATA_CLASS_TENSOR,
    ]
    assert values[0].tensor.float_val == [0.5]
    assert list(values[1].tensor.string_val) == [b"*hello*"]
    assert list(values[2].tensor.string_val) == [b"7", b"5", png(7, 5)]


def test_two_writers_of_one_run_do_not_share_a_file(tmp_path):
    with SummaryWriter(tmp_path) as one, SummaryWriter(tmp_path) as two:
        assert one.path != two.path


def test_writing_starts_no_tensorflow(tmp_path):
    code = (
        "import sys; from xtr.tensorboard import SummaryWriter\n"
        f"with SummaryWriter({str(tmp_path)!r}) as w:\n"
        "    w.scalar('a', 1.0, 1); w.text('b', 'c'); w.hparams({'d': 1}, 'e')\n"
        "assert not {'tensorflow', 'jax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_wrong_images_are_refused(tmp_path):
    with SummaryWriter(tmp_path) as writer, pytest.raises(DataError, match="not a PNG"):
        writer.image("x", b"GIF89a")


def test_markdown_table():
    assert markdown_table(["a", "b"], [["x|y\nz", 1]]) == "| a | b |\n| --- | --- |\n| x\\|y z | 1 |"


@given(
    st.lists(st.text(alphabet=st.sampled_from("ab \\|*_[]()`<>&#~!-+.{}$1é\n"), min_size=1, max_size=12), min_size=1)
)
def test_cells_are_shown_as_they_are(texts):
    shown = markdown_to_safe_html(markdown_table(["t"], [[f"<{text}>"] for text in texts]))
    cells = re.findall(r"<td>(.*?)</td>", shown, re.DOTALL)
    assert [html.unescape(cell) for cell in cells] == [f"<{text}>".replace("\n", " ") for text in texts]
