import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtr.data.records import feature_lengths, parse_example, serialize_example

_INT64 = st.integers(-(2**63), 2**63 - 1)


@given(
    st.dictionaries(
        st.text(max_size=8),
        st.one_of(
            st.lists(_INT64, max_size=20).map(lambda v: np.array(v, np.int64)),
            st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=9).map(
                lambda v: np.array(v, np.float32)
            ),
            st.binary(max_size=20),
            st.lists(st.binary(max_size=5), min_size=2, max_size=4),
        ),
        max_size=5,
    )
)
def test_round_trip(example):
    found = parse_example(serialize_example(example))
    assert found.keys() == example.keys()
    for name, value in example.items():
        if isinstance(value, np.ndarray):
            assert found[name].dtype == value.dtype
            np.testing.assert_array_equal(found[name], value)
        else:
            assert found[name] == value


def test_selected_features_and_lengths():
    record = serialize_example({"inputs": [5, 6, 1], "empty": np.zeros(0, np.int64), "text": "ä", "one": 3})
    assert parse_example(record, ["text", "absent"]) == {"text": "ä".encode()}
    assert feature_lengths(record, ["inputs", "empty", "absent", "one"]) == ([3, 0, -1, 1], [1, -1, -1, 3])
    assert serialize_example({"b": 1, "a": 2}) == serialize_example({"a": 2, "b": 1})


def test_unusable_values_and_bytes():
    with pytest.raises(ValueError, match="inputs"):
        serialize_example({"inputs": np.zeros((2, 2))})
    with pytest.raises(ValueError, match=r"not a tf\.train\.Example"):
        parse_example(b"\xff\xff\xff")


@pytest.mark.slow
def test_tensorflow_writes_the_same_bytes():
    """In a process of its own, since this one stays free of TensorFlow."""
    code = """
import numpy as np, tensorflow as tf
from xtr.data.records import parse_example, serialize_example
values = {"ids": tf.train.Feature(int64_list=tf.train.Int64List(value=[1, -2, 2**40])),
          "none": tf.train.Feature(int64_list=tf.train.Int64List()),
          "text": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"x"])),
          "score": tf.train.Feature(float_list=tf.train.FloatList(value=[0.5, 2]))}
record = tf.train.Example(features=tf.train.Features(feature=values)).SerializeToString(deterministic=True)
ours = parse_example(record)
assert ours["ids"].tolist() == [1, -2, 2**40] and ours["none"].size == 0
assert ours["text"] == b"x" and ours["score"].tolist() == [0.5, 2]
assert serialize_example(ours) == record
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
