"""TensorBoard event files without TensorFlow: scalars, text, images, hyperparameters, chart layouts.

Only TensorBoard's own protocol buffers and record format are used, so that a process that writes results need not
start TensorFlow. Every summary says its plugin and data class; TensorBoard's data server ignores those that do not.
"""

import os
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2, types_pb2
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as layout_metadata
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2, summary_v2
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.plugins.scalar import metadata as scalar_metadata
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.summary.writer.record_writer import RecordWriter

from xtr.errors import DataError

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


class SummaryWriter:
    """Writes one event file into `logdir`, the folder of one TensorBoard run. Use as a context manager.

    Attributes:
      path: the event file.
    """

    def __init__(self, logdir: str | os.PathLike, suffix: str = ""):
        directory = Path(logdir)
        directory.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns() // 1000}.{socket.gethostname()}.{os.getpid()}{suffix}"
        self.path = directory / name
        self._file = open(self.path, "xb")  # noqa: SIM115 - closed by close()
        self._records = RecordWriter(self._file)
        self._add(event_pb2.Event(file_version="brain.Event:2"))

    def __enter__(self) -> "SummaryWriter":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Flushes and closes the file."""
        self._records.close()

    def _add(self, event: event_pb2.Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
        self._records.flush()  # a TensorBoard that is open shows it at once

    def _add_summary(self, summary: summary_pb2.Summary, step: int = 0) -> None:
        self._add(event_pb2.Event(step=step, summary=summary))

    def _add_tensor(self, tag, tensor, metadata, data_class, step) -> None:
        metadata.data_class = data_class
        value = summary_pb2.Summary.Value(tag=tag, tensor=tensor, metadata=metadata)
        self._add_summary(summary_pb2.Summary(value=[value]), step)

    def scalar(self, tag: str, value: float, step: int) -> None:
        """Adds one point of a curve."""
        tensor = tensor_pb2.TensorProto(
            dtype=types_pb2.DT_FLOAT, float_val=[float(value)], tensor_shape=tensor_shape_pb2.TensorShapeProto()
        )
        metadata = scalar_metadata.create_summary_metadata(display_name=None, description=None)
        self._add_tensor(tag, tensor, metadata, summary_pb2.DATA_CLASS_SCALAR, step)

    def text(self, tag: str, markdown: str, step: int = 0) -> None:
        """Adds Markdown text; tables are shown as tables."""
        metadata = text_metadata.create_summary_metadata(display_name=None, description=None)
        self._add_tensor(tag, _strings([markdown.encode()], scalar=True), metadata, summary_pb2.DATA_CLASS_TENSOR, step)

    def image(self, tag: str, png: bytes, step: int = 0) -> None:
        """Adds a PNG image.

        Raises:
          DataError: `png` is not a PNG file.
        """
        if not png.startswith(_PNG_MAGIC) or len(png) < 24:
            raise DataError(f"image {tag}: not a PNG file")
        width, height = struct.unpack(">II", png[16:24])  # the IHDR chunk always comes first
        metadata = image_metadata.create_summary_metadata(display_name=None, description=None)
        tensor = _strings([str(width).encode(), str(height).encode(), png])
        self._add_tensor(tag, tensor, metadata, summary_pb2.DATA_CLASS_BLOB_SEQUENCE, step)

    def hparams_config(self, hparams: Mapping[str, Sequence | None], metrics: Mapping[str, str]) -> None:
        """Declares the columns of the HParams table. Belongs into the log directory's top folder.

        Args:
          hparams: column -> its values (all strings or all numbers), or None for any number.
          metrics: scalar tag -> name to show.
        """
        columns = [
            summary_v2.HParam(
                name, summary_v2.RealInterval(0.0, 1e15) if values is None else summary_v2.Discrete(sorted(set(values)))
            )
            for name, values in hparams.items()
        ]
        shown = [summary_v2.Metric(tag, display_name=name) for tag, name in metrics.items()]
        self._add_summary(summary_v2.hparams_config_pb(columns, shown))

    def hparams(self, hparams: Mapping[str, str | int | float | bool], trial_id: str) -> None:
        """Makes this run a session of the HParams table.

        Sessions with one `trial_id` and the same hyperparameters (the seeds of one setting: so the seed is none of
        them) are one line of the table, which shows their means.
        """
        self._add_summary(summary_v2.hparams_pb(dict(hparams), trial_id=trial_id))
        end = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=time.time())
        content = plugin_data_pb2.HParamsPluginData(session_end_info=end)
        metadata = hparams_metadata.create_summary_metadata(content)
        value = summary_pb2.Summary.Value(
            tag=hparams_metadata.SESSION_END_INFO_TAG, metadata=metadata, tensor=hparams_metadata.NULL_TENSOR
        )
        self._add_summary(summary_pb2.Summary(value=[value]))

    def layout(self, categories: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        """Lays out the Custom Scalars page: category -> chart title -> regular expressions of the tags it draws."""
        layout = layout_pb2.Layout(
            category=[
                layout_pb2.Category(
                    title=category,
                    chart=[
                        layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=list(tags)))
                        for title, tags in charts.items()
                    ],
                )
                for category, charts in categories.items()
            ]
        )
        metadata = layout_metadata.create_summary_metadata()
        tensor = _strings([layout.SerializeToString()], scalar=True)
        tag = layout_metadata.CONFIG_SUMMARY_TAG
        self._add_tensor(tag, tensor, metadata, summary_pb2.DATA_CLASS_TENSOR, 0)


def _strings(values: Sequence[bytes], scalar: bool = False) -> tensor_pb2.TensorProto:
    shape = tensor_shape_pb2.TensorShapeProto()
    if not scalar:
        shape.dim.add(size=len(values))
    return tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=list(values), tensor_shape=shape)


# What Markdown would take for markup.
_MARKUP = str.maketrans(
    {"\\": "\\\\", "|": "\\|", "*": "\\*", "_": "\\_", "[": "\\[", "`": "&#96;", "<": "&lt;", "&": "&amp;", "\n": " "}
)


def escape_markdown(text: object) -> str:
    """A text as Markdown shows it, line breaks as spaces."""
    return str(text).translate(_MARKUP)


def markdown_table(header: Sequence[object], lines: Sequence[Sequence[object]]) -> str:
    """A Markdown table that shows its cells' texts as they are, line breaks as spaces."""

    def line(cells) -> str:
        return "| " + " | ".join(map(escape_markdown, cells)) + " |"

    return "\n".join([line(header), "|" + " --- |" * len(header), *map(line, lines)])
