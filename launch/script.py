"""The script that starts a job's process on each of its machines."""

import importlib.resources
import shlex

from xtr.launch.spec import RunSpec

VOLUME = "/xtr/bucket"  # where pods find the bucket
_MOUNTS = {"local": "none", "tpu_vm": "gcsfuse", "gke": "csi"}


def start_script(spec: RunSpec) -> str:
    """The text of start.sh: the job's own values, each quoted for bash, above what is the same for every job."""
    values = {
        "JOB": spec.name,
        "MOUNT": _MOUNTS[spec.backend],
        "BUCKET": spec.bucket_name,
        "FOLDER": spec.bucket_folder,
        "VOLUME": VOLUME if spec.backend == "gke" else "",
        "WHEEL": spec.wheel.rpartition("/")[2],
        "DOCKER": spec.image if spec.backend == "tpu_vm" else "",
        "PROCESSES": str(spec.processes),
        "PROCESSES_PER_SLICE": str(spec.processes_per_slice),
    }
    lines = ["#!/usr/bin/env bash", *(f"{name}={shlex.quote(value)}" for name, value in values.items())]
    words = " ".join(shlex.quote(word) for word in spec.command_line)
    body = importlib.resources.files("xtr.launch").joinpath("templates", "start.sh").read_text(encoding="utf-8")
    return "\n".join([*lines, f"COMMAND=({words})", body])
