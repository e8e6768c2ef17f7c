"""How near does a dictionary come to one that was told the attributes: to carry, to control, to name them?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from ...batch import Tokens
from ..answers import last, parts
from ..case import Case
from ..examples import OURS, TEST, TRAIN, folds
from ..scores import Direction, Score, Scores, Sums

NEEDS = ("attributes",)
IDENTITY = {"sufficiency": 1.0, "necessity": 1.0}
MEAN = {"control": 0.0, "sufficiency": 0.0, "necessity": 0.0, "f1": 0.0, "occluded": 1.0}
SCALE_INVARIANT = ("control", "edit_share", "sufficiency", "necessity", "f1", "f1_single")
JUMP = 0.03  # a latent joins a union when F1 on the train fold rises by more
OCCLUDED = 0.5  # a value whose union has a lower F1 is not to be seen in the code


@dataclass(frozen=True, eq=False)
class Attributes:
    """Prompts with independent attributes, one position each to look at, and the same prompts with one thing changed.

    `labels[a]` is the value of attribute a, named in `classes[a]`. `changed[a]` is every prompt with another value,
    `changed_to[a]`, and all else as it was, token by token. `right` and `wrong` are the token ids of the logit
    difference at the last token. `fold` is 0 train, 2 test.
    Raises ValueError when the parts do not fit: an attribute with one value, a value that training lacks, changed
    prompts of other lengths.
    """

    tokens: Tokens
    at: Int[Tensor, " text"]
    right: Int[Tensor, " text"]
    wrong: Int[Tensor, " text"]
    labels: Mapping[str, Int[Tensor, " text"]]
    classes: Mapping[str, Sequence[str]]
    changed: Mapping[str, Tokens]
    changed_to: Mapping[str, Int[Tensor, " text"]]
    fold: Int[Tensor, " text"]
    published: bool = False

    def __post_init__(self) -> None:
        n = len(self.tokens.ids)
        for name in ("at", "right", "wrong", "fold"):
            if len(getattr(self, name)) != n:
                raise ValueError(f"{name} must hold one number per prompt ({n}), got {len(getattr(self, name))}")
        if not n or not bool(self.tokens.mask[torch.arange(n), self.at].all()):
            raise ValueError("every prompt needs a real token at its position in `at`")
        if not self.labels or not self.labels.keys() == self.classes.keys() == self.changed.keys() == (
            self.changed_to.keys()
        ):
            raise ValueError("labels, classes, changed and changed_to must name the same attributes, one or more")
        for k, name in ((TRAIN, "train"), (TEST, "test")):
            if not bool((self.fold == k).any()):
                raise ValueError(f"the {name} fold is empty: give more prompts")
        for a, label in self.labels.items():
            many = len(self.classes[a])
            if many < 2 or len(label.unique()) < 2:
                raise ValueError(f"attribute {a!r} has one value only: give prompts of two or more")
            for values in (label, self.changed_to[a]):
                if len(values) != n or not 0 <= int(values.min()) <= int(values.max()) < many:
                    raise ValueError(f"attribute {a!r} must number its {many} values, one per prompt ({n})")
            if bool((self.changed_to[a] == label).any()):
                raise ValueError(f"changed prompts of {a!r} must have another value of it than the prompt itself")
            if lack := many - len(label[self.fold == TRAIN].unique()):
                raise ValueError(f"{lack} of {many} values of {a!r} are in no train prompt: give more prompts")
            if self.changed[a].ids.shape != self.tokens.ids.shape or not bool(
                (self.changed[a].mask == self.tokens.mask).all()
            ):
                raise ValueError(
                    f"changed prompts of {a!r} have other lengths than the prompts: use values of one length"
                )

    @staticmethod
    def folds(n: int, *, seed: int = 0) -> Int[Tensor, " text"]:
        """70 % of n prompts for training, drawn from `seed`, the others for the test."""
        return folds(torch.arange(n), shares=(0.7, 0.0, 0.3), seed=seed)


@dataclass(eq=False)
class _Seen:
    """What the codec and the supervised dictionary see: rows at the position, in the subject's units."""

    h: Float[Tensor, "text pos d"]
    y: Float[Tensor, "text d"]
    rebuilt: Float[Tensor, "text d"]
    code: Float[Tensor, "text used"]
    atoms: Float[Tensor, "used d"]
    mean: Float[Tensor, " d"]  # of the train fold
    vectors: dict[str, Float[Tensor, "value d"]]  # mean of a value's rows, less the mean of all
    codes: dict[str, Float[Tensor, "value used"]]  # mean code of a value's rows


def supervised_ioi(case: Case, *, k: int = 2, most: int = 5) -> Scores:
    """Share of an attribute's changes that an edit of few latents achieves, beside a dictionary that was told them.

    The supervised dictionary has one atom for each value of each attribute: the mean of its train rows less that of
    all. One site at one position is tested at once.
    `control`: an edit sets `k` latents to their mean codes under the new value, the dictionary's error kept. For each
    attribute and pair of values they are chosen greedily: those that bring train prompts of the old value nearest to
    the difference of the supervised vectors. The answer is the likeliest of all tokens that are a right or a wrong
    answer of some prompt. Counted are test prompts whose answer changes when the vector is patched from the prompt
    that truly has the new value; right is an edit with the patched run's answer. Chance: k random latents.
    `edit_share`: share of the reconstruction that the changed latents make up.
    `sufficiency`: logit difference with the reconstruction in place, from 0 (mean vector) to 1 (clean). `necessity`:
    the same difference lost when what the dictionary explains is replaced by the mean.
    `f1`: for each value the latents whose union (any is on) says it best, at most `most`, each raising F1 on train by
    more than 0.03; mean test F1. `f1_single` with one, `split` how many they are, `occluded` the share of values whose
    union has an F1 below 0.5. Those ending in `_supervised` are the ceiling. Data: `tasks.ioi.ioi`, `tasks.ioi.toy`.
    Raises ValueError when the site at this position does not matter to the answer, or no patch changes it.
    Source: Makelov, Lange, Nanda 2024, arXiv:2405.08366; there a circuit's sites are edited together and the latents of
    each edit chosen on the test prompt itself; ours are chosen on train prompts.
    """
    if k < 1 or most < 1:
        raise ValueError(f"k and most must be 1 or more, got {k} and {most}")
    given = case.need("attributes", Attributes)
    if case.subject is None:
        raise ValueError(f"{case.name} has no subject to run: give Case(codec, subject, ...)")
    seen = _look(case, given)
    return Scores.of(*_controls(case, given, seen, k), *_carried(case, given, seen), *_named(case, given, seen, most))


@torch.no_grad()
def _rows(case: Case, tokens: Tokens, at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x at the position, and the whole target stream with its rows at the position."""
    subject = case.subject
    assert subject is not None
    xs, hs = [], []
    for start in range(0, len(tokens.ids), 32):
        h = subject.read(tokens.rows(slice(start, start + 32)), list(dict.fromkeys([case.site, case.target])))
        xs.append(h[case.site].cpu())
        hs.append(h[case.target].cpu())
    n = torch.arange(len(at))
    h = torch.cat(hs)
    return torch.cat(xs)[n, at], h, h[n, at]


@torch.no_grad()
def _look(case: Case, given: Attributes) -> _Seen:
    x, h, y = _rows(case, given.tokens, given.at)
    code = case.encoded(x)
    row, latent, value = (part.cpu() for part in code.entries())
    used, place = latent.unique(return_inverse=True)
    dense = torch.zeros(len(x), max(1, len(used)))  # a dictionary that is silent everywhere keeps one column of zeros
    dense[row, place] = value.float()
    atoms = case.codec.atoms(used if len(used) else [0]).detach().cpu().float()
    train = given.fold == TRAIN
    mean, vectors, codes = y[train].mean(0), {}, {}
    for a, label in given.labels.items():
        on = one_hot(label[train], len(given.classes[a])).float()
        of = (on / on.sum(0)).T
        vectors[a], codes[a] = of @ y[train] - mean, of @ dense[train]
    return _Seen(h, y, case.codec.reconstruct(x).detach().cpu(), dense, atoms, mean, vectors, codes)


@torch.no_grad()
def _logits(case: Case, given: Attributes, seen: _Seen, new: Float[Tensor, "text d"]) -> Float[Tensor, "test vocab"]:
    """The test prompts' logits at the last token, with new vectors at the position."""
    subject = case.subject
    assert subject is not None
    test = (given.fold == TEST).nonzero()[:, 0]
    found = []
    for part in parts(given.tokens.rows(test), subject.vocab):
        which = test[part]
        value = seen.h[which].clone()
        value[torch.arange(len(which)), given.at[which]] = new[which]
        tokens = given.tokens.rows(which)
        found.append(last(subject.finish(tokens, case.target, value).logits, tokens))
    return torch.cat(found)


def _greedy(
    target: Float[Tensor, " d"], change: Float[Tensor, "text used"], atoms: Float[Tensor, "used d"], k: int
) -> Bool[Tensor, " used"]:
    """The k latents whose changes in each text come nearest to the target together, fewer where none helps."""
    chosen = torch.zeros(change.shape[1], dtype=torch.bool)
    left, size = target.expand(len(change), -1), atoms.square().sum(1)
    for _ in range(k):
        gain = (2 * change * (left @ atoms.T) - change.square() * size).mean(0).masked_fill(chosen, -inf)
        which = int(gain.argmax())
        if gain[which] <= 0:
            break
        chosen[which] = True
        left = left - change[:, which, None] * atoms[which]
    return chosen


def _score(case: Case, given: Attributes, metric: str, sums: Sums, statistic, **more) -> Score:
    more = {"unit": "share", "direction": "none", "range": (0.0, 1.0), "counted": "prompts"} | more
    note = "" if given.published else OURS
    return case.score(metric, sums, statistic, share_excluded=0.0, note=note, **more)


def _controls(case: Case, given: Attributes, seen: _Seen, k: int) -> list[Score]:
    test = given.fold == TEST
    drawn = torch.Generator().manual_seed(case.seed)
    answers = torch.cat([given.right, given.wrong]).unique()

    def said_with(new: Float[Tensor, "text d"]) -> Int[Tensor, " test"]:
        return _logits(case, given, seen, new)[:, answers].argmax(-1)

    clean = said_with(seen.y)
    whole = (seen.code @ seen.atoms)[test]
    by: dict[str, list[Tensor]] = {name: [] for name in ("moved", "hit", "supervised", "random", "weight")}
    for a, label in given.labels.items():
        patched = said_with(_rows(case, given.changed[a], given.at)[2])
        moved, new = patched != clean, given.changed_to[a]
        changes, which = torch.stack([label, new], 1).unique(dim=0, return_inverse=True)
        chosen = torch.zeros(len(changes), seen.code.shape[1], dtype=torch.bool)
        for i, (away, to) in enumerate(changes.tolist()):
            old = seen.code[(label == away) & (given.fold == TRAIN)]
            vector = seen.vectors[a][to] - seen.vectors[a][away]
            chosen[i] = _greedy(vector, seen.codes[a][to] - old, seen.atoms, k)
        shuffled = chosen.gather(1, torch.rand(chosen.shape, generator=drawn).argsort(1))
        by["moved"].append(moved)
        for name, picks in (("hit", chosen), ("random", shuffled)):
            edited = picks[which]
            change = torch.where(edited, seen.codes[a][new] - seen.code, 0.0)
            said = said_with(seen.y + change @ seen.atoms)
            by[name].append(moved & (said == patched))
            if name == "hit":
                gone = (torch.where(edited, seen.code, 0.0) @ seen.atoms)[test]
                weight = (gone * whole).sum(1) / whole.square().sum(1).clamp_min(1e-30)
                by["weight"].append(torch.where(moved, weight, 0.0))
        told = seen.y - seen.vectors[a][label] + seen.vectors[a][new]
        by["supervised"].append(moved & (said_with(told) == patched))
    held = {name: torch.stack(parts, 1).double() for name, parts in by.items()}  # (test prompt, attribute)
    if not float(held["moved"].sum()):
        raise ValueError(
            f"patching {case.target} changes no answer of {int(test.sum())} test prompts: nothing to control there, "
            "take a later site or another position"
        )
    sums = Sums(held, "prompt")

    def share(name: str):
        return lambda s: s[name].sum(-1) / s["moved"].sum(-1).clamp_min(1)

    chance = float(share("random")(sums.total())[0])
    unit = "share of the prompts whose answer a true patch changes"
    about = {"unit": unit, "counted": "moved"}
    found = [
        _score(case, given, "control", sums, share("hit"), direction="higher", chance=chance, **about),
        _score(case, given, "control_supervised", sums, share("supervised"), **about),
        _score(case, given, "edit_share", sums, share("weight"), **about | {"unit": "share of the reconstruction"},
               range=(-inf, inf)),
    ]  # fmt: skip
    for i, a in enumerate(given.labels):
        if float(held["moved"][:, i].sum()):
            each = Sums({name: v[:, i : i + 1] for name, v in held.items()}, "prompt")
            found.append(_score(case, given, f"control_{a}", each, share("hit"), **about))
    return found


def _carried(case: Case, given: Attributes, seen: _Seen) -> list[Score]:
    """Sufficiency and necessity of the reconstruction, and of the supervised one."""
    test = given.fold == TEST
    told = seen.mean + sum(seen.vectors[a][label] for a, label in given.labels.items())
    arms = {
        "clean": seen.y,
        "mean": seen.mean.expand_as(seen.y),
        "sufficiency": seen.rebuilt,
        "necessity": seen.y - seen.rebuilt + seen.mean,
        "sufficiency_supervised": told,
        "necessity_supervised": seen.y - told + seen.mean,
    }
    by = {"prompts": torch.ones(int(test.sum())).double()}
    for name, new in arms.items():
        logits = _logits(case, given, seen, new)
        n = torch.arange(len(logits))
        by[name] = (logits[n, given.right[test]] - logits[n, given.wrong[test]]).double()
    gap = float((by["clean"] - by["mean"]).mean())
    if not gap > 0:
        raise ValueError(
            f"the mean vector at {case.target} does not lower the logit difference ({gap:+.4f} nats): the site "
            "does not matter at this position, take another"
        )
    sums, found = Sums(by, "prompt"), []
    for name in list(arms)[2:]:
        ends = ("mean", name) if name.startswith("sufficiency") else (name, "clean")
        direction: Direction = "none" if name.endswith("supervised") else "higher"
        found.append(
            _score(
                case,
                given,
                name,
                sums,
                lambda s, ends=ends: (s[ends[1]] - s[ends[0]]) / (s["clean"] - s["mean"]),
                unit="share of the logit difference that the site carries",
                direction=direction,
                range=(-inf, inf),
                chance=0.0,
            )
        )
    return found


def _union(
    on: Bool[Tensor, "text used"], truth: Bool[Tensor, "text value"], most: int
) -> tuple[Bool[Tensor, "value used"], Bool[Tensor, "value used"]]:
    """(the best single latent, the union) of each value by F1, latents added one by one."""
    fired, true = on.double(), truth.T.double()  # (text, used), (value, text)
    said = torch.zeros_like(true)
    chosen = torch.zeros(len(true), on.shape[1], dtype=torch.bool)
    single, best = chosen.clone(), torch.zeros(len(true), dtype=torch.double)
    for step in range(most):
        fresh = 1 - said
        hits = (said * true).sum(1, keepdim=True) + (fresh * true) @ fired
        all_said = said.sum(1, keepdim=True) + fresh @ fired
        f1, which = (2 * hits / (all_said + true.sum(1, keepdim=True))).max(1)
        more = f1 > best + (JUMP if step else 0.0)
        added = one_hot(which, on.shape[1]).bool() & more[:, None]
        chosen |= added
        single = chosen.clone() if step == 0 else single
        best = torch.where(more, f1, best)
        said = torch.where(more[:, None], torch.maximum(said, fired.T[which]), said)
    return single, chosen


def _named(case: Case, given: Attributes, seen: _Seen, most: int) -> list[Score]:
    """F1 of latents as statements about values, chosen on the train fold."""
    truth = torch.cat([one_hot(v, len(given.classes[a])) for a, v in given.labels.items()], 1).bool()
    on, train, test = seen.code != 0, given.fold == TRAIN, given.fold == TEST
    single, union = _union(on[train], truth[train], most)
    by = {"prompts": torch.ones(int(test.sum())).double(), "true": truth[test].double()}
    for name, chosen in (("single", single), ("union", union)):
        said = (on[test].float() @ chosen.T.float()) > 0
        by[f"said_{name}"], by[f"hits_{name}"] = said.double(), (said & truth[test]).double()
    sums = Sums(by, "prompt")

    def f1(name: str):
        return lambda s: 2 * s[f"hits_{name}"] / (s[f"said_{name}"] + s["true"]).clamp_min(1)

    often = truth[test].double().mean(0)
    chance = float((2 * often / (1 + often)).mean())  # saying every value always
    union_of, split = f1("union"), union.sum(1).double()
    return [
        _score(case, given, "f1", sums, lambda s: union_of(s).mean(-1), unit="F1, mean over values",
               direction="higher", chance=chance),
        _score(case, given, "f1_single", sums, lambda s: f1("single")(s).mean(-1), unit="F1, mean over values",
               direction="higher", chance=chance),
        _score(case, given, "split", sums, lambda s: torch.full_like(s["prompts"], float(split.mean())),
               unit="latents for one value, mean over values", direction="none", range=(0.0, float(most))),
        _score(case, given, "occluded", sums, lambda s: (union_of(s) < OCCLUDED).double().mean(-1),
               unit=f"share of values with F1 below {OCCLUDED:g}", direction="lower"),
    ]  # fmt: skip
