"""start.sh on one machine: how what runs there is asked to stop, and what its end is called."""

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from xtr.launch.script import start_script

IMAGE = f"example.com/xtr@sha256:{'0' * 64}"
LOOP = "for _ in $(seq 300); do sleep 0.1; done\n"
SAVES = f'trap "touch saved; exit 42" TERM\ntouch up\n{LOOP}'


class Vm:
    """A TPU VM with the script of a job."""

    def __init__(self, cloud, spec):
        self.cloud, self.home = cloud, cloud.root / "vm" / "1" / "0"
        self.place = self.home / "xtr-launch" / "jobs" / spec.name / "process-0"
        self.work = cloud.bucket / "f"
        self.home.mkdir(parents=True)
        (self.work / "jobs" / spec.name).mkdir(parents=True)
        if spec.wheel:
            (self.work / "jobs" / spec.name / Path(spec.wheel).name).write_bytes(b"wheel")
        (self.home / "start.sh").write_text(start_script(spec))

    def call(self, *words: str, path: str = "") -> subprocess.CompletedProcess:
        return subprocess.run(
            ["bash", self.home / "start.sh", *words],
            env=self.env(path),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def begin(self, attempt: int = 1, path: str = "") -> None:
        """Starts the process, which goes on without the call that started it."""
        command = ["setsid", "bash", self.home / "start.sh", "run", str(attempt)]
        process = subprocess.Popen(command, env=self.env(path), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        threading.Thread(target=process.wait, daemon=True).start()  # what has ended is not there any more

    def env(self, path: str) -> dict[str, str]:
        found = os.environ | {"HOME": str(self.home), "FAKE_MACHINE": "0", "FAKE_SLICE": "0"}
        return found | ({"PATH": os.pathsep.join((path, found["PATH"]))} if path else {})

    def wait_for(self, path: Path) -> None:
        end = time.monotonic() + 20
        while not path.exists():
            assert time.monotonic() < end, f"no {path}"
            time.sleep(0.05)

    def ended(self, attempt: int = 1) -> int:
        """How the process ended, by what it wrote down."""
        path = self.place / f"attempt-{attempt}.exit"
        self.wait_for(path)
        return int(path.read_text())

    def kill(self) -> None:
        """Kills start.sh and what it started, but for containers."""
        os.killpg(int((self.place / "pid").read_text().split()[0]), 9)

    def container(self) -> int:
        return int((self.home / "containers" / "xtr-job").read_text())


@pytest.fixture
def vm(cloud, job):
    """`vm(body, **fields)`: a machine of a job whose xtr does this."""

    def make(body: str, **fields) -> Vm:
        cloud.xtr(body)
        return Vm(cloud, job(**fields))

    return make


@pytest.fixture
def container(vm):
    """`container(body)`: a machine whose xtr does this in a container and has come to `up`, and its number."""

    def make(body: str) -> tuple[Vm, int]:
        machine = vm(body, wheel="", image=IMAGE)
        machine.begin()
        machine.wait_for(machine.work / "up")
        return machine, machine.container()

    return make


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("fields", [{}, {"wheel": "", "image": IMAGE}], ids=["wheel", "image"])
def test_what_runs_is_asked_to_save(vm, fields):
    """Also in a container, whose processes are root's: signals of ours do not reach them."""
    machine = vm(SAVES, **fields)
    machine.begin()
    machine.wait_for(machine.work / "up")
    assert machine.call("stop", "20").returncode == 0
    assert machine.ended() == 42 and (machine.work / "saved").exists()


def test_a_container_that_is_only_beginning_is_asked_all_the_same(vm, tmp_path):
    (tmp_path / "slow").mkdir()
    docker = tmp_path / "slow" / "docker"
    docker.write_text('#!/usr/bin/env bash\n[ "$1" != run ] || { touch "$HOME/begins"; sleep 1.5; }\n')
    docker.write_text(docker.read_text() + f'exec "{Path(__file__).parent}/fakes/docker" "$@"\n')
    docker.chmod(0o755)
    machine = vm(SAVES.replace("touch up\n", ""), wheel="", image=IMAGE)
    machine.begin(path=str(docker.parent))
    machine.wait_for(machine.home / "begins")
    begun = time.monotonic()
    assert machine.call("stop", "20", path=str(docker.parent)).returncode == 0
    assert machine.ended() == 42 and time.monotonic() - begun < 15


def test_a_container_that_does_not_stop_is_killed(container):
    machine, pid = container(f'trap "" TERM\ntouch up\n{LOOP}')
    assert machine.call("stop", "1").returncode == 0 and not runs(pid)


def test_a_container_without_the_process_that_started_it_is_stopped_too(container):
    machine, pid = container(SAVES)
    machine.kill()
    assert runs(pid)
    assert machine.call("stop", "0").returncode == 0 and not runs(pid)


def test_a_container_of_an_earlier_start_makes_way(container):
    machine, pid = container(SAVES)
    machine.kill()
    machine.cloud.xtr("exit 0\n")
    done = machine.call("attach", "2", "0")
    assert done.returncode == 0 and not runs(pid)


def test_a_stop_while_a_machine_is_set_up_is_a_preemption_and_is_not_waited_for(vm, tmp_path):
    (tmp_path / "slow").mkdir()
    uv = tmp_path / "slow" / "uv"
    uv.write_text('#!/usr/bin/env bash\ntouch "$HOME/installs"\nsleep 30\n')
    uv.chmod(0o755)
    machine = vm("exit 0\n")
    machine.begin(path=str(uv.parent))
    machine.wait_for(machine.home / "installs")
    begun = time.monotonic()
    assert machine.call("stop", "20").returncode == 0
    assert machine.ended() == 42 and time.monotonic() - begun < 10


def test_setting_up_that_fails_is_a_crash_whatever_its_code(vm, tmp_path):
    (tmp_path / "broken").mkdir()
    gcsfuse = tmp_path / "broken" / "gcsfuse"
    gcsfuse.write_text("#!/usr/bin/env bash\nexit 42\n")
    gcsfuse.chmod(0o755)
    machine = vm("exit 0\n")
    machine.begin(path=str(gcsfuse.parent))
    assert machine.ended() == 1


def test_xtr_that_is_stopped_before_it_listens_is_preempted(vm):
    machine = vm("touch up\nexec sleep 30\n")
    machine.begin()
    machine.wait_for(machine.work / "up")
    assert machine.call("stop", "20").returncode == 0
    assert machine.ended() == 42


def test_xtr_that_is_killed_by_another_has_crashed(vm):
    machine = vm("kill -TERM $$\n")
    machine.begin()
    assert machine.ended() == 143


def test_a_job_with_an_image_that_takes_too_long_saves_and_ends(cloud, job, start):
    cloud.xtr(SAVES)
    code, found = start(job(wheel="", image=IMAGE, max_hours=2 / 3600))
    assert code == 42 and found.state.outcome == "out of time"
    assert (cloud.bucket / "f" / "saved").exists() and "job" not in cloud.state()
