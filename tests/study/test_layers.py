import pandas as pd
import pytest

from xtr.study import simulate, transfer
from xtr.study.layers import by_layer

TARGETS = {"tatoeba": ("de", "sw"), "xnli": ("en", "de")}


@pytest.fixture(scope="module")
def study():
    design = simulate.Design((("m", 1000),), ("qa",), TARGETS, seeds=2, examples=40)
    made = simulate.simulate(design, [5.0], seed=0)
    return transfer.build(made.rows, made.load, TARGETS, resamples=100), made.rows


def with_layers(rows, offset):
    """Adds layers 0 to 4 of retrieval: `offset(intermediate, layer)` points beside the score itself."""
    own = rows[rows["target"] == "tatoeba"]
    layers = [
        own.assign(
            metric=f"accuracy/layer_{n}", value=own["value"] + own["intermediate"].map(lambda i, n=n: offset(i, n))
        )
        for n in range(5)
    ]
    return pd.concat([rows, *layers], ignore_index=True)


def test_the_layer_that_counts_is_the_one_with_the_scores_own_values(study):
    table, rows = study
    (found,) = by_layer(table, with_layers(rows, lambda name, layer: -3.0 * abs(layer - 2)))
    assert (found.model, found.target, found.metric, found.fixed) == ("m", "tatoeba", "accuracy", 2)
    (model,) = table.models
    assert found.gain("qa") == pytest.approx(table.cell(model, "qa", "tatoeba").gain.value)
    assert found.gain_of_best("qa") == pytest.approx(found.gain("qa"))
    assert found.curves["none"][0] == pytest.approx(found.curves["none"][2] - 6.0)


def test_a_gain_that_is_a_move_between_layers_shows(study):
    table, rows = study

    def moved(name, layer):
        return -4.0 * abs(layer - 2) if name == "qa" else -4.0 * abs(layer - 2) + (9.0 if layer == 4 else 0.0)

    (found,) = by_layer(table, with_layers(rows, moved))
    assert found.fixed == 2 and found.best("none") == 4 and found.best("qa") == 2
    assert found.gain_of_best("qa") == pytest.approx(found.gain("qa") - 1.0)


@pytest.mark.parametrize("offset", [lambda name, layer: 0.0, lambda name, layer: 1.0 + layer])
def test_where_no_single_layer_has_the_scores_none_is_said_to_count(study, offset):
    table, rows = study
    (found,) = by_layer(table, with_layers(rows, offset))
    assert found.fixed is None and found.gain("qa") is None


def test_without_layers_there_is_nothing(study):
    assert by_layer(*study) == []
