"""Every layer at once: one pass over a live stream feeds a transcoder for each MLP, so that nothing is stored.

transcoders = regimes.layers.transcoders(subject)        # {layer: Dictionary}, kept in the cache
"""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from .. import lineage
from ..batch import Batch, Stream
from ..dictionary import Dictionary, Hook, Moments, load, recipe, train
from ..evaluate.scores import Sums, interval
from ..harvest import Live, corpus
from ..site import Site
from ..subject import Subject
from .streams import place

LINEAR = 32_768  # rows that the linear skips are fitted on
LINES, QUALITY = "linear.safetensors", "quality.json"
HELD = 64  # token rows of held-out documents


class Ended(Exception):
    """Another training of the same stream failed."""


@dataclass(frozen=True)
class _View:
    """One site's rows of a stream of many: asks for its batches, in any order."""

    stream: Stream
    index: int
    ask: Callable[[int, int], Batch]
    also: Any

    def __len__(self) -> int:
        return len(self.stream)

    def describe(self) -> dict[str, Any]:
        return self.stream.describe() | {"of": self.index} | self.also

    def batches(self, start: int = 0) -> Iterator[Batch]:
        for step in range(start, len(self)):
            batch = self.ask(self.index, step)
            yield Batch(batch.x[:, self.index].contiguous(), batch.y[:, self.index].contiguous(), batch.text, batch.pos)


def together(
    stream: Stream, works: Sequence[Callable[[Stream], Any]], *, also: Any = None, progress: bool = True
) -> list[Any]:
    """What each of `works` returns, given its site's rows of a stream of `(row, site, d)`; all take the same batch.

    Each works in a thread, one at a time, until it asks for a batch; a batch is read once for all that ask for it, so a
    work may begin where it left off. `also` goes into the description of the stream. Raises what a work raises.
    """
    said: queue.SimpleQueue[tuple[int, str, Any]] = queue.SimpleQueue()
    inbox: list[queue.SimpleQueue[Batch | None]] = [queue.SimpleQueue() for _ in works]

    def ask(i: int, step: int) -> Batch:
        said.put((i, "asks", step))
        batch = inbox[i].get()
        if batch is None:
            raise Ended(f"training {i} was ended: another failed")
        return batch

    def work(i: int) -> None:
        try:
            said.put((i, "ends", works[i](_View(stream, i, ask, also or {}))))
        except BaseException as error:  # handed to whoever called
            said.put((i, "fails", error))

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(len(works))]
    waiting, results = {}, [None] * len(works)

    def hear() -> None:
        i, how, what = said.get()
        if how == "fails":
            raise what
        if how == "asks":
            waiting[i] = what
        else:
            results[i] = what

    try:
        for thread in threads:
            thread.start()
            hear()
        batches, next_ = iter(()), -1
        with tqdm(total=len(stream), desc="layers", unit="step", disable=not progress) as bar:
            while waiting:
                step = min(waiting.values())
                if step != next_:
                    batches = stream.batches(step)
                batch, next_ = next(batches), step + 1
                for i in [i for i, wanted in waiting.items() if wanted == step]:
                    del waiting[i]
                    inbox[i].put(batch)
                    hear()
                bar.n = next_
                bar.refresh()
    finally:
        for thread, box in zip(threads, inbox, strict=True):
            box.put(None)
            if thread.ident is not None:
                thread.join()  # or its folder would still be locked for whoever tries again
    return results


class Trained(NamedTuple):
    """Transcoders by layer, how good they are on held-out text (`quality`), and where they are kept."""

    dictionaries: dict[int, Dictionary]
    quality: pd.DataFrame
    folder: Path


class Linear(Hook):
    """Start a skip transcoder at the best linear map of its rows, so that latents learn what is not linear."""

    def __init__(self, weight: Float[Tensor, "out d"]):
        self.weight = weight

    @torch.no_grad()
    def start(self, dictionary: Dictionary, moments: Moments, rng: torch.Generator) -> None:
        mean = moments.mean_y - self.weight @ moments.mean_x
        dictionary.skip.weight.copy_(self.weight * (dictionary.scale_out / dictionary.scale_in))
        dictionary.decoder.bias.copy_(mean * dictionary.scale_out)


@torch.no_grad()
def linear(stream: Stream, rows: int = LINEAR) -> Float[Tensor, "site out d"]:
    """Least squares from x to y at every site of `(row, site, d)`, over the stream's first rows; means removed."""
    sums: list[Any] = [0, 0, 0, 0]
    count = 0
    for batch in stream.batches():
        x, y = batch.x.transpose(0, 1), batch.y.transpose(0, 1)  # (site, row, d)
        parts = (x.sum(1), y.sum(1), x.mT @ x, x.mT @ y)
        sums, count = [a + b.double() for a, b in zip(sums, parts, strict=True)], count + x.shape[1]
        if count >= rows:
            break
    x_sum, y_sum, xx, xy = sums
    xx = xx - x_sum[:, :, None] * x_sum[:, None] / count
    xy = xy - x_sum[:, :, None] * y_sum[:, None] / count
    ridge = 1e-4 * xx.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None] * torch.eye(xx.shape[-1], dtype=xx.dtype)
    return torch.linalg.solve(xx + ridge, xy).mT.float().contiguous()


def transcoders(
    subject: Subject,
    texts: Sequence[str] | None = None,
    *,
    layers: Sequence[int] | None = None,
    latents: int = 1024,
    k: int = 16,
    tokens: int = 300_000,
    batch: int = 4,
    length: int = 128,
    lr: float = 3e-3,
    seed: int = 0,
    folder: Path | str | None = None,
    progress: bool = True,
) -> Trained:
    """A skip transcoder for each layer's MLP, trained on `tokens` of `texts` (the pack and installed code) in one pass.

    Skips start at the least-squares map, so that latents are for what is not linear. Every tenth document is held out:
    `quality.json` has each layer's FVU there, beside the linear map's alone. With no `folder`, one in the cache. What
    was trained is loaded, what was cut short goes on. Raises ValueError for too little text.
    Paulo, Shabalin and Belrose 2025, arXiv:2501.18823; theirs starts the skip at 0.
    """
    chosen = list(range(subject.layers) if layers is None else layers)
    documents = list(texts) if texts is not None else mixture()
    steps = max(1, round(tokens / (batch * length)))
    said = {"subject": subject.fingerprint, "texts": lineage.fingerprint(documents), "layers": chosen, "k": k,
            "latents": latents, "batch": batch, "length": length, "steps": steps, "lr": lr, "seed": seed}  # fmt: skip
    home = Path(folder) if folder is not None else lineage.cache() / "transcoders" / lineage.fingerprint(said)
    parts = [home / f"layer_{layer}" for layer in chosen]
    if (home / QUALITY).is_file() and (kept := lineage.read_json(home / QUALITY))["run"] == said:
        loaded = {layer: load(part) for layer, part in zip(chosen, parts, strict=True)}
        return Trained(loaded, pd.DataFrame(kept["rows"]), home)
    ins, outs = ([Site(layer, stream) for layer in chosen] for stream in ("mlp_in", "mlp_out"))
    stream, held = (
        Live(subject, part, site=ins, target=outs, steps=count, batch=batch, length=length, seed=seed)
        for part, count in (([t for i, t in enumerate(documents) if i % 10], steps), (documents[::10], HELD // batch))
    )
    if steps * batch > len(stream.texts):
        raise ValueError(f"{tokens:,} tokens are wanted, the texts have {len(stream.texts) * length:,}: give more")
    if not (home / LINES).is_file():
        lineage.write_tensors(home / LINES, {"weight": linear(stream)})
    skips = load_file(home / LINES)["weight"]

    def work(i: int) -> Callable[[Stream], Dictionary]:
        made = recipe("skip_transcoder", d=subject.width(ins[i]), latents=latents, k=k, seed=seed)
        made = replace(made, hooks=(*made.hooks, Linear(skips[i])))
        return lambda rows: train(made, rows, site=ins[i], target=outs[i], lr=lr, seed=seed, folder=parts[i],
                                  progress=False, **place(stream))  # fmt: skip

    also = {"skip": lineage.tensors_hash({"weight": skips})}
    found = together(stream, [work(i) for i in range(len(chosen))], also=also, progress=progress)
    trained = dict(zip(chosen, found, strict=True))
    table = quality(trained, skips, held)
    lineage.write_json(home / QUALITY, {"run": said, "rows": table.to_dict("records")})
    return Trained(trained, table, home)


def mixture(code: float = 0.25) -> list[str]:
    """The pack, with as much installed code spread through it as makes this share of the characters."""
    pack = list(corpus())
    room, taken = sum(map(len, pack)) * code / (1 - code), []
    for text in corpus("stdlib"):
        if room > 0:
            taken.append(text[: int(room)])
            room -= len(text)
    every = max(1, len(pack) // max(1, len(taken)))
    return [t for i, text in enumerate(pack) for t in (text, *taken[i // every : i // every + (i % every == 0)])]


@torch.no_grad()
def quality(found: dict[int, Dictionary], skips: Float[Tensor, "site out d"], held: Stream) -> pd.DataFrame:
    """By layer, over a held-out stream: `fvu` (0 best, 1 the mean), the linear map's, and what latents save of it.

    `linear_fvu` gets the constant that is best there. `saved` is linear_fvu - fvu, 0 if latents say nothing; intervals
    are bootstraps over the stream's token rows. `silent`: share of latents that do not fire there.
    """
    batches, rows = list(held.batches()), []
    text = torch.cat([batch.text for batch in batches if batch.text is not None]).unique(return_inverse=True)[1]
    for i, (layer, dictionary) in enumerate(found.items()):
        x, y = (torch.cat([getattr(batch, name)[:, i] for batch in batches]) for name in ("x", "y"))
        code, line = dictionary.encode(x), x @ skips[i].T
        sizes = {"error": y - dictionary.reconstruct(x), "line": line + (y - line).mean(0) - y,
                 "total": y - y.mean(0)}  # fmt: skip
        sums = Sums({
            name: torch.zeros(int(text.max()) + 1, dtype=torch.float64).index_add_(0, text, e.double().square().sum(-1))
            for name, e in sizes.items()
        }, "token row")  # fmt: skip
        fvu = interval(sums, lambda s: s["error"] / s["total"])
        saved = interval(sums, lambda s: (s["line"] - s["error"]) / s["total"])
        rows.append({
            "layer": layer, "fvu": fvu.value, "fvu_low": fvu.low, "fvu_high": fvu.high,
            "linear_fvu": fvu.value + saved.value, "saved": saved.value, "saved_low": saved.low,
            "saved_high": saved.high, "l0": float(code.counts().double().mean()),
            "silent": float((code.fired() == 0).double().mean()), "rows": len(x),
        })  # fmt: skip
    return pd.DataFrame(rows)
