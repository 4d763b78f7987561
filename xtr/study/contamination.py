"""Checkpoints that were trained on the study's own targets: mT0 and BLOOMZ.

Their training mixture xP3 (bigscience/xmtf, `prepare_xp3_train.py`) holds XQuAD, MLQA, TyDiQA and Tatoeba in the
languages that the study calls zero-shot, besides PAWS-X, QQP, SQuAD 2.0 and Cosmos QA. A gain measured on them says
nothing about zero-shot transfer.
"""

import json
import os
import re

from xtr import rundir, storage
from xtr.errors import UserError

_NAME = re.compile(r"(?<![a-z0-9])(mt0|bloomz)(?![a-z])", re.IGNORECASE)
_MODELS = {"mt0": "mT0", "bloomz": "BLOOMZ"}
_REASON = "it was trained on XQuAD, MLQA, TyDiQA and Tatoeba in the target languages (xP3), so nothing is zero-shot"


def _json(path: str) -> dict:
    try:
        found = json.loads(storage.read_bytes(path))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def contaminated(checkpoint: str | os.PathLike | None, look_inside: bool = True) -> str | None:
    """'mT0' or 'BLOOMZ' where a checkpoint is one, or was trained from one; None where nothing says so.

    Looks at the path, at the name that a Hugging Face `config.json` carries, and at the initial checkpoints of the xtr
    runs that led to it. Without `look_inside` at the path alone, which needs no checkpoint.
    """
    seen = set()
    while checkpoint and (path := os.fspath(checkpoint).rstrip("/")) not in seen:
        seen.add(path)
        if not look_inside:
            found = _NAME.search(path)
            return found and _MODELS[found.group(1).lower()]
        names = [path, str(_json(f"{path}/config.json").get("_name_or_path", ""))]
        for name in names:
            if found := _NAME.search(name):
                return _MODELS[found.group(1).lower()]
        run = path.partition("/checkpoints")[0]  # a run directory, its checkpoints, or one of them
        checkpoint = _json(f"{run}/{rundir.IDENTITY}").get("initial_checkpoint_path")
    return None


def refuse_contaminated(checkpoints: dict[str, str], allowed: bool, look_inside: bool = True) -> list[str]:
    """Checks the checkpoints {model: path} that a study starts from; returns a sentence about each contaminated one.

    Raises:
      UserError: a checkpoint is contaminated and the study does not allow it.
    """
    found = {model: kind for model, path in checkpoints.items() if (kind := contaminated(path, look_inside))}
    if found and not allowed:
        starts = (f"{model} starts from {checkpoints[model]}, which is {kind}" for model, kind in found.items())
        raise UserError(
            f"{'; '.join(starts)}: {_REASON}. Start from mT5 or BLOOM instead, or set study.allow_contaminated = True"
            " to measure it all the same; the report then says so."
        )
    return [f"CONTAMINATED: {model} is {kind}; {_REASON}." for model, kind in found.items()]
