"""`xtr convert`: any checkpoint that xtr reads -> a Hugging Face folder or a T5X legacy checkpoint."""

import argparse
import importlib.util

from rich.console import Console

from xtr import config
from xtr.errors import UserError

console = Console(highlight=False, soft_wrap=True)
DESTINATIONS = {"huggingface": "hf", "t5x": "t5x"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments beside those of gin, whose files name the model."""
    parser.add_argument(
        "--checkpoint", required=True, metavar="PATH", help="xtr run, T5X checkpoint or Hugging Face folder; or gs://"
    )
    parser.add_argument("--to", required=True, choices=DESTINATIONS, help="layout to write, float32")
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="a new folder (T5X looks for the name checkpoint_<step>)"
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="read it back; compare the bits, and the logits (with transformers' where that is its layout)",
    )
    parser.add_argument(
        "--allow_pickle", action="store_true", help="read pytorch_model.bin too, which can run code of its author"
    )


def convert(arguments: argparse.Namespace) -> int:
    """Writes, then verifies where asked. Returns 1 where the check fails."""
    if not arguments.gin_file:
        raise UserError("xtr convert needs the model: --gin_file=models/mt5/small.gin or one like it.")
    model = config.build_model(arguments.gin_file, arguments.overrides, arguments.search_paths)
    from xtr.checkpoints import load, write
    from xtr.train import adafactor

    kind, path = load.resolve(arguments.checkpoint)
    checkpoint = load.open_source(kind, path, model, allow_pickle=arguments.allow_pickle)
    places, _ = load.plan(checkpoint, model, draw=False)
    if arguments.to == "huggingface":
        write.write_huggingface(checkpoint, places, model, arguments.output)
    else:
        slots = adafactor.slot_specs(adafactor.AdafactorConfig(), model.param_specs())
        write.write_t5x(checkpoint, places, model, slots, arguments.output)
    console.print(f"{checkpoint.what} -> {arguments.output}")
    return verify(arguments, checkpoint, model) if arguments.verify else 0


def verify(arguments: argparse.Namespace, checkpoint, model) -> int:
    """Prints what the checks of `xtr.checkpoints.verify` find; 1 where something differs."""
    from xtr.checkpoints import load, verify

    kind, path = load.resolve(arguments.output)
    differing = verify.differing(checkpoint, load.open_source(kind, path, model), model)
    if differing:
        console.print(f"read back: {len(differing)} parameters differ: {', '.join(differing[:5])}")
        return 1
    console.print("read back: equal bits")
    params, _ = load.load_params(checkpoint.path, model, allow_pickle=arguments.allow_pickle)
    if arguments.to == "huggingface":
        other, deviation = "transformers'", verify.transformers_deviation(path, params, model)
    else:
        written, _ = load.load_params(path, model)
        (ours, _), (again, _) = verify.outputs(params, model), verify.outputs(written, model)
        other, deviation = "those of the source", verify.deviation(again, ours, model)
    if deviation is None:
        absent = [name for name in ("torch", "transformers") if not importlib.util.find_spec(name)]
        console.print(f"logits: not compared, because {' and '.join(absent)} is not installed")
        return 0
    good = deviation <= verify.TOLERANCE
    console.print(
        f"logits: largest relative deviation from {other} {deviation:.2e}"
        + ("" if good else f", more than {verify.TOLERANCE:.0e}")
    )
    return 0 if good else 1
