"""Generation for a text file, one input a line."""

import json
from pathlib import Path

from xtr import rundir
from xtr.data.formats import ENCODER, format_of
from xtr.errors import UserError
from xtr.evaluate.predictor import open_predictor
from xtr.evaluate.run import InferRun
from xtr.parallel.distributed import from_first
from xtr.progress import note, progress


def infer(run: InferRun) -> int:
    """Generates an answer for each line of a text file; returns the number of lines. Of several processes the first
    alone reads and writes files."""
    source = Path(run.input_file)
    if format_of(run.model.objectives) == ENCODER:
        raise UserError(f"xtr infer writes text, which a whole mT5 or a BLOOM does; this {run.model.family} cannot.")
    lines = from_first(lambda: _read(source))
    predictor, _ = open_predictor(run, run.model)
    vocabulary = predictor.vocabulary
    tokens = [vocabulary.with_special_tokens(vocabulary.encode(line))[0] for line in lines]
    most = predictor.length_buckets[-1]
    inputs = [predictor.cut(ids, most) for ids in tokens]
    if long := [number for number, ids in enumerate(tokens, 1) if len(ids) > most]:
        lines_cut = ", ".join(map(str, long[:5])) + (", ..." if len(long) > 5 else "")
        note(f"{source}: {len(long)} of {len(lines)} lines have more than {most} tokens and are cut: line {lines_cut}.")
    with progress("infer", len(lines)) as bar:
        generated = predictor.generate(inputs, run.max_decode_length, run.decoding, bar.advance)
    records = []
    for line, found in zip(lines, generated, strict=True):
        texts = [{"prediction": text, "log_prob": log_prob} for text, log_prob in found]
        alternatives = {"alternatives": texts[1:]} if run.decoding.continuations > 1 else {}
        records.append({"input": line, **texts[0], **alternatives})
    text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records)
    from_first(lambda: rundir.write_atomic(run.output_file, text))
    return len(lines)


def _read(source: Path) -> list[str]:
    if not source.is_file():
        raise UserError(f"no input file {source}")
    return source.read_bytes().decode().removesuffix("\n").split("\n")
