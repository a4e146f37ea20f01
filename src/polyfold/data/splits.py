"""Train, dev and test by group: translations of one text, or a customer's documents, never cross splits."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from polyfold.errors import InputError
from polyfold.tasks import NOT_LABELLED

GOLDEN = 0.6180339887498949
"""Multiples of the golden ratio, modulo 1, fill [0, 1) as evenly as any sequence can, at every length."""


def shuffle_keys(names: Sequence[str], seed: int) -> np.ndarray:
    """A pseudo-random uint64 a name: sorting by it shuffles, and the order of the rows does not matter."""
    salt = (seed % 2**64).to_bytes(8, "little")
    digests = [hashlib.blake2b(name.encode(), digest_size=8, salt=salt).digest() for name in names]
    return np.frombuffer(b"".join(digests), dtype="<u8")


def codes_of(names: Sequence[str] | pa.Array) -> tuple[np.ndarray, list[str]]:
    """Names as sorted integers: int64 [n] and the distinct names in order."""
    array = pa.array(names, pa.large_string())
    encoded = array.dictionary_encode()
    distinct = encoded.dictionary.to_pylist()
    order = sorted(range(len(distinct)), key=distinct.__getitem__)
    rank = np.empty(len(distinct), dtype=np.int64)
    rank[order] = np.arange(len(distinct))
    return rank[encoded.indices.to_numpy()], [distinct[i] for i in order]


def make_splits(
    groups: Sequence[str],
    languages: Sequence[str],
    labels: Mapping[str, np.ndarray],
    fractions: Mapping[str, float],
    seed: int,
) -> np.ndarray:
    """The split of every row, as an index into `fractions`' names: int64 [n].

    All rows of a group go together. First every label, then every language, gets a group in each split it can
    be in (the first named split first: a label that only dev has cannot be learned), from the rarest on; the
    rest is dealt out evenly within each (rarest label, language). The greedy order follows Sechidis et al. 2011,
    "On the stratification of multi-label data".
    """
    of_row, names = codes_of(groups)
    if len(names) < len(fractions):
        raise InputError(
            f"{len(names)} groups cannot be split into {', '.join(fractions)}",
            hint="give more documents or a `split` column; `group` may be too coarse",
        )
    of_language, _ = codes_of(languages)
    traits, offsets = _traits(of_row, of_language, labels, len(names))
    sizes = np.bincount(of_row)
    shuffled = shuffle_keys(names, seed)
    assigned = np.full(len(names), -1, dtype=np.int64)
    _cover(assigned, traits, offsets, (sizes, shuffled), len(fractions))
    language = np.full(len(names), of_language.max(initial=0), dtype=np.int64)
    np.minimum.at(language, of_row, of_language)
    rarest = traits[offsets[:-1]]
    order = np.lexsort((shuffled, sizes, language, rarest))
    rest = order[assigned[order] < 0]
    start = np.random.default_rng(seed % 2**64).random()
    limits = np.cumsum(list(fractions.values()))[:-1] / sum(fractions.values())
    assigned[rest] = np.searchsorted(limits, (start + np.arange(len(rest)) * GOLDEN) % 1.0, side="right")
    _fill_empty(assigned, order, len(fractions))
    return assigned[of_row]


def _fill_empty(assigned: np.ndarray, order: np.ndarray, splits: int) -> None:
    """A handful of groups may leave a split empty: it gets the group with the commonest labels of the fullest."""
    for split in range(splits):
        counts = np.bincount(assigned, minlength=splits)
        if counts[split] == 0:
            fullest = order[assigned[order] == counts.argmax()]
            assigned[fullest[-1]] = split


def _traits(
    of_row: np.ndarray, of_language: np.ndarray, labels: Mapping[str, np.ndarray], groups: int
) -> tuple[np.ndarray, np.ndarray]:
    """The labels and languages of each group: ids [pairs], ascending, and where each group's begin [groups + 1].

    Trait ids are ranks: labels from the rarest on, languages from the rarest on, then "any document", which
    every group has.
    """
    of, ids = [of_row, of_row], [np.zeros_like(of_row), 1 + of_language]
    others = base = 2 + int(of_language.max(initial=0))
    for _, values in sorted(labels.items()):
        if values.ndim == 1:
            rows = np.flatnonzero(values != NOT_LABELLED)
            ids.append(base + values[rows])
            base += int(values.max(initial=0)) + 1
        else:
            rows, columns = np.nonzero(values == 1)
            ids.append(base + columns)
            base += values.shape[1]
        of.append(of_row[rows])
    pairs = np.unique(np.concatenate(of) * base + np.concatenate(ids))
    group, trait = pairs // base, pairs % base
    counts = np.bincount(trait, minlength=base)
    every = np.arange(base)
    order = np.lexsort((counts, np.where(every == 0, 2, every < others)))
    rank = np.empty(base, dtype=np.int64)
    rank[order] = every
    order = np.lexsort((rank[trait], group))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(group, minlength=groups))])
    return rank[trait[order]], offsets


def _cover(
    assigned: np.ndarray,
    traits: np.ndarray,
    offsets: np.ndarray,
    order: tuple[np.ndarray, np.ndarray],
    splits: int,
) -> None:
    """Give each split one group of each trait, where one is left: the smallest, so that it costs few rows."""
    sizes, shuffled = order
    group = np.repeat(np.arange(len(assigned)), np.diff(offsets))
    by_trait = np.lexsort((shuffled[group], sizes[group], traits))
    bounds = np.searchsorted(traits[by_trait], np.arange(traits.max(initial=0) + 2))
    covered = np.zeros((splits, len(bounds)), dtype=bool)
    for trait in range(len(bounds) - 1):
        members = group[by_trait[bounds[trait] : bounds[trait + 1]]]
        for split in range(splits):
            free = members[assigned[members] < 0]
            if covered[split, trait] or len(free) == 0:
                continue
            chosen = free[0]
            assigned[chosen] = split
            covered[split, traits[offsets[chosen] : offsets[chosen + 1]]] = True
