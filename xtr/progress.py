"""Progress of long work: a bar on a terminal, one line a minute with an ETA elsewhere, on standard error."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 60.0


class Reporter:
    """Counts finished items of one piece of work. Use it through `progress`."""

    def __init__(self, name: str, total: int, done: int = 0):
        self.name, self.total, self.done = name, total, done
        self.start, self.first = time.monotonic(), done
        self.last_line = self.start
        self.note = ""

    def advance(self, n: int = 1, note: str = "") -> None:
        self.done += n
        self.note = note or self.note
        self._show()

    def line(self) -> str:
        elapsed = time.monotonic() - self.start
        rate = (self.done - self.first) / elapsed if elapsed > 0 else 0.0
        eta = f"{(self.total - self.done) / rate:.0f} s left" if rate > 0 else "ETA unknown"
        return f"{self.name}: {self.done}/{self.total}, {rate:.2f}/s, {eta}{', ' + self.note if self.note else ''}"

    def _show(self) -> None:
        now = time.monotonic()
        if now - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = now
            print(self.line(), file=sys.stderr, flush=True)


class _SilentReporter(Reporter):
    def _show(self) -> None:
        pass


def _is_first() -> bool:
    """Whether this is the first process of its run, without asking for devices, or for JAX where nobody needs it."""
    joined = sys.modules.get("jax._src.distributed")
    return joined is None or joined.global_state.process_id == 0


class _BarReporter(Reporter):
    def __init__(self, name: str, total: int, done: int, bar: Progress):
        super().__init__(name, total, done)
        self.bar = bar
        self.task = bar.add_task(name, total=total, completed=done, note="")

    def _show(self) -> None:
        self.bar.update(self.task, completed=self.done, note=self.note)


class _Display:
    """The one live display of a process: works may be nested or run in several threads, each is a line of it."""

    def __init__(self):
        self._lock = threading.Lock()
        self._users = 0
        self._bar: Progress | None = None

    def enter(self) -> Progress:
        with self._lock:
            if self._users == 0:
                columns = (
                    TextColumn("{task.description}"),
                    BarColumn(),
                    MofNCompleteColumn(),
                    TimeElapsedColumn(),
                    TextColumn("ETA"),
                    TimeRemainingColumn(),
                    TextColumn("{task.fields[note]}"),
                )
                self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
                self._bar.start()
            self._users += 1
            return self._bar

    def say(self, text: str) -> None:
        """Prints a line, above the bars where there are any; in the first process alone."""
        if not _is_first():
            return
        with self._lock:
            if self._bar is not None and sys.stdout.isatty():
                self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
            else:
                print(text, flush=True)

    def leave(self, reporter: _BarReporter) -> None:
        with self._lock:
            self._users -= 1
            reporter.bar.remove_task(reporter.task)
            if self._users == 0:
                reporter.bar.stop()
                self._bar = None


_display = _Display()


say = _display.say


def note(text: str) -> None:
    """One line to the user on standard error, from the first process alone."""
    if _is_first():
        print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def progress(name: str, total: int, done: int = 0) -> Iterator[Reporter]:
    """Shows the progress of `total` items, `done` of them already finished; in the first process alone."""
    if not _is_first():
        yield _SilentReporter(name, total, done)
        return
    if not sys.stderr.isatty():
        yield Reporter(name, total, done)
        return
    reporter = _BarReporter(name, total, done, _display.enter())
    try:
        yield reporter
    finally:
        _display.leave(reporter)
