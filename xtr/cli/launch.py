"""`xtr launch`: a command of xtr on other machines, from asking for them to taking them down."""

import argparse
import contextlib
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from xtr import config, preemption, rundir
from xtr.cli import tables
from xtr.errors import Preempted, UserError

_SAYS = 0.5  # seconds in which a launcher that has begun has written down which process it is
_ENTRIES = {"train": "train", "eval": "evaluate", "infer": "infer", "study": "study"}
_DIRECTORIES = {"train": "model_dir", "eval": "eval_output_dir", "study": "study_dir"}
_HELP = {
    "train": "`xtr train` there",
    "eval": "`xtr eval` there",
    "infer": "`xtr infer` there",
    "study": "`xtr study run` there",
}


def add_arguments(parser: argparse.ArgumentParser, parser_class: type[argparse.ArgumentParser], gin_arguments) -> None:
    """Adds the actions of `xtr launch` and their arguments; `gin_arguments` adds those of gin."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=parser_class)
    for name, text in _HELP.items():
        action = actions.add_parser(name, help=text)
        gin_arguments(action)
        add_job(action)
        add_job_alone(action)
        if name == "study":
            action.add_argument("--stage", action="append", default=[], metavar="NAME", help="only this stage")
    for name, text in (
        ("status", "what there is of all jobs, or of one"),
        ("logs", "the log of process 0"),
        ("stop", "save, stop and delete a job"),
        ("resume", "watch a job on, or start one again that ended before it was done"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("name", metavar="NAME", nargs="?" if name == "status" else None)
        if name == "status":
            action.add_argument("--json", action="store_true", help="for scripts")
        if name == "logs":
            action.add_argument("--attempt", type=int, help="default: the last one")
    verify = actions.add_parser("verify", help="run every recipe without a cloud, and compare with what it says")
    verify.add_argument("files", nargs="*", metavar="FILE.md", help="default: the recipes that come with xtr")
    verify.add_argument("--update", action="store_true", help="write what came out into the files")


def add_job(parser: argparse.ArgumentParser) -> None:
    """Adds what says where a job runs, and how long."""
    add = parser.add_argument
    add("--backend", default="local", metavar="BACKEND", help="local, tpu_vm or gke (default: %(default)s)")
    add("--accelerator", default="", metavar="TYPE", help="v5litepod-256, v6e:8x8, v5p-64, tpu7x:4x4x4")
    add("--slices", type=int, default=1, help="equal slices, joined by the data centre's network")
    add("--processes", type=int, default=1, help="of --backend=local: processes on this machine's CPUs")
    add("--bucket", default=None, metavar="gs://BUCKET/FOLDER", help="working folder; relative paths lie in it")
    add("--project", default="", help="default: gcloud's own")
    add("--zone", default="", help="of TPU VMs: us-west4-a")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--spot", action="store_true", help="cheaper, and may be taken away at any time")
    how.add_argument("--reserved", action="store_true", help="from a reservation of yours")
    add("--reservation", default="", metavar="NAME", help="from this reservation")
    add("--service_account", default="", help="of TPU VMs an e-mail address, of pods a Kubernetes account")
    add("--network", default="", help="of TPU VMs")
    add("--subnetwork", default="", help="of TPU VMs")
    add("--internal_ips", action="store_true", help="TPU VMs without public addresses")
    add("--image", default="", help="container image that holds xtr, best by digest")
    add("--wheel", default="", metavar="FILE.whl", help="wheel of xtr, installed on every machine")
    add("--context", default="", help="of kubectl: which cluster (default: the current one)")
    add("--queue", default="", help="Kueue's local queue")
    add("--retries", type=int, default=3, help="starts after crashes; preemptions are not counted (%(default)s)")
    add("--max_hours", type=float, default=None, help="stop the job after so many hours with machines")
    add("--wait_hours", type=float, default=24.0, help="for capacity, each time (%(default)g)")
    add("--poll_seconds", type=float, default=30.0, help="between two looks at machines (%(default)g)")
    add("--keep", action="store_true", help="leave the machines there at the end")


def add_job_alone(parser: argparse.ArgumentParser) -> None:
    """Adds what goes with one job by itself."""
    add = parser.add_argument
    add("--name", help="of the job and of what is created for it (default: from the run directory)")
    add("--dry_run", action="store_true", help="print the commands, files and inputs, and do nothing")
    add(
        "--check", nargs="?", const="fit", choices=("names", "fit"), default=None,
        help="only check: names, bucket, what zone or cluster offer; with 'fit' (default) also what it takes",
    )  # fmt: skip
    add("--price_per_chip_hour", type=float, default=None, help="of --check: what a chip costs, in any currency")


def job_options(arguments: argparse.Namespace) -> list[str]:
    """The words that say what `add_job` was told, where that differs from its defaults."""
    parser = argparse.ArgumentParser(add_help=False)
    add_job(parser)
    words = []
    for action in parser._actions:
        if (value := getattr(arguments, action.dest)) != action.default:
            words.append(action.option_strings[0] + ("" if action.nargs == 0 else f"={value}"))
    return words


# ---------------------------------------------------------------------------------------------------- the job's spec


def _run_dir(command: str, run: Any) -> str:
    """The directory that the built run writes to."""
    if command == "infer":
        return os.path.dirname(run.output_file) or "."
    return str(getattr(run, _DIRECTORIES[command]))


def job_name(prefix: str, text: str, length: int = 40) -> str:
    """A job's name made of any text: its letters and digits, behind a prefix, no longer than `length`."""
    return "-".join([prefix, *re.findall("[a-z0-9]+", text.lower())])[:length].rstrip("-")


def _name(arguments: argparse.Namespace, run_dir: str) -> str:
    if arguments.name:
        return arguments.name
    return job_name(arguments.action, Path(run_dir).name)


def build_spec(arguments: argparse.Namespace) -> Any:
    """The job that a command line describes: its `RunSpec`.

    The configuration is loaded here as it will be there, so that a mistake in it costs nothing.
    """
    from xtr.launch.gin_files import collect
    from xtr.launch.spec import File, RunSpec
    from xtr.parallel.topology import parse

    entry = _ENTRIES[arguments.action]
    loaded = config.load(arguments.gin_file, arguments.overrides, arguments.search_paths, entry=entry)
    run = config.build(entry)
    run_dir = _run_dir(arguments.action, run)
    name = _name(arguments, run_dir)
    stages = getattr(arguments, "stage", [])
    if stages:  # several jobs may run in a study's directory, each its stages
        run_dir = f"{run_dir}/launched/{name}"
    bucket = arguments.bucket or ("." if arguments.backend == "local" else "")
    found = collect(
        [config.find_gin_file(file, arguments.search_paths) for file in arguments.gin_file],
        arguments.gin_file,
        arguments.search_paths,
        config.shipped_gin_dir(),
        f"jobs/{name}/gin",
        _stage_files(run, arguments.search_paths) if arguments.action == "study" else (),
    )
    overrides, modules = [loaded.overrides_gin()], _task_modules(run)
    if modules:
        names = tuple(f"jobs/{name}/modules/{Path(m).name}" if m in modules else m for m in run.task_modules)
        overrides.append(f"TASK_MODULES = {names!r}\n")
    text = "# What --gin.NAME=VALUE said.\n" + "".join(overrides)
    files = [*found.files, *(File(f"modules/{Path(m).name}", _text(m)) for m in modules), File("overrides.gin", text)]
    provisioning = "spot" if arguments.spot else "on-demand"
    if arguments.reserved or (arguments.reservation and not arguments.spot):
        provisioning = "reserved"
    spec = RunSpec(
        name=name,
        command=arguments.action,
        run_dir=run_dir,
        backend=arguments.backend,
        gin_files=(*found.names, f"jobs/{name}/overrides.gin"),
        search_paths=found.search_paths,
        files=tuple(files),
        options=tuple(f"--stage={stage}" for stage in stages),
        topology=parse(arguments.accelerator, arguments.slices) if arguments.accelerator else None,
        local_processes=arguments.processes,
        bucket=bucket,
        provisioning=provisioning,
        **{
            field: getattr(arguments, field)
            for field in (
                *("project", "zone", "reservation", "service_account", "network", "subnetwork", "internal_ips"),
                *("image", "wheel", "context", "queue", "retries", "max_hours", "wait_hours", "keep"),
            )
        },
    )
    return spec


def _stage_files(run: Any, search_paths: Sequence[str]) -> list[Path]:
    """The gin files that a study names for its stages. UserError for one that no other machine has by that name."""

    def names(value: Any) -> list[str]:
        if isinstance(value, Mapping):
            return [name for each in value.values() for name in names(each)]
        if isinstance(value, list | tuple):
            return [name for each in value for name in names(each)]
        return [value] if isinstance(value, str) and value.endswith(".gin") else []

    found = {name: config.find_gin_file(name, search_paths) for name in names(rundir.plain(run))}
    for name, path in found.items():
        if os.path.isabs(name) and not path.resolve().is_relative_to(config.shipped_gin_dir().resolve()):
            raise UserError(
                f"the study names {name}, which no other machine has: name it relative to this folder or to one of "
                "--gin_search_paths."
            )
    return list(found.values())


def _task_modules(run: Any) -> list[str]:
    """The user's own task modules that are files, which the job brings along."""
    modules = [name for name in getattr(run, "task_modules", ()) if str(name).endswith(".py")]
    for name in modules:
        if not Path(name).is_file():
            raise UserError(f"TASK_MODULES names {name}, but there is no such file.")
    if len({Path(name).name for name in modules}) < len(modules):
        raise UserError(f"TASK_MODULES names files of one name: {', '.join(modules)}. Rename one.")
    return modules


def _text(path: str) -> str:
    text = Path(path).read_text(encoding="utf-8")
    return text if text.endswith("\n") else text + "\n"


# ---------------------------------------------------------------------------------------------------------- actions


def _job(arguments: argparse.Namespace) -> int:
    from xtr.launch import backends

    if arguments.poll_seconds <= 0:
        raise UserError(f"--poll_seconds is {arguments.poll_seconds:g}; it must be more than 0.")
    if arguments.slices != 1 and not arguments.accelerator:
        raise UserError("--slices goes with --accelerator.")
    spec = build_spec(arguments)
    plan = backends.plan(spec)
    if arguments.dry_run:
        print(plan.dry_run(), end="")
        return 0
    if arguments.check:
        return _check(arguments, spec)
    if spec.wheel and not Path(spec.wheel).is_file():
        raise UserError(f"--wheel is {spec.wheel}, but there is no such file: `python -m build --wheel` writes one.")
    from xtr.launch import check, record, supervise

    if spec.backend != "local":
        _refuse([finding for finding in check.names(spec) if finding.mark != check.OK], sys.stderr)
        if preemption.requested():
            raise Preempted("asked to stop before anything was created")
    return supervise.launch(record.Record(spec, os.getcwd(), arguments.poll_seconds))


def _check(arguments: argparse.Namespace, spec: Any) -> int:
    from xtr.launch import check

    findings = check.names(spec) + check.taken(spec)
    if arguments.check == "fit":
        from xtr.cli import plan as planning

        def load():
            return planning.load(arguments.gin_file, arguments.overrides, arguments.search_paths)

        findings += check.fit(spec, load, arguments.price_per_chip_hour)
    _refuse(findings, sys.stdout)
    return 0


def _refuse(findings: Sequence[Any], stream: TextIO) -> None:
    """Prints what was found. UserError where something is wrong."""
    from xtr.launch import check

    for finding in findings:
        what = f"{finding.mark:<5} {finding.what}" + (f"\n      {finding.fix}" if finding.fix else "")
        print(what, file=stream, flush=True)
    if wrong := sum(finding.mark == check.WRONG for finding in findings):
        raise UserError(f"the job cannot run like this: {wrong} checks failed, see above.")


def _load(name: str):
    from xtr.launch import record

    found = record.load(name)
    os.chdir(found.cwd)  # where its relative paths lead from
    return found


def _status(arguments: argparse.Namespace) -> int:
    from xtr.launch import backends, record, supervise

    rows, unwatched = [], []
    for name in [arguments.name] if arguments.name else record.names():
        found = record.load(name)
        spec, state = found.spec, found.state
        alive = record.watched(found)
        if not alive and (found.is_open or state.outcome.value not in ("done", "stopped", "refused")):
            unwatched.append(name)
        machines = ""
        if arguments.name and (found.is_open or found.made):
            seen = supervise.observe(backends.plan(spec))
            machines = seen.detail or seen.seen.value
        rows.append(
            {
                "job": name,
                "command": spec.command,
                "backend": spec.backend,
                "accelerator": str(spec.topology or f"{spec.processes} processes"),
                "state": state.outcome.value if state.outcome.value != "open" else (state.reason or "starting"),
                "watched": "yes" if alive else "no",
                "attempt": state.attempt,
                "crashes": state.crashes,
                "preemptions": state.preemptions,
                "machines": machines,
                "run directory": spec.place(spec.run_dir),
                "events": found.events if arguments.name else [],
            }
        )
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return 0
    if not rows:
        print("no jobs were launched from here")
        return 0
    tables.print_table([{key: value for key, value in row.items() if key != "events"} for row in rows])
    for row in rows:
        for event in row["events"]:
            print(f"{event['time']}  {event['what']}")
    for name in unwatched:
        print(f"\nNobody watches {name}: `xtr launch resume {name}` does.")
    return 0


def _logs(arguments: argparse.Namespace) -> int:
    from xtr.launch import backends
    from xtr.launch.execute import execute

    found = _load(arguments.name)
    attempt = arguments.attempt or max(1, found.state.attempt)
    done = execute(backends.plan(found.spec).logs(attempt))
    if done.code != 0:
        raise UserError(f"no log of attempt {attempt} of {arguments.name} yet: {done.why}")
    sys.stdout.write(done.out)
    return 0


def _stop(arguments: argparse.Namespace) -> int:
    from xtr.launch import record, supervise

    name, found = arguments.name, _load(arguments.name)
    if record.watched(found):
        time.sleep(_SAYS)
        found = record.load(name)
        if found.host != socket.gethostname():
            raise UserError(
                f"{name} is being watched by process {found.pid} of {found.host}: give `xtr launch stop {name}` there."
            )
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(found.pid, signal.SIGTERM)
        print(f"asked the launcher of {name} (process {found.pid}) to stop it; waiting", file=sys.stderr)
        while record.watched(found):
            time.sleep(0.5)
        found = record.load(name)
        if not found.state.deleted:  # its launcher has tried, and said so
            return 1
        if not found.is_open and not found.made:
            return 0
    return supervise.stop(found)  # what was kept, too


def _resume(arguments: argparse.Namespace) -> int:
    from xtr.launch import supervise

    return supervise.resume(_load(arguments.name))


def _verify(arguments: argparse.Namespace) -> int:
    from xtr.cli.main import run
    from xtr.launch import recipes

    files = [Path(name) for name in arguments.files] or recipes.shipped()
    changed = [path for path in files if recipes.verify(path, run, arguments.update)]
    for path in changed:
        print(f"{path}: {'updated' if arguments.update else 'says something else than what comes out now'}")
    print(f"{len(files)} files, {len(changed)} differ")
    if changed and not arguments.update:
        raise UserError("`xtr launch verify --update` writes what comes out now; look at the difference before.")
    return 0


_ACTIONS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    **dict.fromkeys(_HELP, _job),
    "status": _status,
    "logs": _logs,
    "stop": _stop,
    "resume": _resume,
    "verify": _verify,
}


def launch(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    return _ACTIONS[arguments.action](arguments)
