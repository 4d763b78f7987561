"""What the fake programs share: a folder that holds a cloud.

$FAKE_CLOUD/calls.jsonl    every call: program, arguments, standard input
$FAKE_CLOUD/cues.json      what is to go wrong, written by a test
$FAKE_CLOUD/state.json     what there is
$FAKE_CLOUD/buckets/NAME/  objects are files
$FAKE_CLOUD/vm/N/K/        the home folder of machine K of the N-th creation
"""

import contextlib
import fcntl
import json
import os
import signal
import sys
from pathlib import Path

ROOT = Path(os.environ["FAKE_CLOUD"])


def record(program: str, argv: list[str], stdin: str) -> None:
    with open(ROOT / "calls.jsonl", "a") as file:
        file.write(json.dumps({"program": program, "argv": argv, "stdin": stdin}) + "\n")


def cues() -> dict:
    path = ROOT / "cues.json"
    return json.loads(path.read_text()) if path.exists() else {}


@contextlib.contextmanager
def state():
    """The cloud's state, locked; changes are kept."""
    with open(ROOT / "state.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = ROOT / "state.json"
        facts = json.loads(path.read_text()) if path.exists() else {"created": 0, "used": {}}
        try:
            yield facts
        finally:  # a command that fails has used its cue up all the same
            new = path.with_suffix(".new")
            new.write_text(json.dumps(facts, indent=1))
            new.replace(path)


def next_cue(facts: dict, name: str, default=None):
    """The next value of a list of cues; the default where it is used up."""
    values = cues().get(name, [])
    used = facts["used"].setdefault(name, 0)
    facts["used"][name] = used + 1
    return values[used] if used < len(values) else default


def fail(message: str, code: int = 1):
    print(message, file=sys.stderr)
    sys.exit(code)


def read_stdin() -> str:
    return "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.read()


def bucket_path(url: str) -> Path:
    """The file of an object. The bucket must be there."""
    name, _, key = url.removeprefix("gs://").partition("/")
    if name in cues().get("forbidden_buckets", ()):
        fail(f"ERROR: (gcloud.storage) HTTPError 403: no access to {name}")
    folder = ROOT / "buckets" / name
    if not folder.is_dir():
        fail(f"ERROR: (gcloud.storage) gs://{name} not found: 404.")
    return folder / key


def processes_of(home: Path) -> list[int]:
    """The sessions that start.sh began on a machine, and its containers."""
    found = []
    for file in (*home.glob("xtr-launch/jobs/*/process-*/pid"), *home.glob("containers/*")):
        with contextlib.suppress(ValueError, IndexError):
            found.append(int(file.read_text().split()[0]))
    return found


def kill_machine(home: Path, number: int = signal.SIGKILL) -> None:
    for pid in processes_of(home):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if number == signal.SIGKILL:
                os.killpg(pid, number)
            else:
                os.kill(pid, number)
