"""Imports that need care: TensorFlow, quietly, and the user's own modules, which register tasks with SeqIO."""

import contextlib
import importlib
import importlib.resources.abc
import importlib.util
import os
import pkgutil
import re
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path

from xtr import storage
from xtr.errors import UserError, did_you_mean

# Folders of installed packages: a module right in one of them shares it with strangers.
_SHARED_FOLDERS = ("site-packages", "dist-packages")


def set_environment(request: Mapping) -> None:
    """Sets what `register_all` reads from the environment.

    Args:
      request: data_dir, cache_dir, vocabulary_path, format, and tfds_tasks if there are any.
    """
    os.environ["XTR_DATA_DIR"] = str(Path(request["data_dir"]).absolute())
    os.environ["XTR_CACHE_DIR"] = str(Path(request["cache_dir"]).absolute())
    os.environ["XTR_VOCABULARY_PATH"] = storage.absolute(request["vocabulary_path"])
    os.environ["XTR_FORMAT"] = request["format"]
    os.environ["XTR_TFDS_TASKS"] = ",".join(request.get("tfds_tasks", ()))


def import_tensorflow() -> None:
    """Imports TensorFlow, TFDS and SeqIO quietly and without accelerators: those belong to the training process."""
    if importlib.util.find_spec("importlib_resources") is None:
        # TFDS's builders use this backport without requiring it; from Python 3.11 on the original is as good.
        sys.modules["importlib_resources"] = importlib.resources
        sys.modules["importlib_resources.abc"] = importlib.resources.abc
    os.environ.update(CUDA_VISIBLE_DEVICES="-1", JAX_PLATFORMS="cpu", TF_CPP_MIN_LOG_LEVEL="3", TPU_SKIP_MDS_QUERY="1")
    with quietly():
        import absl.logging
        import seqio  # noqa: F401
        import tensorflow as tf
        import tensorflow_datasets as tfds

        absl.logging.set_verbosity(absl.logging.ERROR)
        for kind in ("GPU", "TPU"):
            tf.config.set_visible_devices([], kind)
        tfds.disable_progress_bar()


@contextlib.contextmanager
def quietly() -> Iterator[None]:
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


def import_task_module(name: str, absent: Mapping[str, str]) -> list[Path]:
    """Imports a module of task registrations, named as a module or a .py file.

    Returns:
      Its file, and the files of the modules beside it (in its package, or its folder) that are imported by now.
    """
    if name.endswith(".py"):
        path = Path(name).absolute()
        if not path.is_file():
            near = did_you_mean(path.name, (p.name for p in path.parent.glob("*.py")))
            raise UserError(f"TASK_MODULES names {name}, but there is no file {path}.{near}")
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
        raise UserError(
            f"TASK_MODULES names {name}, but there is no such module; give a module name or a .py file.{_nearest(name)}"
        )
    if module_name not in sys.modules:
        _import(name, module_name, spec, absent)
    return _own_files(Path(spec.origin), module_name)


def _import(name: str, module_name: str, spec, absent: Mapping[str, str]) -> None:
    try:
        if name.endswith(".py"):
            module = sys.modules[module_name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            importlib.import_module(name)
    except UserError:
        sys.modules.pop(module_name, None)
        raise
    except Exception as e:
        sys.modules.pop(module_name, None)
        why = "".join(f" ({task} cannot be had: {reason}.)" for task, reason in absent.items() if task in str(e))
        why += _nearest_registered(str(e))
        raise UserError(
            f"TASK_MODULES names {name}; importing it failed at {place_of(e, [Path(spec.origin)])}: "
            f"{type(e).__name__}: {e}{why}"
        ) from e


def place_of(error: BaseException, files: list[Path]) -> str:
    """'FILE, line N': the innermost place of an error in one of `files`, else the innermost of all."""
    frames = traceback.extract_tb(error.__traceback__)
    own = {str(path) for path in files}
    frame = next((f for f in reversed(frames) if f.filename in own), frames[-1])
    return f"{frame.filename}, line {frame.lineno}"


def _nearest_registered(message: str) -> str:
    """Says which tasks and mixtures are called nearly like the one that SeqIO's message says is not registered."""
    import seqio

    name = re.search(r"Provider name not registered: (.+)|found with name '(.+)'", message)
    return (
        did_you_mean(name[1] or name[2], {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}) if name else ""
    )


def _nearest(name: str) -> str:
    """Says which modules are called nearly like one that is not there."""
    parent, _, last = name.rpartition(".")
    try:
        folders = list(importlib.import_module(parent).__path__) if parent else None
    except (ImportError, AttributeError):
        return _nearest(parent)
    near = did_you_mean(last, (module.name for module in pkgutil.iter_modules(folders)))
    return near.replace(" Did you mean ", f" Did you mean {parent}.") if parent else near


def _own_files(origin: Path, module_name: str) -> list[Path]:
    """A module's file, and those of the imported modules of its package, or of its folder where it is in none."""
    files = [origin]
    for other, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if not path or not path.endswith(".py") or Path(path) == origin:
            continue
        if "." in module_name:
            own = other.split(".")[0] == module_name.split(".")[0]
        else:
            own = Path(path).is_relative_to(origin.parent) and origin.parent.name not in _SHARED_FOLDERS
        if own and other.split(".")[0] != "xtr":
            files.append(Path(path))
    return files
