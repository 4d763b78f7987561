"""Processes on this machine: one with the devices that it has, or several on its CPUs, joined over the loopback."""

import zlib

from xtr.launch.actions import Remove, Run, Write
from xtr.launch.backends.bucket import LOCK, lock_text
from xtr.launch.plan import Observation, Plan, Seen
from xtr.launch.script import start_script
from xtr.launch.spec import RunSpec


def plan(spec: RunSpec) -> Plan:
    """The life of a job here. Its files and logs lie in jobs/NAME of its working folder."""
    folder = spec.place(spec.job_dir)
    start = f"{folder}/start.sh"
    lock = spec.run_dir if spec.run_dir.startswith("/") else spec.place(spec.run_dir)

    def attach(attempt: int, seen: int) -> tuple[Run, ...]:
        command = ("bash", start, "attach", str(attempt), str(seen))
        if spec.processes == 1:
            return (Run(command),)
        # Told beforehand, so that a dry run shows it; another one in each attempt, since one may be taken.
        port = 20_000 + zlib.crc32(f"{spec.name} {attempt}".encode()) % 12_000
        place = (f"XTR_COORDINATOR=127.0.0.1:{port}", f"XTR_NUM_PROCESSES={spec.processes}", "JAX_PLATFORMS=cpu")
        return tuple(Run(("env", *place, f"XTR_PROCESS_ID={p}", *command)) for p in range(spec.processes))

    return Plan(
        lock=Write(f"{lock}/{LOCK}", lock_text(spec), exclusive=True),
        read_lock=Run(("cat", f"{lock}/{LOCK}")),
        unlock=Remove(f"{lock}/{LOCK}"),
        upload=(*(Write(f"{folder}/{file.path}", file.text) for file in spec.files), Write(start, start_script(spec))),
        create=(),
        describe=None,
        observe=lambda code, out, err: Observation(Seen.READY),
        attach=attach,
        stop=lambda seconds: (Run(("bash", start, "stop", str(seconds))),),
        delete=(Run(("bash", start, "stop", "0")),),
        fresh=(Run(("rm", "-rf", f"{folder}/processes", f"{folder}/log")),),  # of an earlier job of this name
        logs=lambda attempt: Run(("cat", f"{folder}/log/attempt-{attempt}.txt")),
    )
