"""Imports that need care: TensorFlow, quietly, and the user's own modules, which register tasks with SeqIO."""

import contextlib
import importlib
import importlib.resources.abc
import importlib.util
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path

from xtr.errors import UserError


def import_tensorflow() -> None:
    """Imports TensorFlow, TFDS and SeqIO quietly and without accelerators: those belong to the training process."""
    if importlib.util.find_spec("importlib_resources") is None:
        # TFDS's builders use this backport without requiring it; from Python 3.11 on the original is as good.
        sys.modules["importlib_resources"] = importlib.resources
        sys.modules["importlib_resources.abc"] = importlib.resources.abc
    os.environ.update(CUDA_VISIBLE_DEVICES="-1", JAX_PLATFORMS="cpu", TF_CPP_MIN_LOG_LEVEL="3", TPU_SKIP_MDS_QUERY="1")
    with _stderr_unless_it_fails():
        import absl.logging
        import seqio  # noqa: F401
        import tensorflow as tf
        import tensorflow_datasets as tfds

        absl.logging.set_verbosity(absl.logging.ERROR)
        for kind in ("GPU", "TPU"):
            tf.config.set_visible_devices([], kind)
        tfds.disable_progress_bar()


@contextlib.contextmanager
def _stderr_unless_it_fails() -> Iterator[None]:
    """Keeps standard error from the terminal, also what C++ writes there; shows it all when the body raises."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            yield
        except BaseException:
            log.seek(0)
            os.write(kept, log.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)


def import_task_module(name: str, absent: Mapping[str, str]) -> Path:
    """Imports a module of task registrations, named as a module or a .py file, and returns its file."""
    if name.endswith(".py"):
        path = Path(name).absolute()
        if not path.is_file():
            raise UserError(f"TASK_MODULES names {name}, but there is no file {path}.")
        # Modules beside the file can be imported by it, as when it is run.
        sys.path.append(str(path.parent))
        # A file may be called like a library's module, which must stay what it is.
        taken = path.stem in sys.modules and getattr(sys.modules[path.stem], "__file__", None) != str(path)
        module_name = f"{path.stem}_task_module" if taken else path.stem
        spec = importlib.util.spec_from_file_location(module_name, path)
    else:
        module_name = name
        try:
            spec = importlib.util.find_spec(name)
        except ModuleNotFoundError:
            spec = None
    if spec is None or spec.origin is None:
        raise UserError(f"TASK_MODULES names {name}, but there is no such module; give a module name or a .py file.")
    if module_name in sys.modules:
        return Path(spec.origin)
    try:
        if name.endswith(".py"):
            module = sys.modules[module_name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            importlib.import_module(name)
    except UserError:
        raise
    except Exception as e:
        frames = traceback.extract_tb(e.__traceback__)
        frame = next((f for f in reversed(frames) if f.filename == spec.origin), frames[-1])
        why = "".join(f" ({task} cannot be had: {reason}.)" for task, reason in absent.items() if task in str(e))
        raise UserError(
            f"TASK_MODULES names {name}; importing it failed at {frame.filename}, line {frame.lineno}: "
            f"{type(e).__name__}: {e}{why}"
        ) from e
    return Path(spec.origin)
