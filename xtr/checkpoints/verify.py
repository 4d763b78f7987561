"""Checks a converted checkpoint: the same bits when read back, the same outputs in transformers.

Axes: B batch, S input length, T output length, C choices.
"""

import dataclasses
import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from xtr.checkpoints import layout, load
from xtr.checkpoints.source import Source, whole
from xtr.errors import UserError
from xtr.models.interface import ModelConfig
from xtr.models.spec import flatten
from xtr.progress import note

TOLERANCE = 1e-4  # greatest relative deviation of f32 outputs between two implementations
LENGTHS_B, TARGET_LENGTH = (24, 15, 6), 10


def differing(a: Source, b: Source, model: ModelConfig) -> list[str]:
    """Paths of the parameters that are not the same bits, in float32, in two checkpoints of one model."""
    specs = flatten(model.param_specs())
    places = [load.plan(checkpoint, model, draw=False)[0] for checkpoint in (a, b)]

    def layers(checkpoint: Source, parts: list[layout.Part], stacked: bool):
        for part in parts:
            array = checkpoint.arrays[part.name]
            held = layout.arrange(array.read(whole(array.shape)), part.held_axes()).astype(np.float32, copy=False)
            yield from held if stacked and part.layer is None else [held]

    out = []
    for path, spec in specs.items():
        pairs = zip(layers(a, places[0][path], spec.stacked), layers(b, places[1][path], spec.stacked), strict=True)
        if not all(np.array_equal(x.view(np.int32), y.view(np.int32)) for x, y in pairs):
            out.append(path)
    return out


def in_float32(model: ModelConfig) -> ModelConfig:
    """The same network computing in f32, without dropout."""
    if dataclasses.is_dataclass(getattr(model, "body", None)):
        return dataclasses.replace(model, body=in_float32(model.body))
    return dataclasses.replace(model, dtype="float32", dropout_rate=0.0)


def batch(model: ModelConfig) -> tuple[np.ndarray, np.ndarray]:
    """Random inputs tokens_BS with padding on the right, and decoder inputs tokens_BT; the same for equal models."""
    rng = np.random.default_rng(0)
    tokens_BS = rng.integers(4, model.vocab_size, (len(LENGTHS_B), max(LENGTHS_B)))
    for row, length in enumerate(LENGTHS_B):
        tokens_BS[row, length:] = model.pad_id
    tokens_BT = rng.integers(4, model.vocab_size, (len(LENGTHS_B), TARGET_LENGTH))
    tokens_BT[:, 0] = 0
    return tokens_BS, tokens_BT


def outputs(params: Any, model: ModelConfig) -> tuple[np.ndarray, bool]:
    """What transformers' class of `model`'s architecture computes on `batch`, in f32, and whether that is logits (else
    it is the states of a network without a head)."""
    network, architecture = in_float32(model).network(params), model.huggingface().architecture
    tokens_BS, tokens_BT = batch(model)
    headed: dict[str, Callable[[], jax.Array]] = {
        "ForConditionalGeneration": lambda: network.logits(
            network.decode(tokens_BT, network.encode(tokens_BS), encoder_mask_BS=tokens_BS != network.config.pad_id)
        ),
        "ForCausalLM": lambda: network.logits(network.encode(tokens_BS)),
        "ForMaskedLM": lambda: network.logits(network.mlm_states(network.encode(tokens_BS))),
        "ForPreTraining": lambda: network.logits(network.mlm_states(network.encode(tokens_BS))),
        "ForSequenceClassification": lambda: network.classify(tokens_BS),
        "ForTokenClassification": lambda: network.tag(tokens_BS),
        "ForQuestionAnswering": lambda: network.span(tokens_BS),
        "ForMultipleChoice": lambda: network.choose(tokens_BS[None]),
    }
    logits = next((f() for end, f in headed.items() if architecture.endswith(end)), None)
    return np.asarray(network.encode(tokens_BS) if logits is None else logits), logits is not None


def deviation(ours: np.ndarray, theirs: np.ndarray, model: ModelConfig) -> float:
    """Greatest deviation of outputs on `batch`, relative to the greatest output; at real tokens only, where the outputs
    are those of tokens."""
    real_BS = batch(model)[0] != model.pad_id
    if ours.shape[:2] == real_BS.shape:
        ours, theirs = ours[real_BS], theirs[real_BS]
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def _undo_tying(theirs: Any, model: ModelConfig) -> None:
    """transformers 5 sets tie_word_embeddings for T5's family whatever config.json says. It then keeps a head that the
    file holds apart, but umT5's class divides the states before it by sqrt(d_model), as a tied T5 does."""
    written = model.huggingface().config.get("tie_word_embeddings", True)
    if theirs.config.tie_word_embeddings != written:
        note(
            f"transformers reads tie_word_embeddings as {theirs.config.tie_word_embeddings}, though config.json says "
            f"{written}; compared with {written}."
        )
        theirs.config.tie_word_embeddings = written


def transformers_deviation(output: str, params: Any, model: ModelConfig) -> float | None:
    """Greatest deviation of transformers' outputs, relative to the greatest output, from ours with `params`.

    Outputs are f32 logits (states, of a network without a head) at the real tokens of a random batch with padding.
    None where transformers or PyTorch is not installed. transformers reads the Hugging Face folder `output`.
    """
    if not all(importlib.util.find_spec(name) for name in ("torch", "transformers")):
        return None
    import torch
    import transformers

    architecture = model.huggingface().architecture
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    theirs = getattr(transformers, architecture).from_pretrained(output, dtype=torch.float32).eval()
    _undo_tying(theirs, model)
    tokens_BS, tokens_BT = batch(model)
    ours, are_logits = outputs(params, model)
    inputs = {"input_ids": torch.tensor(tokens_BS), "attention_mask": torch.tensor(tokens_BS != model.pad_id).long()}
    if architecture.endswith("ForConditionalGeneration"):
        inputs["decoder_input_ids"] = torch.tensor(tokens_BT)
    if architecture.endswith("ForMultipleChoice"):
        inputs = {name: tensor[None] for name, tensor in inputs.items()}
    with torch.no_grad():
        out = theirs(**inputs)
    if not are_logits:
        found = out.last_hidden_state
    elif "start_logits" in out:
        found = torch.stack([out.start_logits, out.end_logits], dim=-1)
    else:
        found = out["prediction_logits" if "prediction_logits" in out else "logits"]
    found = found.numpy()
    if ours.shape != found.shape:
        raise UserError(f"transformers' {architecture} gives outputs of {found.shape}, ours of {ours.shape}.")
    return deviation(ours, found, model)
