"""All that an evaluation may look at, and the one pass over held-out rows that most of them share."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..batch import Batch, Exclusion, Tokens
from ..code import Code, Codec
from ..harvest import Codes
from ..site import Site
from .examples import Examples
from .scores import Direction, Score, Statistic, Sums, interval

if TYPE_CHECKING:
    from ..subject import Subject

Need = TypeVar("Need")
ROWS = 2048  # rows encoded at once
GROUPS = 64  # groups of documents for what is counted per latent: memory stays (GROUPS, latents)

Measure = Callable[
    [Float[Tensor, "row *inp"], Float[Tensor, "row *out"], Code, Float[Tensor, "row *out"]],
    Mapping[str, Float[Tensor, "row *more"]],
]


@runtime_checkable
class Rows(Protocol):
    """What a case needs of a Store view: held-out rows in stored order, each with its token row and document."""

    exclusion: Exclusion
    tokens: Any  # Tokens of all token rows
    texts: Any  # (text,) document of each token row

    @property
    def share_excluded(self) -> float: ...

    def batches(
        self, size: int, *, site: Any = None, target: Any = None, seed: int | None = None
    ) -> Iterator[Batch]: ...
    def mean(self, site: Any) -> Tensor: ...


class Fired(NamedTuple):
    """Rows in which each latent was active, per group of whole documents."""

    counts: Float[Tensor, "group latent"]
    rows: Float[Tensor, " group"]
    unit: str


@dataclass(frozen=True, eq=False)
class Case:
    """A dictionary on trial: `codec` on held-out `rows` of its site, and on held-out `tokens` through the subject.

    `tokens` are the token rows that splicing evals run, `texts` the document of each (every token row its own when
    None). Intervals resample documents, `resamples` times from `seed`. Nothing is written; what several evals share is
    computed once and kept on the case. With `codes`, the rows' codes on disk (`wb.encode(rows, codec)`), no pass over
    the rows encodes them again. `given` holds what else evals need, by the names in their `NEEDS`: labelled examples,
    planted truth, other seeds (`evaluate.tasks` makes them; `evaluate.needs()` lists who needs what).
    Raises ValueError when the parts do not fit.
    """

    codec: Codec
    subject: "Subject | None"
    rows: Rows
    tokens: Tokens | None = None
    texts: Int[Tensor, " text"] | None = None
    name: str = "dictionary"
    seed: int = 0
    resamples: int = 2000
    codes: Codes | None = None
    given: Mapping[str, Any] = field(default_factory=dict)
    cache: dict[str, Any] = field(default_factory=dict, repr=False, init=False)  # a changed copy starts with none

    def __post_init__(self) -> None:
        if self.codec.site is None or self.codec.target is None:
            raise ValueError(
                f"{self.name} stands at no single site: train it with site=..., or load it from its folder"
            )
        if self.texts is not None and (self.tokens is None or len(self.texts) != len(self.tokens.ids)):
            came = "no tokens" if self.tokens is None else f"{len(self.tokens.ids)} token rows"
            raise ValueError(f"texts name the document of each token row: got {len(self.texts)} for {came}")
        if self.tokens is not None and self.subject is None:
            raise ValueError(f"{self.name} has tokens to splice into but no subject: give Case(..., subject, ...)")
        if self.codes is not None:
            rows: Any = self.rows
            self.codes.check(self.codec, rows)

    @property
    def site(self) -> Site:
        assert self.codec.site is not None
        return self.codec.site

    @property
    def target(self) -> Site:
        assert self.codec.target is not None
        return self.codec.target

    @property
    def exclusion(self) -> Exclusion:
        """The rule of the rows, so that dictionaries compared on one store are judged at the same positions."""
        return self.rows.exclusion

    def need(self, name: str, kind: type[Need]) -> Need:
        """What the case was given by this name. Raises ValueError if it is missing, TypeError if it is no `kind`."""
        if name not in self.given:
            raise ValueError(f"{self.name} was given no {name!r}: Case(..., given={{{name!r}: {kind.__name__}(...)}})")
        if not isinstance(found := self.given[name], kind):
            raise TypeError(f"{name!r} must be {kind.__name__}, got {type(found).__name__}")
        return found

    @torch.no_grad()
    def encoded(self, x: Float[Tensor, "row *inp"]) -> Code:
        """The code of rows, some thousand at a time. Raises ValueError for codes that are not finite."""
        parts = [self.codec.encode(x[start : start + ROWS]) for start in range(0, len(x), ROWS)]
        code = parts[0] if len(parts) == 1 else Code.cat(parts)
        if bad := int((~code.values.isfinite()).sum()):
            raise ValueError(
                f"{self.name} gives {bad} codes that are NaN or infinite: look at its weights and its rows"
            )
        return code

    def of(self, examples: Examples) -> Code:
        """The code of the examples' rows, made once. Raises ValueError where their width is not the codec's site's."""
        key = f"code of {id(examples.x)}"
        if key not in self.cache:
            self.cache[key] = (examples.x, self.encoded(examples.x))  # the tensor stays, so its id is not used again
        return self.cache[key][1]

    def pooled(self, examples: Examples) -> Float[Tensor, "example latent"]:
        """Mean code over each example's rows, made once. Costs examples x latents numbers."""
        key = f"pooled {id(examples.x)}"
        if key not in self.cache:
            code = self.of(examples)
            row, latent, value = code.entries()
            flat = examples.example[row.cpu()] * code.latents + latent.cpu()
            sums = torch.zeros(examples.count * code.latents).index_add_(0, flat, value.detach().cpu().float())
            self.cache[key] = sums.view(examples.count, code.latents) / examples.sizes[:, None]
        return self.cache[key]

    def seeded(self, seed: int) -> "Case":
        """The same case with another seed, for intervals and whatever an eval draws; what was computed is shared."""
        if seed == self.seed:
            return self
        found = replace(self, seed=seed)
        object.__setattr__(found, "cache", self.cache)
        return found

    def batches(self) -> Iterator[tuple[Int[Tensor, " row"], Batch]]:
        """Held-out rows in stored order, with the document of each."""
        documents = torch.as_tensor(self.rows.texts)
        for batch in self.rows.batches(ROWS, site=self.site, target=self.target):
            if batch.text is None:
                raise ValueError("held-out rows must know their text: collect them into a store")
            yield documents[batch.text], batch

    def per_document(self, measure: Measure) -> Sums:
        """Sums over each document of what `measure(x, y, code, y_hat)` says of each row, plus `rows`, their count.

        One pass over the held-out rows; `measure` returns `{name: (row, *more)}`.
        """
        return self._scan(measure, count=False)[0]

    @property
    def scanned(self) -> tuple[Sums, Fired]:
        """Sums for reconstruction and sparsity per document, and how often each latent fired; one pass, kept."""
        if "scanned" not in self.cache:
            self.cache["scanned"] = self._scan(_standard(self.rows.mean(self.target)), count=True)
        return self.cache["scanned"]

    def score(
        self,
        metric: str,
        sums: Sums,
        statistic: Statistic,
        *,
        unit: str,
        direction: Direction,
        range: tuple[float, float],
        chance: float | None = None,
        counted: str = "rows",
        share_excluded: float | None = None,
        note: str = "",
    ) -> Score:
        """A statistic of per-document sums as a Score, with its interval; `n` is the total of `sums.by[counted]`.

        `share_excluded` is that of the held-out rows when None: an eval of other rows gives its own.
        """
        value, low, high = interval(sums, statistic, seed=self.seed, resamples=self.resamples)
        left_out = self.rows.share_excluded if share_excluded is None else share_excluded
        return Score(
            metric=metric,
            value=value,
            low=low,
            high=high,
            unit=unit,
            direction=direction,
            range=range,
            chance=chance,
            n=round(float(sums.by[counted].sum())),
            counted=counted,
            share_excluded=float(left_out),
            resampled=resampled(sums),
            note=note,
        )

    @torch.no_grad()
    def _scan(self, measure: Measure, *, count: bool) -> tuple[Sums, Fired]:
        places: dict[int, int] = {}  # document -> its place, in order of appearance
        sums: dict[str, Tensor] = {}
        fired = torch.zeros(GROUPS, self.codec.latents if count else 0, dtype=torch.float64)
        rows = torch.zeros(GROUPS, dtype=torch.float64)
        known = None if self.codes is None else self.codes.batches(ROWS)
        for documents, batch in self.batches():
            code = self.encoded(batch.x) if known is None else next(known).code
            plain = getattr(self.codec, "skip", self) is None  # no skip connection: decoding saves a second encoding
            y_hat = self.codec.decode(code) if plain else self.codec.reconstruct(batch.x)
            found = {"rows": torch.ones(len(batch.x))} | dict(measure(batch.x, batch.y, code, y_hat))
            distinct, which = documents.unique(return_inverse=True)
            place = torch.tensor([places.setdefault(d, len(places)) for d in distinct.tolist()])
            for name, value in found.items():
                if len(value) != len(batch.x):
                    raise ValueError(f"{name} must hold one value per row ({len(batch.x)}), got {tuple(value.shape)}")
                value = value.detach().cpu().double()
                kept = sums.get(name, value.new_zeros(0, *value.shape[1:]))
                if len(kept) < len(places):
                    kept = torch.cat([kept, kept.new_zeros(len(places) - len(kept), *value.shape[1:])])
                sums[name] = kept.index_add_(0, place[which], value)
            if count:
                group = place[which] % GROUPS
                rows.index_add_(0, group, torch.ones(len(group), dtype=torch.float64))
                row, latent, _ = code.entries()
                at = group[row.cpu()] * self.codec.latents + latent.cpu()
                fired += torch.bincount(at, minlength=fired.numel()).view_as(fired)
        if not sums:
            raise ValueError("there are no held-out rows to evaluate on: collect more, or split off a larger part")
        used = min(GROUPS, len(places))
        unit = "document" if len(places) <= GROUPS else f"group of {len(places) / GROUPS:.3g} documents"
        return Sums(sums), Fired(fired[:used], rows[:used], unit)


def resampled(sums: Sums) -> str:
    """What an interval resampled, in words."""
    return f"{len(sums)} x {sums.unit}"


def _standard(mean: Float[Tensor, "*out"]) -> Measure:
    """Per-row quantities behind reconstruction and sparsity. `y1`, `y2` are taken about `mean` to keep digits."""
    mean = mean.flatten().double()

    def measure(x: Tensor, y: Tensor, code: Code, y_hat: Tensor) -> dict[str, Tensor]:
        y, y_hat = y.flatten(1).double(), y_hat.flatten(1).double()
        center = mean.to(y.device)
        norm, norm_hat = y.norm(dim=1), y_hat.norm(dim=1)
        inner = (y * y_hat).sum(1)
        seen = norm > 0  # a zero row has no direction: it is left out of cosine and norm ratio
        safe = torch.where(seen, norm, 1.0)
        cosine = torch.where(norm_hat > 0, inner / safe / torch.where(norm_hat > 0, norm_hat, 1.0), 0.0)
        flat = center.norm() if bool(center.norm() > 0) else center.new_ones(())
        return {
            "error": (y - y_hat).square().sum(1),
            "y1": y - center,
            "y2": (y - center).square().sum(1),
            "hat2": norm_hat.square(),
            "inner": inner,
            "directed": seen.double(),
            "cosine": torch.where(seen, cosine, 0.0),
            "ratio": torch.where(seen, norm_hat / safe, 0.0),
            "mean_cosine": torch.where(seen, (y @ center) / safe / flat, 0.0),
            "mean_ratio": torch.where(seen, center.norm() / safe, 0.0),
            "active": code.counts().double(),
        }

    return measure


def variance(s: Mapping[str, Tensor]) -> Float[Tensor, " replicate"]:
    """Total centred variance times rows, about the mean of the very rows that `s` sums over."""
    return s["y2"] - s["y1"].square().sum(-1) / s["rows"]


def named(
    codecs: Mapping[str, Codec],
    subject: "Subject | None",
    rows: Rows,
    tokens: Tokens | None = None,
    texts: Int[Tensor, " text"] | Sequence[int] | None = None,
    *,
    seed: int = 0,
    resamples: int = 2000,
    given: Mapping[str, Any] | None = None,
) -> list[Case]:
    """One case per named codec, all on the same rows and tokens."""
    documents = None if texts is None else torch.as_tensor(texts)
    return [
        Case(c, subject, rows, tokens, documents, name, seed, resamples, given=dict(given or {}))
        for name, c in codecs.items()
    ]
