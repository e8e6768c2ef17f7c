"""What widgets cost: notebook growth, first paint in JupyterLab, a map's frames, a graph's hover, opening a dashboard.

    python bench/widgets.py [--record]

Chromium draws with its software renderer. A paint is timed in JupyterLab, from the cell's first line to two frames
after the widget's frame is in the page; imports and what the cell shows were made in an earlier cell. Growth is what a
saved notebook holds of the widget: its module, its style, its data.
"""

import argparse
import itertools
import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.append(sys.path.pop(0))  # this folder last: this file must not stand for the package of its name
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "browser"))

import bare
import lab
import record
import specimens

import widgets
from workbench import embed

COMMAND = "python bench/widgets.py --record"
TESTED = ["widgets/*.py", "widgets/static/*.js", "widgets/static/*.css"]
MADE = {  # how a cell makes each widget of what `specimens.Parts` holds, called p there
    "TokenStrip": "TokenStrip(tokens=p.words * 8, values=range(8 * len(p.words)))",
    "PatternView": "PatternView.of(p.subject, PROMPT, layer=0)",
    "FeatureDashboard": "FeatureDashboard(index=p.many, codec=p.wide, subject=p.subject)",
    "FeatureMap": "FeatureMap(plane=p.large, table=p.columns)",
    "GraphViewer": "GraphViewer(graph=p.thick)",
    "SteeringDesk": "SteeringDesk(subject=p.subject, codec=p.sae, latents=[1, 2], prompt=PROMPT)",
    "TrainingMonitor": "TrainingMonitor(folder=p.folder / 'sae')",
    "Scoreboard": "Scoreboard(scores=p.scores)",
}
WATCH = """() => {
  window.firsts = {};
  new MutationObserver(() => {
    for (const el of document.querySelectorAll('.jp-OutputArea .wb')) {
      const name = el.classList[1];
      if (name in window.firsts) continue;
      window.firsts[name] = null;
      requestAnimationFrame(() => requestAnimationFrame(() => { window.firsts[name] = Date.now() / 1000; }));
    }
  }).observe(document.body, {childList: true, subtree: true});
}"""
REST = 3  # seconds between two cells: a paint must not wait for the next cell's work
LIMIT, MAP = 300, 2500  # kB a widget, kB a map
HOVER = """async () => {
  const plot = document.querySelector('.gv-plot'), times = [];
  const nodes = [...document.querySelectorAll('.gv-graph .gv-node.gv-latent')];
  for (let k = 0; k < 30; k++) {
    const box = nodes[(k * 149) % nodes.length].getBoundingClientRect(), from = performance.now();
    plot.dispatchEvent(new PointerEvent('pointermove', {clientX: box.x + 2, clientY: box.y + 2}));
    await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
    times.push(performance.now() - from);
  }
  return times.sort((a, b) => a - b);
}"""
COUNT = """() => {
  window.frames_ = [];
  const tick = now => { window.frames_.push(now); window.ticking && requestAnimationFrame(tick); };
  window.ticking = true;
  requestAnimationFrame(tick);
}"""


def growth(widget: Any) -> float:
    """kB that a saved notebook holds of a widget."""
    return len(json.dumps(embed.states([widget])[widget.model_id])) / 1000


def paints(folder: Path) -> dict[str, float]:
    """Seconds from a cell's begin to two frames after its widget stands in the page, in JupyterLab."""
    first = [
        "import time, specimens",
        "from specimens import PROMPT",
        f"from widgets import {', '.join(MADE)}",
        f"p = specimens.Parts({str(folder)!r})",
        *MADE.values(),  # what a widget shows is made, its module is read
        "note(ready=True)",
    ]
    cells = ["\n".join(first)]
    cells += [f"time.sleep({REST})\nnote({name}=time.time())\n{made}" for name, made in MADE.items()]
    with lab.running(folder) as home, home.notebook(cells, height=1000) as at:
        at.page.evaluate(WATCH)
        at.wait(lambda: at.known().get("ready"), "the pieces", 300)
        at.page.wait_for_function(
            f"() => Object.values(window.firsts).filter(Boolean).length === {len(MADE)}", timeout=180_000
        )
        firsts, begun = at.page.evaluate("window.firsts"), at.known()
    return {name: firsts[f"wb-{dashed(name)}"] - begun[name] for name in MADE}


def dashed(name: str) -> str:
    """FeatureMap -> feature-map."""
    return "".join(f"-{c.lower()}" if c.isupper() else c for c in name).removeprefix("-")


def frames(widget: Any) -> dict[str, float]:
    """Frames a second while a map of 50,000 points is dragged for three seconds, and the longest frame."""
    with bare.opened(widget) as at:
        box = at.page.locator("canvas").first.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        at.page.wait_for_timeout(500)
        at.page.mouse.move(x, y)
        at.page.mouse.down()
        at.page.evaluate(COUNT)
        begun, step = time.monotonic(), 0
        while time.monotonic() - begun < 3:
            step += 1
            at.page.mouse.move(x + 80 * math.sin(step / 8), y + 40 * math.sin(step / 5))
        at.page.evaluate("window.ticking = false")
        at.page.mouse.up()
        seen = at.page.evaluate("window.frames_")
    gaps = [b - a for a, b in itertools.pairwise(seen)]
    return {"frames a second": 1000 * len(gaps) / sum(gaps), "longest ms": max(gaps)}


def hover(widget: Any) -> dict[str, float]:
    """Milliseconds from a pointer's move to the next frame, on 2,000 nodes: median and worst of 30."""
    with bare.opened(widget, width=1600) as at:
        assert at.page.locator(".gv-graph .gv-node").count() > 1900
        times = at.page.evaluate(HOVER)
        assert at.page.locator(".gv-tip").is_visible()
    return {"hover ms, median": times[len(times) // 2], "hover ms, worst": times[-1]}


def opening(parts: specimens.Parts) -> dict[str, float]:
    """Seconds to make a dashboard of a 16,384-latent index just opened, and to paint it; to sort it, to search it."""
    fresh = specimens.Parts(parts.folder)
    index, codec, subject = fresh.many, fresh.wide, fresh.subject
    begun = time.monotonic()
    widget = widgets.FeatureDashboard(index=index, codec=codec, subject=subject)
    made = time.monotonic() - begun
    with bare.opened(widget) as at:
        painted = at.page.evaluate("painted") / 1000
        answers = {}
        for name, query in (("sort", {"sort": "density", "descending": True}), ("search", {"search": "the"})):
            begun = time.monotonic()
            widget.query = query
            widgets.worker.settle()
            answers[f"{name} s"] = time.monotonic() - begun
    return {"opens s": made + painted, **answers}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--record", action="store_true", help="write docs/measurements/widgets.json")
    asked.add_argument("--folder", type=Path, help="where the pieces are kept (a new folder unless given)")
    given = asked.parse_args()
    with tempfile.TemporaryDirectory() as held:
        folder = given.folder or Path(held)
        p = specimens.Parts(folder)
        made = {name: eval(call, {"p": p, "PROMPT": specimens.PROMPT, **vars_of()}) for name, call in MADE.items()}
        widgets.worker.settle(300)
        kilobytes = {name: growth(widget) for name, widget in made.items()}
        with bare.browser():
            more: dict[str, dict[str, float]] = {
                "FeatureMap": frames(made["FeatureMap"]),
                "GraphViewer": hover(widgets.GraphViewer(graph=p.thick, most=2000, nodes=1.0, edges=1.0)),
                "FeatureDashboard": opening(p),
            }
        seconds = paints(folder)
    rows = [
        {
            "widget": name,
            "notebook kB": round(kilobytes[name]),
            "at most kB": MAP if name == "FeatureMap" else LIMIT,
            "first paint s": seconds[name],
            **more.get(name, {}),
        }
        for name in MADE
    ]
    for row in rows:
        print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
    if given.record:
        record.record("widgets", COMMAND, rows, TESTED)


def vars_of() -> dict[str, Any]:
    return {name: getattr(widgets, name) for name in MADE}


if __name__ == "__main__":
    main()
