"""What is wrong with a machine before it is asked to compute: each check says what it found, and the fix.

Standard library only, so that it runs where the rest does not: `python -m xtr.doctor`. JAX is asked for its devices in
a process of its own, since starting a TPU can hang.
"""

import argparse
import dataclasses
import glob
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path

from xtr.parallel.accelerators import on_tpu

OK, WARN, WRONG = "ok", "warn", "wrong"
GB = 1e9
_SKEW_SECONDS = 5.0
_LOCAL_FILE_SYSTEMS = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "overlay", "tmpfs", "ramfs", "vfat", "apfs"}
_ASK_DEVICES = """
import json, jax
devices = jax.local_devices()
print(json.dumps({"kind": devices[0].device_kind, "platform": devices[0].platform, "local": len(devices)}))
"""


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one check found: OK, WARN or WRONG, `what` in one line, and the `fix` where there is one."""

    mark: str
    what: str
    fix: str = ""


# ---------------------------------------------------------------------------------------------------------- packages


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:4])


def _satisfies(version: str, specifiers: str) -> bool:
    """Whether a version is in a range such as '>=0.10.2,<0.11' or '==0.0.42.*'. Pre-releases count as their release."""
    have = _numbers(version)
    for operator, wanted in re.findall(r"(==|!=|>=|<=|~=|>|<)\s*([\w.*]+)", specifiers):
        want = _numbers(wanted)
        if wanted.endswith(".*"):
            equal = have[: len(want)] == want
        else:
            length = max(len(have), len(want))
            have = have + (0,) * (length - len(have))
            want = want + (0,) * (length - len(want))
            equal = have == want
        good = {
            "==": equal,
            "!=": not equal,
            ">=": have >= want,
            "<=": have <= want,
            ">": have > want,
            "<": have < want,
            "~=": have >= want
            and have[: max(1, len(_numbers(wanted)) - 1)] == want[: max(1, len(_numbers(wanted)) - 1)],
        }[operator]
        if not good:
            return False
    return True


def requirements(distribution: str, extra: str = "") -> list[tuple[str, str]]:
    """(name, range) of what an installed distribution needs on this Python; with an extra, of that extra alone."""
    found = []
    python = "{}.{}".format(*sys.version_info[:2])
    for line in importlib.metadata.requires(distribution) or ():
        need, _, marker = line.partition(";")
        wanted = re.search(r"extra\s*==\s*['\"]([\w.-]+)['\"]", marker)
        if (wanted[1] if wanted else "") != extra:
            continue
        about_python = re.findall(r"python_(?:full_)?version\s*([<>=!]+)\s*['\"]([\d.]+)['\"]", marker)
        if all(_satisfies(python, operator + number) for operator, number in about_python):
            name = re.match(r"[A-Za-z0-9._-]+", need.strip())
            if name:
                found.append((name[0], re.sub(r"^[A-Za-z0-9._-]+\s*(\[.*?\])?", "", need.strip())))
    return found


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_python(version: Sequence[int] = sys.version_info) -> list[Finding]:
    """The interpreter's version."""
    text = ".".join(map(str, version[:3]))
    if (3, 11) <= tuple(version[:2]) < (3, 13):
        return [Finding(OK, f"Python {text}")]
    return [Finding(WRONG, f"Python {text}: xtr needs 3.11 or 3.12", "make an environment with `python3.12 -m venv`")]


def check_packages(distribution: str = "xtr") -> list[Finding]:
    """Whether every package that xtr needs is there, in a version it was written for."""
    try:
        needs = requirements(distribution)
    except importlib.metadata.PackageNotFoundError:
        return [Finding(WARN, f"{distribution} is not installed, so what it needs is not known", "pip install -e .")]
    found = []
    for name, wanted in needs:
        have = _version(name)
        if have is None:
            found.append(Finding(WRONG, f"{name} is not installed", f"pip install '{name}{wanted}'"))
        elif not _satisfies(have, wanted):
            found.append(Finding(WRONG, f"{name} is {have}, but must be {wanted}", f"pip install '{name}{wanted}'"))
    return found or [Finding(OK, f"{len(needs)} packages are there, in the versions that they must have")]


def check_jax() -> list[Finding]:
    """Whether jaxlib and, where it is installed, libtpu are those that this jax was released with."""
    jax = _version("jax")
    if jax is None:
        return [Finding(WRONG, "jax is not installed", "pip install -e .")]
    found = []
    for name, extra in (("jaxlib", ""), ("libtpu", "tpu")):
        wanted = dict(requirements("jax", extra)).get(name, "")
        have = _version(name)
        if have is None:
            if name == "jaxlib" or on_tpu():
                what = f"{name} is not installed" + (", but this machine has a TPU" if name == "libtpu" else "")
                found.append(Finding(WRONG, what, f"pip install 'jax[tpu]=={jax}'" if extra else "pip install jaxlib"))
        elif wanted and not _satisfies(have, wanted):
            found.append(
                Finding(
                    WRONG if name == "jaxlib" or on_tpu() else WARN,
                    f"{name} {have} is not the one of jax {jax} ({wanted})",
                    f"pip install '{name}{wanted}'",
                )
            )
        else:
            found.append(Finding(OK, f"jax {jax} with {name} {have}"))
    return found


# ----------------------------------------------------------------------------------------------------------- devices


def check_environment(environment: dict[str, str] | None = None) -> list[Finding]:
    """Variables that decide which devices JAX takes and which processes belong together."""
    env = dict(os.environ) if environment is None else environment
    found = []
    platforms = env.get("JAX_PLATFORMS", "")
    if on_tpu() and platforms and "tpu" not in platforms:
        found.append(Finding(WARN, f"JAX_PLATFORMS={platforms} hides this machine's TPU", "unset JAX_PLATFORMS"))
    place = [name for name in ("XTR_COORDINATOR", "XTR_NUM_PROCESSES", "XTR_PROCESS_ID") if name in env]
    if place and len(place) < 3 and env.get("XTR_NUM_PROCESSES") != "1":
        found.append(
            Finding(
                WRONG, f"only {', '.join(place)} of a run's three variables are set", "set all three (docs/hosts.md)"
            )
        )
    hosts = [host for host in env.get("TPU_WORKER_HOSTNAMES", "").split(",") if host]
    if "TPU_WORKER_ID" in env and hosts and not env["TPU_WORKER_ID"].isdecimal():
        found.append(Finding(WRONG, f"TPU_WORKER_ID={env['TPU_WORKER_ID']} is no number", "unset it, or give a number"))
    elif "TPU_WORKER_ID" in env and hosts and int(env["TPU_WORKER_ID"]) >= len(hosts):
        found.append(
            Finding(
                WRONG,
                f"TPU_WORKER_ID is {env['TPU_WORKER_ID']}, but TPU_WORKER_HOSTNAMES names {len(hosts)} hosts",
                "give every host its own number, from 0 on",
            )
        )
    lock = Path("/tmp/libtpu_lockfile")
    if on_tpu() and lock.exists() and not os.access(lock, os.W_OK):
        found.append(Finding(WRONG, f"{lock} belongs to another user, so libtpu will not start", f"sudo rm {lock}"))
    return found or [Finding(OK, "no variable stands in the way of the devices")]


def check_devices(timeout: float = 120.0, command: Sequence[str] | None = None) -> list[Finding]:
    """Which devices JAX finds, asked in another process.

    Args:
      timeout: seconds, after which it counts as hanging.
      command: what to run in the place of Python; it prints the devices as JSON.
    """
    command = list(command or (sys.executable, "-c", _ASK_DEVICES))
    started = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        fix = "end other processes that use the devices"
        if on_tpu():
            fix += "; on a slice of several hosts a TPU starts only when all start: run xtr on every host at once"
        return [Finding(WRONG, f"JAX did not start within {timeout:g} s", fix)]
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return [Finding(WRONG, f"JAX does not start: {lines[-1]}", "see the packages above")]
    facts = json.loads(done.stdout.strip().splitlines()[-1])
    what = f"{facts['local']} x {facts['kind']} ({facts['platform']}), found in {time.monotonic() - started:.1f} s"
    if on_tpu() and facts["platform"] != "tpu":
        return [Finding(WRONG, f"{what}, but this machine has a TPU", "pip install 'jax[tpu]'; unset JAX_PLATFORMS")]
    if facts["platform"] == "cpu" and shutil.which("nvidia-smi") and glob.glob("/dev/nvidia[0-9]*"):
        return [Finding(WARN, f"{what}, but this machine has a GPU", "pip install 'xtr[gpu]'; unset JAX_PLATFORMS")]
    return [Finding(OK, what)]


# ------------------------------------------------------------------------------------------------------------- files


def file_system(folder: Path, mounts: str | None = None) -> str:
    """The type of the file system that a folder lies on, as the kernel calls it; '' where it does not say."""
    if mounts is None:
        try:
            mounts = Path("/proc/mounts").read_text()
        except OSError:
            return ""
    best, kind = "", ""
    for line in mounts.splitlines():
        _, place, found, *_ = line.split(" ")
        place = place.replace("\\040", " ")
        inside = place == "/" or str(folder) == place or str(folder).startswith(place.rstrip("/") + "/")
        if inside and len(place) >= len(best):
            best, kind = place, found
    return kind


def check_folder(folder: str, hosts: int = 1) -> list[Finding]:
    """Whether a folder can hold runs: written, read, renamed whole, made by one of several, with the machine's time.

    Args:
      hosts: machines that will share it.
    """
    if folder.startswith("gs://"):
        return check_bucket(folder)
    path = Path(folder).absolute()
    probe = path / f".xtr-doctor-{uuid.uuid4().hex[:12]}"
    found: list[Finding] = []
    try:
        path.mkdir(parents=True, exist_ok=True)
        found += _write_test(probe)
    except OSError as error:
        fix = "give another folder, or mend its rights"
        if error.filename and file_system(path) == "fuse.gcsfuse":
            fix = "mount a bucket with a hierarchical namespace: others cannot rename folders"
        found.append(Finding(WRONG, f"{path} cannot hold runs: {error.strerror} ({error.filename})", fix))
    finally:
        shutil.rmtree(probe, ignore_errors=True)
    kind = file_system(path)
    if hosts > 1 and kind in _LOCAL_FILE_SYSTEMS:
        found.append(
            Finding(WRONG, f"{path} is on {kind}, which {hosts} hosts do not share", "give a folder that all hosts see")
        )
    return found or [Finding(OK, f"{path} ({kind or 'unknown file system'}) can hold runs")]


def _write_test(probe: Path) -> list[Finding]:
    probe.mkdir()
    try:
        probe.mkdir()
        return [Finding(WRONG, f"{probe.parent}: two processes may make one folder", "use another file system")]
    except FileExistsError:
        pass
    before = time.time()
    first, second = probe / "one", probe / "two"
    first.write_bytes(b"x" * 65_536)
    second.write_bytes(b"y")
    with open(first, "rb") as file:
        os.fsync(file.fileno())
    os.replace(first, second)
    if second.read_bytes() != b"x" * 65_536 or first.exists():
        return [Finding(WRONG, f"{probe.parent}: a file that was renamed reads as another", "use another file system")]
    inner = probe / "folder.tmp"
    inner.mkdir()
    (inner / "file").write_bytes(b"z")
    os.rename(inner, probe / "folder")
    if (probe / "folder" / "file").read_bytes() != b"z":
        return [Finding(WRONG, f"{probe.parent}: a folder that was renamed lost a file", "use another file system")]
    skew = second.stat().st_mtime - before
    if not -_SKEW_SECONDS < skew < _SKEW_SECONDS + time.time() - before:
        return [
            Finding(
                WARN, f"{probe.parent}: its clock and this machine's are {skew:+.0f} s apart", "set the clocks (NTP)"
            )
        ]
    return []


def check_bucket(url: str) -> list[Finding]:
    """Whether a bucket can hold runs: an object written once, not twice, read back and deleted, by gcloud."""
    if not shutil.which("gcloud"):
        return [
            Finding(WRONG, f"{url} cannot be tried without gcloud", "install it: cloud.google.com/sdk/docs/install")
        ]
    bucket = "/".join(url.split("/")[:3])
    name = f"{url.rstrip('/')}/.xtr-doctor-{uuid.uuid4().hex[:12]}"

    def gcloud(*words: str, stdin: str = "") -> subprocess.CompletedProcess:
        command = ["gcloud", "storage", *words]
        try:
            return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120, check=False)
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, 124, "", "no answer within 120 s")

    def why(done: subprocess.CompletedProcess) -> str:
        return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]

    made = gcloud("cp", "--if-generation-match=0", "-", name, stdin="x\n")
    if made.returncode != 0:
        fix = "is it there, are you logged in (`gcloud auth list`), and may you write to it?"
        return [Finding(WRONG, f"{url} cannot be written: {why(made)}", fix)]
    found = []
    if gcloud("cp", "--if-generation-match=0", "-", name, stdin="y\n").returncode == 0:
        found.append(Finding(WRONG, f"{url}: an object was made twice, so no lock holds", "use another bucket"))
    read = gcloud("cat", name)
    if read.returncode != 0 or read.stdout != "x\n":
        found.append(
            Finding(WRONG, f"{url} does not give back what was written: {why(read)}", "mend your rights to it")
        )
    gone = gcloud("rm", name)
    if gone.returncode != 0:
        found.append(Finding(WRONG, f"{url}: {name} cannot be deleted: {why(gone)}", "mend your rights to it"))
    facts = gcloud("buckets", "describe", bucket, "--format=json")
    if facts.returncode == 0 and not _hierarchical(facts.stdout):
        found.append(
            Finding(
                WRONG,
                f"{bucket} has no hierarchical namespace: mounted, its folders cannot be renamed, as checkpoints are",
                f"gcloud storage buckets create {bucket}-hns --enable-hierarchical-namespace "
                "--uniform-bucket-level-access --location=...",
            )
        )
    return found or [Finding(OK, f"{url} can hold runs")]


def _hierarchical(described: str) -> bool:
    """Whether `buckets describe` tells of a hierarchical namespace, under the name of gcloud's or of the API."""
    try:
        facts = json.loads(described)
    except ValueError:
        return False
    for name in ("hierarchical_namespace", "hierarchicalNamespace"):
        if isinstance(facts.get(name), dict):
            return bool(facts[name].get("enabled"))
    return False


def check_disk(folders: Sequence[str] | None = None, least: float = 20 * GB) -> list[Finding]:
    """Free space where xtr writes: the working folder, the cache, temporary files."""
    cache = os.environ.get("XTR_CACHE_DIR") or str(Path.home() / ".cache" / "xtr")
    found = []
    for folder in dict.fromkeys(folders or (os.getcwd(), cache, tempfile.gettempdir())):
        place = Path(folder).absolute()
        while not place.exists():
            place = place.parent
        free = shutil.disk_usage(place).free
        few = free < least
        fix = "free some, or point XTR_CACHE_DIR, TMPDIR or the run directory elsewhere" if few else ""
        found.append(Finding(WARN if few else OK, f"{folder}: {free / GB:,.0f} GB are free", fix))
    return found


def check_data() -> list[Finding]:
    """The folder of official files that XTR_DATA_DIR names."""
    folder = os.environ.get("XTR_DATA_DIR")
    if not folder:
        return [
            Finding(WARN, "XTR_DATA_DIR is not set", "set it to the folder of `xtr data download`, or give DATA_DIR")
        ]
    if folder.startswith("gs://"):
        return [Finding(OK, f"XTR_DATA_DIR is {folder}")]
    if not os.path.isdir(folder) or not os.access(folder, os.R_OK | os.X_OK):
        return [Finding(WRONG, f"XTR_DATA_DIR is {folder}, which is no folder that can be read", "set it anew")]
    return [Finding(OK, f"XTR_DATA_DIR is {folder}, with {len(os.listdir(folder))} entries")]


# ----------------------------------------------------------------------------------------------------- clock and tools


def check_clock(url: str = "http://metadata.google.internal/computeMetadata/v1/instance/id") -> list[Finding]:
    """This machine's clock beside that of Google Cloud's metadata server, which only its machines reach."""
    request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=2) as answer:
            theirs = parsedate_to_datetime(answer.headers["Date"]).timestamp()
    except (OSError, ValueError, TypeError):
        return [Finding(OK, "the clock was not compared: no metadata server of Google Cloud is in reach")]
    skew = time.time() - theirs
    if abs(skew) > _SKEW_SECONDS:
        return [
            Finding(WARN, f"the clock is {skew:+.0f} s off", "set it by NTP: requests with a wrong time are refused")
        ]
    return [Finding(OK, "the clock is right to a few seconds")]


def check_tools() -> list[Finding]:
    """The programs that `xtr launch` and provenance use; none is needed for training."""
    needed = {
        "git": "for the revision that runs keep",
        "gcloud": "for `xtr launch --backend=tpu_vm` and for buckets",
        "kubectl": "for `xtr launch --backend=gke`",
    }
    missing = {name: why for name, why in needed.items() if not shutil.which(name)}
    if not missing:
        return [Finding(OK, f"{', '.join(needed)} are there")]
    return [
        Finding(WARN, f"{name} is not on PATH ({why})", "install it where you need it") for name, why in missing.items()
    ]


def examine(folders: Sequence[str] = (), hosts: int = 1, timeout: float = 120.0) -> list[Finding]:
    """All checks.

    Args:
      folders: local ones or gs://, that are to hold runs; the working folder where none is given.
      hosts: machines of the run.
      timeout: seconds for JAX to start.
    """
    checks: list[Callable[[], list[Finding]]] = [
        check_python,
        check_packages,
        check_jax,
        check_environment,
        lambda: check_devices(timeout),
        *(lambda folder=folder: check_folder(folder, hosts) for folder in folders or (os.getcwd(),)),
        check_disk,
        check_data,
        check_clock,
        check_tools,
    ]
    return [finding for check in checks for finding in check()]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `xtr doctor`."""
    parser.add_argument(
        "--dir", action="append", default=[], metavar="DIR", help="a folder or gs://BUCKET that is to hold runs"
    )
    parser.add_argument("--hosts", type=int, default=1, help="machines of the run; with several, --dir must be shared")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for JAX to start (%(default)g)")
    parser.add_argument("--json", action="store_true", help="for scripts")


def report(arguments: argparse.Namespace) -> int:
    """Runs all checks and prints them; returns 0, or 1 where something is wrong."""
    found = examine(arguments.dir, arguments.hosts, arguments.timeout)
    if arguments.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in found], indent=1))
    else:
        for finding in found:
            print(f"{finding.mark:<5}  {finding.what}" + (f"\n       fix: {finding.fix}" if finding.fix else ""))
        counts = {mark: sum(finding.mark == mark for finding in found) for mark in (OK, WARN, WRONG)}
        print(f"\n{counts[OK]} ok, {counts[WARN]} warnings, {counts[WRONG]} wrong")
    return 1 if any(finding.mark == WRONG for finding in found) else 0


if __name__ == "__main__":
    own = argparse.ArgumentParser(prog="python -m xtr.doctor", description=__doc__.split(":")[0])
    add_arguments(own)
    sys.exit(report(own.parse_args()))
