"""Importing this module registers everything: xtr's tasks, and those of the modules that XTR_TASK_MODULES names.

For programs that take modules to import and know nothing of xtr, SeqIO's and T5X's among them:

    seqio_cache_tasks --module_import=xtr.tasks.registered --tasks=mnli --output_cache_dir=...

It reads XTR_DATA_DIR, XTR_VOCABULARY_PATH, XTR_CACHE_DIR and XTR_FORMAT, as `xtr.tasks.register_all` does.
"""

import os

from .modules import import_task_module, import_tensorflow

import_tensorflow()

from . import register_all  # noqa: E402

_catalog = register_all()
for _name in filter(None, os.environ.get("XTR_TASK_MODULES", "").split(",")):
    import_task_module(_name, _catalog.absent)
