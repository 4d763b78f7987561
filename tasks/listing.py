"""What is registered, as plain facts for a table."""

from collections.abc import Sequence

from . import register_all, task_info
from .modules import import_task_module, import_tensorflow


def listing(what: str, task_modules: Sequence[str] = ()) -> tuple[list[dict], dict[str, str]]:
    """The registered 'tasks' or 'mixtures', a dict each, and what cannot be had: name -> why.

    Reads XTR_DATA_DIR; the user's modules are imported first to register their own.
    """
    import_tensorflow()
    import seqio

    catalog = register_all(tokenise=False)
    for name in task_modules:
        import_task_module(name, catalog.absent)
    facts = []
    for name in sorted(seqio.TaskRegistry.names() if what == "tasks" else seqio.MixtureRegistry.names()):
        if what == "mixtures":
            tasks = seqio.MixtureRegistry.get(name).tasks
            languages = sorted({task_info(task.name).language for task in tasks} - {""})
            facts.append({"mixture": name, "tasks": len(tasks), "languages": " ".join(languages)})
            continue
        info, task = task_info(name), seqio.TaskRegistry.get(name)
        facts.append(
            {
                "task": name,
                "kind": info.kind,
                "language": info.language,
                "target": info.group,
                "scored by": info.predictor,
                "metrics": " ".join(info.metrics),
                "splits": " ".join(task.splits),
            }
        )
    return facts, dict(catalog.absent)
