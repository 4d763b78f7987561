"""What the two backends of Google Cloud have in common: a job's files and its lock, in the bucket."""

import json

from xtr.launch.actions import Action, Run
from xtr.launch.script import start_script
from xtr.launch.spec import RunSpec

LOCK = "JOB"


def put(text: str, url: str, *options: str) -> Run:
    """Writes a text to an object."""
    return Run(("gcloud", "storage", "cp", *options, "-", url), text)


def lock_text(spec: RunSpec) -> str:
    """Who has a run directory."""
    return json.dumps({"job": spec.name, "backend": spec.backend, "files": spec.place(spec.job_dir)}) + "\n"


def lock_url(spec: RunSpec) -> str:
    return spec.place(f"{spec.run_dir}/{LOCK}")


def lock(spec: RunSpec) -> Run:
    """Makes the lock; fails where there is one: a generation of 0 stands for no object."""
    return put(lock_text(spec), lock_url(spec), "--if-generation-match=0")


def read_lock(spec: RunSpec) -> Run:
    return Run(("gcloud", "storage", "cat", lock_url(spec)))


def unlock(spec: RunSpec) -> Run:
    return Run(("gcloud", "storage", "rm", lock_url(spec)))


def upload(spec: RunSpec) -> tuple[Action, ...]:
    """The wheel, the gin files, the overrides and the script, each as it is."""
    folder = spec.place(spec.job_dir)
    wheel = [Run(("gcloud", "storage", "cp", spec.wheel, f"{folder}/"))] if spec.wheel else []
    files = [put(file.text, f"{folder}/{file.path}") for file in spec.files]
    return (*wheel, *files, put(start_script(spec), f"{folder}/start.sh"))


def logs(spec: RunSpec, attempt: int) -> Run:
    return Run(("gcloud", "storage", "cat", spec.place(f"{spec.job_dir}/log/attempt-{attempt}.txt")))
