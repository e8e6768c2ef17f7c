"""Training batches straight from the subject, with no disk between: batches that can finish the forward pass."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .. import lineage
from ..batch import Batch, Exclusion, Tokens
from ..site import Site
from .collect import Reads, Texts, median_norm, own_rule, refuse_infinite
from .corpora import Corpus, corpus
from .store import SiteLike, shuffled, texts_of
from .tokens import Row, rows_of, rows_of_tokens, stacked


@runtime_checkable
class Finishes(Reads, Protocol):
    """What a live stream needs of a subject."""

    def finish(
        self, tokens: Any, site: Site | str, value: Tensor, read: Sequence[Site | str] = (), *, before: Any = None
    ) -> Any: ...
    def gradients(self, tokens: Any, sites: Sequence[Site | str], of: Any = None) -> dict[Site, Tensor]: ...


class Finish:
    """The rest of the forward pass from a batch's rows: `finish(y, read=sites) -> (logits, {site: h})`, at the rows.

    Differentiable in y. Positions that are not of the batch keep their clean vectors. `finish(None, read=sites)` gives
    the clean run, made once and kept.
    """

    def __init__(
        self,
        subject: Finishes,
        tokens: Tokens,
        site: Site,
        clean: Float[Tensor, "text pos d"],
        at: tuple[Int[Tensor, " row"], Int[Tensor, " row"]],
        before: Float[Tensor, "text pos d_resid"] | None = None,
    ):
        self.subject, self.tokens, self.site, self.clean, self.at, self.before = (
            subject,
            tokens,
            site,
            clean,
            at,
            before,
        )
        self._logits: Tensor | None = None
        self._seen: dict[Site, Tensor] = {}

    def __call__(
        self, y: Float[Tensor, "row d"] | None, read: Sequence[SiteLike] = ()
    ) -> tuple[Float[Tensor, "row vocab"], dict[Site, Float[Tensor, "row _"]]]:
        sites = [Site.of(site) for site in read]
        if y is None:
            return self._clean(sites)
        if len(y) != len(self.at[0]):
            raise ValueError(f"finish takes the batch's {len(self.at[0])} rows, got {len(y)}")
        return self._from(self.clean.index_put(self.at, y.to(self.clean)), sites)

    def _clean(self, sites: Sequence[Site]) -> tuple[Tensor, dict[Site, Tensor]]:
        if self._logits is None or any(site not in self._seen for site in sites):
            with torch.no_grad():
                self._logits, seen = self._from(self.clean, sites)
            self._seen |= seen
        return self._logits, {site: self._seen[site] for site in sites}

    def _from(self, value: Tensor, sites: Sequence[Site]) -> tuple[Tensor, dict[Site, Tensor]]:
        run = self.subject.finish(self.tokens, self.site, value, sites, before=self.before)
        return run.logits[self.at].float(), {site: h[self.at].float() for site, h in run.h.items()}


class Live:
    """A stream whose batches are the kept positions of `batch` token rows, read when they are asked for.

    So batches differ a little in size. `texts` are a corpus or `Tokens`; a run longer than the corpus goes over its
    token rows again in a new order. One site gives x of `(row, d)`, a list of one width `(row, site, d)`. Batches with
    one target site can `finish`. `grads=True` adds d of / d x, where `of` maps logits `(text, pos, vocab)`
    to a number and is the summed next-token loss in nats by default. The exclusion rule's medians are measured on the
    first `calibrate` token rows unless they are given. The subject is never locked between two batches.
    """

    def __init__(
        self,
        subject: Finishes,
        texts: Texts,
        *,
        site: SiteLike | Sequence[SiteLike],
        target: SiteLike | Sequence[SiteLike] | None = None,
        steps: int | None = None,
        epochs: int | float | None = None,
        batch: int = 8,
        length: int = 128,
        min_length: int = 32,
        seed: int = 0,
        exclusion: Exclusion | None = None,
        calibrate: int = 32,
        grads: bool = False,
        of: Callable[[Tensor], Tensor] | None = None,
    ):
        if steps is not None and epochs is not None:
            raise ValueError(f"give steps or epochs, not both: got steps={steps}, epochs={epochs}")
        for name, value in {"batch": batch, "calibrate": calibrate, "steps": steps, "epochs": epochs}.items():
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be more than 0, got {value}")
        if of is not None and not grads:
            raise ValueError("`of` says what to differentiate: it needs grads=True")
        self.subject, self.batch, self.seed, self.grads, self.of = subject, batch, seed, grads, of
        self.site = self._checked(site)
        self.target = self.site if target is None else self._checked(target)
        source = texts if isinstance(texts, (Corpus, Tokens)) else corpus(texts)
        if isinstance(source, Tokens):
            drawn, self._source = rows_of_tokens(source, seed), lineage.tensors_hash(source._asdict())[:16]
        else:
            drawn = rows_of(subject, source.texts, length=length, min_length=min_length, seed=seed)
            self._source = source.fingerprint
        self._rows: list[Row] = list(drawn if steps is None else islice(drawn, steps * batch))
        self._epoch = len(self._rows) // batch  # steps of one pass
        if not self._epoch:
            raise ValueError(f"the corpus gives {len(self._rows)} token rows, one batch needs {batch}: give more text")
        self._known: dict[int, Tensor] = {}
        self.steps = steps if steps is not None else max(1, int((1 if epochs is None else epochs) * self._epoch))
        self.exclusion = self._calibrated(own_rule(subject) if exclusion is None else exclusion, calibrate)

    def __len__(self) -> int:
        return self.steps

    @property
    def tokens(self) -> Tokens:
        """The token rows that a batch's `text` counts."""
        return stacked(self._rows)

    @property
    def texts(self) -> Int[Tensor, " text"]:
        """Document of each token row."""
        return torch.tensor([row.text for row in self._rows])

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """From step `start` on: the same batches as a run that began at 0."""
        if not 0 <= start <= self.steps:
            raise ValueError(f"start must be within the stream's {self.steps} steps, got {start}")
        for step in range(start, self.steps):
            yield self.batch_at(step)

    def batch_at(self, step: int) -> Batch:
        """The batch of one step."""
        return self._make(self._which(step).tolist())

    @cached_property
    def candidates(self) -> Int[Tensor, " step"]:
        """Rows of each step's batch as the token rules leave them; the norm rule, known when read, may take more."""
        kept = torch.cat(
            [self._by_token(range(i, min(i + 512, len(self._rows)))).sum(1) for i in range(0, len(self._rows), 512)]
        )
        epochs = range(-(-self.steps // self._epoch))
        return torch.cat([kept[self._order(epoch)].view(-1, self.batch).sum(1) for epoch in epochs])[: self.steps]

    def place(self, step: int, text: Int[Tensor, " row"], pos: Int[Tensor, " row"]) -> tuple[Int[Tensor, " row"], int]:
        """Which of a step's candidates its rows are, and how many candidates there are."""
        which = self._which(step)
        kept = self._by_token(which.tolist())
        numbers = kept.flatten().cumsum(0).view_as(kept) - 1
        ordered, order = which.sort()
        return numbers[order[torch.searchsorted(ordered, text)], pos], int(kept.sum())

    def describe(self) -> dict[str, Any]:
        """JSON: what the batches depend on."""
        return {
            "kind": "live",
            "subject": self.subject.fingerprint,
            "corpus": self._source,
            "site": texts_of(self.site),
            "target": texts_of(self.target),
            "length": len(self._rows[0].ids),
            "texts": len(self._rows),
            "batch": self.batch,
            "steps": self.steps,
            "seed": self.seed,
            "grads": self.grads,
            "exclusion": self.exclusion.to_json(),
        }

    def _checked(self, site: SiteLike | Sequence[SiteLike]) -> Site | list[Site]:
        if isinstance(site, (Site, str)):
            self.subject.width(Site.of(site))
            return Site.of(site)
        sites = [Site.of(s) for s in site]
        widths = {str(s): self.subject.width(s) for s in sites}
        if len(set(widths.values())) != 1:
            raise ValueError(f"sites read together must have one width, got {widths}")
        return sites

    def _which(self, step: int) -> Int[Tensor, " text"]:
        """The token rows of a step."""
        epoch, at = divmod(step, self._epoch)
        return self._order(epoch)[at * self.batch : (at + 1) * self.batch]

    def _order(self, epoch: int) -> Int[Tensor, " text"]:
        """The token rows of an epoch that fill whole batches; the first goes by the seeded order of the rows."""
        known = self._known.get(epoch)
        if known is None:
            n = len(self._rows)
            known = shuffled(n, self.seed, epoch).long() if epoch else torch.arange(n)
            self._known = {epoch: known}  # steps go forward: other epochs are over
        return known[: self._epoch * self.batch]

    def _by_token(self, which: Sequence[int]) -> Bool[Tensor, "text pos"]:
        return self.exclusion.by_token(stacked([self._rows[i] for i in which]), self.subject.special_ids)

    def _make(self, which: list[int]) -> Batch:
        tokens = stacked([self._rows[i] for i in which])
        sites = list(dict.fromkeys([*_list(self.site), *_list(self.target)]))
        before = None
        if isinstance(self.target, Site) and self.target.layer and self.target.stream != "resid":
            before = Site(self.target.layer - 1, "resid")  # `finish` enters the target's block with it
        h = self._read(tokens, which, sites if before is None else [*sites, before])
        keep = self.exclusion.by_token(tokens, self.subject.special_ids).to(h[sites[0]].device)
        for site in sites:
            keep = keep & self.exclusion.by_norm(site, h[site])
        text, pos = keep.nonzero(as_tuple=True)
        x = _at(h, self.site, (text, pos))
        finish = None
        if isinstance(self.target, Site):
            entry = None if before is None else h[before]
            finish = Finish(self.subject, tokens, self.target, h[self.target], (text, pos), entry)
        grads = None
        if self.grads:
            found = self.subject.gradients(tokens, _list(self.site), self.of)
            grads = _at(found, self.site, (text, pos))
        y = x if self.target == self.site else _at(h, self.target, (text, pos))
        return Batch(x, y, torch.tensor(which)[text.cpu()], pos.cpu(), grads, finish)

    def _read(self, tokens: Tokens, which: list[int], sites: Sequence[Site]) -> dict[Site, Tensor]:
        h = self.subject.read(tokens, sites)
        for site, values in h.items():
            refuse_infinite(site, values, tokens.mask, [self._rows[i].text for i in which])
        return h

    def _calibrated(self, rule: Exclusion, calibrate: int) -> Exclusion:
        missing = [s for s in dict.fromkeys([*_list(self.site), *_list(self.target)]) if str(s) not in rule.medians]
        if rule.norm is None or not missing:
            return rule
        seen: list[tuple[dict[Site, Tensor], Tensor]] = []
        for begin in range(0, min(calibrate, len(self._rows)), self.batch):
            which = list(range(begin, min(begin + self.batch, len(self._rows))))
            tokens = stacked([self._rows[i] for i in which])
            seen.append((self._read(tokens, which, missing), rule.by_token(tokens, self.subject.special_ids)))
        medians = {str(s): median_norm([(h[s], keep) for h, keep in seen]) for s in missing}
        return replace(rule, medians={**rule.medians, **medians})


def _list(site: Site | list[Site]) -> list[Site]:
    return [site] if isinstance(site, Site) else site


def _at(h: dict[Site, Tensor], site: Site | list[Site], at: tuple[Tensor, Tensor]) -> Tensor:
    return h[site][at] if isinstance(site, Site) else torch.stack([h[s][at] for s in site], 1)
