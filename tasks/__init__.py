"""SeqIO tasks and mixtures over official data files. Importing this package alone imports no TensorFlow.

    import xtr.tasks
    xtr.tasks.register_all()   # reads XTR_DATA_DIR, XTR_VOCABULARY_PATH, XTR_CACHE_DIR, XTR_FORMAT
    seqio.get_mixture_or_task("xnli.sw").get_dataset(...)
"""

from .info import TaskInfo, describe, task_info
from .simple import jsonl_task, tsv_task

__all__ = [
    "TaskInfo", "catalog", "describe", "jsonl_task", "output_features", "register_all", "task_info", "tsv_task",
]  # fmt: skip

_catalog = None


def register_all(tokenise: bool = True):
    """Registers with SeqIO everything found below XTR_DATA_DIR, in the format XTR_FORMAT (see
    `xtr.data.formats`), and returns the catalog; a second call starts afresh.

    Args:
      tokenise: False where the tasks are only listed, so that no vocabulary is needed.

    Raises:
      UserError: XTR_DATA_DIR, XTR_VOCABULARY_PATH or XTR_FORMAT is missing or wrong.
      DataError: a file cannot be read, or its language cannot be told.
    """
    global _catalog
    from . import intermediate, registration, text, xtreme, xtreme_r
    from .datasets.files import readable

    with readable():
        settings = registration.settings(tokenise)
        if _catalog is not None:
            _catalog.clear()
        _catalog = registration.Catalog(settings)
        for module in (text, intermediate, xtreme_r, xtreme):
            module.register(_catalog, settings.sources)
    return _catalog


def catalog():
    """Returns the catalog of what is registered; registers everything first where nobody has."""
    return _catalog or register_all()


def output_features(names=("inputs", "targets")):
    """Returns SeqIO output features over the vocabulary of XTR_VOCABULARY_PATH, for a module's own tasks."""
    from .registration import output_features as features

    return features(names, _catalog is None or bool(_catalog.settings.vocabulary_path))
