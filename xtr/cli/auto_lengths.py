"""`xtr data stats --auto MODEL`: the lengths that TASK_FEATURE_LENGTHS = 'auto' stands for, and what they save."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from xtr import config
from xtr.cli import options, tables
from xtr.data.formats import format_of
from xtr.errors import UserError

T5X = {"inputs": 512, "targets": 114}  # T5X's finetune.gin examples, and T5's pretraining


def show(arguments) -> int:
    """Runs the command; returns the exit code. UserError where a model packs no rows, or data tell no lengths."""
    from xtr.data.lengths import AutoLengths

    auto = AutoLengths(kept=arguments.kept)
    baseline = options.lengths(arguments.lengths, tuple(T5X)) or T5X
    vocabulary = options.vocabulary_path(arguments)
    facts = []
    for name in arguments.auto:
        model = config.build_model([_file(name)])
        if not set(model.objectives) & {"seq2seq", "causal"}:
            raise UserError(
                f"--auto {name}: a {model.family} is trained on texts cut into chunks, or with a head on one example a "
                "row, so packing chooses no lengths for it: see the percentiles of `xtr data stats --format=encoder`."
            )
        cached = options.cached_tasks(arguments, format_of(model.objectives))
        for of, tasks in cached.items():
            facts += _rows(name, model, of, tasks, auto, baseline, vocabulary)
    if arguments.json:
        print(json.dumps(facts, indent=1, ensure_ascii=False))
        return 0
    said = " / ".join(map(str, baseline.values()))
    print(f"lengths by TASK_FEATURE_LENGTHS = 'auto' (LENGTHS_KEPT = {auto.kept}) beside {said}, packed alike")
    tables.print_table([_line(fact, said) for fact in facts])
    print("cut: examples that lose tokens, of a mixture those of the task with the most")
    return 0


def _file(name: str) -> str:
    """The gin file of a model: as given, or a shipped one by its short name."""
    return name if Path(name).suffix == ".gin" else f"models/{name}.gin"


def _rows(name: str, model, of: str, tasks: Sequence, auto, baseline: Mapping[str, int], vocabulary: str) -> list[dict]:
    """Facts of each trained task, and of the mixture where there are several."""
    from xtr.data.length_search import Examples
    from xtr.data.pipeline import TrainData
    from xtr.data.vocabulary import read_vocabulary
    from xtr.train.lengths import flops_of

    objective = model.objectives[0]
    trained = [task for task in tasks if "train" in task.splits and task.rate > 0]
    own = [task for task in trained if task.info["kind"] != "text"]
    if not own:
        raise UserError(f"{of} has no split 'train' with examples of their own, so no length follows from it.")
    groups = [(task.name, [task]) for task in own] + ([(f"{of} (mixed)", trained)] if len(trained) > 1 else [])
    flops, rows = flops_of(model, objective), []
    for group, members in groups:
        data = TrainData(tuple(members), T5X, batch_size=1, objective=objective, vocabulary=read_vocabulary(vocabulary))
        examples = Examples(data)
        chosen, other = examples.choose(flops, auto, model.max_length), examples.measure(baseline, flops)
        rows.append({"model": name, "task": group, "auto": vars(chosen), "baseline": vars(other)})
        rows[-1]["saved"] = 1 - chosen.flops / other.flops
    return rows


def _line(fact: Mapping, baseline: str) -> dict:
    auto, other = fact["auto"], fact["baseline"]
    return {
        "model": fact["model"],
        "task": fact["task"],
        "auto": " / ".join(map(str, auto["lengths"].values())),
        "TFLOP an example": f"{auto['flops'] / 1e12:.3g}",
        f"at {baseline}": f"{other['flops'] / 1e12:.3g}",
        "saved": f"{fact['saved']:.0%}",
        "inputs filled": f"{auto['density']['inputs']:.1%}",
        "targets filled": f"{auto['density']['targets']:.1%}" if "targets" in auto["density"] else "",
        "cut": f"{max(auto['cut'].values()):.1%}",
        f"cut at {baseline}": f"{max(other['cut'].values()):.1%}",
    }
