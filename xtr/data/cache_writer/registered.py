"""What SeqIO must know before a task of a request can be used: the same in the writer and in its worker processes."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_current: tuple[str, "Registered"] | None = None


@dataclass(frozen=True)
class Registered:
    """SeqIO's registries as a request wants them.

    Attributes:
      catalog: xtr's own tasks and mixtures.
      module_files: the user's modules.
    """

    catalog: Any
    module_files: Sequence[Path]


def register(request: Mapping, *, anew: bool = False) -> Registered:
    """Imports TensorFlow and SeqIO, and registers what a request names: xtr's tasks, and those of the user's modules.

    Args:
      anew: False takes what is registered where this process has done so for the same request.

    Raises:
      UserError: the settings, a file or a module of the user's.
    """
    global _current
    key = repr(sorted(request.items()))
    if _current is not None and _current[0] == key and not anew:
        return _current[1]
    _current = None
    from xtr.tasks.modules import import_task_module, import_tensorflow, set_environment

    set_environment(request)
    import_tensorflow()
    import seqio

    import xtr.tasks

    seqio.set_global_cache_dirs([os.path.abspath(path) for path in request.get("seqio_cache_dirs") or ()])
    catalog = xtr.tasks.register_all()
    modules = request.get("task_modules") or ()
    files = [file for name in modules for file in import_task_module(name, catalog.absent)]
    _current = key, Registered(catalog, files)
    return _current[1]
