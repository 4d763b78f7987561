"""What a transfer table says, in words: the answer, the footnote marks, what is incomplete."""

from xtr.study.best_of import BestOf
from xtr.study.transfer import AVERAGE, AVERAGES, NONE, POOLED, Cell, Model, TransferTable

MARKS = (
    "* differs from 0 after Holm's correction · † the intermediate is trained on the target's data"
    " · ‡ incomplete mean: its gain is paired, its score is not comparable"
)


def heading(target: str) -> str:
    """A short column heading."""
    return target.removeprefix("average ")


def answer(table: TransferTable) -> list[str]:
    """One sentence a model: what the intermediate tasks did to its zero-shot scores, with the interval."""
    return [_answer(table, model) for model in table.models]


def _answer(table: TransferTable, model: Model) -> str:
    target = AVERAGE if table.cell(model, NONE, AVERAGE) else table.targets[0]
    trained = [name for name in table.intermediates if name != NONE]
    of_each = {name: table.cell(model, name, target) for name in trained}
    of_each = {name: cell for name, cell in of_each.items() if cell is not None and cell.gain is not None}
    whole = table.cell(model, POOLED, target) or next(iter(of_each.values()), None)
    if whole is None or whole.gain is None:
        return f"{model.name}: no gain can be computed yet; see what is missing."
    gain = whole.gain
    does = "has no clear effect on" if not gain.excludes(0) else "raises" if gain.value > 0 else "lowers"
    have = len(whole.pooled)
    averaged = _of(whole.expected - len(whole.missing), whole.expected)
    what = f"the zero-shot average of {averaged} targets" if target == AVERAGE else f"zero-shot {target}"
    if whole.lacks:
        what += f" (incomplete: without {', '.join(whole.lacks)})"
    by = f"(mean of {_of(have, have + len(whole.absent))} tasks) " if whole.pooled else f"on {whole.intermediate} "
    sentence = (
        f"{model.name}: English intermediate training {by}{does} {what}: {gain.text(signed=True)} points"
        f" (interval over {gain.over})."
    )
    if len(of_each) > 1:
        low, high = (pick(of_each, key=lambda name: of_each[name].gain.value) for pick in (min, max))
        sentence += " Single tasks: " + " to ".join(
            f"{of_each[name].gain.text(signed=True)} ({name})" for name in (low, high)
        )
        sentence += "."
    return sentence


def _of(count: int, whole: int) -> str:
    return str(whole) if count == whole else f"{count} of {whole}"


def marks(cell: Cell) -> str:
    """The footnote marks of a cell's gain."""
    return "*" * cell.significant + "†" * cell.overlap


def incomplete(table: TransferTable) -> list[str]:
    """What ‡ stands for, one sentence a mean over targets (those over languages are among the problems)."""
    return [
        f"{cell.model.name}, {cell.intermediate}, {cell.target}: incomplete mean of {cell.expected} targets, without"
        f" {', '.join(cell.lacks)}"
        for cell in table.cells
        if cell.lacks and cell.target in AVERAGES
    ]


def selection(table: TransferTable) -> list[str]:
    """What choosing the best intermediate gains over choosing the best seed, one sentence a model and target."""
    return [_selection(best) for best in table.best_of]


def _selection(best: BestOf) -> str:
    does = "is not distinguishable from"
    if best.difference.excludes(0):
        does = "is more than" if best.difference.value > 0 else "is less than"
    names = ", ".join(f"{name} {share:.0%}" for name, share in sorted(best.chosen.items(), key=lambda x: -x[1]))
    many = best.candidates
    return (
        f"{best.model.name}, {best.target}: the best of {many} intermediate tasks by English development data gains"
        f" {best.gain.text(signed=True)} points, which {does} the {best.control.text(signed=True)} of the best of"
        f" {many} seeds without one; the difference is {best.difference.text(signed=True)}. Best of all, share of"
        f" seeds: {names}."
    )
