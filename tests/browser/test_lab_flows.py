"""Five things that people do, in JupyterLab with a real kernel: each act is seen in Python, each answer in the page."""

import math
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import lab
import specimens

pytestmark = pytest.mark.browser
OPEN = "import time, specimens, workbench as wb\nfrom specimens import PROMPT\np = specimens.Parts('parts')\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    parts = specimens.Parts(folder / "parts")
    for name in ("index", "effects", "plane", "transcoders"):
        getattr(parts, name)  # made once, opened by the kernels
    with lab.running(folder) as made:
        yield made


def test_explore_a_latent(home):
    cells = [
        OPEN + "from widgets import FeatureDashboard\n"
        "w = FeatureDashboard(index=p.index, codec=p.sae, subject=p.subject, effects=p.effects, labels='names.json')\n"
        "for name in ('latent', 'query', 'text'): w.observe(lambda c: note(**{c['name']: c['new']}), name)\n"
        "note(common=int(p.index.table['density'].idxmax()), latent=w.latent)\nw"
    ]
    with home.notebook(cells) as at:
        at.see(".wb-feature-dashboard h3")
        common = at.known()["common"]
        at.page.locator(".wb-sort[data-key=density]").click()
        row = at.page.locator(f"tr[data-id='{common}']")
        row.click()
        at.wait(lambda: at.known()["latent"] == common, "the click on the commonest latent")
        at.see(f".wb-feature-dashboard h3:has-text('Latent {common:,}')")
        row.focus()
        at.page.keyboard.press("ArrowDown")
        at.page.keyboard.press("Enter")
        at.wait(lambda: at.known()["latent"] != common, "the next one by keyboard")
        at.page.get_by_role("tab", name="My text").click()
        box = at.page.locator(".fd-text").or_(at.page.get_by_role("textbox", name="your text")).first
        box.fill("a large and convenient revenue")
        at.page.get_by_role("button", name="Rank latents").click()
        at.wait(lambda: at.known().get("text"), "the text")
        at.wait(lambda: at.page.locator(".fd-own .wb-strip, .wb-strip").count() > 3, "the latents of the text")
        at.shot("explore")


def test_lasso_the_map_into_the_dashboard(home):
    cells = [
        OPEN + "from widgets import FeatureDashboard, FeatureMap\nimport ipywidgets\n"
        "cards = FeatureDashboard(index=p.index, codec=p.sae)\n"
        "w = FeatureMap(plane=p.plane, table=p.index.table, dashboard=cards)\n"
        "w.observe(lambda c: note(selected=len(c['new'])), 'selection')\n"
        "cards.observe(lambda c: note(latent=c['new']), 'latent')\nipywidgets.VBox([w, cards])"
    ]
    with home.notebook(cells) as at:
        canvas = at.see(".wb-feature-map canvas")
        at.wait(lambda: (canvas.bounding_box() or {"width": 0})["width"] > 100, "the canvas")
        canvas.scroll_into_view_if_needed()
        at.page.get_by_role("button", name="Lasso").first.click()
        box = canvas.bounding_box()
        x, y, r = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, 0.4 * min(box["width"], box["height"])
        at.page.mouse.move(x + r, y)
        at.page.mouse.down()
        for i in range(1, 37):  # it stops short of where it began, else it counts as a click too
            turn = 2 * math.pi * i / 40
            at.page.mouse.move(x + r * math.cos(turn), y + r * math.sin(turn))
        at.page.mouse.up()
        at.wait(lambda: at.known().get("selected", 0) > 10, "the lasso")
        rows = at.page.locator("table[aria-label='Selected latents'] tr[data-id]")
        at.wait(lambda: rows.count() > 3, "the table of what was selected")
        wanted = rows.nth(2).get_attribute("data-id")
        rows.nth(2).click()
        at.wait(lambda: str(at.known().get("latent")) == wanted.split(":")[-1], "the dashboard's latent")
        at.see(f".wb-feature-dashboard h3:has-text('Latent {wanted}')")
        at.shot("lasso")


def test_steer_and_stop(home):
    cells = [
        OPEN + "from widgets import SteeringDesk\nimport torch\n"
        "p.subject.model.transformer.h[0].register_forward_hook(lambda *a: time.sleep(0.05))  # slow\n"
        "w = SteeringDesk(subject=p.subject, codec=p.sae, latents=[1], prompt=PROMPT, new=100)\n"
        "w.observe(lambda c: note(streamed=len(c['new'].get('tokens', []))), 'writing')\n"
        "w.observe(lambda c: note(made={k: len(a.get('tokens', [])) for k, a in c['new']['arms'].items()}), 'run')\n"
        "w.observe(lambda c: note(busy=c['new']), 'busy')\nw"
    ]
    with home.notebook(cells) as at:
        at.see(".wb-steering-desk button.wb-main").click()
        at.wait(lambda: at.known().get("streamed", 0) > 5, "tokens that stream")
        at.page.locator(".wb-steering-desk").get_by_role("button", name="Stop").first.click()
        at.wait(lambda: at.known().get("busy") == "", "the stop", 20)
        made = at.wait(lambda: at.known().get("made"), "what was generated")
        assert 5 < sum(made.values()) < 100 + len(made), f"it ran to its end: {made}"
        at.page.wait_for_timeout(600)
        assert at.known()["made"] == made, "tokens came after the stop"
        at.shot("steer")


def test_train_watch_and_stop(home):
    cells = [
        OPEN + "from widgets import TrainingMonitor\n"
        "running = wb.start(p.recipe(), p.stream(100_000), site='1.resid', folder='run', progress=False)\n"
        "w = TrainingMonitor(running=running)\n"
        "w.observe(lambda c: note(phase=c['new']), 'phase')\n"
        "w.observe(lambda c: note(step=c['new'].get('step')), 'head')\nw",
    ]
    with home.notebook(cells) as at:
        monitor = at.page.locator(".wb-training-monitor")
        at.wait(lambda: (at.known().get("step") or 0) > 20, "steps that are shown")
        monitor.get_by_role("button", name="Pause").click()
        at.wait(lambda: at.known().get("phase") == "paused", "the pause")
        at.page.wait_for_timeout(800)
        before = at.known()["step"]
        at.page.wait_for_timeout(1500)
        assert at.known()["step"] == before, "it went on while paused"
        monitor.get_by_role("button", name="Resume").click()
        at.wait(lambda: at.known()["step"] > before, "steps after the pause")
        monitor.get_by_role("button", name="Stop").click()
        at.wait(lambda: at.known().get("phase") == "stopped", "the stop")
        at.shot("train")


def test_trace_prune_pin_group_and_intervene(home):
    cells = [
        OPEN + "from widgets import GraphViewer\nfrom workbench.circuits.tracers.transcoder import Tracing\n"
        "ids = p.subject.tokens(PROMPT).ids\n"
        "tracing = Tracing(p.subject, ids, p.transcoders, p.aims, progress=False)\n"
        "w = GraphViewer(graph=tracing.graph(), tracing=tracing, labels='labels.json')\n"
        "for name in ('selected', 'pinned', 'supernodes', 'shares', 'trials'):\n"
        "    w.observe(lambda c: note(**{c['name']: c['new']}), name)\n"
        "w.observe(lambda c: note(counts=c['new'].get('counts')), 'kept')\nw"
    ]
    with home.notebook(cells) as at:
        viewer = at.page.locator(".wb-graph-viewer")
        at.see(".gv-graph .gv-node.gv-latent")
        drawn = viewer.locator(".gv-graph .gv-node").count()
        viewer.locator(".gv-control input").first.fill("0.9")
        at.wait(lambda: at.known().get("shares", [1])[0] == 0.9, "the slider")
        at.wait(lambda: at.known().get("counts"), "what Python keeps")
        at.wait(
            lambda: viewer.locator(".gv-graph .gv-node").count() == at.known()["counts"][0] != drawn, "the pruned graph"
        )
        latents = viewer.locator(".gv-graph .gv-node.gv-latent")
        latents.nth(0).focus()
        at.page.keyboard.press("Enter")
        at.wait(lambda: at.known().get("selected"), "a latent that is selected")
        at.page.keyboard.press("p")
        at.wait(lambda: len(at.known().get("pinned", [])) == 1, "its pin")
        latents.nth(1).focus()
        at.page.keyboard.press("p")
        at.wait(lambda: len(at.known()["pinned"]) == 2, "the second pin")
        at.page.keyboard.press("g")
        at.wait(lambda: at.known().get("supernodes"), "the group")
        at.page.keyboard.press("Enter")
        viewer.get_by_role("button", name="scale by 0", exact=True).last.click()  # of the group
        trial = at.wait(lambda: at.known().get("trials"), "the intervention")
        assert trial[0], "what was predicted and observed"
        at.shot("graph")
