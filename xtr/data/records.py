"""tf.train.Example records without TensorFlow.

The message types are declared here and compiled by protobuf's C runtime: for records of this project's size that is
several times faster than reading the wire format in Python, NumPy included.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

_Field = descriptor_pb2.FieldDescriptorProto

Value = np.ndarray | bytes | list[bytes]


def _add_field(message, name, number, kind, *, label=_Field.LABEL_OPTIONAL, of="", oneof=None):
    field = message.field.add(name=name, number=number, type=kind, label=label)
    if of:
        field.type_name = f".xtr.{of}"
    if oneof is not None:
        field.oneof_index = oneof


def _example_class():
    """Builds the class of a message with the wire format of tensorflow/core/example/{example,feature}.proto.

    It lives in its own descriptor pool under its own package, so it cannot clash with TensorFlow's in one process.
    """
    file = descriptor_pb2.FileDescriptorProto(name="xtr_example.proto", package="xtr", syntax="proto3")
    lists = {"BytesList": _Field.TYPE_BYTES, "FloatList": _Field.TYPE_FLOAT, "Int64List": _Field.TYPE_INT64}
    for name, kind in lists.items():
        _add_field(file.message_type.add(name=name), "value", 1, kind, label=_Field.LABEL_REPEATED)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (field, of) in enumerate(
        [("bytes_list", "BytesList"), ("float_list", "FloatList"), ("int64_list", "Int64List")], start=1
    ):
        _add_field(feature, field, number, _Field.TYPE_MESSAGE, of=of, oneof=0)
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    _add_field(entry, "key", 1, _Field.TYPE_STRING)
    _add_field(entry, "value", 2, _Field.TYPE_MESSAGE, of="Feature")
    _add_field(features, "feature", 1, _Field.TYPE_MESSAGE, label=_Field.LABEL_REPEATED, of="Features.FeatureEntry")
    _add_field(file.message_type.add(name="Example"), "features", 1, _Field.TYPE_MESSAGE, of="Features")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("xtr.Example"))


_Example = _example_class()


def _value(feature) -> Value:
    kind = feature.WhichOneof("kind")
    if kind == "int64_list":
        return np.array(feature.int64_list.value, np.int64)
    if kind == "bytes_list":
        values = list(feature.bytes_list.value)
        return values[0] if len(values) == 1 else values
    if kind == "float_list":
        return np.array(feature.float_list.value, np.float32)
    return np.zeros(0, np.int64)


def parse_example(record: bytes, features: Collection[str] | None = None) -> dict[str, Value]:
    """Reads one serialised tf.train.Example.

    Args:
      record: the bytes.
      features: names to read; None reads all. A name the record lacks is left out.

    Returns:
      A dict from feature name to an int64 or float32 array [n], or bytes (one value), or a list of bytes (none or
      several values). A feature without a kind is an empty int64 array.

    Raises:
      ValueError: the bytes are not a tf.train.Example.
    """
    feature = _parse(record)
    names = feature if features is None else [name for name in features if name in feature]
    return {name: _value(feature[name]) for name in names}


def feature_lengths(record: bytes, features: Sequence[str]) -> tuple[list[int], list[int]]:
    """Length and last value of integer features, without making arrays: -1 and -1 where the record lacks the feature.

    An empty feature has length 0 and last value -1.

    Raises:
      ValueError: the bytes are not a tf.train.Example.
    """
    feature = _parse(record)
    lengths, last = [], []
    for name in features:
        values = feature[name].int64_list.value if name in feature else None
        lengths.append(-1 if values is None else len(values))
        last.append(values[-1] if values else -1)
    return lengths, last


def check_token_ids(record: bytes, sizes: Mapping[str, int]) -> None:
    """Checks that features of a record are lists of token ids.

    Args:
      sizes: feature -> size of its vocabulary. A feature that the record lacks, or that is empty, is right.

    Raises:
      ValueError: naming the feature and what it holds.
    """
    table = _parse(record)
    for name, size in sizes.items():
        if name not in table:
            continue
        feature = table[name]
        kind = feature.WhichOneof("kind")
        if kind is None:
            continue
        values = getattr(feature, kind).value
        if kind != "int64_list":
            if values:
                held = "text" if kind == "bytes_list" else "floats"
                raise ValueError(f"its feature {name!r} holds {held}, no token ids")
        elif values and not 0 <= min(values) <= max(values) < size:
            wrong = next(value for value in values if not 0 <= value < size)
            raise ValueError(f"its feature {name!r} holds {wrong}, and the vocabulary's ids are 0 to {size - 1}")


def _parse(record: bytes):
    try:
        return _Example.FromString(record).features.feature
    except DecodeError as e:
        raise ValueError(f"not a tf.train.Example: {e}") from e


def serialize_example(features: Mapping[str, object]) -> bytes:
    """Writes a tf.train.Example; the same features give the same bytes.

    Args:
      features: name to integers or floats (array or sequence), or str, bytes, or a list of str or bytes.

    Raises:
      ValueError: a value of another type.
    """
    example = _Example()
    table = example.features.feature
    for name, value in features.items():
        feature = table[name]
        if type(value) is list and value and type(value[0]) is int:  # token ids, by far the most
            feature.int64_list.value.extend(value)
            continue
        values = [value] if isinstance(value, str | bytes) else np.atleast_1d(value) if np.isscalar(value) else value
        if len(values) and isinstance(values[0], str | bytes):
            feature.bytes_list.value.extend(v.encode() if isinstance(v, str) else v for v in values)
            continue
        array = np.asarray(values)
        if array.ndim != 1 or array.dtype.kind not in "iufb":
            raise ValueError(f"feature {name!r}: cannot store {array.dtype} of shape {array.shape}")
        if array.dtype.kind == "f" and array.size:
            feature.float_list.value.extend(array.astype(np.float32).tolist())
        else:
            feature.int64_list.SetInParent()
            feature.int64_list.value.extend(array.astype(np.int64).tolist())
    return example.SerializeToString(deterministic=True)
