"""A cloud of files and processes: fake gcloud and kubectl come first on PATH, and no test reaches the real ones."""

import contextlib
import json
import os
import sys
from pathlib import Path

import pytest

from xtr.launch import record, supervise
from xtr.launch.spec import File, RunSpec
from xtr.parallel.topology import parse

FAKES = Path(__file__).parent / "fakes"
IMAGE = f"example.com/xtr@sha256:{'0123456789abcdef' * 4}"
STUB = "#!/usr/bin/env bash\n"


class Cloud:
    """The fake cloud of one test."""

    def __init__(self, root: Path):
        self.root = root
        self.bucket = root / "buckets" / "my-bucket"
        self.bucket.mkdir(parents=True)
        self.cues: dict = {}

    def cue(self, **what) -> None:
        """Says what is to happen; see the fakes."""
        self.cues |= what
        (self.root / "cues.json").write_text(json.dumps(self.cues))

    def xtr(self, body: str) -> None:
        """What the machines run in the place of xtr: the rest of a bash script."""
        (self.root / "xtr").write_text(STUB + body)
        (self.root / "xtr").chmod(0o755)

    def calls(self, *words: str) -> list[dict]:
        """Every call whose arguments hold all these words."""
        path = self.root / "calls.jsonl"
        found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [call for call in found if set(words) <= {call["program"], *call["argv"]}]

    def state(self) -> dict:
        path = self.root / "state.json"
        return json.loads(path.read_text()) if path.exists() else {}


@pytest.fixture(autouse=True)
def own_programs(monkeypatch):
    """This environment's python3 and shellcheck come first on PATH, whether the environment is activated or not."""
    monkeypatch.setenv("PATH", os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))


@pytest.fixture
def cloud(tmp_path, monkeypatch, own_programs):
    """A cloud without anything but the bucket my-bucket; the working folder is empty but for a wheel."""
    found = Cloud(tmp_path / "cloud")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    Path("xtr-1.0-py3-none-any.whl").write_bytes(b"wheel")
    found.xtr("echo $0 $*\n")
    (found.root / "bin").mkdir()
    (found.root / "bin" / "xtr").symlink_to(found.root / "xtr")
    monkeypatch.setenv("FAKE_CLOUD", str(found.root))
    monkeypatch.setenv("XTR_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("PATH", os.pathsep.join(map(str, (FAKES, found.root / "bin", os.environ["PATH"]))))
    for name in ("XTR_COORDINATOR", "XTR_NUM_PROCESSES", "XTR_PROCESS_ID", "TPU_WORKER_ID", "MEGASCALE_SLICE_ID"):
        monkeypatch.delenv(name, raising=False)
        os.unsetenv(name)  # libtpu, once loaded in this process, sets its own behind os.environ's back
    yield found
    for pid in found.root.glob("vm/*/*/xtr-launch/jobs/*/process-*/pid"):
        with contextlib.suppress(ProcessLookupError, ValueError, IndexError):
            os.killpg(int(pid.read_text().split()[0]), 9)


def make_job(backend: str = "tpu_vm", **fields) -> RunSpec:
    """A small job: two machines, or two processes here."""
    accelerator = fields.pop("accelerator", "v4-16")
    slices = fields.pop("slices", 1)
    own = {
        "local": {"local_processes": 2},
        "tpu_vm": {"zone": "us-central2-b", "bucket": "gs://my-bucket/f", "wheel": "xtr-1.0-py3-none-any.whl"},
        "gke": {"bucket": "gs://my-bucket/f", "image": IMAGE},
    }[backend]
    if backend != "local":
        own["topology"] = parse(accelerator, slices)
    name = fields.get("name", "job")
    return RunSpec(
        **{
            "name": "job",
            "command": "train",
            "run_dir": "runs/a",
            "backend": backend,
            "gin_files": ("models/mt5/small.gin", f"jobs/{name}/overrides.gin"),
            "files": (File("overrides.gin", "A = 'x'\n"),),
            **own,
            **fields,
        }
    )


def run_job(spec: RunSpec, poll: float = 0.02) -> tuple[int, record.Record]:
    """Launches a job and watches it to its end."""
    found = record.Record(spec, os.getcwd(), poll)
    code = supervise.launch(found)
    return code, record.load(spec.name)


@pytest.fixture
def job():
    """`job(backend, **fields)`: a small job."""
    return make_job


@pytest.fixture
def start():
    """`start(spec)`: launches a job, watches it to its end, and returns the exit code and the record."""
    return run_job
