"""Latents of head outputs, attributed to heads and to the positions they read; attention scores, to pairs of latents.

Kissane et al. 2024, Interpreting Attention Layer Outputs with Sparse Autoencoders, arXiv:2406.17759, for what heads and
sources add to a latent; a score is bilinear in what the two positions hold, so latents on both sides share it out.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...code import Codec
from ...dictionary import Dictionary
from ...site import Site
from ...subject import Subject
from ...subject.freeze import Compared, Held
from ...subject.inside import heads_of

if TYPE_CHECKING:
    import pandas as pd

OFF = 1e-3  # how far sums may be from what they add up to, as a share of the largest


def by_head(
    subject: Subject,
    prompt: Any,
    dictionary: Dictionary,
    *,
    pos: int | Sequence[int] | None = None,
    latents: int | Sequence[int] | None = None,
) -> "pd.DataFrame":
    """What each head adds to the pre-activations of latents of `heads`; the rows of one (latent, pos) are its sum.

    Columns latent, pos, head (-1: what the dictionary's own biases add), adds, in units of the code. `pos`, `latents`:
    which, active or not; unless given, those that are active at positions that the subject's exclusion keeps.
    Raises ValueError for more than one text, a dictionary of another site, and an encoder that is not affine.
    """
    found = _Read(subject, prompt, dictionary, pos, latents)
    z = found.z.unflatten(-1, (found.heads, -1))[found.pos]
    adds = torch.einsum("nhw,nhw->nh", z, found.reads)
    return found.table(torch.cat([adds, found.constant[:, None]], 1), {"head": [*range(found.heads), -1]})


def by_source(
    subject: Subject,
    prompt: Any,
    dictionary: Dictionary,
    *,
    pos: int | Sequence[int] | None = None,
    latents: int | Sequence[int] | None = None,
) -> "pd.DataFrame":
    """The same by head and the position that it reads, with the attention pattern held.

    Columns latent, pos, head, source, adds; head and source -1: what the dictionary's own biases add. A value
    projection's bias is part of each source. A row for each pair, head and position of the text: give `pos` for long
    ones. Raises ValueError as `by_head` does, and for a model that cannot be held.
    """
    found = _Read(subject, prompt, dictionary, pos, latents)
    pattern = found.held.patterns[subject.plan.attention[found.layer]][0].to(found.z.dtype)
    with torch.no_grad():
        value = found.held.compared(found.layer).value[0].to(found.z.dtype)  # (head, source, width)
    _same(
        torch.einsum("hts,hsw->thw", pattern, value).flatten(1),
        found.z,
        "what heads read is not all they write",
    )
    told = torch.einsum("hsw,nhw->nhs", value, found.reads)
    adds = pattern[:, found.pos].transpose(0, 1) * told  # (pair, head, source)
    count = len(found.z)
    places = {
        "head": [h for h in range(found.heads) for _ in range(count)] + [-1],
        "source": [*range(count)] * found.heads + [-1],
    }
    return found.table(torch.cat([adds.flatten(1), found.constant[:, None]], 1), places)


def head_shares(dictionary: Dictionary, heads: int) -> "pd.DataFrame":
    """Each head's share of a latent's decoder norms, by weights only: a row per latent, a column per head."""
    import pandas as pd

    atoms = dictionary.atoms().detach()
    if atoms.ndim != 2 or atoms.shape[1] % heads:
        raise ValueError(f"atoms must be (latent, heads x width) of {heads} heads, got {tuple(atoms.shape)}")
    norms = atoms.unflatten(1, (heads, -1)).norm(dim=-1)
    shares = norms / norms.sum(1, keepdim=True).clamp_min(1e-30)
    return pd.DataFrame(shares.cpu().numpy()).rename_axis(index="latent", columns="head")


def score_pairs(
    subject: Subject,
    prompt: Any,
    dictionary: Codec,
    *,
    layer: int,
    head: int,
    query: int,
    key: int,
    key_dictionary: Codec | None = None,
) -> "pd.DataFrame":
    """One head's score between two positions, before softmax, mask and cap, shared out over pairs of what they hold.

    Columns query_kind, query_latent, key_kind, key_latent, adds; their sum is the model's score. Kinds: latent, error
    (what the dictionary misses; all, at a position that is left out) and bias (of decoder, norm and projection); latent
    is -1 for both. Dictionaries of `layer.attn_in` or of the residual stream that enters the layer, norms of the stream
    and of queries and keys held, rotary positions included. `key_dictionary`: another one for the key's position.
    Raises ValueError for more than one text, a dictionary of another site, and positions or heads that are not there.
    """
    import pandas as pd

    held = Held(subject, _one(subject, prompt))
    for name, value, count in (
        ("head", head, heads_of(subject)),
        ("query", query, held.tokens.ids.shape[1]),
        ("key", key, held.tokens.ids.shape[1]),
    ):
        if not 0 <= value < count:
            raise ValueError(f"{name} must be 0 to {count - 1}, got {value}")
    codecs = (dictionary, key_dictionary or dictionary)
    seen = {site: _entered(held, layer, site) for site in {codec.site for codec in codecs}}
    (kinds_q, latents_q, q), (kinds_k, latents_k, k) = (
        _parts(held, codec, seen[codec.site], side, head, at)
        for codec, side, at in zip(codecs, ("query", "key"), (query, key), strict=True)
    )
    adds = seen[dictionary.site].compared.factor * q @ k.T
    n, m = adds.shape
    return pd.DataFrame(
        {
            "query_kind": [kind for kind in kinds_q for _ in range(m)],
            "query_latent": [latent for latent in latents_q for _ in range(m)],
            "key_kind": kinds_k * n,
            "key_latent": latents_k * n,
            "adds": adds.flatten().cpu().numpy(),
        }
    )


def _one(subject: Subject, prompt: Any) -> Any:
    tokens = subject.tokens(prompt)
    if len(tokens.ids) != 1:
        raise ValueError(f"one text is wanted, got {len(tokens.ids)}: attribute them one by one")
    return tokens


class _Read:
    """Head outputs of a prompt, and the directions that chosen (latent, pos) pairs read there."""

    def __init__(self, subject: Subject, prompt: Any, dictionary: Dictionary, pos: Any, latents: Any):
        site = dictionary.site
        if site is None or site.stream != "heads" or site.layer is None:
            raise ValueError(f"a dictionary of a `heads` site is wanted, e.g. 1.heads, got one of {site}")
        self.held, self.heads, self.layer = Held(subject, _one(subject, prompt)), heads_of(subject), site.layer
        with torch.no_grad():
            z = self.held.run({}, [site]).h[site][0]
            self.z = z.to(dictionary.scale_in.dtype)
            self.pos, self.latent = self._pairs(subject, dictionary, site, pos, latents)
            which, place = self.latent.unique(return_inverse=True)
        reads, constant = _directions(dictionary, which)
        self.reads, self.constant = reads[place].unflatten(-1, (self.heads, -1)), constant[place]
        with torch.no_grad():
            pre = dictionary.encoder(self.z * dictionary.scale_in, dictionary.decoder)[self.pos, self.latent]
        added = (self.reads.flatten(1) * self.z[self.pos]).sum(1) + self.constant
        _same(added, pre, "the encoder is not affine in what it reads, so no part of it has a share")

    def _pairs(self, subject: Subject, dictionary: Dictionary, site: Site, pos: Any, latents: Any) -> Any:
        count = len(self.z)
        for name, values, most in (("pos", pos, count), ("latents", latents, dictionary.latents)):
            if values is not None and not all(0 <= v < most for v in _listed(values)):
                raise ValueError(f"{name} must be 0 to {most - 1}, got {values}")
        keep = subject.exclusion.by_token(self.held.tokens, subject.special_ids)[0]
        keep &= dictionary.exclusion.by_norm(site, self.z)
        at = keep.nonzero()[:, 0] if pos is None else torch.tensor(_listed(pos), device=keep.device)
        if latents is None:
            row, latent, _ = dictionary.encode(self.z[at]).entries()
            return at[row], latent
        wanted = torch.tensor(_listed(latents), device=keep.device)
        return at.repeat_interleave(len(wanted)), wanted.repeat(len(at))

    def table(self, adds: Float[Tensor, "pair place"], places: dict[str, list[int]]) -> "pd.DataFrame":
        import numpy as np
        import pandas as pd

        pairs, count = adds.shape
        columns = {name: np.repeat(t.cpu().numpy(), count) for name, t in (("latent", self.latent), ("pos", self.pos))}
        columns |= {name: np.tile(values, pairs) for name, values in places.items()}
        return pd.DataFrame(columns | {"adds": adds.flatten().cpu().numpy()})


def _listed(values: int | Sequence[int]) -> list[int]:
    return [values] if isinstance(values, int) else [int(v) for v in values]


def _directions(
    dictionary: Dictionary, which: Int[Tensor, " some"]
) -> tuple[Float[Tensor, "some d"], Float[Tensor, " some"]]:
    """What an affine encoder's latents read, in the model's units, and what they hold where there is nothing."""
    rows = torch.zeros(len(which), dictionary.d, dtype=dictionary.scale_in.dtype, device=which.device)
    rows.requires_grad_()
    with torch.enable_grad():
        pre = dictionary.encoder(rows * dictionary.scale_in, dictionary.decoder)
        pre = pre[torch.arange(len(which), device=which.device), which]
        (reads,) = torch.autograd.grad(pre.sum(), rows)
    return reads, pre.detach()


class _Entered(NamedTuple):
    """What a layer's heads compare as a function of the vectors at a site, and when those are 0."""

    site: Site
    leaf: Float[Tensor, "1 pos d"]
    compared: Compared
    nothing: Compared


def _entered(held: Held, layer: int, site: Site | None) -> _Entered:
    before = Site(None, "embed") if layer == 0 else Site(layer - 1, "resid")
    if site is None or site not in (Site(layer, "attn_in"), before):
        raise ValueError(f"a dictionary of {layer}.attn_in or of {before} is wanted, got one of {site}")
    with torch.no_grad():
        leaf = held.run({}, [site]).h[site].detach()
        nothing = held.compared(layer, {site: torch.zeros_like(leaf)})
    with torch.enable_grad():
        leaf.requires_grad_()
        return _Entered(site, leaf, held.compared(layer, {site: leaf}), nothing)


def _parts(
    held: Held, codec: Codec, seen: _Entered, side: str, head: int, at: int
) -> tuple[list[str], list[int], Float[Tensor, "part width"]]:
    """What a position's latents, its error and the biases add to a head's query or key there."""
    made, nothing = (getattr(compared, side)[0, head, at] for compared in (seen.compared, seen.nothing))
    eye = torch.eye(len(made), dtype=made.dtype, device=made.device)
    (jacobian,) = torch.autograd.grad(made, seen.leaf, eye, retain_graph=True, is_grads_batched=True)
    subject = held.subject
    with torch.no_grad():
        x, jacobian = seen.leaf[0, at], jacobian[:, 0, at]
        wrong = f"the {side} is not affine in {seen.site} at its own position"
        _same(jacobian @ x + nothing, made, wrong)
        latent, written, bias = torch.zeros(0, dtype=torch.long), x.new_zeros(0, len(x)), torch.zeros_like(x)
        keep = subject.exclusion.by_token(held.tokens, subject.special_ids)[0, at]
        if keep & codec.exclusion.by_norm(seen.site, x):
            code = codec.encode(x[None].to(codec.atoms([0]).dtype))
            _, latent, value = code.entries()
            written = (value[:, None] * codec.atoms(latent.tolist())).to(x.dtype)
            bias = codec.decode(code)[0].to(x.dtype) - written.sum(0)
        vectors = torch.cat([written, (x - written.sum(0) - bias)[None], bias[None]])
        added = vectors @ jacobian.T
        added[-1] += nothing
    return ["latent"] * len(latent) + ["error", "bias"], [*latent.tolist(), -1, -1], added


def _same(found: Tensor, wanted: Tensor, wrong: str) -> None:
    """Raises ValueError that says what is wrong when two tensors differ beyond rounding."""
    if not wanted.numel():
        return
    off = float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30))
    if off > OFF:
        raise ValueError(f"{wrong} (off by {off:.1e} of the largest)")
