"""Shapes of the batches that an objective is trained on; no data are needed for them.

Axes: B rows, S input length, T target length, C choices.
"""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from xtr.parallel.sharding import batch_sharding, check_rows
from xtr.train.run import TrainRun

CHOICES = 4  # of a multiple-choice example; the data decide, and most have two to five
_TEXT = ("input_tokens", "segment_ids", "positions", "token_types")
_MODELLED = ("input_tokens", "target_tokens", "loss_weights", "segment_ids", "positions")


def shapes(run: TrainRun) -> dict[str, tuple[int, ...]]:
    """The shape of each feature of a global batch of a run's objective, all int32."""
    rows, length = run.batch_size, run.task_feature_lengths["inputs"]
    targets = run.task_feature_lengths.get("targets", 0)

    def side(name: str, features: tuple[str, ...], *shape: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}_{feature}": (rows, *shape) for feature in features}

    labels = {"labels": (rows,)}
    match run.loss:
        case "seq2seq":
            inputs = side("encoder", _TEXT[:3], length)
            return inputs | side("decoder", _MODELLED, targets)
        case "causal":
            return side("decoder", _MODELLED, length + targets)
        case "mlm":
            return side("encoder", _MODELLED, length)
        case "classify":
            return side("encoder", _TEXT, length) | labels
        case "choose":
            return side("encoder", _TEXT, CHOICES, length) | labels
        case "tag":
            return side("encoder", (*_TEXT, "target_tokens", "loss_weights"), length)
        case "span":
            return side("encoder", _TEXT, length) | {"start_positions": (rows,), "end_positions": (rows,)}
        case "contrastive":
            both = side("encoder", _TEXT, length) | side("target", _TEXT[:3], targets)
            return both | {"groups": (rows, 2)}
    raise ValueError(f"no shapes are known of the objective {run.loss!r}")


def abstract(run: TrainRun, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """The global batch as `jax.ShapeDtypeStruct`s on a mesh. UserError where its rows do not divide over devices."""
    check_rows(run.batch_size, mesh)
    sharding = batch_sharding(mesh)
    return {name: jax.ShapeDtypeStruct(shape, jnp.int32, sharding=sharding) for name, shape in shapes(run).items()}
