"""The doctor's checks, on machines that lack something."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from xtr import doctor
from xtr.cli.main import run
from xtr.doctor import OK, WARN, WRONG


def marks(findings) -> list[str]:
    return [finding.mark for finding in findings]


def test_it_needs_the_standard_library_alone(tmp_path):
    code = (
        "import sys; sys.argv = ['doctor', '--json', '--dir', sys.argv[1]]; import xtr.doctor as d; "
        "heavy = {'jax', 'numpy', 'gin', 'tensorstore', 'tensorflow', 'rich'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_this_environment_is_sound(tmp_path, capsys):
    code = run(["doctor", "--json", f"--dir={tmp_path}"])
    found = json.loads(capsys.readouterr().out)
    assert code == 0, [fact for fact in found if fact["mark"] == WRONG]
    assert any("cpu" in fact["what"] and "found in" in fact["what"] for fact in found)
    assert not list(tmp_path.iterdir())


def test_every_fault_has_a_fix_and_the_exit_code_is_1(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "check_devices", lambda timeout: [doctor.Finding(WRONG, "JAX hangs", "wake it")])
    (tmp_path / "file").touch()
    assert run(["doctor", f"--dir={tmp_path / 'file' / 'below'}"]) == 1
    said = capsys.readouterr().out
    assert "wrong  JAX hangs\n       fix: wake it" in said and "cannot hold runs" in said


@pytest.mark.parametrize(
    "version, wanted, good",
    [
        ("0.10.2", ">=0.10.2,<0.11", True), ("0.10.1", ">=0.10.2,<0.11", False), ("0.11.0", ">=0.10.2,<0.11", False),
        ("0.0.42.1", "==0.0.42.*", True), ("0.0.43", "==0.0.42.*", False), ("2.0", "~=2.0", True), ("1.26", "", True),
        ("3.0", "~=2.0", False), ("6.33.1", ">=6.31,<8", True), ("1.0", "==1.0.0", True), ("1.0", "!=1.0", False),
    ],
)  # fmt: skip
def test_ranges_of_versions(version, wanted, good):
    assert doctor._satisfies(version, wanted) == good


def test_old_interpreters_are_wrong():
    assert marks(doctor.check_python((3, 10, 12))) == [WRONG]
    assert marks(doctor.check_python((3, 13, 0))) == [WRONG]
    assert marks(doctor.check_python((3, 12, 1))) == [OK]


def test_a_missing_and_a_wrong_package_are_named(monkeypatch):
    monkeypatch.setattr(doctor, "requirements", lambda name, extra="": [("jax", ">=99"), ("no-such-thing", ">=1")])
    old, missing = doctor.check_packages()
    assert old.mark == missing.mark == WRONG
    assert "but must be >=99" in old.what and missing.fix == "pip install 'no-such-thing>=1'"


def test_markers_choose_what_this_python_needs():
    names = dict(doctor.requirements("xtr"))
    assert "jax" in names and "apache-beam" not in names
    assert doctor._satisfies("0.10.2" if sys.version_info < (3, 12) else "0.12.0", names["jax"])
    assert "libtpu" in dict(doctor.requirements("jax", "tpu"))


@pytest.mark.parametrize("name", ["jaxlib", "libtpu"])
def test_a_library_of_another_release_is_found(name, monkeypatch):
    versions = {"jax": "0.10.2", "jaxlib": "0.10.2", "libtpu": "0.0.42.1"}
    monkeypatch.setattr(doctor, "_version", (versions | {name: "0.0.1"}).get)
    monkeypatch.setattr(doctor, "on_tpu", lambda: True)
    needs = {"": [("jaxlib", "<=0.10.2,>=0.10.2")], "tpu": [("libtpu", "==0.0.42.*")]}
    monkeypatch.setattr(doctor, "requirements", lambda distribution, extra="": needs[extra])
    (wrong,) = [finding for finding in doctor.check_jax() if finding.mark == WRONG]
    assert f"{name} 0.0.1 is not the one of jax 0.10.2" in wrong.what


def test_a_device_that_hangs_is_given_up():
    started = time.monotonic()
    (found,) = doctor.check_devices(0.5, [sys.executable, "-c", "import time; time.sleep(60)"])
    assert found.mark == WRONG and "did not start within 0.5 s" in found.what and time.monotonic() - started < 30


def test_a_device_that_fails_is_quoted():
    (found,) = doctor.check_devices(30, [sys.executable, "-c", "raise RuntimeError('no TPU here')"])
    assert found.mark == WRONG and found.what == "JAX does not start: RuntimeError: no TPU here"


@pytest.mark.parametrize(
    "environment, mark, said",
    [
        ({}, OK, "no variable"),
        ({"XTR_COORDINATOR": "a:1"}, WRONG, "only XTR_COORDINATOR of a run's three"),
        ({"TPU_WORKER_ID": "2", "TPU_WORKER_HOSTNAMES": "a,b"}, WRONG, "names 2 hosts"),
        ({"TPU_WORKER_ID": "x", "TPU_WORKER_HOSTNAMES": "a,b"}, WRONG, "is no number"),
        ({"JAX_PLATFORMS": "cpu"}, WARN, "hides this machine's TPU"),
    ],
)
def test_variables_that_stand_in_the_way(environment, mark, said, monkeypatch):
    monkeypatch.setattr(doctor, "on_tpu", lambda: "JAX_PLATFORMS" in environment)
    (found,) = doctor.check_environment(environment)
    assert found.mark == mark and said in found.what


def test_a_folder_of_one_host_is_no_place_for_several(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "file_system", lambda folder, mounts=None: "ext4")
    assert marks(doctor.check_folder(str(tmp_path), hosts=2)) == [WRONG]
    assert marks(doctor.check_folder(str(tmp_path), hosts=1)) == [OK]
    monkeypatch.setattr(doctor, "file_system", lambda folder, mounts=None: "nfs4")
    assert marks(doctor.check_folder(str(tmp_path), hosts=2)) == [OK]


def test_the_file_system_is_that_of_the_longest_mount():
    mounts = "/dev/a / ext4 rw 0 0\nbucket /mnt/a\\040b fuse.gcsfuse rw 0 0\nhost:/x /mnt nfs4 rw 0 0\n"
    kinds = {"/home/me": "ext4", "/mnt/c": "nfs4", "/mnt/a b/runs": "fuse.gcsfuse", "/mnta": "ext4"}
    assert {folder: doctor.file_system(Path(folder), mounts) for folder in kinds} == kinds


def test_a_folder_that_cannot_be_renamed_is_wrong(tmp_path, monkeypatch):
    """As a bucket without a hierarchical namespace is."""

    def refuse(*names):
        raise OSError(38, "Function not implemented", str(names[0]))

    monkeypatch.setattr(doctor.os, "rename", refuse)
    monkeypatch.setattr(doctor, "file_system", lambda folder, mounts=None: "fuse.gcsfuse")
    (found,) = doctor.check_folder(str(tmp_path))
    assert found.mark == WRONG and "Function not implemented" in found.what and "hierarchical namespace" in found.fix
    assert not list(tmp_path.iterdir())


def test_a_clock_that_is_off_is_seen_in_new_files(tmp_path, monkeypatch):
    now = time.time
    monkeypatch.setattr(doctor.time, "time", lambda: now() - 3600)
    (found,) = doctor.check_folder(str(tmp_path))
    assert found.mark == WARN and "+3600 s apart" in found.what


def test_little_space_is_a_warning(tmp_path):
    assert marks(doctor.check_disk([str(tmp_path / "not" / "yet")], least=1e18)) == [WARN]
    assert marks(doctor.check_disk([str(tmp_path)], least=0)) == [OK]


def test_the_data_folder_must_be_one(tmp_path, monkeypatch):
    for value, mark in ((str(tmp_path), OK), (str(tmp_path / "none"), WRONG), ("gs://bucket/data", OK), ("", WARN)):
        monkeypatch.setenv("XTR_DATA_DIR", value)
        assert marks(doctor.check_data()) == [mark]


def test_the_clock_is_compared_where_a_server_answers():
    import http.server
    import threading

    class Late(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def date_time_string(self, timestamp=None):
            return "Mon, 01 Jan 2024 00:00:00 GMT"

        def log_message(self, *words):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Late) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert marks(doctor.check_clock(f"http://127.0.0.1:{server.server_port}/")) == [WARN]
        server.shutdown()
    assert marks(doctor.check_clock("http://127.0.0.1:9/")) == [OK]


def test_missing_tools_are_warnings(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert marks(doctor.check_tools()) == [WARN] * 3
    (found,) = doctor.check_bucket("gs://bucket")
    assert found.mark == WRONG and "without gcloud" in found.what
