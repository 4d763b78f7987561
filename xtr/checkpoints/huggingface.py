"""Opens Hugging Face's folders (config.json beside model.safetensors, or several files with an index).

Pickled weights (pytorch_model.bin) are opened only where that is allowed: unpickling can run code of the file's author.
"""

import json
import re
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from xtr import storage
from xtr.checkpoints import safetensors, source
from xtr.checkpoints.source import Index, StoredArray
from xtr.errors import UserError
from xtr.models.spec import HuggingFaceLayout

CONFIG = "config.json"
SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
INDEX = ".index.json"


def is_huggingface(path: str) -> bool:
    """Whether `path` is a folder with Hugging Face's weights in one of the known forms."""
    names = [name + end for name in (SAFETENSORS, PICKLE) for end in ("", INDEX)]
    return any(storage.is_file(storage.join(path, name)) for name in names)


def open_folder(path: str, layout: HuggingFaceLayout, wanted: Iterable[str], *, allow_pickle: bool) -> source.Source:
    """Opens a folder.

    Args:
      layout: of the network that is to be read.
      wanted: the names, in the state dict of `layout.architecture`, of the arrays that it needs.
      allow_pickle: whether pickled weights may be opened.

    Returns:
      Arrays by the names of `wanted` where they belong to one of them, else by their own.

    Raises:
      UserError: config.json names another family; the weights are pickled and that is not allowed; or the index cannot
      be read.
    """
    _check_family(path, layout)
    stored = _open_weights(path, allow_pickle)
    arrays, aside = _named(stored, layout, set(wanted))
    return source.Source(
        kind=source.HUGGING_FACE,
        path=path,
        what=f"The Hugging Face checkpoint {path}",
        step=0,
        arrays=arrays,
        aside=aside,
    )


def _check_family(path: str, layout: HuggingFaceLayout) -> None:
    """One sentence where config.json says that the network is of another family; without it, any array will differ."""
    try:
        found = json.loads(storage.read_bytes(storage.join(path, CONFIG)))["model_type"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # the arrays themselves are compared in any case
    wanted = layout.config["model_type"]
    if found != wanted:
        raise UserError(
            f"The Hugging Face checkpoint {path} is of the type {found!r} (its config.json), but the model is "
            f"{wanted!r}: choose the gin file of its family and size (`xtr list models`)."
        )


def _named(
    stored: Mapping[str, StoredArray], layout: HuggingFaceLayout, wanted: set[str]
) -> tuple[dict[str, StoredArray], dict[str, list[str]]]:
    """({name: array}, {reason: names of arrays left out}): without aliases, with the base model's prefix as wanted."""
    arrays: dict[str, StoredArray] = {}
    aside: dict[str, list[str]] = {}
    for original, array in stored.items():
        name = original
        for pattern, replacement in layout.aliases:
            name = re.sub(pattern, replacement, name)
        prefix = layout.base_prefix
        forms = [name, prefix + name, name.removeprefix(prefix)]
        chosen = next((form for form in forms if form in wanted), None)
        if chosen is None:
            reasons = (why for form in forms for pattern, why in layout.left_out.items() if re.fullmatch(pattern, form))
            if why := next(reasons, None):
                aside.setdefault(why, []).append(original)
                continue
            chosen = original
        if chosen in arrays:
            array = source.broken(array.shape, f"two arrays of the checkpoint mean it, one of them {original}")
        arrays[chosen] = array
    return arrays, aside


def _open_weights(path: str, allow_pickle: bool) -> dict[str, StoredArray]:
    for file, opener in ((SAFETENSORS, safetensors.open_file), (PICKLE, _open_pickle)):
        index = storage.join(path, file + INDEX)
        single = storage.is_file(storage.join(path, file))
        if not single and not storage.is_file(index):
            continue
        if file == PICKLE and not allow_pickle:
            raise UserError(
                f"{path} holds weights in Python's pickle format ({PICKLE}), and to read such a file can run code that "
                "its author put there. Use a folder with model.safetensors, convert this one "
                "(transformers: model.save_pretrained(folder) writes it), or, if you trust it, allow it: ALLOW_PICKLE "
                "= True in gin, --allow_pickle on the command line."
            )
        names = None if single else _read_index(index)
        return _open_files(path, {file: None} if single else names, opener)
    raise UserError(f"{path} holds no weights of Hugging Face.")


def _read_index(path: str) -> dict[str, list[str]]:
    """{file: names of its arrays}."""
    try:
        weight_map = json.loads(storage.read_bytes(path))["weight_map"]
        files: dict[str, list[str]] = {}
        for name, file in weight_map.items():
            files.setdefault(file, []).append(name)
        return files
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        storage.raise_if_passing(error)
        raise UserError(f"{path} is damaged: it is no index of weights ({error!r}).") from error


def _open_files(path: str, files: Mapping[str, list[str] | None], opener) -> dict[str, StoredArray]:
    """The arrays of all files; what the index names and its file does not hold has a fault."""
    arrays: dict[str, StoredArray] = {}
    for file, names in files.items():
        try:
            found = opener(storage.join(path, file))
        except source.UNREADABLE as error:
            storage.raise_if_passing(error)
            if names is None:
                raise UserError(f"{storage.join(path, file)} cannot be read: {error}.") from error
            arrays |= {name: source.broken((), f"its file {file} cannot be read: {error}") for name in names}
            continue
        absent = [name for name in names or () if name not in found]
        arrays |= found | {name: source.broken((), f"its file {file} does not hold it") for name in absent}
    return arrays


def _open_pickle(path: str) -> dict[str, StoredArray]:
    if storage.is_remote(path):
        raise UserError(f"{path}: pickled weights are read from a local disk only. Copy the folder to one.")
    try:
        import torch
    except ImportError:
        raise UserError(f"{path}: to read pickled weights PyTorch must be installed (pip install torch).") from None
    try:
        # weights_only refuses everything but tensors; mmap reads no data until a slice is asked for. Files of PyTorch
        # before 1.6 are no zip files and can only be read whole.
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # pickle, zip and torch each raise their own
        raise ValueError(f"PyTorch cannot read it: {error}") from error
    return {name: _of_tensor(tensor) for name, tensor in tensors.items() if isinstance(tensor, torch.Tensor)}


def _of_tensor(tensor: Any) -> StoredArray:
    import torch

    half = tensor.dtype == torch.bfloat16  # NumPy has no bfloat16 of its own

    def read(index: Index) -> np.ndarray:
        part = tensor[index] if index else tensor
        return part.view(torch.int16).numpy().view(safetensors.DTYPES["BF16"]) if half else part.numpy()

    shape = tuple(tensor.shape)
    dtype = safetensors.DTYPES["BF16"] if half else np.dtype(str(tensor.dtype).removeprefix("torch."))
    return StoredArray(shape, dtype, read)
