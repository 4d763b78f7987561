"""What is to be launched: one frozen dataclass, checked as a whole before anything is created."""

import dataclasses
import re

from xtr.errors import UserError, did_you_mean
from xtr.launch import machines
from xtr.parallel.topology import Topology

BACKENDS = ("local", "tpu_vm", "gke")
COMMANDS = {"train": ("train",), "eval": ("eval",), "infer": ("infer",), "study": ("study", "run")}
PROVISIONING = ("on-demand", "spot", "reserved")
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
_BUCKET = re.compile(r"gs://([a-z0-9][a-z0-9._-]{1,61}[a-z0-9])((?:/[A-Za-z0-9][A-Za-z0-9._=+-]*)*)/?")
_RELATIVE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=+-]*(/[A-Za-z0-9_][A-Za-z0-9._=+-]*)*")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]*")


@dataclasses.dataclass(frozen=True)
class File:
    """A text file that a job brings along: its `path` below the job's folder, and its `text`."""

    path: str
    text: str


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """One job: a command of xtr, where it runs and for how long.

    Attributes:
      name: of the job and of everything that is created for it.
      command: 'train', 'eval', 'infer' or 'study' (`xtr study run`).
      run_dir: the directory that the command writes to (MODEL_DIR, EVAL_OUTPUT_DIR, STUDY_DIR), relative to the
        bucket's folder; two jobs never run in one.
      gin_files: what --gin_file gets on the other side: shipped names, and 'jobs/NAME/gin/...' of `files`.
      search_paths: what --gin_search_paths gets there.
      files: the gin files, below 'gin/', and overrides.gin.
      options: further words of the command: '--stage=NAME' of a study.
      backend: 'local', 'tpu_vm' or 'gke'.
      topology: the slices; None for 'local'.
      local_processes: processes of 'local', on CPUs where there are several.
      bucket: 'gs://bucket' or 'gs://bucket/folder', in which relative paths of the configuration lie; of 'local' a
        folder of this machine.
      project, zone: of Google Cloud; '' for gcloud's own defaults (the zone must be given).
      provisioning: 'on-demand', 'spot' or 'reserved'.
      reservation: a certain one of yours; '' for any.
      service_account: of TPU VMs an e-mail address, of pods the Kubernetes account that may use the bucket; '': the
        default one.
      network, subnetwork: of TPU VMs; '': the default one.
      internal_ips: whether TPU VMs get no public addresses; gcloud then connects through Identity-Aware Proxy.
      image: a container image with xtr, best by digest; '' for none.
      wheel: a wheel of xtr on this machine, installed on the machines; '' for none.
      context: kubectl's, which names the cluster; '': the current one.
      queue: Kueue's local queue; '' for none.
      retries: crashes after which a job is started again; preemptions are not counted.
      max_hours: from the first start on, waiting for capacity aside, after which the job is stopped; None: no limit.
      wait_hours: how long to wait for capacity, each time.
      keep: whether what was created stays when the job has ended.
    """

    name: str
    command: str
    run_dir: str
    backend: str
    gin_files: tuple[str, ...] = ()
    search_paths: tuple[str, ...] = ()
    files: tuple[File, ...] = ()
    options: tuple[str, ...] = ()
    topology: Topology | None = None
    local_processes: int = 1
    bucket: str = "."
    project: str = ""
    zone: str = ""
    provisioning: str = "on-demand"
    reservation: str = ""
    service_account: str = ""
    network: str = ""
    subnetwork: str = ""
    internal_ips: bool = False
    image: str = ""
    wheel: str = ""
    context: str = ""
    queue: str = ""
    retries: int = 3
    max_hours: float | None = None
    wait_hours: float = 24.0
    keep: bool = False

    def __post_init__(self):
        _one_of("command", self.command, COMMANDS)
        _one_of("--backend", self.backend, BACKENDS)
        _one_of("provisioning", self.provisioning, PROVISIONING)
        if not _NAME.fullmatch(self.name):
            raise UserError(
                f"--name is {self.name!r}; it must have at most 40 small letters, digits and hyphens, begin with a "
                "letter and not end with a hyphen."
            )
        if self.retries < 0:
            raise UserError(f"--retries is {self.retries}; it must not be negative.")
        for option, hours in (("--max_hours", self.max_hours), ("--wait_hours", self.wait_hours)):
            if hours is not None and not 0 < hours < 24 * 365:
                raise UserError(f"{option} is {hours:g}; it must be more than 0 and less than a year.")
        self._check_run_dir()
        self._check_words()
        if self.backend == "local":
            self._check_local()
        else:
            self._check_cloud()

    def _check_run_dir(self) -> None:
        if self.backend == "local":
            if not self.run_dir or "\n" in self.run_dir:
                raise UserError(f"the run directory {self.run_dir!r} must be a folder.")
            return
        inside = self.bucket.rstrip("/") + "/"
        if self.run_dir.startswith(inside):
            raise UserError(
                f"the run directory is {self.run_dir}; say it relative to --bucket, where the job runs: "
                f"{self.run_dir.removeprefix(inside)}."
            )
        if not _RELATIVE.fullmatch(self.run_dir):
            raise UserError(
                f"the run directory is {self.run_dir!r}; on other machines it must lie in the bucket: give a path "
                "relative to --bucket, of letters, digits and ._=+-, like runs/xxl_mnli."
            )
        if self.run_dir.split("/")[0] == "jobs":
            raise UserError("the run directory lies in jobs/, where launched jobs keep their files: choose another.")

    def _check_words(self) -> None:
        for option in (
            "project", "zone", "reservation", "service_account", "network", "subnetwork", "image", "context", "queue",
        ):  # fmt: skip
            value = getattr(self, option)
            if value and not _WORD.fullmatch(value):
                raise UserError(f"--{option} is {value!r}; it must have letters, digits and ._:/@+- alone.")
        if self.wheel and not re.fullmatch(r"[^/]*[A-Za-z0-9._+-]+\.whl", self.wheel.rpartition("/")[2]):
            raise UserError(f"--wheel is {self.wheel!r}; it must be a .whl file: `python -m build --wheel` writes one.")
        if self.reservation and self.provisioning != "reserved":
            raise UserError("--reservation goes with reserved capacity: leave out --spot.")

    def _check_local(self) -> None:
        for option in ("topology", "project", "zone", "image", "wheel", "context", "queue", "reservation"):
            if getattr(self, option):
                name = "accelerator" if option == "topology" else option
                raise UserError(f"--backend=local runs on this machine with this xtr: leave out --{name}.")
        if self.local_processes < 1:
            raise UserError(f"--processes is {self.local_processes}; it must be at least 1.")
        if self.bucket.startswith("gs://"):
            raise UserError("--backend=local writes to a folder of this machine: leave out --bucket, or give a folder.")

    def _check_cloud(self) -> None:
        if self.topology is None:
            raise UserError(f"--backend={self.backend} needs --accelerator, like v5litepod-256 or v5e:16x16.")
        machines.of(self.topology, self.backend)
        if not _BUCKET.fullmatch(self.bucket):
            raise UserError(
                f"--bucket is {self.bucket!r}; it must be gs://BUCKET or gs://BUCKET/FOLDER: the job's working folder."
            )
        if self.backend == "tpu_vm":
            if not self.zone:
                raise UserError("--backend=tpu_vm needs --zone, like us-west4-a: TPUs are asked for in one zone.")
            if bool(self.image) == bool(self.wheel):
                raise UserError(
                    "--backend=tpu_vm needs xtr itself, in one way: --wheel=dist/xtr-....whl (`python -m build "
                    "--wheel` writes it) or --image=....."
                )
            if self.context or self.queue:
                raise UserError("--context and --queue are of Kubernetes: use them with --backend=gke.")
        else:
            if not self.image:
                raise UserError("--backend=gke needs --image: a container image, best by digest, that holds xtr.")
            for option in ("network", "subnetwork", "internal_ips"):
                if getattr(self, option):
                    raise UserError(f"--{option} is decided by the cluster: leave it out with --backend=gke.")
        if self.image and "@sha256:" not in self.image and self.image.rpartition("/")[2].partition(":")[2] in (
            "", "latest",
        ):  # fmt: skip
            raise UserError(
                f"--image is {self.image}: what it means may change while the job runs. Name a digest "
                "(IMAGE@sha256:...) or a tag of its own."
            )

    @property
    def processes(self) -> int:
        """Processes of the run, one a machine."""
        return self.local_processes if self.topology is None else self.topology.hosts

    @property
    def processes_per_slice(self) -> int:
        return self.processes if self.topology is None else machines.hosts_per_slice(self.topology)

    @property
    def bucket_name(self) -> str:
        return "" if self.backend == "local" else self.bucket.removeprefix("gs://").partition("/")[0]

    @property
    def bucket_folder(self) -> str:
        return "" if self.backend == "local" else self.bucket.removeprefix("gs://").partition("/")[2].rstrip("/")

    def place(self, path: str) -> str:
        """Where a path relative to the job's working folder is: gs://... or a local one."""
        return path if self.bucket == "." else f"{self.bucket.rstrip('/')}/{path}"

    @property
    def job_dir(self) -> str:
        """The job's own folder, relative to its working folder."""
        return f"jobs/{self.name}"

    @property
    def command_line(self) -> tuple[str, ...]:
        """What every process runs in the working folder."""
        gin = [f"--gin_file={name}" for name in self.gin_files]
        if self.search_paths:
            gin.append(f"--gin_search_paths={','.join(self.search_paths)}")
        return ("xtr", *COMMANDS[self.command], *self.options, *gin)


def _one_of(what: str, value: str, known) -> None:
    if value not in known:
        raise UserError(f"{what} is {value!r}; it must be {', '.join(known)}.{did_you_mean(value, known)}")
