"""`python tools/build_gallery.py [NAME ...]` draws docs/worlds/NAME.webp and writes the page docs/worlds.md.

Without names every world is drawn; with `--text` none, only the page is written. Pictures are drawn in headless
Chromium with the network refused (the `test` extra and the system's chromium).
"""

import argparse
import base64
import inspect
import json
import re
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench import catalogue, lineage, testbeds
from workbench.html import escape
from workbench.testbeds import subjects

ROOT = Path(__file__).parents[1]
PAGE, FOLDER = ROOT / "docs" / "worlds.md", ROOT / "docs" / "worlds"
WIDTH, HEIGHT, SCALE = 720, 420, 1.25  # CSS pixels where a figure sets none; device pixels for each
MARGIN = {"t": 70, "b": 55, "l": 60, "r": 20}
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip

DRAW = """async ([figure, how]) => {
  const image = new Image();
  image.src = await Plotly.toImage(figure, how);
  await image.decode();
  const canvas = Object.assign(document.createElement('canvas'), {width: image.width, height: image.height});
  canvas.getContext('2d').drawImage(image, 0, 0);
  return canvas.toDataURL('image/webp', 0.7);  // plotly's own WebP has no choice of quality
}"""


def pictures(figures: Mapping[str, Any]) -> dict[str, bytes]:
    """Each plotly figure as WebP. Raises RuntimeError when one asks for anything outside its page."""
    from playwright.sync_api import sync_playwright
    from plotly.offline import get_plotlyjs

    asked: list[str] = []
    found = {}
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_context(offline=True).new_page()
        page.on("request", lambda r: None if r.url.startswith(("data:", "blob:")) else asked.append(r.url))
        page.add_script_tag(content=get_plotlyjs())
        for name, figure in figures.items():
            box = {"width": figure.layout.width or WIDTH, "height": figure.layout.height or HEIGHT}
            drawn = json.loads(figure.to_json())
            drawn["layout"]["margin"] = MARGIN | drawn["layout"].get("margin", {})
            link = page.evaluate(DRAW, [drawn, {**box, "scale": SCALE, "format": "png"}])
            if asked:
                raise RuntimeError(f"the figure of {name} asked for {asked[0]}: pictures are drawn offline")
            found[name] = base64.b64decode(link.partition(",")[2])
        browser.close()
    return found


def size(picture: bytes) -> tuple[int, int]:
    """Width and height of a WebP file in pixels. Raises ValueError when the bytes are none, or cut short."""
    if picture[:4] != b"RIFF" or picture[8:12] != b"WEBP" or struct.unpack("<I", picture[4:8])[0] + 8 != len(picture):
        raise ValueError(f"not a whole WebP file: {len(picture)} bytes that begin with {picture[:12]!r}")
    if picture[12:16] == b"VP8X":
        return tuple(1 + int.from_bytes(picture[i : i + 3], "little") for i in (24, 27))  # type: ignore[return-value]
    if picture[12:16] == b"VP8 ":
        return tuple(n & 0x3FFF for n in struct.unpack("<HH", picture[26:30]))  # type: ignore[return-value]
    raise ValueError(f"a WebP file of the kind {picture[12:16]!r}: VP8 and VP8X are read")


def line(text: str | None) -> str:
    """Running text of a docstring in one line."""
    return " ".join((text or "").split())


def sentences(text: str | None) -> list[str]:
    return re.split(r"(?<=\.) (?=[A-Z`])", line(text))


def truth(world: Any) -> str:
    """What `truth` is: the class's own sentence on it, else what its record says."""
    said = [s for s in sentences(type(world).__doc__) if "`truth" in s] or sentences(type(world.truth).__doc__)
    fields = ", ".join(f"`{field}`" for field in getattr(world.truth, "_fields", ()))
    return said[0] + (f" Its parts: {fields}." if fields else "")


def shown(value: Any) -> str:
    return json.dumps(value) if isinstance(value, str) else repr(value)


def section(name: str) -> str:
    """A world's part of the page."""
    world, module = testbeds.world(name), catalogue.module("worlds", name)
    args = "".join(f", {key}={shown(value)}" for key, value in catalogue.bound("worlds", name).items())
    what, caption = (line((inspect.getdoc(x) or "").split("\n\n")[0]) for x in (module, type(world).figure))
    wide = round(size((FOLDER / f"{name}.webp").read_bytes())[0] / SCALE)
    trained = ", ".join(f"`{subject}`" for subject in sorted(getattr(module, "TASKS", {})))
    return (
        f"## {name}\n\n{what}\n\n"
        f'<img src="worlds/{name}.webp" width="{wide}" alt="{escape(caption)}">\n\n'
        f"*{caption}*\n\n"
        f"- `testbeds.world({json.dumps(name)}{args})` ([the process](../workbench/testbeds/worlds/{name}.py))\n"
        f"- Truth: {truth(world)}\n" + (f"- Trained on it: {trained}\n" if trained else "")
    )


def table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(row)} |\n" for row in lines)


def number(value: float, unit: str) -> str:
    return f"{100 * value:.1f}" if unit == "share" else f"{value:#.3g}"


def page() -> str:
    """The whole page, from docstrings, signatures, cards and the pictures' sizes."""
    cards = [lineage.read_json(p) for p in sorted(subjects.FOLDER.glob("*.json")) if ".missed" not in p.name]
    weight = sum(p.stat().st_size for p in subjects.FOLDER.glob("*.safetensors") if ".missed" not in p.name)
    good, made = [], []
    for card in cards:
        name = [f"`{card['subject']}`", str(card["seed"])]
        for q in card["quality"]:
            unit, bound = "%" if q["unit"] == "share" else q["unit"], "≥" if q["higher"] else "≤"
            value, low, high, chance, goal = (
                number(q[key], q["unit"]) for key in ("value", "low", "high", "chance", "goal")
            )
            good.append([*name, q["metric"], f"{value} [{low}, {high}]", chance, f"{bound} {goal}", unit])
        made.append([
            *name, f"{card['parameters']:,}", f"{card['bytes'] / 1e6:.2f}",
            f"{card['cpu_seconds']:,}", f"`{card['command']}`", card["licence"],
        ])  # fmt: skip
    kept = [
        f"`{name}`: `testbeds.subject({json.dumps(name)}, step=...)` for step {', '.join(map(str, task.keep))}"
        for name in subjects.subject_names()
        if (task := subjects.task(name)).keep
    ]
    prompts = [[f"`{row['name']}`", row["what"]] for row in catalogue.table("prompts")]
    return "\n".join([
        "# Worlds whose truth is known\n",
        "Written by `python tools/build_gallery.py`. A world is a generative process: `world.sample(n, seed)` gives",
        "rows, `world.truth` what is known of the process, `world.figure()` the picture below. Defaults are shown.\n",
        *map(section, catalogue.names("worlds")),
        "## Tiny subjects\n",
        f"`testbeds.subject(name, seed=0)` opens one; with checkpoints {weight / 1e6:.1f} MB together. Figures are the",
        "cards' (`testbeds.card(name)`): on held-out data, with 95 % intervals; chance is had without training.\n",
        table(["subject", "seed", "metric", "value [interval]", "chance", "goal", "unit"], good),
        table(["subject", "seed", "parameters", "MB", "CPU seconds", "made again by", "licence"], made),
        f"Checkpoints of seed 0: {'; '.join(kept)}.\n",
        "## Prompt sets\n",
        "`testbeds.prompt_set(name)` draws one; what SmolLM2-135M gets right on each is in "
        "[measurements](measurements.md).\n",
        table(["set", "what is asked"], prompts),
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--text", action="store_true", help="write the page only")
    given = parser.parse_args()
    names = [] if given.text else given.names or catalogue.names("worlds")
    if names:
        for name, picture in pictures({name: testbeds.world(name).figure() for name in names}).items():
            lineage.write(FOLDER / f"{name}.webp", picture)
    lineage.write(PAGE, page().encode())


if __name__ == "__main__":
    main()
