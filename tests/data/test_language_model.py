"""Next tokens and masked tokens: every token is learnt as it should be, packed or not, and none is lost."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtr.data.denoising import SpanCorruption
from xtr.data.language_model import MaskedSource, PromptSource, TextSource, build_batch, causal_source, mask_tokens
from xtr.data.pipeline import TrainData, data_fingerprint, train_batches
from xtr.data.vocabulary import read_vocabulary
from xtr.data.windows import WindowStream
from xtr.errors import UserError

RNG = np.random.default_rng(0)
PAIRS = [
    {"inputs": RNG.integers(5, 90, n).astype(np.int32), "targets": RNG.integers(5, 90, t).astype(np.int32)}
    for n, t in zip(RNG.integers(1, 20, 40), RNG.integers(1, 9, 40), strict=True)
]
EOS = 2
TEXTS = [{"targets": np.append(RNG.integers(300, 340, n), EOS).astype(np.int32)} for n in (0, 1, 30, 31, 7, 64, 12)]


@pytest.fixture(scope="module")
def pairs_task(shared_task_writer):
    return shared_task_writer("lm_pairs", {"train": PAIRS})


@pytest.fixture(scope="module")
def text_task(shared_task_writer):
    return shared_task_writer("lm_text", {"train": TEXTS})


@pytest.fixture(scope="module")
def xlmr(small_vocabularies):
    return read_vocabulary(small_vocabularies["xlmr"])


def all_of(source, occurrence=0):
    numbers = np.arange(len(source))
    examples = [tokens for tokens, other in source.read(numbers, numbers + occurrence) if not len(other)]
    kept, cut = source.lengths(numbers)
    assert kept.tolist() == [[len(e) for e in examples], [0] * len(examples)]
    return examples, cut


def test_prompts_are_read_and_targets_are_learnt(pairs_task):
    examples, cut = all_of(causal_source(pairs_task, "train", 20, 9))
    assert not cut.any()
    for example, pair in zip(examples, PAIRS, strict=True):
        whole = np.concatenate([pair["inputs"], pair["targets"]])
        np.testing.assert_array_equal(example[:, 0], whole[:-1])
        np.testing.assert_array_equal(example[:, 1], whole[1:])
        np.testing.assert_array_equal(example[example[:, 2] == 1, 1], pair["targets"])


def test_a_long_prompt_keeps_its_end_and_what_is_cut_is_counted(pairs_task):
    source = PromptSource(pairs_task, "train", 6, 3)
    examples, cut = all_of(source)
    for i, (example, pair) in enumerate(zip(examples, PAIRS, strict=True)):
        inputs, targets = pair["inputs"][-6:], pair["targets"][:3]
        np.testing.assert_array_equal(np.append(example[:, 0], example[-1:, 1]), np.concatenate([inputs, targets]))
        assert cut[0, i] == len(pair["inputs"]) + len(pair["targets"]) - len(inputs) - len(targets)


def test_plain_text_is_learnt_once_and_whole(text_task):
    source = causal_source(text_task, "train", 6, 4)
    assert isinstance(source, TextSource) and source.empty == 1
    examples, _ = all_of(source)
    assert max(map(len, examples)) == 10 and min(map(len, examples)) >= 1
    learnt = np.concatenate([e[:, 1] for e in examples])
    np.testing.assert_array_equal(learnt, np.concatenate([t["targets"][1:] for t in TEXTS]))
    np.testing.assert_array_equal(
        np.concatenate([e[:, 0] for e in examples]), np.concatenate([t["targets"][:-1] for t in TEXTS])
    )
    assert all((e[:, 2] == 1).all() for e in examples)


def test_packed_rows_hold_each_example_as_it_is(pairs_task):
    source = PromptSource(pairs_task, "train", 20, 9)
    stream = WindowStream(["t"], [source], [1.0], (29, 1), size=64, seed=0, packed=True, epochs=1)
    window = stream.window(0)
    rows = stream.read_rows(window, range(len(window.rows)))
    batch = build_batch([*rows, []], 29, 3, "decoder")
    assert set(batch) == {
        f"decoder_{name}" for name in ("input_tokens", "target_tokens", "loss_weights", "segment_ids", "positions")
    }
    assert all(x.dtype == np.int32 and x.shape == (len(rows) + 1, 29) for x in batch.values())
    found = []
    for tokens, targets, weights, segments, positions in zip(
        *(batch[f"decoder_{n}"] for n in ("input_tokens", "target_tokens", "loss_weights", "segment_ids", "positions")),
        strict=True,
    ):
        for segment in range(1, segments.max() + 1):
            here = segments == segment
            assert positions[here].tolist() == list(range(here.sum()))
            found.append(np.stack([tokens[here], targets[here], weights[here]], axis=1).tolist())
        padding = segments == 0
        assert (tokens[padding] == 3).all() and (targets[padding] == 3).all() and not weights[padding].any()
    expected, _ = all_of(source)
    assert sorted(found) == sorted(e.tolist() for e in expected)
    assert sum(map(len, found)) / (29 * len(rows)) > 0.85  # well filled


@given(st.integers(1, 400), st.floats(0.02, 0.9), st.integers(0, 2**32))
def test_masking(length, density, seed):
    tokens, ordinary = np.arange(1000, 1000 + length, dtype=np.int32), np.arange(10, 20)
    read, masked = mask_tokens(tokens, density, 7, ordinary, np.random.default_rng(seed))
    assert masked.sum() == max(1, round(length * density))
    np.testing.assert_array_equal(read[~masked], tokens[~masked])
    assert all(r == t or r == 7 or r in ordinary for r, t in zip(read, tokens, strict=True))


def test_of_the_masked_tokens_eight_in_ten_are_the_mask():
    tokens = np.arange(100_000, 200_000, dtype=np.int32)
    read, masked = mask_tokens(tokens, 0.15, 7, np.arange(10, 500), np.random.default_rng(0))
    shares = [(read[masked] == 7).mean(), (read[masked] == tokens[masked]).mean(), (read[masked] < 500).mean()]
    print("mask, kept, mask or random:", shares)
    np.testing.assert_allclose(shares, [0.8, 0.1, 0.9], atol=0.01)


def test_masked_texts(text_task, xlmr):
    source = MaskedSource(text_task, "train", 12, xlmr, 0.15, seed=1)
    assert source.empty == 1
    examples, _ = all_of(source)
    for example in examples:
        assert len(example) <= 12
        # <s> and </s> around, never masked; the targets are the text.
        assert example[0].tolist() == [0, 0, 0] and example[-1].tolist() == [2, 2, 0]
        assert example[:, 2].sum() == max(1, round((len(example) - 2) * 0.15))
        changed = example[:, 0] != example[:, 1]
        assert (example[changed, 2] == 1).all()
    text = np.concatenate([e[1:-1, 1] for e in examples])
    np.testing.assert_array_equal(text, np.concatenate([t["targets"][:-1] for t in TEXTS]))


def test_masks_differ_from_epoch_to_epoch_and_come_again_with_the_seed(text_task, xlmr):
    def masks(seed, occurrence):
        source = MaskedSource(text_task, "train", 66, xlmr, 0.3, seed)
        return np.concatenate([e[:, 2] for e in all_of(source, occurrence)[0]])

    np.testing.assert_array_equal(masks(0, 0), masks(0, 0))
    assert (masks(0, 0) != masks(0, 100)).any() and (masks(0, 0) != masks(1, 0)).any()


def test_refusals(pairs_task, text_task, xlmr, small_vocabularies):
    with pytest.raises(UserError, match="no mask token"):
        MaskedSource(text_task, "train", 12, read_vocabulary(small_vocabularies["bpe"]), 0.15, 0)
    with pytest.raises(UserError, match="no room for a text beside 2 special"):
        MaskedSource(text_task, "train", 2, xlmr, 0.15, 0)
    with pytest.raises(UserError, match="has no feature 'inputs'"):
        PromptSource(text_task, "train", 5, 5)


@pytest.fixture(scope="module")
def data(pairs_task, text_task, shared_task_writer, small_vocabularies, xlmr):
    """What to train on, by objective."""
    described = {"vocabulary": {"path": str(small_vocabularies["xlmr"]), "sha256": xlmr.sha256}}
    masked = shared_task_writer("lm_masked", {"train": TEXTS}, **described)
    return {
        "causal": TrainData((pairs_task,), {"inputs": 20, "targets": 9}, 4, objective="causal", pad_id=3),
        "mlm": TrainData((masked,), {"inputs": 40, "targets": 9}, 4, objective="mlm", pad_id=1),
    }


@pytest.mark.parametrize("objective", ["causal", "mlm"])
def test_the_training_input(data, objective):
    """Shapes, padding, statistics; another host count and a restart give the same batches."""
    spec = data[objective]
    batches = train_batches(spec)
    first, state, then = next(batches), batches.get_state(), [next(batches) for _ in range(6)]
    side = {"causal": "decoder", "mlm": "encoder"}[objective]
    assert all(name.startswith(side) for name in first)
    assert first[f"{side}_input_tokens"].shape == (4, 29 if objective == "causal" else 40)
    padding = first[f"{side}_segment_ids"] == 0
    assert (first[f"{side}_input_tokens"][padding] == spec.pad_id).all()
    stats = batches.stats()
    assert stats["rows"] == 28 and not any("decoder" in name for name in stats)
    resumed = train_batches(spec, start_state=state)
    halves = [train_batches(spec, p, 2, start_state=state) for p in range(2)]
    for batch in then:
        again, parts = next(resumed), [next(half) for half in halves]
        for name, array in batch.items():
            np.testing.assert_array_equal(again[name], array)
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), array)
    for iterator in (batches, resumed, *halves):
        iterator.close()


def test_masks_are_part_of_what_a_restart_compares(data):
    other = dataclasses.replace(data["mlm"], corruption=SpanCorruption(0.3))
    assert data_fingerprint(other) != data_fingerprint(data["mlm"])
