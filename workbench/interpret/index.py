"""Where every latent fires: one pass over a store."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .. import lineage
from ..batch import Tokens
from ..code import Codec
from ..harvest.codes import BATCH, Codes, encode, parents
from .keep import Best, priority

FORMAT = 1
LOWEST, HIGHEST, PER_OCTAVE = -12, 20, 2  # histogram bins: half octaves from 2^-12 to 2^20; the end bins take the rest
BINS = (HIGHEST - LOWEST) * PER_OCTAVE
KINDS = ("top", "quantile", "random")
WINDOW = (-12, 6)


class Context(NamedTuple):
    """A token in its surroundings. `activations` are NaN where a position was left out of the store."""

    kind: str
    quantile: int  # 0 is the weakest; -1 for the other kinds
    row: int
    text: int
    pos: int
    activation: float
    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    activations: tuple[float, ...]
    center: int  # which of the tokens it is


@dataclass(frozen=True, eq=False)
class Index:
    """Every latent's density, histogram and contexts. Activations are magnitudes in order, signed where shown.

    `table` has a line for each latent: latent, fired (rows), density (share of the store's rows), max, mean (over the
    rows where it fires), dead (never fired in these rows), top_token.
    """

    folder: Path
    manifest: dict[str, Any]
    codes: Codes
    store: Any  # a Store or a view of one
    subject: Any = None
    _words: dict[int, str] = field(default_factory=dict, repr=False)

    @property
    def rows(self) -> int:
        """Rows of the store that were looked at."""
        return self.manifest["rows"]

    @property
    def latents(self) -> int:
        return self.manifest["latents"]

    @property
    def share_excluded(self) -> float | None:
        """Share of the real positions that the store left out; None where the store does not know."""
        return self.manifest["share_excluded"]

    @cached_property
    def table(self) -> pd.DataFrame:
        frame = pd.read_parquet(self.folder / "latents.parquet")
        top: Any = self.picked[(self.picked["kind"] == "top") & (self.picked["value"] != 0)]
        ids = self._tokens.ids[torch.tensor(top["text"].to_numpy()), torch.tensor(top["pos"].to_numpy())]
        weight = top.assign(id=ids.numpy(), value=top["value"].abs()).groupby(["latent", "id"])["value"].sum()
        best = weight.reset_index().sort_values(["latent", "value", "id"], ascending=[True, False, True])
        best = best.drop_duplicates("latent").set_index("latent")["id"]
        names = pd.Series(self.words(best.tolist()), best.index, dtype=object)
        return frame.assign(top_token=names.reindex(frame["latent"]).fillna("").to_numpy())

    @cached_property
    def picked(self) -> pd.DataFrame:
        """All contexts of all latents: latent, kind, quantile, rank, row, text, pos, value."""
        return pd.read_parquet(self.folder / "contexts.parquet")

    @cached_property
    def alive(self) -> np.ndarray:
        """(latent,) True where it fired at least once: the mask of a map."""
        return ~self.table["dead"].to_numpy()

    @property
    def dead_notice(self) -> str:
        """How many latents never fired, in how many rows."""
        dead = int((~self.alive).sum())
        return f"{dead:,} of {self.latents:,} latents ({dead / self.latents:.1%}) never fired in {self.rows:,} rows"

    def histogram(self, latent: int) -> pd.DataFrame:
        """Rows in each bin of |activation|: low, high, count; from the first bin with a row to the last.

        Bins are half octaves; the lowest begins at 0 and the highest has no end.
        """
        counts = self._histograms[self._known(latent)]
        edges = bin_edges()
        used = np.flatnonzero(counts)
        span = slice(used[0], used[-1] + 1) if len(used) else slice(0, 0)
        return pd.DataFrame({"low": edges[:-1][span], "high": edges[1:][span], "count": counts[span]})

    def contexts(
        self, latent: int, kind: str = "top", *, window: tuple[int, int] = WINDOW, limit: int | None = None
    ) -> list[Context]:
        """Contexts of a latent, with the activation of every token in the window.

        "top": strongest first, few from one text; "quantile": from every tenth of its activations, strongest first;
        "random": any rows of the store, whether it fires there or not. `limit` is per kind, or per quantile.
        """
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
        before, after = window
        if before > 0 or after < 0:
            raise ValueError(f"window is (tokens before, tokens after) like (-12, 6), got {window}")
        known = self._starts_of.get(self._known(latent))
        mine = self.picked.iloc[known[0] : known[1]] if known else self.picked.iloc[:0]
        mine = mine[mine["kind"] == kind]
        if kind == "quantile":
            mine = mine.sort_values(["quantile", "rank"], ascending=[False, True], kind="stable")
        if limit is not None:
            mine = mine[mine["rank"] < limit]
        if not len(mine):
            return []
        text = torch.tensor(mine["text"].to_numpy())
        pos = torch.tensor(mine["pos"].to_numpy())
        places = pos[:, None] + torch.arange(before, after + 1)  # (context, window)
        ids, mask = self._tokens
        inside = (places >= 0) & (places < ids.shape[1])
        at = (text[:, None], places.clamp(0, ids.shape[1] - 1))
        inside &= mask[at]
        values = self._activations(latent, text, places)
        words = self.words(ids[at][inside].tolist())
        found, taken = [], 0
        for i, line in enumerate(mine.itertuples(index=False)):
            on = inside[i]
            count = int(on.sum())
            shown, taken = words[taken : taken + count], taken + count
            found.append(
                Context(
                    kind,
                    int(line.quantile),
                    int(line.row),
                    int(line.text),
                    int(line.pos),
                    float(line.value),
                    tuple(ids[at][i][on].tolist()),
                    tuple(shown),
                    tuple(values[i][on].tolist()),
                    int(on[:-before].sum()) if before else 0,
                )
            )
        return found

    def words(self, ids: Sequence[int]) -> list[str]:
        """Tokens as text; `[id]` when the index was opened without a subject."""
        missing = sorted(set(ids) - self._words.keys())
        if missing:
            named = self.subject.words(missing) if self.subject is not None else [f"[{i}]" for i in missing]
            self._words.update(zip(missing, named, strict=True))
        return [self._words[i] for i in ids]

    def _known(self, latent: int) -> int:
        if not 0 <= latent < self.latents:
            raise IndexError(f"latent must be 0..{self.latents - 1}, got {latent}")
        return latent

    @cached_property
    def _tokens(self) -> Tokens:
        return self.store.tokens

    @cached_property
    def _histograms(self) -> np.ndarray:
        with np.load(self.folder / "histograms.npz", allow_pickle=False) as file:
            return file["counts"]

    @cached_property
    def _first(self) -> np.ndarray:
        """(text + 1,) first row of each text."""
        with np.load(self.folder / "histograms.npz", allow_pickle=False) as file:
            return file["first"]

    @cached_property
    def _starts_of(self) -> dict[int, tuple[int, int]]:
        """Where each latent's lines stand in `picked`."""
        latents, first, count = np.unique(self.picked["latent"].to_numpy(), return_index=True, return_counts=True)
        return {int(n): (int(a), int(a + c)) for n, a, c in zip(latents, first, count, strict=True)}

    def _activations(
        self, latent: int, text: Int[Tensor, " n"], places: Int[Tensor, "n window"]
    ) -> Float[Tensor, "n window"]:
        """The latent's value at positions of texts, NaN where the store has no row."""
        values = torch.full(places.shape, torch.nan)
        low, high = int(places.min()), int(places.max())
        rows, where = [], []
        for i, t in enumerate(text.tolist()):
            of_text = torch.arange(int(self._first[t]), int(self._first[t + 1]))
            _, pos = self.store.where(of_text)
            near = (pos >= places[i, 0]) & (pos <= places[i, -1]) & (pos >= low) & (pos <= high)
            rows.append(of_text[near])
            where.append(torch.stack([torch.full_like(pos[near], i), pos[near] - places[i, 0]]))
        values[tuple(torch.cat(where, 1))] = self.codes.rows(torch.cat(rows)).column(latent).float()
        return values


def index(
    codec: Codec,
    store: Any,
    subject: Any = None,
    *,
    folder: Path | str | None = None,
    codes: Codes | None = None,
    top: int = 20,
    per_text: int = 2,
    quantiles: int = 10,
    per_quantile: int = 5,
    random: int = 10,
    sample: int = 256,
    seed: int = 0,
    batch: int = BATCH,
) -> Index:
    """Look at every row's code once and keep, for every latent, how often, how strongly and where it fires.

    `top` strongest contexts, at most `per_text` of one token row; `per_quantile` contexts from each of `quantiles`
    equal parts of its activations; `random` rows of the store. Quantiles are those of a uniform draw of `sample` of the
    rows where it fires: exact for a latent that fires no oftener, else good to 0.5 / sqrt(sample) of the share.
    Made once: `folder` (default: the cache) is opened when it holds the same codec, store and arguments. `codes` are
    the store's rows through the codec: where they are not given they are made in `folder / "codes"` (default: the
    cache), `batch` rows at a time. Memory does not grow with the rows. `subject` gives tokens their text.
    Raises ValueError when the codec has no site, the codes or the folder's index are of another codec or store, or a
    file is damaged; FloatingPointError when a code is not finite.
    """
    counts = {"top": top, "per_text": per_text, "quantiles": quantiles, "per_quantile": per_quantile, "sample": sample}
    if low := [name for name, value in counts.items() if value < 1]:
        raise ValueError(f"{low[0]} must be 1 or more, got {counts[low[0]]}")
    if random < 0:
        raise ValueError(f"random must be 0 or more, got {random}")
    if sample < quantiles * per_quantile:
        raise ValueError(f"sample must be quantiles * per_quantile = {quantiles * per_quantile} or more, got {sample}")
    asked = counts | {"random": random, "seed": seed}
    key = {"format": FORMAT, **parents(codec, store), "args": asked}
    home = Path(folder or lineage.cache() / "indexes" / lineage.fingerprint(key))
    manifest = _found(home, key)
    if codes is None:
        codes = encode(store, codec, None if folder is None else home / "codes", batch=batch, quiet=True)
    else:
        codes.check(codec, store)
    return Index(home, manifest or _make(home, key, codes, store, batch), codes, store, subject)


def bin_edges() -> Float[np.ndarray, " edges"]:
    """Edges of the histogram's bins: 0, then half octaves, then infinity."""
    edges = 2.0 ** (LOWEST + np.arange(BINS + 1) / PER_OCTAVE)
    edges[0], edges[-1] = 0, np.inf
    return edges


def bin_of(values: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Bin of each magnitude: edges[bin] <= value < edges[bin + 1]."""
    return np.searchsorted(bin_edges()[1:-1], values, side="right")


def _found(folder: Path, key: dict[str, Any]) -> dict[str, Any] | None:
    """The manifest of the same index, if the folder has one, its files verified."""
    if not (folder / "manifest.json").is_file():
        return None
    manifest = lineage.read_json(folder / "manifest.json")
    if different := [name for name in key if manifest["of"].get(name) != key[name]]:
        raise ValueError(
            f"{folder} holds an index of another {', '.join(different)}: choose another folder, or delete it"
        )
    for name, sha256 in manifest["files"].items():
        if not (folder / name).is_file() or lineage.file_hash(folder / name) != sha256:
            raise ValueError(f"{folder / name} is missing or damaged: delete the folder and make the index again")
    return manifest


def _make(folder: Path, key: dict[str, Any], codes: Codes, store: Any, batch: int) -> dict[str, Any]:
    args, latents, rows = key["args"], codes.latents, len(codes)
    fired, total = np.zeros(latents, np.int64), np.zeros(latents)
    counts = np.zeros(latents * BINS, np.int64)
    strongest = Best(latents, args["top"], args["per_text"])
    drawn = Best(latents, args["sample"])
    others = _Others(latents, rows, args["random"], args["seed"])
    per_text = np.zeros(len(store.tokens.ids), np.int64)
    last = -1
    for begin, code, text, _ in codes.batches(batch):
        text = text.numpy()
        if text[0] < last or (np.diff(text) < 0).any():
            raise ValueError("rows must come in the order of their texts: give a store or a view of one")
        last = text[-1]
        per_text += np.bincount(text, minlength=len(per_text))
        row, latent, value = (part.numpy() for part in code.entries())
        size = np.abs(value).astype(np.float32)
        fired += np.bincount(latent, minlength=latents)
        total += np.bincount(latent, size, minlength=latents)
        counts += np.bincount(latent * BINS + bin_of(size), minlength=latents * BINS)
        entries = {"latent": latent, "row": row + begin, "text": text[row], "value": value}
        strongest.add(key=size, **entries)
        drawn.add(key=-priority(row + begin, latent, args["seed"]), **entries)
        others.look(begin, text, row, latent, value)
    best = strongest.best()
    frame = pd.DataFrame({"latent": np.arange(latents), "fired": fired, "density": fired / rows})
    head = np.r_[True, np.diff(best["latent"]) != 0] if len(best["latent"]) else np.zeros(0, bool)
    frame["max"] = 0.0
    frame.loc[best["latent"][head], "max"] = best["key"][head]
    frame["mean"] = np.divide(total, fired, out=np.zeros(latents), where=fired > 0)
    frame["dead"] = fired == 0
    picked = pd.concat(
        [
            _lines("top", best),
            _lines("quantile", *_quantiles(drawn.best(), args["quantiles"], args["per_quantile"])),
            _lines("random", others.found()),
        ]
    )
    picked["kind"] = pd.Categorical(picked["kind"], KINDS)
    picked = picked.sort_values(["latent", "kind", "quantile", "rank"], kind="stable").reset_index(drop=True)
    picked["pos"] = store.where(torch.tensor(picked["row"].to_numpy()))[1].numpy()
    first = np.concatenate([[0], per_text.cumsum()])
    lineage.write(folder / "latents.parquet", lambda part: frame.to_parquet(part, index=False))
    lineage.write(folder / "contexts.parquet", lambda part: picked.to_parquet(part, index=False))
    lineage.write(
        folder / "histograms.npz", lambda part: _savez(part, counts=counts.reshape(latents, BINS), first=first)
    )
    files = ("latents.parquet", "contexts.parquet", "histograms.npz")
    lineage.write_json(
        folder / "manifest.json",
        {
            "of": key,
            "site": key["site"],
            "rows": rows,
            "latents": latents,
            "share_excluded": getattr(store, "share_excluded", None),
            "versions": lineage.versions(),
            "files": {name: lineage.file_hash(folder / name) for name in files},
        },
    )
    return lineage.read_json(folder / "manifest.json")


class _Others:
    """Random rows for each latent, chosen beforehand, their values looked up as the rows go by."""

    def __init__(self, latents: int, rows: int, each: int, seed: int):
        random = np.random.default_rng([seed, 1])
        each = min(each, rows)
        self.latent = np.repeat(np.arange(latents), each)
        self.row = _distinct(latents, each, rows, random).reshape(-1)
        order = np.lexsort((self.latent, self.row))
        self.latent, self.row = self.latent[order], self.row[order]
        self.text = np.zeros(len(order), np.int64)
        self.value = np.zeros(len(order), np.float32)
        self.latents = latents

    def look(self, begin: int, text: np.ndarray, row: np.ndarray, latent: np.ndarray, value: np.ndarray) -> None:
        low, high = np.searchsorted(self.row, [begin, begin + len(text)])
        mine = slice(low, high)
        self.text[mine] = text[self.row[mine] - begin]
        if not len(row):
            return
        have = row * self.latents + latent
        order = np.argsort(have, kind="stable")
        want = (self.row[mine] - begin) * self.latents + self.latent[mine]
        at = np.searchsorted(have[order], want).clip(max=len(have) - 1)
        hit = have[order[at]] == want
        self.value[mine] = np.where(hit, value[order[at]], 0)

    def found(self) -> dict[str, np.ndarray]:
        order = np.argsort(self.latent, kind="stable")
        return {name: getattr(self, name)[order] for name in ("latent", "row", "text", "value")}


def _distinct(many: int, each: int, below: int, random: np.random.Generator) -> np.ndarray:
    """(many, each) numbers below a bound, no two equal within a line."""
    if below <= each * each:
        return random.random((many, below)).argsort(1)[:, :each]
    drawn = random.integers(0, below, (many, each))
    while True:  # a draw that repeats is drawn anew: rarely more than two rounds
        drawn.sort(1)
        again = np.zeros_like(drawn, bool)
        again[:, 1:] = drawn[:, 1:] == drawn[:, :-1]
        if not again.any():
            return drawn
        drawn[again] = random.integers(0, below, int(again.sum()))


def _quantiles(
    drawn: dict[str, np.ndarray], quantiles: int, each: int
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """From a uniform draw: which entries to show, their quantile, and their rank in it (by draw, so also at random)."""
    order = np.lexsort((drawn["row"], np.abs(drawn["value"]), drawn["latent"]))
    latent = drawn["latent"][order]
    fires = np.bincount(latent, minlength=int(latent.max(initial=0)) + 1)
    place = _place(latent)
    quantile = place * quantiles // fires[latent]
    by_draw = np.lexsort((-drawn["key"][order], quantile, latent))
    rank = np.empty(len(order), np.int64)
    rank[by_draw] = _place(latent[by_draw] * quantiles + quantile[by_draw])
    shown = rank < each
    kept = {name: column[order][shown] for name, column in drawn.items()}
    return kept, quantile[shown], rank[shown]


def _place(run: np.ndarray) -> np.ndarray:
    """Place of each entry, from 0, within its run of equal entries."""
    _, first, inverse = np.unique(run, return_index=True, return_inverse=True)
    return np.arange(len(run)) - first[inverse]


def _lines(
    kind: str, kept: dict[str, np.ndarray], quantile: np.ndarray | None = None, rank: np.ndarray | None = None
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "latent": kept["latent"],
            "kind": kind,
            "quantile": -1 if quantile is None else quantile,
            "rank": _place(kept["latent"]) if rank is None else rank,
            "row": kept["row"],
            "text": kept["text"],
            "pos": 0,
            "value": kept["value"],
        }
    )


def _savez(path: Path, counts: np.ndarray, first: np.ndarray) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, counts=counts, first=first)
