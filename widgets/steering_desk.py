"""Several latents and vectors pushed at once, their text beside the default's and a random push's of equal norm."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import torch
import traitlets as t
from jaxtyping import Float
from torch import Tensor

from workbench import edit, steer
from workbench.batch import Tokens
from workbench.code import Codec
from workbench.edit import Edit
from workbench.site import Site
from workbench.steer.core import BATCH, measure
from workbench.steer.methods.add import add

from . import payload
from .base import STATIC, Widget
from .worker import Job

METHODS = ("add", "clamp", "scale", "ablate")
WHERE = ("prompt", "generated", "both")
LONGEST = 300  # new tokens of a run: its alternatives are kept for each
LENGTH = 64  # tokens of a held-out text
TOP = 5  # alternatives kept for a token
SHARES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)  # of the strengths set, where a sweep measures
SEEDS = 3  # groups of held-out texts, each with a random direction of its own
KEPT = 8  # earlier runs


class SteeringDesk(Widget):
    """Steer a model along latents and vectors, beside no edit and a random push of equal norm, token by token.

        desk = SteeringDesk(
            subject=subject, codec=codec, latents=[7], prompt="The weather in Paris", held_out=texts,
            vectors={"formal": SteeringDesk.diff_mean(subject, "8.resid", formal, casual)},
        )
        desk.run["arms"]["steered"]["text"]

    `settings` is what the controls say, and can be set from Python: `lines` (each `of` latent or vector, its `name`,
    `on`, `method`, `strength`, `where`), `prompt`, `chat`, `new`, `seed`, `temperature`. Strength of `add` is in units
    of the median residual norm at the site over kept positions of `held_out`, without it of the prompt; `clamp` holds
    the latent where its atom has that length; `scale` is a factor. `start()`, `stop()`, `sweep()` are the buttons.
    `run` is the last run with the settings that made it. `curve`: KL(clean || edited) in nats and perplexity on the
    held-out texts (at most 64 tokens each, in three groups, each with a random direction of its own), edited at all
    kept positions, since they have no generated part. `labels` names latents by number.
    Raises ValueError for a latent, vector, prompt or setting that does not fit, TypeError for what is no codec.
    """

    _esm, _css = STATIC / "steering_desk.js", STATIC / "steering_desk.css"
    settings = t.Dict().tag(sync=True)
    run = t.Dict().tag(sync=True)
    writing = t.Dict().tag(sync=True)  # arm and tokens of the text that is being generated
    curve = t.Dict().tag(sync=True)
    control = t.Bool(False).tag(sync=True)  # the random push is shown, and generated with each run
    runs = t.List().tag(sync=True)  # earlier ones, the last first
    first = t.Dict().tag(sync=True)
    known = t.Dict().tag(sync=True)  # "latent 7" -> site, length of its atom, label, methods
    norms = t.Dict().tag(sync=True)  # site -> median norm, positions, texts it was measured on
    about = t.Dict().tag(sync=True)
    request = t.Dict().tag(sync=True)

    def __init__(
        self,
        *,
        subject: Any,
        prompt: str,
        codec: Codec | None = None,
        latents: Sequence[int] = (),
        vectors: Mapping[str, tuple[Tensor, Site | str]] | None = None,
        held_out: Sequence[str] | Tokens | None = None,
        labels: Mapping[Any, str] | None = None,
        strength: float = 0.25,
        new: int = 40,
        seed: int = 0,
        temperature: float = 0.0,
        chat: bool = False,
    ):
        if codec is None and not vectors:
            raise ValueError("a codec or vectors are wanted, got neither: give SteeringDesk(codec=...) or vectors=...")
        if codec is not None and not isinstance(codec, Codec):
            raise TypeError(f"a codec is wanted, e.g. workbench.load(folder), got {type(codec).__name__}")
        if codec is not None and (codec.site is None or codec.target is None):
            raise ValueError("the codec has no site: set codec.site to where its rows come from, e.g. Site(8, 'resid')")
        self._subject, self._codec, self._labels = subject, codec, labels or {}
        self._vectors = {str(name): self._vector(name, *pair) for name, pair in (vectors or {}).items()}
        if codec is not None:
            self._fits("the codec's atoms", codec.atoms([0])[0], self._target)
        self._held_out = None if held_out is None else _tokens(subject, held_out)
        self._clean: tuple[Any, Tokens, int] | None = None
        self._count = 0
        lines = [{"of": "latent", "name": n} for n in latents] + [{"of": "vector", "name": n} for n in self._vectors]
        common = {"on": True, "method": "add", "strength": strength, "where": "both"}
        settings = self._checked(
            {
                "lines": [line | common for line in lines],
                "prompt": prompt,
                "chat": chat,
                "new": new,
                "seed": seed,
                "temperature": temperature,
            }
        )
        about = {
            "model": payload.text(subject.name),
            "latents": 0 if codec is None else codec.latents,
            "site": "" if codec is None else str(self._target),
            "vectors": {payload.text(name): str(site) for name, (_, site) in self._vectors.items()},
            "held_out": 0 if self._held_out is None else len(self._held_out.ids),
            "chat": bool(getattr(getattr(subject, "tokenizer", None), "chat_template", None)),
            "longest": LONGEST,
        }
        super().__init__(settings=settings, first=settings, about=about)
        self.work("measuring residual norms", lambda job: self._look(self.settings), key="facts")

    # ---- what it is given

    @staticmethod
    def diff_mean(
        subject: Any, site: Site | str, positive: Sequence[str], negative: Sequence[str]
    ) -> tuple[Float[Tensor, " d"], Site]:
        """Mean of the vectors at a site over kept positions of `positive` texts, less that of `negative` ones.

        Raises ValueError when a side has no kept position.
        """
        means = []
        for name, texts in (("positive", positive), ("negative", negative)):
            rows = _rows(subject, _tokens(subject, texts), Site.of(site))
            if not len(rows):
                raise ValueError(f"the {name} texts have no position but the first: give longer ones")
            means.append(rows.mean(0))
        return means[0] - means[1], Site.of(site)

    def _vector(self, name: str, vector: Tensor, site: Site | str) -> tuple[Tensor, Site]:
        site = Site.of(site)
        if vector.ndim != 1 or not vector.isfinite().all() or not vector.any():
            raise ValueError(f"vector {name!r} must be of one axis, finite and not all zero, got {tuple(vector.shape)}")
        self._fits(f"vector {name!r}", vector, site)
        return vector.detach().float(), site

    def _fits(self, what: str, vector: Tensor, site: Site) -> None:
        if len(vector) != (width := self._subject.width(site)):
            raise ValueError(f"{what} must be {width} wide, as {site} is, got {len(vector)}: take them from that site")

    @property
    def _target(self) -> Site:
        assert self._codec is not None and self._codec.target is not None
        return self._codec.target

    def _methods(self, line: Mapping[str, Any]) -> tuple[str, ...]:
        """A transcoder reads its latents elsewhere than it writes them: only adding its atoms edits one site."""
        whole = line["of"] == "latent" and self._codec is not None and self._codec.site == self._codec.target
        return METHODS if whole else METHODS[:1]

    def _checked(self, value: Mapping[str, Any]) -> dict[str, Any]:
        """Settings as plain data. Raises ValueError for what does not fit."""
        if missing := [k for k in ("lines", "prompt", "chat", "new", "seed", "temperature") if k not in value]:
            raise ValueError(f"settings lack {', '.join(missing)}: change a copy of desk.settings")
        if not isinstance(prompt := value["prompt"], str) or not prompt.strip():
            raise ValueError(f"the prompt must be text, got {prompt!r}")
        new, seed, temperature = int(value["new"]), int(value["seed"]), float(value["temperature"])
        if not 1 <= new <= LONGEST:
            raise ValueError(f"new must be 1 to {LONGEST} tokens, got {new}")
        if not 0 <= temperature < 100:
            raise ValueError(f"temperature must be 0 to 100, got {temperature}")
        if not 0 <= seed < 2**53:
            raise ValueError(f"seed must be 0 or more, got {seed}")
        return {
            "lines": [self._checked_line(line) for line in value["lines"]],
            "prompt": payload.text(prompt),
            "chat": bool(value["chat"]),
            "new": new,
            "seed": seed,
            "temperature": temperature,
        }

    def _checked_line(self, line: Mapping[str, Any]) -> dict[str, Any]:
        of, name = line["of"], line["name"]
        if of == "latent":
            count, name = 0 if self._codec is None else self._codec.latents, int(name)
            if not 0 <= name < count:
                raise ValueError(f"latent must be 0..{count - 1}, got {name}" if count else "latents need a codec")
        elif of != "vector" or name not in self._vectors:
            raise ValueError(f"a line is of a latent or of a vector ({', '.join(self._vectors)}), got {of} {name!r}")
        method, where, strength = line["method"], line["where"], float(line["strength"])
        if method not in (methods := self._methods(line)):
            raise ValueError(f"the method for {of} {name} must be one of {', '.join(methods)}, got {method!r}")
        if where not in WHERE:
            raise ValueError(f"where must be one of {', '.join(WHERE)}, got {where!r}")
        if not isfinite(strength):
            raise ValueError(f"strength must be a finite number, got {strength}")
        return {
            "of": of, "name": name, "on": bool(line["on"]), "method": method, "strength": strength, "where": where,
        }  # fmt: skip

    @t.validate("settings")
    def _valid(self, proposal: Any) -> dict[str, Any]:
        try:
            return self._checked(proposal["value"])
        except (ValueError, KeyError, TypeError) as error:
            raise t.TraitError(str(error)) from error  # the one error after which traitlets restores the old value

    # ---- what is asked

    def start(self) -> None:
        """Generate the texts for the settings as they are, off this thread."""
        settings = self._checked(self.settings)  # numbers of a page come as it writes them: 0 for 0.0
        self.work("generating", lambda job: self._start(job, settings), key="run")

    def sweep(self) -> None:
        """Measure KL and perplexity of held-out text against strength, off this thread."""
        settings = self._checked(self.settings)
        self.work("measuring KL and perplexity", lambda job: self._sweep(job, settings), key="sweep")

    def stop(self) -> None:
        """End what runs after its next token or strength."""
        for key in ("run", "control", "sweep"):
            self.cancel(key)

    @t.observe("request")
    def _asked(self, change: Any) -> None:
        calls = {"run": self.start, "sweep": self.sweep, "stop": self.stop}
        if call := calls.get(change["new"].get("do")):
            call()

    @t.observe("control")
    def _controlled(self, change: Any) -> None:
        if change["new"] and self.run:
            self.work("generating under a random push", self._control, key="control")

    @t.observe("settings")
    def _moved(self, change: Any) -> None:
        if any(_key(line) not in self.known for line in change["new"]["lines"]):
            self.work("measuring residual norms", lambda job: self._look(self.settings), key="facts")

    # ---- on the worker

    def _look(self, settings: Mapping[str, Any]) -> None:
        """Facts of new lines, and norms of new sites."""
        known = dict(self.known)
        for line in settings["lines"]:
            vector, site = self._direction(line)
            label = self._labels.get(str(line["name"])) or self._labels.get(line["name"]) or ""
            known[_key(line)] = {
                "site": str(site), "length": float(vector.norm()), "methods": list(self._methods(line)),
                "label": payload.text(label) if line["of"] == "latent" else "",
            }  # fmt: skip
        norms = dict(self.norms)
        for site in sorted({fact["site"] for fact in known.values()} - norms.keys()):
            tokens = self._held_out if self._held_out is not None else self._prompt(settings)
            rows = _rows(self._subject, tokens, Site.of(site))
            if not len(rows):
                raise ValueError("the prompt has no position to measure the residual norm at: give held_out texts")
            median = float(f"{float(rows.norm(dim=-1).median()):.5g}")  # as short as it is shown, and used as shown
            norms[site] = {"norm": median, "positions": len(rows), "held_out": self._held_out is not None}
        self.put(known=known, norms=norms)

    def _start(self, job: Job, settings: dict[str, Any]) -> None:
        self._look(settings)
        self._count += 1
        before = [payload.desk_record(self.run), *self.runs][:KEPT] if self.run else self.runs
        names = ["clean", "steered", *(["random"] if self.control else [])]
        run = {
            "number": self._count, "settings": settings, "code": self._code(settings), "state": "running",
            "arms": {name: payload.desk_arm() for name in names},
        }  # fmt: skip
        self.put(run=run, runs=before)
        self._write(job, run, names)

    def _control(self, job: Job) -> None:
        if self.run and "random" not in self.run["arms"]:
            arms = {**self.run["arms"], "random": payload.desk_arm()}
            self._write(job, {**self.run, "arms": arms, "state": "running"}, ["random"])

    def _write(self, job: Job, run: dict[str, Any], names: Sequence[str]) -> None:
        try:
            run = self._written(job, run, names)
        except Exception:
            self._show({**self.run, "state": "failed"})
            raise
        self._show({**run, "state": "stopped" if job.cancelled else "done"})

    def _written(self, job: Job, run: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
        """Generate arms token by token, then give each token's log-probabilities."""
        settings = run["settings"]
        for name in names:
            if job.cancelled:
                break
            tokens, begin = self._generate(job, run, name)
            other = "steered" if name == "clean" else name
            log_probs = {
                "clean": self._log_probs(tokens, begin, {}),
                "edited": self._log_probs(tokens, begin, self._arms(settings, other, begin, tokens.ids.shape[1])),
            }
            own = log_probs["clean" if name == "clean" else "edited"]
            ids = tokens.ids[0, begin:]
            best = own.topk(min(TOP, own.shape[-1]), -1)
            arm = payload.desk_arm(
                self._subject.words(ids.tolist()),
                state="stopped" if job.cancelled and len(ids) < settings["new"] else "done",
                said=self._subject.tokenizer.decode(ids.tolist(), skip_special_tokens=True),
                **{k: v.gather(-1, ids[:, None])[:, 0].tolist() for k, v in log_probs.items()},
                top=[
                    list(zip(self._subject.words(i), v, strict=True))
                    for i, v in zip(best.indices.tolist(), best.values.tolist(), strict=True)
                ],
            )
            run = {**run, "arms": {**run["arms"], name: arm}}
            self._show(run)
        return run

    def _generate(self, job: Job, run: dict[str, Any], name: str) -> tuple[Tokens, int]:
        """An arm's token rows and where its new tokens begin; the default's are kept for runs with the same prompt."""
        settings = run["settings"]
        common = {k: settings[k] for k in ("prompt", "chat", "new", "seed", "temperature")}
        if name == "clean" and self._clean is not None and self._clean[0] == common:
            return self._clean[1:]
        words: list[str] = []

        def seen(chosen: Tensor) -> None:
            words.extend(self._subject.words(chosen.tolist()))
            self.stream(writing={"arm": name, "tokens": [payload.text(word) for word in words]})

        self._show({**run, "arms": {**run["arms"], name: payload.desk_arm(state="running")}})
        made = self._subject.generate(
            self._prompt(settings),
            self._arms(settings, name),
            new=settings["new"],
            seed=settings["seed"],
            temperature=settings["temperature"],
            on_token=seen,
            stop=lambda: job.cancelled,
        )
        begin = made.tokens.ids.shape[1] - made.logprobs.shape[1]
        if name == "clean" and not job.cancelled:
            self._clean = (common, made.tokens, begin)
        return made.tokens, begin

    def _show(self, run: dict[str, Any]) -> None:
        self.put(**(self.flush() | {"run": run, "writing": {}}))  # what was streamed before is old now

    @torch.no_grad()
    def _log_probs(self, tokens: Tokens, begin: int, edits: Mapping[Site | str, Edit]) -> Float[Tensor, "new vocab"]:
        """Log-probabilities in nats at each new token, given all before it."""
        return self._subject.run(tokens, edits).logits[0, begin - 1 : -1].float().log_softmax(-1)

    def _prompt(self, settings: Mapping[str, Any]) -> Tokens:
        prompt = settings["prompt"]
        said = [{"role": "user", "content": prompt}] if settings["chat"] else prompt
        return self._subject.tokenize(said, generate=True)

    def _direction(self, line: Mapping[str, Any]) -> tuple[Tensor, Site]:
        if line["of"] == "vector":
            return self._vectors[line["name"]]
        assert self._codec is not None
        return self._codec.atoms([line["name"]])[0], self._target

    def _edit(self, line: Mapping[str, Any], share: float = 1.0) -> tuple[Edit, str]:
        """A line at a share of its strength: the edit, and the code that makes it."""
        vector, site = self._direction(line)
        strength, unit = line["strength"], self.norms[str(site)]["norm"]
        name, codec = line["name"], self._codec
        if not vector.any():
            raise ValueError(f"{_key(line)} has a zero atom, a push without a direction: switch it off")
        if line["method"] == "add":
            source = f"codec.atoms([{name}])[0]" if line["of"] == "latent" else f"vectors[{name!r}][0]"
            return add(vector, unit=unit)(share * strength), f"add({source}, unit={unit})({strength})"
        assert codec is not None
        if line["method"] == "clamp":
            value = float(f"{share * strength * unit / float(vector.norm()):.6g}")
            return edit.clamp(codec, name, value), f"edit.clamp(codec, {name}, {value})"
        if line["method"] == "scale":
            by = 1 + share * (strength - 1)
            return edit.scale(codec, name, by), f"edit.scale(codec, {name}, {by})"
        return edit.ablate(codec, name), f"edit.ablate(codec, {name})"

    def _arms(
        self, settings: Mapping[str, Any], name: str, begin: int | None = None, length: int = 0
    ) -> dict[Site | str, Edit]:
        """An arm's edits while it is generated, or, given where its new tokens begin, over its whole text."""
        found: dict[Site | str, Edit] = {}
        for line in () if name == "clean" else _on(settings):
            one, (_, site) = self._edit(line)[0], self._direction(line)
            if line["where"] != "both":
                early = line["where"] == "prompt"
                if begin is None:
                    one = one.prompt() if early else one.generated()
                else:  # a whole text knows no generated part
                    one = one.only((torch.arange(length) < begin)[None] == early)
            found[site] = found[site].then(one) if site in found else one
        if name == "random":
            return {site: steer.equal_norm(one, seed=settings["seed"]) for site, one in found.items()}
        return found

    def _sweep(self, job: Job, settings: dict[str, Any]) -> None:
        if self._held_out is None:
            raise ValueError("there is no held-out text to measure on: give SteeringDesk(held_out=[...])")
        if not (lines := _on(settings)):
            raise ValueError("no line is on: switch one on, then sweep")
        self._look(settings)
        tokens, count = self._held_out, len(self._held_out.ids)
        groups = [tokens.rows(slice(i, None, min(SEEDS, count))) for i in range(min(SEEDS, count))]
        shares = [1.0] if all(line["method"] == "ablate" for line in lines) else SHARES
        rows: list[dict[str, Any]] = []
        done = 0
        for share in shares:
            edits: dict[Site | str, Edit] = {}
            for line in lines:
                one, (_, site) = self._edit(line, share)[0], self._direction(line)
                edits[site] = edits[site].then(one) if site in edits else one
            for i, group in enumerate(groups):
                if job.cancelled:
                    break
                seed = settings["seed"] + i
                random = {site: steer.equal_norm(one, seed=seed) for site, one in edits.items()}
                clean, *both = measure(self._subject, group, [{}, edits, random], [])
                rows += [{"arm": "none", "share": share, "seed": seed, **clean}] if share == shares[0] else []
                rows += [
                    {"arm": arm, "share": share, "seed": seed, **found}
                    for arm, found in zip(("steered", "random"), both, strict=True)
                ]
                done += 1
                state = "stopped" if job.cancelled else "running" if done < len(shares) * len(groups) else "done"
                self.stream(curve=payload.desk_curve(settings, rows, state, done / (len(shares) * len(groups))))
        if job.cancelled and rows:
            self.stream(curve=payload.desk_curve(settings, rows, "stopped", done / (len(shares) * len(groups))))

    def _code(self, settings: Mapping[str, Any]) -> str:
        """A cell that makes the run's texts with the library alone."""
        sites: dict[Site, list[str]] = {}
        for line in _on(settings):
            where = "" if line["where"] == "both" else f".{line['where']}()"
            sites.setdefault(self._direction(line)[1], []).append(self._edit(line)[1] + where)
        chained = {str(site): one[0] + "".join(f".then({o})" for o in one[1:]) for site, one in sites.items()}
        return payload.desk_code(settings, chained)


def _key(line: Mapping[str, Any]) -> str:
    return f"{line['of']} {line['name']}"


def _on(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [line for line in settings["lines"] if line["on"]]


def _tokens(subject: Any, texts: Sequence[str] | Tokens) -> Tokens:
    if isinstance(texts, Tokens):
        return texts
    if isinstance(texts, str) or not len(texts):
        raise ValueError(f"a list of texts is wanted, got {texts!r:.60}")
    return subject.tokenize(list(texts), length=LENGTH)


def _rows(subject: Any, tokens: Tokens, site: Site) -> Float[Tensor, "row d"]:
    """The vectors at a site, at kept positions."""
    found = []
    for begin in range(0, len(tokens.ids), BATCH):
        part = tokens.rows(slice(begin, begin + BATCH))
        keep = subject.exclusion.by_token(part, subject.special_ids)
        found.append(subject.read(part, [site])[site][keep])
    return torch.cat(found)
