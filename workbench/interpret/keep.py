"""The best few entries of each latent out of a long stream, without a loop over latents."""

from typing import Any

import numpy as np

COLUMNS = {"latent": np.int64, "key": np.float64, "row": np.int64, "text": np.int64, "value": np.float32}


class Best:
    """For each latent the `most` entries with the largest key, at most `per_text` of them from one text.

    Entries come in the order of rows; among equal keys the earlier row wins. What is kept is the same however the
    stream is cut: the best set under a cap for each text and one for all is a matroid's, so what a part does not need
    the whole does not need. Memory is a few times latents x most.
    """

    def __init__(self, latents: int, most: int, per_text: int | None = None):
        self.latents, self.most, self.per_text = latents, most, per_text
        self._floor = np.full(latents, -np.inf)  # an entry must beat the worst of a full list
        self._held: list[dict[str, np.ndarray]] = []
        self._count, self._room = 0, max(2 * latents * most, 1 << 19)

    def add(self, **entries: np.ndarray) -> None:
        """Offer entries: `latent key row text value`, one array each."""
        on = np.flatnonzero(entries["key"] > self._floor[entries["latent"]])
        self._held.append({name: entries[name][on].astype(dtype, copy=False) for name, dtype in COLUMNS.items()})
        self._count += len(on)
        if self._count > self._room:
            self.best()

    def best(self) -> dict[str, np.ndarray]:
        """What is kept so far, latents in order, best first."""
        all_ = {
            name: np.concatenate([np.empty(0, dtype), *(part[name] for part in self._held)])
            for name, dtype in COLUMNS.items()
        }
        order = np.lexsort((all_["row"], -all_["key"], all_["latent"]))
        if self.per_text is not None:
            # stable: within a latent and a text the best comes first
            by_text = order[np.lexsort((all_["text"][order], all_["latent"][order]))]
            allowed = np.zeros(len(order), bool)
            allowed[by_text] = _rank(all_["latent"][by_text], all_["text"][by_text]) < self.per_text
            order = order[allowed[order]]
        order = order[_rank(all_["latent"][order]) < self.most]
        kept: dict[str, Any] = {name: column[order] for name, column in all_.items()}
        full = np.flatnonzero(_rank(kept["latent"]) == self.most - 1)
        np.put(self._floor, kept["latent"][full], kept["key"][full])
        self._held, self._count = [kept], len(order)
        return kept


def _rank(*columns: np.ndarray) -> np.ndarray:
    """Place of each entry, from 0, within its run of equal entries."""
    place = np.arange(len(columns[0]))
    if not len(place):
        return place
    new = np.ones(len(place), bool)
    new[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return place - np.maximum.accumulate(np.where(new, place, 0))


def priority(row: np.ndarray, latent: np.ndarray, seed: int) -> np.ndarray:
    """A number in [0, 1) for each (row, latent) that depends on nothing else but the seed: a draw without an order.

    Source: SplitMix64 (Steele, Lea, Flood 2014), 53 bits of it.
    """

    def mix(x: np.ndarray) -> np.ndarray:
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))

    start = mix(row.astype(np.uint64) + mix(np.full(1, seed % 2**64, np.uint64)))
    return (mix(start ^ mix(latent.astype(np.uint64))) >> np.uint64(11)) / 2.0**53
