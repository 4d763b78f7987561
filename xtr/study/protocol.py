"""What a study's numbers were made by, kept in `protocol.json`: how it measures, on what data, by which code.

Written at the first run. A later run under another protocol or with other data is refused, so that one table never
mixes them; what is new (a further model, target or task) is added. Another revision of the code is no reason to refuse:
it is listed, and the report shows the list. Each stage's `stage.json` says the same of that stage.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xtr import rundir
from xtr.errors import DataError, UserError
from xtr.study import lease
from xtr.study.jobs import Job
from xtr.study.spec import StudySpec

FILE, STAGE_FILE = "protocol.json", "stage.json"
FORMAT = 1
# What an evaluation measures; the rest of it says of what, where and how fast.
_MEASURES = (
    "mixture_or_task_name", "split", "dev_task_name", "dev_split", "task_feature_lengths", "max_decode_length",
    "decoding", "ranking", "embedding_layer", "embedding_pooling", "doc_stride", "max_query_length", "n_best",
    "max_answer_length", "null_threshold", "languages", "limit",
)  # fmt: skip


def facts(
    spec: StudySpec, jobs: Sequence[Job], data: Mapping[str, str], vocabularies: Mapping[str, str]
) -> dict[str, Any]:
    """How a study measures, and on what.

    Args:
      spec, jobs: the study and its stages.
      data: '<model>.<task>' -> fingerprint of the tokenised task.
      vocabularies: model -> digest of its vocabulary.
    """
    evaluations: dict[str, dict[str, Any]] = {}
    for job in jobs:
        if job.entry == "evaluate":
            run = rundir.plain(job.run)
            evaluations[f"{job.stage.model}.{job.stage.target}"] = {name: run[name] for name in _MEASURES}
    return {
        "format": FORMAT,
        "study": spec.name,
        "protocol": {
            "selection": f"the {spec.selection} checkpoint of each run; English development data chooses nothing",
            "training data": "English alone; every other language is zero-shot",
            "seeds": "a training seed is one chain intermediate -> target; an unseeded checkpoint counts once",
            "scores": "each target's own metric; of question answering the mean of exact match and F1",
            "evaluations": evaluations,
        },
        "vocabularies": dict(vocabularies),
        "data": dict(data),
    }


def _code() -> dict[str, str | None]:
    import importlib.metadata

    versions = {name: importlib.metadata.version(name) for name in ("xtr", "jax", "flax")}
    return {"revision": rundir.git_revision(), **versions}


def settle(study_dir: str | Path, now: Mapping[str, Any]) -> None:
    """Writes protocol.json, or compares with the one that is there and adds what is new to it. Of several runners that
    come at once one writes at a time, and the next compares with what that one wrote.

    Raises:
      UserError: the study that is there was measured otherwise, or on other data; lists the differences.
      Preempted: asked to stop while another runner wrote.
    """
    kept = read(study_dir)
    if _settled(study_dir, kept, now) == kept:
        return  # without a lease: a command that is refused, or finds all as it is, leaves nothing behind
    with lease.alone(Path(study_dir) / lease.LEASES / "protocol", "writing the study's protocol"):
        kept = read(study_dir)
        if (settled := _settled(study_dir, kept, now)) != kept:
            rundir.write_atomic(Path(study_dir) / FILE, json.dumps(settled, indent=1, ensure_ascii=False) + "\n")


def _settled(study_dir: str | Path, kept: Mapping[str, Any] | None, now: Mapping[str, Any]) -> dict[str, Any]:
    """What protocol.json is to hold, given what it holds."""
    kept = kept or {**now, "code": []}
    _refuse(study_dir, kept, now)
    merged = json.loads(json.dumps(_merged(kept, now)))
    code = _code()
    if all({name: run[name] for name in code} != code for run in kept["code"]):
        merged["code"] = [*kept["code"], code | {"since": rundir.utc_now()}]
    return merged


def read(study_dir: str | Path) -> dict[str, Any] | None:
    """protocol.json; None where there is none. DataError where it cannot be read."""
    path = Path(study_dir) / FILE
    try:
        found = json.loads(path.read_text())
        if found["format"] != FORMAT or not isinstance(found["code"], list):
            raise ValueError(f"format {found['format']!r}")
        return found
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not the protocol of a study ({type(error).__name__}: {error}).") from error


def _refuse(study_dir: str | Path, kept: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    now = json.loads(json.dumps(now))
    changes = _differences(kept, now)
    if changes:
        more = f"; and {len(changes) - 8} more" if len(changes) > 8 else ""
        raise UserError(
            f"{Path(study_dir) / FILE}: this study was measured otherwise: {'; '.join(changes[:8])}{more}. One table "
            "cannot hold both: set these back, or give another STUDY_DIR (stages that are the same must be run anew)."
        )


def _differences(kept: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The differences in what both say; `_merged` takes over what one alone says."""
    out = []
    for part in ("protocol", "vocabularies", "data"):
        old, new = dict(kept[part]), dict(now[part])
        if part == "protocol":
            old, new = old | old.pop("evaluations"), new | new.pop("evaluations")
        for name in sorted(set(old) & set(new)):
            if isinstance(old[name], dict):
                out += rundir.difference(old[name], new[name], f"{name}.")
            elif old[name] != new[name]:
                out.append(f"{part} {name}: {old[name]} -> {new[name]}")
    return out


def _merged(kept: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    protocol = {
        **now["protocol"],
        "evaluations": kept["protocol"]["evaluations"] | now["protocol"]["evaluations"],
    }
    parts = {part: kept[part] | now[part] for part in ("vocabularies", "data")}
    return {**kept, "protocol": protocol, **parts}


def sign(job: Job, runner: str) -> None:
    """Writes a stage's stage.json: what it is, what it reads, and by which code and whom it was begun last."""
    said = {"stage": job.stage.name, "address": job.address, "data": list(job.data), "runner": runner, "code": _code()}
    rundir.write_atomic(job.directory / STAGE_FILE, json.dumps(said, indent=1) + "\n")


def check_signed(job: Job) -> None:
    """Raises a UserError unless a finished evaluation was made as the study now says, on the data that are here."""
    path = job.directory / STAGE_FILE
    try:
        said = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        said = {}
    expected = {"address": job.address, "data": list(job.data)}
    changes = rundir.difference({name: said.get(name) for name in expected}, expected)
    if changes:
        raise UserError(
            f"{path}: the rows of {job.stage.name} were made otherwise than this study makes them: "
            f"{'; '.join(changes)}. Remove that folder and `xtr study run` again."
        )
