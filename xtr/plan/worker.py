"""The process that one program is compiled in: `python -m xtr.plan.worker ANSWER < pickled (run, topology, program)`.

It writes the pickled result, or the UserError, to the file ANSWER; anything else that goes wrong is a crash.
"""

import pickle
import sys

from xtr.errors import UserError
from xtr.plan.compile import compile_program
from xtr.rundir import write_atomic


def main() -> None:
    run, topology, program = pickle.load(sys.stdin.buffer)
    try:
        answer = compile_program(run, topology, program)
    except UserError as error:
        answer = error
    write_atomic(sys.argv[1], pickle.dumps(answer))


if __name__ == "__main__":
    main()
