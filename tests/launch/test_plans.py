"""What backends make of jobs: recipes, dry runs beside real runs, manifests by two validators, shell by one."""

import copy
import json
import os
import re
import shlex
import subprocess
import warnings
from pathlib import Path

import jsonschema
import pytest

from xtr.cli.main import run
from xtr.errors import DataError
from xtr.launch import backends, machines, recipes
from xtr.launch.actions import Remove, Run, Write, shell
from xtr.launch.backends import gke, tpu_vm
from xtr.launch.plan import Seen
from xtr.launch.script import start_script
from xtr.parallel.topology import parse

SCHEMA = json.loads((Path(gke.__file__).parent.parent / "schemas" / "jobset.json").read_text())
SLICES = {
    "tpu_vm": ["v2-8", "v3-32", "v4-8", "v4-64", "v5litepod-1", "v5litepod-8", "v5litepod-256", "v5p-8", "v5p:4x4x2",
               "v5p-256", "v6e-8", "v6e-64"],
    "gke": ["v4-8", "v4-64", "v5litepod-1", "v5litepod-8", "v5litepod-256", "v5p-8", "v5p:4x4x4", "v6e-4", "v6e-256",
            "tpu7x-8", "tpu7x:4x4x4"],
}  # fmt: skip
EVERY = [(backend, accelerator) for backend, names in SLICES.items() for accelerator in names]


# -------------------------------------------------------------------------------------------------------------- recipes


@pytest.mark.parametrize("path", recipes.shipped(), ids=lambda path: path.stem)
def test_a_recipe_says_what_comes_out(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not recipes.verify(path, run), f"`xtr launch verify --update` writes {path.name} anew"
    assert not list(tmp_path.iterdir())  # a dry run leaves nothing


def test_there_is_a_recipe_of_every_backend_and_kind_of_chip():
    commands = "".join(path.read_text() for path in recipes.shipped())
    asked = set(re.findall(r"--backend=(\w+) --accelerator=(v\d\w*?|tpu7x)(?:litepod)?[-:]", commands))
    wanted = {(b, k) for b in ("tpu_vm", "gke") for k in ("v4", "v5", "v5p", "v6e")} | {("gke", "tpu7x")}
    assert asked == wanted and "--backend=local" in commands


def test_a_recipe_that_is_wrong_is_found_and_written_anew(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (shipped,) = [path for path in recipes.shipped() if path.stem == "tpu_vm_v4"]
    text = shipped.read_text()
    changed = tmp_path / "recipe.md"
    changed.write_text(text.replace("--accelerator-type=v4-64", "--accelerator-type=v4-32"))
    assert recipes.verify(changed, run) and "v4-32" in changed.read_text()
    assert recipes.verify(changed, run, update=True) and changed.read_text() == text
    assert run(["launch", "verify", str(changed)]) == 0
    assert "1 files, 0 differ" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["xtr launch train --gin_file=a.gin", "rm -rf --dry_run", "xtr train --dry_run"])
def test_a_recipe_runs_nothing_but_dry_runs(command, tmp_path):
    path = tmp_path / "bad.md"
    path.write_text(f"# Bad\n\n```shell\n{command}\n```\n\n```text\n```\n")
    with pytest.raises(DataError, match="bad.md:4: a recipe's command is"):
        recipes.verify(path, run)


def test_a_file_without_commands_is_no_recipe(tmp_path):
    (tmp_path / "none.md").write_text("# None\n")
    with pytest.raises(DataError, match="nothing to verify"):
        recipes.verify(tmp_path / "none.md", run)


# ------------------------------------------------------------------------------------------------ dry run and real run


def compared(calls: list[dict]) -> list[tuple]:
    """Calls of the launcher itself, in order; how often it looks at its machines differs."""
    own = [(call["program"], tuple(call["argv"]), call["stdin"]) for call in calls]
    return [call for call in own if "describe" not in call[1] and "get" not in call[1] and not _on_machine(call)]


def _on_machine(call: tuple) -> bool:
    return call[1][:2] == ("storage", "cat")  # start.sh, which a machine reads for itself


@pytest.mark.parametrize("backend, accelerator", [("tpu_vm", "v4-16"), ("gke", "v4-16")])
def test_a_dry_run_prints_the_very_commands_that_run(cloud, job, start, backend, accelerator):
    spec = job(
        backend, accelerator=accelerator, internal_ips=backend == "tpu_vm", queue="tpu" if backend == "gke" else ""
    )
    if backend == "gke":  # a job that is over is not asked for its log
        asked = """grep -q '"logs"' "$FAKE_CLOUD/calls.jsonl" """
        cloud.xtr(f"for _ in $(seq 600); do {asked} && break; sleep 0.1; done\n")
    code, _ = start(spec)
    assert code == 0
    real = compared(cloud.calls())
    (cloud.root / "calls.jsonl").unlink()
    text = backends.plan(spec).dry_run()
    done = subprocess.run(["bash", "-e", "-c", text], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert compared(cloud.calls()) == real
    assert len(real) >= 7 and any(stdin for *_, stdin in real)


def test_a_dry_run_of_this_machine_does_what_it_prints(cloud, job):
    cloud.xtr('echo "$*" > "made-$XTR_PROCESS_ID"\n')
    text = backends.plan(job("local", local_processes=1)).dry_run()
    done = subprocess.run(["bash", "-e", "-c", text], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "jobs/job/overrides.gin" in Path("made-").read_text() and Path("jobs/job/overrides.gin").exists()
    assert not Path("runs/a/JOB").exists()


RECORDER = """#!/usr/bin/env bash
{ printf '%s\\0' "${0##*/}" "$@"; printf '\\1\\0'; cat; printf '\\2\\0'; } >>"$RECORD"
"""


@pytest.mark.parametrize("backend, accelerator", EVERY)
@pytest.mark.parametrize("how", ["spot", "reserved"])
def test_a_shell_reads_a_dry_run_as_the_commands_of_the_plan(backend, accelerator, how, job, tmp_path):
    """Word for word and input for input, on every slice."""
    for program in ("gcloud", "kubectl"):
        (tmp_path / program).write_text(RECORDER)
        (tmp_path / program).chmod(0o755)
    more = {"max_hours": 2.0, "service_account": "me"} if how == "spot" else {"reservation": "mine"}
    plan = backends.plan(job(backend, accelerator=accelerator, provisioning=how, **more))
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "RECORD": str(tmp_path / "record")}
    subprocess.run(["bash", "-e", "-c", plan.dry_run()], env=env, stdin=subprocess.DEVNULL, check=True)
    calls = []
    for call in (tmp_path / "record").read_text().split("\2\0")[:-1]:
        words, _, stdin = call.partition("\1\0")
        calls.append(Run(tuple(words.split("\0")[:-1]), stdin))
    planned = (plan.lock, *plan.upload, *plan.create, plan.describe, *plan.attach(1, 0), *plan.delete, plan.unlock)
    assert calls == list(planned)


HOSTILE = 'it\'s "quoted" $(touch pwned) `touch pwned` ${HOME} \\n \\ EOF\nEOF\nEOF_\n\t*?[a] <b> é 人 \n'


def test_any_text_prints_as_a_command_and_as_a_file_that_hold_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    actions = [
        Write("dir with space/it's $(x)", HOSTILE),
        Run(("python3", "-c", "import sys; open('out', 'w').write(sys.argv[1] + sys.stdin.read())", HOSTILE), HOSTILE),
        Write("gone", "x\n", exclusive=True),
        Remove("gone"),
    ]
    subprocess.run(["bash", "-e", "-c", "".join(map(shell, actions))], check=True)
    assert Path("dir with space/it's $(x)").read_text() == HOSTILE
    assert Path("out").read_text() == HOSTILE + HOSTILE
    assert not Path("gone").exists() and not Path("pwned").exists()


def test_an_exclusive_file_is_written_once_in_the_shell_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = shell(Write("runs/a/JOB", "first\n", exclusive=True))
    assert subprocess.run(["bash", "-e", "-c", text], check=False).returncode == 0
    again = text.replace("first", "second")
    assert subprocess.run(["bash", "-e", "-c", again], capture_output=True, check=False).returncode != 0
    assert Path("runs/a/JOB").read_text() == "first\n"


# ------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("backend, accelerator", EVERY)
def test_machines_chips_and_shapes_agree(backend, accelerator, job):
    spec = job(backend, accelerator=accelerator)
    topology = spec.topology
    assert machines.chips_per_host(topology) * spec.processes == topology.chips
    assert machines.chips_per_host(topology) in (1, 4, 8)
    machine = machines.of(topology, backend)
    assert machine.runtime if backend == "tpu_vm" else machine.label and machine.machine


@pytest.mark.parametrize(
    "accelerator, kind, runtime",
    [
        ("v4-64", "v4-64", "tpu-ubuntu2204-base"),
        ("v5e:16x16", "v5litepod-256", "v2-alpha-tpuv5-lite"),
        ("v5p-256", "v5p-256", "v2-alpha-tpuv5"),
        ("v6e:8x8", "v6e-64", "v2-alpha-tpuv6e"),
    ],
)
def test_tpu_vms_are_asked_for_by_googles_names(accelerator, kind, runtime, job):
    (create,) = backends.plan(job(accelerator=accelerator)).create
    assert f"--accelerator-type={kind}" in create.argv and f"--runtime-version={runtime}" in create.argv
    assert create.argv[:5] == ("gcloud", "compute", "tpus", "queued-resources", "create")


def test_an_unusual_shape_goes_by_type_and_topology_in_the_alpha_release(job):
    (create,) = backends.plan(job(accelerator="v5p:4x4x2")).create
    assert create.argv[1] == "alpha" and {"--type=v5p", "--topology=4x4x2"} <= set(create.argv)


@pytest.mark.parametrize("how, flag", [("spot", "--spot"), ("reserved", "--reserved"), ("on-demand", None)])
def test_ways_to_pay(how, flag, job):
    (create,) = backends.plan(job(provisioning=how)).create
    assert {word for word in create.argv if word in ("--spot", "--reserved")} == ({flag} if flag else set())


def test_several_slices_are_one_request_and_one_ssh_to_all(job):
    plan = backends.plan(job(slices=3))
    assert {"--node-prefix=job", "--node-count=3"} <= set(plan.create[0].argv)
    (attach,) = plan.attach(2, 17)
    assert {"--node=all", "--worker=all", "--batch-size=6"} <= set(attach.argv)
    assert any(word.endswith("attach 2 17") for word in attach.argv)


# -------------------------------------------------------------------------------------------------------------- states


@pytest.mark.parametrize(
    "state, seen",
    [
        ("CREATING", Seen.WAITING), ("ACCEPTED", Seen.WAITING), ("WAITING_FOR_RESOURCES", Seen.WAITING),
        ("PROVISIONING", Seen.WAITING), ("ACTIVE", Seen.READY), ("SUSPENDING", Seen.GONE), ("SUSPENDED", Seen.GONE),
        ("DELETING", Seen.GONE), ("FAILED", Seen.GONE), ("SOMETHING_NEW", Seen.WAITING),
    ],
)  # fmt: skip
def test_states_of_queued_resources(state, seen):
    assert tpu_vm.observe(0, json.dumps({"state": {"state": state}}), "").seen is seen


def test_answers_that_teach_nothing_are_no_loss():
    assert tpu_vm.observe(1, "", "ERROR: UNAVAILABLE").seen is Seen.WAITING
    assert tpu_vm.observe(0, "not json", "").seen is Seen.WAITING
    assert tpu_vm.observe(1, "", "ERROR: NOT_FOUND: queuedResources/job").seen is Seen.ABSENT
    assert gke.observe(1, "", "Unable to connect to the server: timeout").seen is Seen.WAITING
    assert gke.observe(0, "[]", "").seen is Seen.WAITING
    assert gke.observe(1, "", 'Error from server (NotFound): jobsets "job" not found').seen is Seen.ABSENT


# ------------------------------------------------------------------------------------------------------------ manifests


def every_manifest(job) -> list[dict]:
    more = [{}, {"queue": "tpu"}, {"provisioning": "spot", "max_hours": 1.5}, {"service_account": "xtr"},
            {"provisioning": "reserved", "reservation": "mine"}]  # fmt: skip
    return [gke.manifest(job("gke", accelerator=name, **fields)) for name in SLICES["gke"] for fields in more]


def inner_job(manifest: dict) -> dict:
    """The Job of a JobSet's slice, as Kubernetes itself knows it."""
    (slices,) = manifest["spec"]["replicatedJobs"]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": manifest["metadata"]["name"]},
        "spec": slices["template"]["spec"],
    }


def kubernetes_errors(manifest: dict) -> list[str]:
    import kubernetes_validate

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            kubernetes_validate.validate(inner_job(manifest), "1.32", strict=True)
        except (kubernetes_validate.ValidationError, jsonschema.ValidationError) as error:
            return [str(error)]
    return []


def test_every_manifest_is_one_that_kubernetes_and_our_schema_take(job):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for manifest in every_manifest(job):
        jsonschema.validate(manifest, SCHEMA)
        assert not kubernetes_errors(manifest)


def changed(manifest: dict, place: str, value) -> dict:
    manifest = copy.deepcopy(manifest)
    *path, last = (int(part) if part.isdecimal() else part for part in place.split("/"))
    at = manifest
    for part in path:
        at = at[part]
    at[last] = value
    return manifest


JOB = "spec/replicatedJobs/0/template/spec"


@pytest.mark.parametrize(
    "place, value",
    [
        (f"{JOB}/paralelism", 2), (f"{JOB}/parallelism", "2"), (f"{JOB}/template/spec/nodeSelectr", {}),
        (f"{JOB}/template/spec/volumes/0/csi/driver", 3),
    ],
)  # fmt: skip
def test_both_validators_refuse_what_is_wrong_in_a_pod(place, value, job):
    manifest = changed(gke.manifest(job("gke")), place, value)
    assert kubernetes_errors(manifest)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest, SCHEMA)


@pytest.mark.parametrize(
    "place, value",
    [
        ("spec/failurePolicy/rules/0/action", "RestartSometimes"), ("spec/failurePolicy/maxRestarts", -1),
        ("spec/failurePolicy/rules/0/name", ""), ("metadata/labels", {}), ("spec/replicatedJobs/0/replicas", 0),
        (f"{JOB}/podFailurePolicy/rules/0/onPodConditions/0/status", ""), (f"{JOB}/template/metadata/annotations", {}),
        ("metadata/name", "Upper_Case"), ("status", {}), (f"{JOB}/template/spec/restartPolicy", "Sometimes"),
        (f"{JOB}/template/spec/containers/0/image", None),
    ],
)  # fmt: skip
def test_our_schema_refuses_what_is_wrong_around_it(place, value, job):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(changed(gke.manifest(job("gke")), place, value), SCHEMA)


@pytest.mark.parametrize("accelerator", SLICES["gke"])
@pytest.mark.parametrize("slices", [1, 2])
def test_a_manifest_asks_for_the_chips_that_there_are(accelerator, slices, job):
    topology = parse(accelerator)
    if slices > 1 and topology.hosts < 2:
        return
    manifest = gke.manifest(job("gke", accelerator=accelerator, slices=slices))
    (each,) = manifest["spec"]["replicatedJobs"]
    spec, pod = each["template"]["spec"], each["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    chips = int(container["resources"]["limits"]["google.com/tpu"])
    shape = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    product = 1
    for size in shape.split("x"):
        product *= int(size)
    assert each["replicas"] == slices and spec["parallelism"] == spec["completions"] == topology.hosts
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert chips * spec["completions"] == product == topology.chips
    assert spec["backoffLimit"] == 0 and pod["terminationGracePeriodSeconds"] >= 30


def test_no_manifest_holds_an_empty_value(job):
    def empty(value) -> bool:
        if isinstance(value, dict):
            return not value or any(map(empty, value.values()))
        if isinstance(value, list):
            return not value or any(map(empty, value))
        return value in (None, "")

    assert not any(map(empty, every_manifest(job)))


# --------------------------------------------------------------------------------------------------------------- shell


@pytest.mark.parametrize("backend", ["local", "tpu_vm", "gke"])
def test_the_start_script_passes_shellcheck(backend, job, tmp_path):
    (tmp_path / "start.sh").write_text(start_script(job(backend)))
    subprocess.run(["bash", "-n", tmp_path / "start.sh"], check=True)
    done = subprocess.run(["shellcheck", tmp_path / "start.sh"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_dry_run_passes_shellcheck(job, tmp_path):
    (tmp_path / "job.sh").write_text("#!/usr/bin/env bash\n" + backends.plan(job()).dry_run())
    subprocess.run(["shellcheck", tmp_path / "job.sh"], check=True)


def test_every_word_of_the_command_reaches_xtr_as_it_is(job, cloud, start):
    """Search paths and gin files with anything in their names, on this machine, where names are free."""
    cloud.xtr('printf "%s\\n" "$@" > words\n')
    spec = job("local", local_processes=1, gin_files=("a b.gin", "$(touch pwned).gin"), search_paths=("it's", '"x"'))
    assert start(spec)[0] == 0
    words = ["train", "--gin_file=a b.gin", "--gin_file=$(touch pwned).gin", '--gin_search_paths=it\'s,"x"']
    assert Path("words").read_text().splitlines() == words and not Path("pwned").exists()


def test_a_script_without_a_known_order_says_how_it_is_used(job, tmp_path):
    (tmp_path / "start.sh").write_text(start_script(job()))
    env = os.environ | {"HOME": str(tmp_path)}
    done = subprocess.run(["bash", tmp_path / "start.sh"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "usage:" in done.stderr


def test_what_runs_on_machines_needs_no_quoting(job):
    """The command of ssh crosses a shell there: it is of harmless words alone."""
    (attach,) = backends.plan(job()).attach(1, 0)
    (command,) = [word.removeprefix("--command=") for word in attach.argv if word.startswith("--command=")]
    assert set(shlex.split(command)) >= {"gs://my-bucket/f/jobs/job/start.sh", "xtr-launch/job.sh"}
    assert not set(command) & set("'\"$`\\*?[]{}()!;\n")
