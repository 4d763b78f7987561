"""One contender of `xtr bench input` in a fresh process: an epoch of packed batches, counted. This package's own here.

`python -m xtr.bench.feed REQUEST.json RESPONSE.json`; `xtr.bench.seqio_feed` is SeqIO's, and counts by the same code.
"""

import dataclasses
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np


def count(batches: Iterator[Mapping[str, np.ndarray]], most: int | None) -> dict:
    """Reads batches to their end, or `most` of them.

    Returns:
      first: when the first batch was there, on the clock `time.monotonic`, which all processes share; seconds and
      processor_seconds from it to the end; of all batches: batches, rows, examples, {encoder,decoder}_tokens, and of
      those behind the first: timed_examples, timed_encoder_tokens; resident_bytes of the process at the first batch,
      after each quarter of what was read, and at the end, [] where nobody tells; slots of a row of both sides.
    """
    totals = np.zeros(4, np.int64)  # rows, examples, tokens of the encoder and of the decoder
    first, at_first, resident = None, None, []
    number = 0
    for number, batch in enumerate(batches, start=1):
        encoder, decoder = batch["encoder_segment_ids"], batch["decoder_segment_ids"]
        rows = encoder.any(axis=1) | decoder.any(axis=1)
        examples = np.maximum(encoder.max(axis=1), decoder.max(axis=1)).sum()
        totals += [rows.sum(), examples, np.count_nonzero(encoder), np.count_nonzero(decoder)]
        resident.append(resident_bytes())
        if first is None:
            slots = encoder.shape[1], decoder.shape[1]
            first, busy, at_first = time.monotonic(), time.process_time(), totals.copy()
        if number == most:
            break
    if first is None:
        raise ValueError("there was no batch")
    ended, busy = time.monotonic(), time.process_time() - busy
    known = [value for value in resident if value]
    return {
        "first": first,
        "seconds": ended - first,
        "processor_seconds": busy,
        "batches": number,
        **dict(zip(("rows", "examples", "encoder_tokens", "decoder_tokens"), totals.tolist(), strict=True)),
        "timed_examples": int(totals[1] - at_first[1]),
        "timed_encoder_tokens": int(totals[2] - at_first[2]),
        "slots": slots,
        "resident_bytes": [known[i * (len(known) - 1) // 4] for i in range(5)] if known else [],
        "tensorflow": "tensorflow" in sys.modules,
    }


def resident_bytes() -> int | None:
    """Memory of this process; None where the system does not tell."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def respond(path: str, response: Mapping) -> None:
    """Writes what `main` was asked for."""
    Path(path).write_text(json.dumps(response), encoding="utf-8")


def main(argv: list[str]) -> int:
    """Runs one request; returns the exit code."""
    from xtr.data.cache import ensure_cached
    from xtr.data.pipeline import TrainData, train_batches

    request = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    tasks = ensure_cached([request["name"]], **request["cache"])[request["name"]]
    tasks = [task for task in tasks if task.rate > 0]
    data = TrainData(
        tasks=[dataclasses.replace(task, rate=task.num_examples("train")) for task in tasks],
        lengths=request["lengths"],
        batch_size=request["batch"],
        seed=request["seed"],
        epochs=1,
        exhausted="drop",
    )
    batches = train_batches(data)
    respond(argv[1], count(batches, request["most"]))
    batches.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
