"""`python tools/build_pictures.py [NAME ...]` draws docs/widgets/NAME_LOOK_WIDTH.webp and writes docs/widgets.md.

Without names every widget is drawn, with `--text` none: only the page is written, from the docstrings. SmolLM2-135M and
its transcoders are used (`make transcoders` first); what they show is made once, in the cache. The network is refused.
"""

import argparse
import base64
import inspect
import sys
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "browser"))

import bare
import pandas as pd

import widgets
import workbench as wb
from workbench import geometry, interpret, lineage
from workbench.circuits import targets
from workbench.circuits.tracers.transcoder import Tracing
from workbench.regimes import layers

ROOT = Path(__file__).parents[1]
PAGE, FOLDER = ROOT / "docs" / "widgets.md", ROOT / "docs" / "widgets"
PROMPT = "Then, Mary and John went to the store. John gave a drink to"
HEAD = """# Widgets

Dashboards for JupyterLab. Each is one sealed module: it asks no network for anything, works live on a kernel, and
keeps its picture and all that needs no Python in an exported page (`widget.to_html(path)`,
`report.page(path, [widget])`, or a notebook's report). All have a light and a dark look, can be worked by keyboard, and
run what they ask of a model in one thread of their own. This page is written by `python tools/build_pictures.py` from
the docstrings; what the widgets cost is in [measurements.md](measurements.md), table `widgets`.

| widget | shows | answers from Python |
| --- | --- | --- |
"""
TO_WEBP = """async png => {
  const image = new Image();
  image.src = 'data:image/png;base64,' + png;
  await image.decode();
  const canvas = Object.assign(document.createElement('canvas'), {width: image.width, height: image.height});
  canvas.getContext('2d').drawImage(image, 0, 0);
  return canvas.toDataURL('image/webp', 0.72);
}"""


class Made:
    """What the widgets show."""

    home = lineage.cache() / "pictures"

    @cached_property
    def subject(self) -> Any:
        return wb.Subject("smollm2-135m", dtype="float32")

    @cached_property
    def store(self) -> Any:
        return wb.collect(self.subject, "pack", "15.resid", rows=300_000, quiet=True)

    @cached_property
    def sae(self) -> Any:
        recipe = wb.recipe("batch_topk", d=576, latents=2048, k=32)
        stream = self.store.stream(2048, site="15.resid", steps=220, seed=0)
        place = {"site": "15.resid", "exclusion": self.store.exclusion, "subject_fingerprint": self.subject.fingerprint}
        return wb.train(recipe, stream, **place, folder=self.home / "sae")

    @cached_property
    def index(self) -> Any:
        return interpret.index(self.sae, self.store, self.subject, folder=self.home / "index")

    @cached_property
    def effects(self) -> Any:
        return interpret.effects(self.sae, self.subject, top=8)

    @cached_property
    def latent(self) -> int:
        """A latent that fires on one word and its like."""
        tokens = self.index.table["top_token"]
        return int(tokens[tokens == " March"].index[0])

    @cached_property
    def plane(self) -> Any:
        return geometry.plane(self.sae.atoms(), mask=~self.index.table["dead"].to_numpy())

    @cached_property
    def tracing(self) -> Any:
        dictionaries = layers.transcoders(self.subject).dictionaries
        return Tracing(self.subject, PROMPT, dictionaries, targets.difference(self.subject, " Mary", " John"))

    @cached_property
    def scores(self) -> pd.DataFrame:
        """The frontier's measurement at L0 16 as a board reads it."""
        rows = lineage.read_json(ROOT / "docs" / "measurements" / "frontier_matched.json")["rows"]
        metrics = (("fvu", "FVU", "share", 1.0), ("rise in loss", "rise", "nats", None))
        return pd.DataFrame(
            {
                "dictionary": row["variant"],
                "eval": "frontier, L0 16",
                "metric": name,
                "value": row[key if key == "FVU" else "rise in nats"],
                "low": row[f"{key} low"],
                "high": row[f"{key} high"],
                "unit": unit,
                "direction": "lower",
                "chance": chance,
            }
            for row in rows
            for name, key, unit, chance in metrics
        )


def dashboard(m: Made) -> Any:
    return widgets.FeatureDashboard(
        index=m.index, codec=m.sae, subject=m.subject, effects=m.effects, latent=m.latent,
        query={"sort": "density", "descending": True},
    )  # fmt: skip


def desk(m: Made) -> Any:
    made = widgets.SteeringDesk(
        subject=m.subject,
        codec=m.sae,
        latents=[m.latent],
        prompt="The meeting will be held",
        held_out=wb.corpus().texts[:12],
        new=30,
    )
    made.start()
    made.sweep()
    widgets.worker.settle(900)
    return made


MAKERS: dict[str, Callable[[Made], Any]] = {
    "FeatureDashboard": dashboard,
    "FeatureMap": lambda m: widgets.FeatureMap(plane=m.plane, table=m.index.table, codec=m.sae),
    "GraphViewer": lambda m: widgets.GraphViewer(graph=m.tracing.graph(budget=2000), tracing=m.tracing),
    "SteeringDesk": desk,
    "TrainingMonitor": lambda m: (m.sae, widgets.TrainingMonitor(folder=m.home / "sae"))[1],
    "Scoreboard": lambda m: widgets.Scoreboard(scores=m.scores),
    "PatternView": lambda m: widgets.PatternView.of(m.subject, PROMPT, layer=8),
    "TokenStrip": lambda m: strip(m),
}


def strip(m: Made) -> Any:
    context = m.index.contexts(m.latent, limit=1, window=(-40, 40))[0]
    label = f"latent {m.latent}, its strongest text"
    return widgets.TokenStrip(tokens=context.tokens, values=context.activations, label=label)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("names", nargs="*", choices=[[], *MAKERS], metavar="NAME")
    asked.add_argument("--text", action="store_true", help="write the page only")
    given = asked.parse_args()
    if not given.text:
        made = Made()
        with bare.browser():
            for name in given.names or MAKERS:
                draw(name, MAKERS[name](made))
    lineage.write(PAGE, page().encode())


def draw(name: str, widget: Any) -> None:
    FOLDER.mkdir(exist_ok=True)
    for dark in (False, True):
        for width in (1000, 1600):
            with bare.opened(widget, width=width, dark=dark) as at:
                at.page.wait_for_timeout(600)
                at.settle()
                png = base64.b64encode(at.page.screenshot(full_page=True)).decode()
                link = at.page.evaluate(TO_WEBP, png)
            path = FOLDER / f"{name}_{'dark' if dark else 'light'}_{width}.webp"
            lineage.write(path, base64.b64decode(link.partition(",")[2]))


def page() -> str:
    """docs/widgets.md."""
    catalogue = [line for line in (widgets.__doc__ or "").splitlines() if line.startswith("| `")]
    return HEAD + "\n".join(catalogue) + "\n" + "".join(section(name) for name in MAKERS)


def section(name: str) -> str:
    first, _, rest = (inspect.getdoc(getattr(widgets, name)) or "").partition("\n\n")
    others = [f"{look}_{width}" for look in ("light", "dark") for width in (1000, 1600)][1:]
    links = ", ".join(f"[{other.replace('_', ', ')} px](widgets/{name}_{other}.webp)" for other in others)
    body = "\n".join(fenced(rest.splitlines())).replace("\n\n```\n", "\n```\n\n")
    return f"\n## {name}\n\n{first}\n\n{body}\n\n![{name}](widgets/{name}_light_1000.webp)\n\nAlso {links}.\n"


def fenced(lines: list[str]) -> Iterator[str]:
    """Indented code as fenced code."""
    inside = False
    for line in lines:
        code = line.startswith("    ") or (inside and not line.strip())
        if code != inside:
            yield "```python" if code else "```"
            if not code and not line.strip():
                inside = False
                continue
        inside = code
        yield line[4:] if code else line
    if inside:
        yield "```"


if __name__ == "__main__":
    main()
