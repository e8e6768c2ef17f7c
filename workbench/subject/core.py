"""The model under study: read it, run it with edits, generate, differentiate, finish it from the middle."""

import gc
import inspect
import logging
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .. import lineage
from ..batch import Exclusion, Tokens
from ..edit import At, Edit
from ..site import STREAMS, Site
from . import generating, inside, loading, resolve
from .generating import Edits
from .resolve import Plan

log = logging.getLogger("workbench")
Text = str | Sequence[str] | Sequence[Mapping[str, str]] | Sequence[Sequence[Mapping[str, str]]]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PASSING = {"transformers_version", "_name_or_path", "architectures", "dtype", "use_cache"}  # do not change a number
COLLECT = 4  # stopped traces between two collections of their reference cycles: bounds memory
OTHERS = {  # how others name our streams
    "resid": ("blocks.{}.hook_resid_post", "resid_post (residual stream)"),
    "attn_in": ("blocks.{}.ln1.hook_normalized", ""),
    "heads": ("blocks.{}.attn.hook_z", "attn_out (before W_O)"),
    "attn_out": ("blocks.{}.hook_attn_out", ""),
    "mlp_in": ("blocks.{}.ln2.hook_normalized", "transcoder input"),
    "mlp_out": ("blocks.{}.hook_mlp_out", "mlp_out (after the post-norm)"),
}


class Run(NamedTuple):
    """Logits `(text, pos, vocab)` of a run, in the model's own dtype, and the sites read, in float32.

    A model without logits gives its first output.
    """

    logits: Tensor
    h: dict[Site, Tensor]


class Subject:
    """A model over nnsight. `model` is a named offline subject, a hub id, a folder, a module, or an nnsight object.

    `sites` maps streams that the resolver cannot find to modules: `{"mlp_out": "layers.{layer}.ff:out"}`. `dtype` is a
    torch dtype, its name, or `"auto"`: float32 and bfloat16 are timed once, the faster is taken (see `dtype_note`).
    `probe` is an input for models that take neither token ids nor pixels. All vectors come back in float32.
    Raises ValueError for an unknown name, FileNotFoundError for a missing folder, TypeError for what is no model.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        device: str = "cpu",
        dtype: torch.dtype | str | None = None,
        sites: Mapping[str, str] | None = None,
        name: str | None = None,
        probe: Any = None,
    ):
        given = DTYPES.get(dtype, dtype) if isinstance(dtype, str) else dtype
        if not (given is None or given == "auto" or (isinstance(given, torch.dtype) and given.is_floating_point)):
            raise ValueError(f"dtype must be auto, {', '.join(DTYPES)} or a torch dtype, got {dtype!r}")
        self.note, wrapped = "", None
        if isinstance(model, str | Path):
            model, found, self.note = loading.fetch(str(model), dtype)
            tokenizer, name = tokenizer or found, name or self.note.partition(":")[0]
        elif not isinstance(model, nn.Module):
            if not getattr(model, "dispatched", True):
                model.dispatch()  # nnsight builds lazily: the weights are not there yet
            wrapped, model = model, getattr(model, "_module", None)
            tokenizer = tokenizer or getattr(wrapped, "tokenizer", None)
            if not isinstance(model, nn.Module):
                raise TypeError(
                    f"a name, folder, torch module or nnsight object is wanted, got {type(wrapped).__name__}"
                )
        self.model: nn.Module = model.eval()
        self.tokenizer = tokenizer
        self.name = name or type(model).__name__
        try:
            self.device = torch.device(device)
        except RuntimeError as error:
            raise ValueError(f"device must be cpu, cuda, cuda:1 or mps, got {device!r}") from error
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"device {device!r} was asked for, but torch sees no GPU: use device='cpu'")
        self.model.to(self.device)
        self.lock = threading.RLock()  # nnsight runs on greenlets: one trace at a time
        self._stops = 0
        self._fingerprint: str | None = None
        self.config = getattr(self.model, "config", None)
        text_config = self._text_config()
        has_ids = hasattr(self.model, "get_input_embeddings") and getattr(text_config, "vocab_size", None)
        self.vocab: int | None = int(text_config.vocab_size) if text_config is not None and has_ids else None
        self._probe = probe
        self.longest = self._longest()  # positions in the model's table, if it has one
        self._arguments = list(inspect.signature(type(self.model).forward).parameters)[
            1:
        ]  # the class's: nnsight wraps ours
        self.plan: Plan = self._resolve(sites)
        self.layers = len(self.plan.blocks)
        self.d: int | None = self.plan.widths[self.plan.embed][-1] if self.plan.embed else None
        self._nnsight = wrapped if wrapped is not None else self._wrap()
        self._envoys = {id(envoy._module): envoy for envoy in self._nnsight.modules()}
        self._modules = dict(self.model.named_modules())
        self.exclusion = Exclusion()
        if dtype is not None:
            self._fingerprint = (
                self._weigh()
            )  # of the weights as they came: the same model in another dtype is the same
        if isinstance(given, str):
            self._choose_dtype()
        else:
            self._cast(given or self.dtype)
            self.dtype_note = f"{str(self.dtype).removeprefix('torch.')}, as given"

    # ---- what it is

    @property
    def nnsight(self) -> Any:
        """The wrapped nnsight object, for free-hand tracing. Hold `subject.lock` when other threads use the subject."""
        return self._nnsight

    @property
    def dtype(self) -> torch.dtype:
        return next(p.dtype for p in self.model.parameters() if p.is_floating_point())

    @property
    def special_ids(self) -> frozenset[int]:
        return frozenset(getattr(self.tokenizer, "all_special_ids", ()) or ())

    @property
    def fingerprint(self) -> str:
        """16 hex digits over the model's class and configuration, its weights as they came, and the tokenizer."""
        if self._fingerprint is None:
            self._fingerprint = self._weigh()
        return self._fingerprint

    def _weigh(self) -> str:
        words = self.tokenizer.backend_tokenizer.to_str() if hasattr(self.tokenizer, "backend_tokenizer") else ""
        config: Any = self.config
        settings = config.to_diff_dict() if hasattr(config, "to_diff_dict") else {}
        settings = {k: repr(v) for k, v in settings.items() if k not in PASSING}
        weights = {  # one by one in float32: a folder opened in its own dtype or in another is the same model
            k: lineage.tensors_hash({k: t.float() if t.is_floating_point() else t})
            for k, t in self.model.state_dict().items()
        }
        return lineage.fingerprint([type(self.model).__name__, settings, weights, words])

    def __repr__(self) -> str:
        return f"Subject({self.name}, {self.layers} layers, d={self.d}, {self.dtype_note}, {self.device})"

    def sites(self) -> Any:
        """Every stream of every layer: site, module, side, width, and what SAELens and Gemma Scope call it."""
        import pandas as pd

        rows = []
        if self.plan.embed:
            rows.append(self._row(Site(None, "embed"), "blocks.0.hook_resid_pre", ""))
        for layer in range(self.layers):
            for stream in STREAMS:
                if stream in self.plan.streams:
                    saelens, scope = OTHERS[stream]
                    rows.append(self._row(Site(layer, stream), saelens.format(layer), scope))
        return pd.DataFrame(rows, columns=["site", "module", "side", "width", "saelens", "gemma_scope"])

    def _row(self, site: Site, saelens: str, scope: str) -> dict[str, Any]:
        port = self.plan.port(site)
        return {
            "site": str(site),
            "module": port.path,
            "side": port.side,
            "width": self.width(site),
            "saelens": saelens,
            "gemma_scope": scope,
        }

    def width(self, site: Site | str) -> int:
        """Entries of a vector at a site. Raises ValueError when the site does not exist."""
        shape = self.plan.widths[self.plan.port(Site.of(site))]
        return shape[0] if len(shape) == 3 else shape[-1]  # a CNN's channels come first

    # ---- text

    def tokenize(self, text: Text, length: int | None = None, *, generate: bool = False) -> Tokens:
        """Token rows of texts or chats, padded on the right; cut at `length` when it is given.

        A chat is a list of {"role", "content"}; `generate` adds the template's opening of the answer.
        Raises ValueError without a tokenizer, for no text, and for a text without a token.
        """
        if self.tokenizer is None:
            raise ValueError(f"{self.name} has no tokenizer: give one to Subject(model, tokenizer), or pass token ids")
        if isinstance(text, Sequence) and not isinstance(text, str) and len(text) and isinstance(text[0], Mapping):
            text = [text]  # type: ignore[list-item]
        texts = [text] if isinstance(text, str) else list(text)
        if not texts:
            raise ValueError("no text was given: give at least one")
        if length is not None and length < 1:
            raise ValueError(f"length must be 1 or more tokens, got {length}")
        rows = []
        for item in texts:
            if isinstance(item, str):
                ids = self.tokenizer(item)["input_ids"]
            else:
                if not getattr(self.tokenizer, "chat_template", None):
                    raise ValueError(f"{self.name} has no chat template: give plain text")
                chat = self.tokenizer.apply_chat_template(list(item), tokenize=False, add_generation_prompt=generate)
                ids = self.tokenizer(chat, add_special_tokens=False)["input_ids"]
            if not ids:
                raise ValueError(f"a text has no token: {item!r}")
            rows.append(ids[:length])
        return self.pad(rows)

    def pad(self, rows: Sequence[Sequence[int]], *, left: bool = False) -> Tokens:
        """Ragged rows as one block and its mask."""
        longest = max(map(len, rows))
        fill = getattr(self.tokenizer, "pad_token_id", None) or 0
        ids = torch.full((len(rows), longest), fill, dtype=torch.long)
        mask = torch.zeros(len(rows), longest, dtype=torch.bool)
        for i, row in enumerate(rows):
            where = slice(longest - len(row), None) if left else slice(0, len(row))
            ids[i, where], mask[i, where] = torch.tensor(row, dtype=torch.long), True
        return Tokens(ids.to(self.device), mask.to(self.device))

    def tokens(self, value: Any) -> Tokens:
        """`Tokens` from whatever a door accepts: tokens, ids `(text, pos)`, or text. Raises ValueError otherwise."""
        if isinstance(value, Tokens):
            found = Tokens(value.ids.to(self.device), value.mask.to(self.device))
        elif isinstance(value, Tensor):
            if value.ndim != 2 or value.is_floating_point():
                raise ValueError(f"token ids are integers (text, pos), got {value.dtype} {tuple(value.shape)}")
            found = Tokens(value.long().to(self.device), torch.ones(value.shape, dtype=torch.bool, device=self.device))
        else:
            return self.tokenize(value)
        if not found.ids.numel() or not found.mask.any(-1).all():
            raise ValueError(f"every row needs at least one real token, got ids of shape {tuple(found.ids.shape)}")
        low, high = int(found.ids.min()), int(found.ids.max())
        if self.vocab is not None and (low < 0 or high >= self.vocab):
            raise ValueError(f"token ids of {self.name} run from 0 to {self.vocab - 1}, got {low} to {high}")
        return found

    def words(self, ids: Int[Tensor, " n"] | Sequence[int]) -> list[str]:
        """Each token as text, its leading space kept."""
        return [self.tokenizer.decode([int(i)]) for i in ids]

    # ---- running

    def read(self, tokens: Any, sites: Sequence[Site | str]) -> dict[Site, Float[Tensor, "text pos d"]]:
        """Vectors at sites; the layers after the last one do not run. Padding positions hold whatever the model gave.

        A site of a CNN has its H x W places as positions. Raises ValueError for a site that does not exist.
        """
        wanted = [Site.of(s) for s in sites]
        if not wanted:
            raise ValueError("no site was asked for: give at least one, e.g. ['8.resid']")
        inputs, _ = self._inputs(tokens)
        found: dict[Site, Tensor] = {}
        ordered = sorted(wanted, key=lambda s: self.plan.order[self.plan.port(s)])
        with self.lock, torch.no_grad():
            with self._nnsight.trace(**inputs) as tracer:
                for site in ordered:
                    found[site] = self._get(site).detach().float().clone().save()
                tracer.stop()
            self._sweep()
        return {site: found[site] for site in wanted}

    def run(self, tokens: Any, edits: Edits | None = None, read: Sequence[Site | str] = ()) -> Run:
        """The whole model, with edits; the sites in `read` come back as they are after the edits."""
        with torch.no_grad():
            return self._run(tokens, edits or {}, [Site.of(s) for s in read])

    def _run(
        self,
        tokens: Any,
        edits: Mapping[Any, Callable[..., Tensor]],
        read: Sequence[Site],
        *,
        past: Any = None,
        at: tuple[Tensor, ...] | None = None,
        grad: bool = False,
    ) -> Run:
        inputs, known = self._inputs(tokens, past=past)
        changes = {Site.of(site): edit for site, edit in edits.items()}
        for site, edit in changes.items():
            if not callable(edit):
                raise TypeError(f"an edit is wanted at {site}, e.g. edit.add(vector), got {type(edit).__name__}")
        ordered = sorted({*changes, *read}, key=lambda s: self.plan.order[self.plan.port(s)])
        positions, real, keep, prompt = at or self._places(known)
        ids = known.ids if known else torch.zeros_like(real, dtype=torch.long)
        found: dict[Site, Tensor] = {}
        with self.lock:
            with self._nnsight.trace(**inputs):
                for site in ordered:
                    h: Any = self._get(site)
                    if site in changes:
                        h = changes[site](h, self._at(site, h, ids, positions, real, keep, prompt))
                        self._set(site, h)
                    if site in read:
                        found[site] = (h if grad else h.detach().float().clone()).save()
                output = self._nnsight.output.save()
            self._sweep()
        return Run(_logits(output), found)

    def _places(self, known: Tokens | None) -> tuple[Tensor, ...]:
        """Positions, real, keep, prompt of a whole run."""
        if known is None:
            nothing = torch.zeros(0, 0, dtype=torch.bool, device=self.device)
            return nothing.long(), nothing, nothing, nothing
        keep = self.exclusion.by_token(known, self.special_ids)
        return known.positions, known.mask, keep, torch.ones_like(known.mask)

    def _at(
        self, site: Site, h: Tensor, ids: Tensor, positions: Tensor, real: Tensor, keep: Tensor, prompt: Tensor
    ) -> At:
        if h.shape[:2] == ids.shape:
            return At(site, ids, positions, real, keep, prompt)
        places = torch.arange(h.shape[1], device=h.device).expand(h.shape[:2])  # a module without tokens: all are real
        every = torch.ones(h.shape[:2], dtype=torch.bool, device=h.device)
        return At(site, torch.zeros_like(places), places, every, every, every)

    def nll(self, tokens: Any, edits: Edits | None = None) -> Float[Tensor, "text pos"]:
        """Negative log-probability in nats of each token given those before it; NaN at first positions and padding."""
        known = self.tokens(tokens)
        return next_nll(self._predicted(self.run(known, edits).logits), known)

    def _predicted(self, logits: Tensor) -> Tensor:
        """Logits over the vocabulary. Raises ValueError for a model that predicts no tokens."""
        if self.vocab is None or logits.ndim != 3 or logits.shape[-1] < self.vocab:
            raise ValueError(
                f"{self.name} predicts no tokens, it gives {tuple(logits.shape)}: open it with its language head"
            )
        return logits

    generate = generating.generate

    # ---- gradients and the middle of the model

    def gradients(
        self,
        tokens: Any,
        sites: Sequence[Site | str],
        of: Callable[[Float[Tensor, "text pos vocab"]], Float[Tensor, ""]] | None = None,
        edits: Edits | None = None,
    ) -> dict[Site, Float[Tensor, "text pos d"]]:
        """d of(logits) / d h at sites. `of` maps logits to a scalar; by default the summed next-token loss in nats."""
        known, wanted = tokens if self.vocab is None else self.tokens(tokens), [Site.of(s) for s in sites]
        if not wanted:
            raise ValueError("no site was asked for: give at least one, e.g. ['8.resid']")
        score = of or (lambda logits: next_nll(self._predicted(logits), known).nansum())
        first = min(wanted, key=lambda s: self.plan.order[self.plan.port(s)])
        changes = {Site.of(s): e for s, e in (edits or {}).items()}
        root = Edit(lambda h, at: h.detach().clone().requires_grad_(), lambda h, at: torch.ones_like(at.real))
        changes[first] = changes[first].then(root) if first in changes else root  # the graph begins here
        with torch.enable_grad():
            run = self._run(known, changes, wanted, grad=True)
            grads = torch.autograd.grad(score(run.logits.float()), [run.h[s] for s in wanted])
        return {s: g.detach().float() for s, g in zip(wanted, grads, strict=True)}

    def finish(
        self,
        tokens: Any,
        site: Site | str,
        value: Float[Tensor, "text pos d"],
        read: Sequence[Site | str] = (),
        *,
        before: Float[Tensor, "text pos d"] | None = None,
    ) -> Run:
        """Logits from given vectors at a site; earlier blocks do not run. Differentiable in `value` under grad mode.

        For a site inside a block the block's clean input is needed: `before`, the residual stream there, is read when
        it is not given. Sites in `read` come back with their graph.
        """
        known, site, wanted = self.tokens(tokens), Site.of(site), [Site.of(s) for s in read]
        port = self.plan.port(site)
        if value.shape[:2] != known.ids.shape or value.shape[-1] != self.width(site):
            want = (*known.ids.shape, self.width(site))
            raise ValueError(f"values at {site} must be {want} (text, pos, d), got {tuple(value.shape)}")
        whole = site.stream == "resid"
        skipped = 0 if site.layer is None else site.layer + whole
        if skipped and not whole and before is None:
            before = self.read(known, [Site(skipped - 1, "resid")])[Site(skipped - 1, "resid")]
        ordered = sorted(wanted, key=lambda s: self.plan.order[self.plan.port(s)])
        early = [s for s in ordered if self.plan.order[self.plan.port(s)] < self.plan.order[port]]
        if early:
            raise ValueError(f"{early[0]} comes before {site}: finish reads what follows, `read` what comes before")
        inputs, _ = self._inputs(known)
        value = value.to(self.device, self.dtype)
        idle = torch.zeros(*known.ids.shape, self.d or 1, dtype=self.dtype, device=self.device)
        entry = value if whole else None if before is None else before.to(self.device, self.dtype)
        found: dict[Site, Tensor] = {}
        with self.lock:
            with self._nnsight.trace(**inputs):
                for layer in range(skipped):
                    path = self.plan.blocks[layer]
                    given = entry if layer == skipped - 1 else idle
                    self._envoy(path).skip((given,) if path in self.plan.tuples else given)
                if not whole:
                    self._set(site, value)
                for s in ordered:
                    kept: Any = value if s == site else self._get(s)
                    found[s] = kept.save()
                output = self._nnsight.output.save()
            self._sweep()
        return Run(_logits(output), found)

    # ---- looking inside

    patterns = inside.patterns
    lens = inside.lens
    head_effects = inside.head_effects

    def _head(self) -> tuple[nn.Module, nn.Module]:
        if self.plan.unembed is None:
            raise ValueError(f"{self.name} has no unembedding that reads its last block: it predicts no tokens")
        norm = nn.Identity() if self.plan.norm is None else self._modules[self.plan.norm]
        return norm, self._modules[self.plan.unembed]

    @property
    def unembed(self) -> Float[Tensor, "vocab d"]:
        """Unembedding rows, without the final norm's gain."""
        weight = getattr(self._head()[1], "weight", None)
        if not isinstance(weight, Tensor):
            raise ValueError(f"{self.plan.unembed} is more than one matrix: use logits_of(h)")
        return weight.detach().float()

    @property
    def gain(self) -> Float[Tensor, " d"]:
        """The final norm's gain per entry: `unembed * gain` reads the normalised residual stream."""
        return inside.frozen(self._head()[0], self.d or 0, self.dtype, self.device)[0]

    @property
    def centred(self) -> bool:
        """Whether the final norm removes the mean over entries (LayerNorm does, RMSNorm does not)."""
        return inside.frozen(self._head()[0], self.d or 0, self.dtype, self.device)[1]

    @torch.no_grad()
    def logits_of(self, h: Float[Tensor, "*row d"]) -> Float[Tensor, "*row vocab"]:
        """The model's own head on vectors of the residual stream: final norm, once, then the unembedding.

        Where the model caps or scales its logits (Gemma 2, Cohere), its own forward pass does it, all blocks skipped.
        """
        norm, unembed = self._head()
        if not self.plan.plain:
            rows = h.reshape(-1, 1, h.shape[-1])
            ids = torch.zeros(len(rows), 1, dtype=torch.long, device=self.device)
            logits = self.finish(ids, Site(self.layers - 1, "resid"), rows).logits
            return logits.float().reshape(*h.shape[:-1], -1)
        with self.lock:
            return unembed(norm(h.to(self.device, self.dtype))).float()

    def _text_config(self) -> Any:
        """The configuration of the language part of a model that also sees, else the model's own."""
        config: Any = self.config
        return config.get_text_config() if hasattr(config, "get_text_config") else config

    # ---- machinery

    def _inputs(self, tokens: Any, past: Any = None) -> tuple[dict[str, Any], Tokens | None]:
        """Arguments of the forward pass; token rows when the model takes them."""
        if self.vocab is None:
            if not isinstance(tokens, Tensor):
                raise ValueError(f"{self.name} takes a tensor, got {type(tokens).__name__}")
            value = tokens.to(self.device, self.dtype) if tokens.is_floating_point() else tokens.to(self.device)
            return {self._arguments[0]: value}, None
        known = tokens if past is not None else self.tokens(tokens)
        self._fits(known.mask.shape[1])
        inputs: dict[str, Any] = {"input_ids": known.ids}
        padded = not bool(known.mask.all())
        if past is not None:
            inputs |= {"past_key_values": past, "use_cache": True}
        elif "use_cache" in self._arguments:
            inputs["use_cache"] = False
        if padded:
            inputs["attention_mask"] = known.mask.long()
            if "position_ids" in self._arguments:
                inputs["position_ids"] = Tokens(known.mask, known.mask).positions[:, -known.ids.shape[1] :]
            elif not bool(known.mask[:, 0].all()):
                raise ValueError(f"{self.name} takes no position_ids: pad on the right")
        return inputs, known

    def _fits(self, length: int) -> None:
        if self.longest is not None and length > self.longest:
            raise ValueError(
                f"{self.name} has {self.longest} positions, {length} are asked for: "
                f"give a shorter text (tokenize(text, length=...)) or fewer new tokens"
            )

    def _longest(self) -> int | None:
        """Positions of a model that looks them up in a table; None where any length runs."""
        most = getattr(self._text_config(), "max_position_embeddings", None)
        words = self.model.get_input_embeddings() if self.vocab is not None else None  # type: ignore[operator]
        tables = [m for m in self.model.modules() if isinstance(m, nn.Embedding) and m is not words]
        table = next((m for m in tables if most and m.num_embeddings >= most), None)
        if table is None or table.padding_idx is None:
            return most if table is not None else None
        return table.num_embeddings - table.padding_idx - 1  # RoBERTa counts positions from behind its padding row

    def _resolve(self, sites: Mapping[str, str] | None) -> Plan:
        first, second = self._probes()

        def call(which: int) -> Any:
            inputs, _ = self._inputs(second if which else first)
            return self.model(**inputs)

        return resolve.plan(self.model, call, sites, self.vocab)

    def _probes(self) -> tuple[Tensor, Tensor]:
        """Two inputs that differ at the first position only."""
        if self._probe is not None:
            other = self._probe.clone()
            other[:, 0] = -1.5 * other[:, 0] + 0.5  # a mere shift would vanish in a LayerNorm
            return self._probe, other
        if self.vocab is not None:
            ids = (torch.arange(min(10, self._longest() or 10)) * 7 + 5)[None] % self.vocab
            other = ids.clone()
            other[0, 0] = (ids[0, 0] + 11) % self.vocab
            return ids, other
        if self.config is not None and hasattr(self.config, "image_size"):
            size = self.config.image_size
            wide, high = (size, size) if isinstance(size, int) else size
            image = torch.randn(1, self.config.num_channels, wide, high, generator=torch.Generator().manual_seed(0))
            other = image.clone()
            other[..., 0, 0] += 1
            return image, other
        first = next((m for m in self.model.modules() if isinstance(m, nn.Linear)), None)
        convolves = any(isinstance(m, nn.modules.conv._ConvNd) for m in self.model.modules())
        if first is None or convolves:
            raise ValueError(
                f"{self.name} takes neither token ids nor an image of known size: give Subject(probe=input)"
            )
        rows = torch.randn(2, first.in_features, generator=torch.Generator().manual_seed(0))
        return rows, rows + 1

    def _wrap(self) -> Any:
        from nnsight import NNsight, TransformersModel
        from transformers import PreTrainedModel

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*pre-defined.*|.*mounted at.*|.*E_output.*")
            if self.tokenizer is not None and isinstance(self.model, PreTrainedModel) and self.model.can_generate():
                return TransformersModel(self.model, tokenizer=self.tokenizer, task="text-generation")
            return NNsight(self.model)

    def _envoy(self, path: str) -> Any:
        return self._envoys[id(self._modules[path])]

    def _get(self, site: Site) -> Any:  # a Tensor, on which nnsight mounts `.save`
        port = self.plan.port(site)
        envoy = self._envoy(port.path)
        value = envoy.input if port.side == "in" else envoy.output
        return _vectors(value if isinstance(value, Tensor) else resolve.first_tensor(value))

    def _set(self, site: Site, h: Tensor) -> None:
        port = self.plan.port(site)
        envoy = self._envoy(port.path)
        old = envoy.input if port.side == "in" else envoy.output
        if isinstance(old, Tensor):
            new = _shaped(h, old)
        else:
            place = next(i for i, v in enumerate(old) if isinstance(v, Tensor) and v.is_floating_point())
            new = (*old[:place], _shaped(h, old[place]), *old[place + 1 :])
        if port.side == "in":
            envoy.input = new
        else:
            envoy.output = new

    def _sweep(self) -> None:
        """A stopped trace leaves reference cycles that hold activations."""
        self._stops += 1
        if self._stops % COLLECT == 0:
            gc.collect(1)

    def _cast(self, dtype: torch.dtype) -> None:
        """All weights to a dtype. Buffers that no file holds (rotary frequencies) stay, as loading leaves them."""
        held = self.model.state_dict().keys() if self.config is not None else dict(self.model.named_buffers()).keys()
        kept = {name: buffer for name, buffer in self.model.named_buffers() if name not in held}
        self.model.to(dtype)
        for name, buffer in kept.items():
            path, _, leaf = name.rpartition(".")
            setattr(self.model.get_submodule(path), leaf, buffer)

    def _choose_dtype(self) -> None:
        """Time one short batch in float32 and in bfloat16 and keep the faster, its weights not rounded by the other."""
        first, _ = self._probes()
        if self.vocab is not None:
            first = (torch.arange(4 * 128) * 7 % self.vocab).view(4, 128)[:, : self.longest]
        took, made = {}, {}
        for name in ("float32", "bfloat16"):
            self._cast(DTYPES[name])
            made[name] = self.model.state_dict()
            inputs, _ = self._inputs(first)
            with torch.no_grad():
                self.model(**inputs)
                begin = time.perf_counter()
                self.model(**inputs)
                took[name] = time.perf_counter() - begin
        best = min(took, key=lambda k: took[k])
        self._cast(DTYPES[best])
        self.model.load_state_dict(made[best])
        self.dtype_note = (
            f"{best}: float32 took {took['float32']:.2f} s, bfloat16 {took['bfloat16']:.2f} s on a test batch"
        )
        log.info("%s: %s", self.name, self.dtype_note)


def next_nll(logits: Float[Tensor, "text pos vocab"], tokens: Tokens) -> Float[Tensor, "text pos"]:
    """Negative log-probability in nats of each real token given those before; NaN at first positions and padding."""
    given = -logits[:, :-1].float().log_softmax(-1).gather(-1, tokens.ids[:, 1:, None])[..., 0]
    both = tokens.mask[:, 1:] & tokens.mask[:, :-1]
    return torch.cat([torch.full_like(given[:, :1], torch.nan), torch.where(both, given, torch.nan)], 1)


def _logits(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    logits = getattr(output, "logits", None)
    found = logits if logits is not None else resolve.first_tensor(output)
    if found is None:
        raise TypeError(f"the model gave no floating tensor, but {type(output).__name__}")
    return found


def _vectors(value: Tensor | None) -> Tensor:
    """(text, pos, d) of any module's tensor: a CNN's H x W places are positions, a flat row is one position."""
    if value is None:
        raise TypeError("the module gave no floating tensor")
    if value.ndim == 4:
        return value.flatten(2).transpose(1, 2)
    return value[:, None] if value.ndim == 2 else value


def _shaped(h: Tensor, like: Tensor) -> Tensor:
    if like.ndim == 4:
        return h.transpose(1, 2).reshape(like.shape).to(like.dtype)
    return (h[:, 0] if like.ndim == 2 else h).to(like.dtype)
