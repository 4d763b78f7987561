"""One training step of an mT5 in two ways: this package's, and transformers' on PyTorch; on the same packed batches.

Both take the loss of real target tokens in their mean, without z-loss, and Adafactor with the same settings. Weights
are float32; products run in the model's compute dtype (PyTorch: autocast). Each contender is built in a process of its
own, so that neither's threads and memory are the other's.
"""

import dataclasses
import importlib.util
import os
import resource
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from xtr.errors import UserError
from xtr.models.mt5 import MT5Config
from xtr.parallel.mesh import MeshConfig, make_mesh
from xtr.parallel.sharding import DEFAULT_RULES, global_batch
from xtr.train.step import TrainOptions, TrainState, init_state, make_train_step

Batch = Mapping[str, np.ndarray]
LEARNING_RATE = 1e-3
_EXAMPLES_A_ROW = 3
_SPECIAL_IDS = 3


@dataclasses.dataclass(frozen=True)
class Stepper:
    """A contender that stands ready.

    Attributes:
      step: does one whole step on the batch of a number, waits for it, and returns its loss (mean over target tokens).
      peak_bytes: the most memory so far: of the process on a CPU, of the device elsewhere; None where nobody says.
    """

    step: Callable[[int], float]
    peak_bytes: Callable[[], int | None]


def packed_batches(
    count: int, rows: int, inputs: int, targets: int, vocab_size: int, seed: int = 0
) -> list[dict[str, np.ndarray]]:
    """Batches of random tokens as SeqIO's feature converter packs them: full rows of three examples each."""
    rng = np.random.default_rng(seed)

    def side(length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens, segment ids and positions, each int32 [rows, length]."""
        ends = np.sort(rng.integers(1, length, (rows, _EXAMPLES_A_ROW - 1)), axis=1)
        places = np.arange(length)
        ids = 1 + (places[None, :, None] >= ends[:, None, :]).sum(-1)
        starts = np.concatenate([np.zeros((rows, 1), int), ends], axis=1)
        positions = places[None] - np.take_along_axis(starts, ids - 1, axis=1)
        tokens = rng.integers(_SPECIAL_IDS, vocab_size, (rows, length))
        return tokens.astype(np.int32), ids.astype(np.int32), positions.astype(np.int32)

    batches = []
    for _ in range(count):
        input_tokens, input_ids, input_positions = side(inputs)
        target_tokens, target_ids, target_positions = side(targets)
        moved = np.pad(target_tokens, ((0, 0), (1, 0)))[:, :-1]
        batches.append(
            {
                "encoder_input_tokens": input_tokens,
                "encoder_segment_ids": input_ids,
                "encoder_positions": input_positions,
                "decoder_input_tokens": np.where(target_positions == 0, 0, moved),
                "decoder_target_tokens": target_tokens,
                "decoder_loss_weights": np.ones_like(target_tokens),
                "decoder_segment_ids": target_ids,
                "decoder_positions": target_positions,
            }
        )
    return batches


def process_peak_bytes() -> int:
    """The most memory that this process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def xtr_stepper(config: MT5Config, batches: Sequence[Batch], params: Any = None) -> Stepper:
    """`xtr train`'s own step on the first device; `params` (nested, float32) are drawn where None are given."""
    device = jax.devices()[0]
    mesh = make_mesh(MeshConfig(fsdp=1), [device])
    options = TrainOptions(z_loss=0.0, loss_normalizing_factor="NUM_REAL_TARGET_TOKENS")
    state = init_state(config.param_specs(), options, mesh, DEFAULT_RULES, jax.random.key(0))
    if params is not None:
        state = TrainState(state.step, jax.device_put(params), state.opt_state)
    train_step = make_train_step(config, options, mesh)
    placed = [global_batch(batch, mesh) for batch in batches]
    key = jax.random.key(1)

    def step(number: int) -> float:
        nonlocal state
        dropout_key = jax.random.fold_in(key, number) if config.dropout_rate else None
        state, metrics = train_step(state, placed[number % len(placed)], dropout_key, LEARNING_RATE)
        jax.block_until_ready(state)
        return float(metrics["loss"] / metrics["weight"])

    def peak_bytes() -> int | None:
        if device.platform == "cpu":
            return process_peak_bytes()
        return (device.memory_stats() or {}).get("peak_bytes_in_use")

    return Stepper(step, peak_bytes)


def hugging_face_stepper(
    config: MT5Config, batches: Sequence[Batch], device: str = "cpu", compiled: bool = False, weights: Any = None
) -> Stepper:
    """transformers' MT5ForConditionalGeneration with transformers' Adafactor, on all cores or on a CUDA device.

    Packed examples are kept apart by masks of four dimensions; all else is what transformers does by itself.

    Args:
      device: PyTorch's name of it.
      compiled: whether the loss goes through `torch.compile`.
      weights: the module's state_dict; drawn where None is given.

    Raises:
      UserError: transformers or PyTorch is not installed, or PyTorch has no such device.
    """
    if not all(importlib.util.find_spec(name) for name in ("torch", "transformers")):
        raise UserError("transformers and PyTorch are not installed (pip install 'xtr[huggingface]').")
    import torch
    import transformers
    from transformers.optimization import Adafactor

    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("This PyTorch has no CUDA device.")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    if device == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, as JAX multiplies float32 there
    transformers.utils.logging.set_verbosity_error()
    settings = config.huggingface().config | {"dropout_rate": config.dropout_rate}
    kind = transformers.MT5Config(**{name: value for name, value in settings.items() if name != "model_type"})
    kind.tie_word_embeddings = False  # as mT5's are; transformers' config would have it otherwise
    model = transformers.MT5ForConditionalGeneration(kind)
    if weights is not None:
        model.load_state_dict(weights)
    model = model.to(device).train()
    optimizer = Adafactor(model.parameters(), lr=LEARNING_RATE, scale_parameter=True, relative_step=False)
    placed = [_torch_batch(torch, batch, device) for batch in batches]

    def loss_of(batch: Mapping[str, Any]) -> Any:
        with torch.autocast(device, torch.bfloat16, enabled=config.dtype == "bfloat16"):
            encoded = model.get_encoder()(input_ids=batch["inputs"], attention_mask=batch["input_mask"])
            return model(
                encoder_outputs=encoded,
                attention_mask=batch["cross_mask"],
                decoder_input_ids=batch["fed"],
                decoder_attention_mask=batch["target_mask"],
                labels=batch["targets"],
                use_cache=False,
            ).loss

    run = torch.compile(loss_of) if compiled else loss_of

    def step(number: int) -> float:
        loss = run(placed[number % len(placed)])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device == "cuda":
            torch.cuda.synchronize()
        return loss.item()

    return Stepper(step, torch.cuda.max_memory_allocated if device == "cuda" else process_peak_bytes)


def _torch_batch(torch: Any, batch: Batch, device: str) -> dict[str, Any]:
    """Tensors of a packed batch; masks are what is added to the scores, [B, 1, Q, M]."""

    def added(query_ids: np.ndarray, key_ids: np.ndarray, causal: bool = False) -> Any:
        seen = (query_ids[:, None, :, None] == key_ids[:, None, None, :]) & (key_ids != 0)[:, None, None, :]
        if causal:
            seen &= np.tri(query_ids.shape[1], dtype=bool)
        return torch.tensor(np.where(seen, 0.0, np.finfo(np.float32).min).astype(np.float32), device=device)

    def ids(array: np.ndarray) -> Any:
        return torch.tensor(array.astype(np.int64), device=device)

    input_ids, target_ids = batch["encoder_segment_ids"], batch["decoder_segment_ids"]
    targets = np.where(batch["decoder_loss_weights"] > 0, batch["decoder_target_tokens"], -100)
    return {
        "inputs": ids(batch["encoder_input_tokens"]),
        "fed": ids(batch["decoder_input_tokens"]),
        "targets": ids(targets),
        "input_mask": added(input_ids, input_ids),
        "target_mask": added(target_ids, target_ids, causal=True),
        "cross_mask": added(target_ids, input_ids),
    }
