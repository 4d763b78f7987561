"""Learning rates by hand."""

import math

import pytest

from xtr.errors import UserError
from xtr.train.schedules import ScheduleConfig, learning_rate


def rates(steps, **settings):
    return [learning_rate(ScheduleConfig(**settings), step) for step in steps]


def test_constant_is_the_default():
    assert rates([0, 10**6]) == [1e-3, 1e-3]


def test_pretraining_schedule():
    got = rates([0, 10_000, 40_000], factors="constant * rsqrt_decay", base_learning_rate=1.0, warmup_steps=10_000)
    assert got == pytest.approx([0.01, 0.01, 0.005])


def test_warmup_and_normalized_decay():
    got = rates(
        [0, 50, 100, 400],
        factors="constant*linear_warmup * rsqrt_normalized_decay",
        base_learning_rate=2.0,
        warmup_steps=100,
    )
    assert got == pytest.approx([1e-8, 1.0, 2.0, 1.0])  # 0 is lifted to the least rate


def test_linear_decay_rises_and_falls():
    got = rates([5, 10, 15, 25], factors="linear_decay", base_learning_rate=1.0, warmup_steps=10, decay_factor=0.1)
    assert got == pytest.approx([0.5, 1.0, 0.5, 1e-8])


def test_decay_every():
    got = rates([0, 9, 10, 25], factors="constant * decay_every", base_learning_rate=1.0, steps_per_decay=10)
    assert got == pytest.approx([1.0, 1.0, 0.5, 0.25])


def test_cosine_decay_is_cyclic():
    got = rates(
        [0, 10, 35, 60, 110],
        factors="constant * cosine_decay",
        base_learning_rate=1.0,
        warmup_steps=10,
        steps_per_cycle=100,
    )
    assert got == pytest.approx([1.0, 1.0, 0.5 * (1 + math.cos(math.pi / 4)), 0.5, 1.0])


def test_offset_shifts_the_step():
    assert rates([5, 7], factors="linear_warmup", warmup_steps=4, step_offset=5) == pytest.approx([1e-8, 0.5])


def test_an_unknown_factor_is_named():
    with pytest.raises(UserError, match="'rsqrt_deacy'.*Did you mean rsqrt_decay"):
        ScheduleConfig(factors="constant * rsqrt_deacy")


@pytest.mark.parametrize("name", ["warmup_steps", "steps_per_decay", "steps_per_cycle"])
def test_counts_are_positive(name):
    with pytest.raises(UserError, match=name):
        ScheduleConfig(**{name: 0})


def test_linear_to_zero_behind_a_warmup():
    config = ScheduleConfig("constant * linear_warmup * linear_to_zero", 3e-5, warmup_steps=100, total_steps=1100)
    rates = [learning_rate(config, step) for step in (0, 50, 100, 600, 1099, 1100, 2000)]
    assert rates == pytest.approx([1e-8, 1.5e-5, 3e-5, 1.5e-5, 3e-8, 1e-8, 1e-8])


@pytest.mark.parametrize("total", [None, 100])
def test_linear_to_zero_needs_an_end_behind_the_warmup(total):
    with pytest.raises(UserError, match="total_steps"):
        ScheduleConfig("linear_to_zero", warmup_steps=100, total_steps=total)
