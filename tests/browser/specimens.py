"""What widgets are tried on: a tiny text model that ships, its dictionaries trained in seconds, their index and graph.

`Parts(folder)` makes a thing when it is first asked for; a kernel of a flow opens the same folder and finds it made.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import workbench as wb
from workbench import geometry, interpret, testbeds
from workbench.circuits import targets
from workbench.circuits.graph import Graph, frame
from workbench.circuits.tracers import transcoder
from workbench.dictionary import Dictionary
from workbench.regimes import layers

PROMPT = "a convenient and large revenue is derived from the"
TEXTS = 300


class Parts:
    def __init__(self, folder: Path | str):
        self.folder = Path(folder)

    @cached_property
    def subject(self) -> Any:
        return testbeds.subject("tiny_text_gelu")

    @cached_property
    def texts(self) -> list[str]:
        return list(wb.corpus().texts[:TEXTS])

    @cached_property
    def store(self) -> Any:
        return wb.collect(
            self.subject, self.texts, "1.resid", rows=20_000, length=64, folder=self.folder / "store", quiet=True
        )

    def recipe(self, k: int = 8) -> Any:
        return wb.recipe("batch_topk", d=128, latents=512, k=k)

    def stream(self, steps: int = 150) -> Any:
        return self.store.stream(512, site="1.resid", steps=steps, seed=0)

    @cached_property
    def sae(self) -> Dictionary:
        return wb.train(
            self.recipe(),
            self.stream(),
            site="1.resid",
            exclusion=self.store.exclusion,
            subject_fingerprint=self.subject.fingerprint,
            folder=self.folder / "sae",
            progress=False,
        )

    @cached_property
    def index(self) -> interpret.Index:
        return interpret.index(self.sae, self.store, self.subject, folder=self.folder / "index")

    @cached_property
    def effects(self) -> Any:
        return interpret.effects(self.sae, self.subject, top=6)

    @cached_property
    def plane(self) -> geometry.Plane:
        alive = ~self.index.table["dead"].to_numpy()
        return geometry.plane(self.sae.atoms(), mask=alive, method="pca", folder=self.folder / "planes")

    @cached_property
    def transcoders(self) -> dict[int, Dictionary]:
        options = {"latents": 64, "k": 8, "tokens": 30_000, "batch": 4, "length": 64}
        return layers.transcoders(
            self.subject, self.texts, **options, folder=self.folder / "transcoders", progress=False
        ).dictionaries

    @cached_property
    def aims(self) -> Any:
        return targets.likely(self.subject, self.subject.run(PROMPT).logits[0, -1], mass=0.6)

    @cached_property
    def graph(self) -> Any:
        return transcoder.trace(self.subject, PROMPT, self.transcoders, self.aims, budget=200).check()

    @cached_property
    def words(self) -> list[str]:
        return self.subject.words(self.subject.tokens(PROMPT).ids[0])

    # ---- large ones, for the bench

    @cached_property
    def wide(self) -> Dictionary:
        """16,384 latents, hardly trained: only their number counts."""
        recipe = wb.recipe("batch_topk", d=128, latents=16_384, k=8)
        place = {"site": "1.resid", "exclusion": self.store.exclusion, "subject_fingerprint": self.subject.fingerprint}
        return wb.train(recipe, self.stream(3), **place, folder=self.folder / "wide", progress=False)

    @cached_property
    def many(self) -> interpret.Index:
        return interpret.index(self.wide, self.store, self.subject, folder=self.folder / "many")

    @cached_property
    def large(self) -> geometry.Plane:
        """50,000 points in 400 clusters."""
        g = torch.Generator().manual_seed(0)
        centres = torch.randn(400, 16, generator=g)
        points = centres[torch.randint(400, (50_000,), generator=g)] + 0.4 * torch.randn(50_000, 16, generator=g)
        return geometry.plane(points, method="pca", folder=self.folder / "planes")

    @cached_property
    def columns(self) -> pd.DataFrame:
        g = torch.Generator().manual_seed(1)
        density = 10 ** (-1 - 4 * torch.rand(50_000, generator=g))
        return pd.DataFrame({"density": density.numpy(), "layer": torch.randint(30, (50_000,), generator=g).numpy()})

    @cached_property
    def thick(self) -> Graph:
        """2,000 nodes, every target fed by all below it."""
        g = torch.Generator().manual_seed(0)
        rows = [
            {"kind": "token", "layer": -1, "pos": p, "latent": -1, "value": 1.0, "label": f"w{p}"} for p in range(60)
        ]
        rows += [
            {
                "kind": "latent",
                "layer": i * 20 // 1939,
                "pos": i % 60,
                "latent": i,
                "value": 1.0,
                "label": f"latent {i}",
            }
            for i in range(1939)
        ]
        rows += [{"kind": "logit", "layer": 20, "pos": 59, "latent": 5, "value": 1.0, "label": "y"}]
        layer = torch.tensor([row["layer"] for row in rows])
        targets = (layer >= 0).nonzero()[:, 0]
        edges = torch.randn(len(targets), len(rows), generator=g) ** 3 * (layer[None] < layer[targets][:, None])
        return Graph(frame(rows), edges, targets, (targets == len(rows) - 1).float())

    @cached_property
    def scores(self) -> Any:
        """Two dictionaries on held-out rows."""
        evals = ["reconstruction", "sparsity", "density", "dead"]
        return wb.evaluate.run({"k = 8": self.sae, "hardly trained": self.wide}, evals, rows=self.store)
