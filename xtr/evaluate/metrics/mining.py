"""BUCC: finding the pairs of translations in two collections of sentences, and F1 of what was found.

As google-research/xtreme does it (`third_party/utils_retrieve.py`: `mine_bitext` by ratio margin over 4 neighbours,
`bucc_optimize`; `evaluate.py`: `bucc_f1`), but for one fault: that all candidates are best taken is no error.
"""

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Sequence

import numpy as np

from xtr.errors import DataError
from xtr.evaluate.metrics.accuracy import check_aligned
from xtr.evaluate.metrics.metric import micro_f1
from xtr.evaluate.metrics.retrieval import Rows, Vectors, top_k

NEIGHBOURS = 4

Search = Callable[[Vectors, Vectors, int], tuple[np.ndarray, np.ndarray]]  # as `retrieval.top_k`, by cosine


def mine(
    source_SD: Vectors, target_TD: Vectors, neighbours: int = NEIGHBOURS, search: Search = top_k
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One-to-one pairs of the sentences of two collections, by ratio margin (Artetxe and Schwenk 2019).

    A pair's score is its cosine divided by the mean cosine of both sentences with their nearest neighbours on the other
    side. Every sentence's best neighbour is a candidate; candidates are taken by falling score, each sentence once.
    Both directions are searched, and [S, T] cosines are never held: besides the search, memory grows with S + T.

    Args:
      source_SD, target_TD: vectors, any norm.
      neighbours: how many of each side.
      search: what finds them.

    Returns:
      (source rows [P], target rows [P], scores [P] float64), by falling score; only scores above 0.

    Raises:
      DataError: as `retrieval.top_k`.
    """
    target_SK, cosine_SK = search(source_SD, target_TD, neighbours)
    source_TK, cosine_TK = search(target_TD, source_SD, neighbours)
    mean_S, mean_T = cosine_SK.mean(axis=1), cosine_TK.mean(axis=1)
    margin_SK = _ratio(cosine_SK, (mean_S[:, None] + mean_T[target_SK]) / 2)
    margin_TK = _ratio(cosine_TK, (mean_T[:, None] + mean_S[source_TK]) / 2)
    rows_S, rows_T = np.arange(len(margin_SK)), np.arange(len(margin_TK))
    best_S, best_T = margin_SK.argmax(axis=1), margin_TK.argmax(axis=1)
    sources = np.concatenate([rows_S, source_TK[rows_T, best_T]])
    targets = np.concatenate([target_SK[rows_S, best_S], rows_T])
    scores = np.concatenate([margin_SK[rows_S, best_S], margin_TK[rows_T, best_T]])
    used_sources, used_targets, kept = set(), set(), []
    for i in np.argsort(-scores, kind="stable"):
        source, target = int(sources[i]), int(targets[i])
        if source not in used_sources and target not in used_targets:
            used_sources.add(source)
            used_targets.add(target)
            if scores[i] > 0:
                kept.append(i)
    return sources[kept], targets[kept], scores[kept]


def _ratio(cosine: np.ndarray, mean: np.ndarray) -> np.ndarray:
    return np.divide(cosine, mean, out=np.zeros_like(cosine), where=mean != 0)


def mine_pairs(
    source_ids: Sequence[str],
    source_texts: Sequence[Hashable],
    source_SD: Vectors,
    target_ids: Sequence[str],
    target_texts: Sequence[Hashable],
    target_TD: Vectors,
    search: Search = top_k,
) -> list[tuple[str, str, float]]:
    """The pairs of ids with their scores, by falling score, of collections in which texts may occur several times.

    A text is mined once, with the vector of its last occurrence. What a text that occurs several times is paired with
    is then dropped, since its id is not known: officially too.

    Args:
      source_texts, target_texts: the texts, or what is equal where they are.
      search: as in `mine`.

    Raises:
      DataError: ids, texts and vectors of a side differ in number; else as `mine`.
    """
    source_names, source_SD = _distinct(source_ids, source_texts, source_SD)
    target_names, target_TD = _distinct(target_ids, target_texts, target_TD)
    mined = mine(source_SD, target_TD, search=search)
    found = ((source_names[s], target_names[t], float(score)) for s, t, score in zip(*mined, strict=True))
    return [pair for pair in found if None not in pair]


def _distinct(ids, texts, vectors_ND: Vectors) -> tuple[list[str | None], Vectors]:
    """Of each distinct text, in the order of their first occurrences, its id (None: several), and its last vector."""
    if not len(ids) == len(texts) == len(vectors_ND):
        raise DataError(f"{len(ids)} ids, {len(texts)} texts and {len(vectors_ND)} vectors: each sentence needs one")
    last = {text: row for row, text in enumerate(texts)}
    times = Counter(texts)
    names = [ids[row] if times[text] == 1 else None for text, row in last.items()]
    return names, Rows(vectors_ND, np.fromiter(last.values(), np.int64, len(last)))


def best_threshold(pairs: Sequence[tuple[str, str, float]], gold: Collection[tuple[str, str]]) -> tuple[float, float]:
    """The threshold on the score with the greatest F1 on development data.

    Args:
      pairs: of `mine_pairs`.
      gold: the right pairs of ids.

    Returns:
      (threshold: half-way between the last pair taken and the next one, the F1 in percent); (0, 0) if none is right.

    Raises:
      DataError: there is no gold.
    """
    gold = set(gold)
    if not gold:
        raise DataError("a threshold is tuned on gold pairs, and there are none")
    ranked = sorted(pairs, key=lambda pair: -pair[2])
    right_P = np.cumsum([pair[:2] in gold for pair in ranked])
    if not len(right_P) or not right_P[-1]:
        return 0.0, 0.0
    f1_P = 200.0 * right_P / (np.arange(1, len(ranked) + 1) + len(gold))
    best = int(f1_P.argmax())
    after = min(best + 1, len(ranked) - 1)
    return (ranked[best][2] + ranked[after][2]) / 2, float(f1_P[best])


def bucc_f1(predictions: Sequence, golds: Sequence) -> tuple[float, np.ndarray]:
    """F1 of the pairs found, in percent.

    Args:
      predictions: [N] for each source sentence the id of its translation, a list of ids, or None.
      golds: the same of the right ones; most sentences have none.

    Returns:
      (value, counts_N3 of tp, fp, fn).

    Raises:
      DataError: the lengths differ, or there is no sentence.
    """
    check_aligned(predictions, golds)
    sides = ((_ids(found), _ids(right)) for found, right in zip(predictions, golds, strict=True))
    return micro_f1([(len(f & r), len(f - r), len(r - f)) for f, r in sides])


def _ids(value) -> set:
    return set() if value is None else set(value) if isinstance(value, list | tuple | set) else {value}
