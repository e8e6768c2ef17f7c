"""GraphViewer as built, in a bare page."""

import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import bare
from test_widget_graph_viewer import AIMS, chain, ids, row
from traced import two_hop

from widgets import GraphViewer
from workbench.circuits.graph import Graph, frame
from workbench.circuits.tracers.transcoder import Tracing

pytestmark = pytest.mark.browser
HOSTILE = [
    "<img src=x onerror=window.hit=1>",
    "\u202eabc",
    "שלום",
    "👩‍🚀",
    "</script><script>window.hit=1</script>",
    "\n",
]


@pytest.fixture(scope="module", autouse=True)
def one_browser():
    with bare.browser():
        yield


@pytest.fixture(scope="module")
def traced():
    subject, transcoders, _, _ = two_hop()
    tracing = Tracing(subject, torch.tensor([[0, 7, 19, 23]]), transcoders, AIMS, progress=False)
    return tracing, tracing.graph()


def whole(**given):
    return GraphViewer(graph=chain(), **{"nodes": 1.0, "edges": 1.0, **given})


def large(latents=2000, layers=20, positions=60):
    """A graph of about 2,000 nodes whose rows are full."""
    g = torch.Generator().manual_seed(0)
    rows = [row("token", -1, p, label=f"w{p}") for p in range(positions)]
    rows += [row("latent", i * layers // latents, i % positions, i) for i in range(latents - positions - 1)]
    rows += [row("logit", layers, positions - 1, label="y")]
    layer = torch.tensor([99 if r["kind"] == "logit" else r["layer"] for r in rows])
    targets = (layer >= 0).nonzero()[:, 0]
    edges = torch.randn(len(targets), len(rows), generator=g) ** 3 * (layer[None] < layer[targets][:, None])
    weights = torch.zeros(len(targets))
    weights[-1] = 1
    return Graph(frame(rows), edges, targets, weights)


def node(at, viewer, name):
    return at.page.locator(f".gv-graph .gv-node[data-i='{viewer.data['nodes']['id'].index(name)}']")


def click(at, viewer, name, **how):
    box = node(at, viewer, name).bounding_box()
    keys = how.get("modifiers", [])
    for key in keys:
        at.page.keyboard.down(key)
    at.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    for key in keys:
        at.page.keyboard.up(key)
    at.settle()


def texts(at, where):
    return at.page.locator(where).all_inner_texts()


def test_every_kind_is_drawn_and_a_click_shows_what_a_node_receives_and_gives():
    viewer = whole()
    with bare.opened(viewer) as at:
        kinds = ["token", "bias", "latent", "error", "logit"]
        assert [at.page.locator(f".gv-graph .gv-node.gv-{k}").count() for k in kinds] == [2, 1, 4, 1, 1]
        assert texts(at, ".gv-legend span:not([hidden])")[:5] == ["latent", "error", "token", "target", "constant"]
        assert "9 of 9 nodes · 11 of 11 edges · 2 tokens" in at.page.locator(".gv-head").inner_text()
        click(at, viewer, "1_3_1")
        assert viewer.selected == "1_3_1" and at.page.locator(".gv-label").input_value() == "1/3 at 1"
        assert texts(at, ".gv-inputs .gv-of") == ["0/1 at 0", "b", "0/2 at 0"]
        assert texts(at, ".gv-inputs .gv-amount") == ["+1.00", "+0.500", "+0.500"]
        assert texts(at, ".gv-outputs .gv-amount") == ["+3.00"] and "100 % of its row" in texts(at, ".gv-inputs h4")[0]
        assert (
            at.page.locator(".gv-focus path").count() >= 2
            and node(at, viewer, "1_4_1").get_attribute("class").find("gv-near") < 0
        )
        at.page.locator(".gv-inputs li button").first.click()
        at.settle()
        assert viewer.selected == "0_1_0" and at.page.evaluate("document.activeElement.dataset.i") == "3", "a walk"
        assert texts(at, ".gv-outputs .gv-amount") == ["+1.00", "−1.00"]
        at.close()


def test_hover_shows_a_node_and_leaves_no_trace():
    viewer = whole()
    with bare.opened(viewer) as at:
        box = node(at, viewer, "1_4_1").bounding_box()
        at.page.mouse.move(box["x"] + 3, box["y"] + 3)
        assert "−1.00 from 0/1 at 0" in at.page.locator(".gv-tip").inner_text().replace("\n", " ")
        at.page.mouse.move(2, 2)
        assert at.page.locator(".gv-tip").is_hidden() and at.page.locator(".gv-focus path").count() == 0
        assert viewer.selected == ""


def test_sliders_prune_in_python_and_by_rank_without_a_kernel():
    for live in (True, False):
        viewer = whole()
        viewer.live = live
        viewer.kept = viewer.kept if live else {}
        with bare.opened(viewer) as at:
            at.page.locator(".gv-control input").nth(0).fill("0.5")
            at.page.wait_for_timeout(200)
            shown = "!document.querySelector('.gv-graph .gv-node[data-i=\"4\"]')"
            assert at.page.evaluate(shown), "0/2 holds less than half: gone before Python answers"
            if live:
                at.settle()
                assert viewer.shares == [0.5, 1] and viewer.kept["counts"][0] == len(chain().prune(0.5, 1.0).nodes)
                assert at.page.locator(".gv-graph .gv-node").count() == viewer.kept["counts"][0]
            for slider, share in enumerate(("1", "0.3")):
                at.page.locator(".gv-control input").nth(slider).fill(share)
            at.page.wait_for_timeout(200)
            if live:
                at.settle()
            rank = np.frombuffer(viewer.data["edges"]["rank"], "<f4")
            wanted = viewer.kept["counts"][1] if live else (rank < 0.3).sum()  # Python drops what leads nowhere too
            assert f" {wanted} of 11 edges" in at.page.locator(".gv-head").inner_text()
            assert wanted < 6 and (live or wanted > 0)


def test_pins_groups_and_the_subgraph_by_keys_alone():
    viewer = whole()
    with bare.opened(viewer) as at:
        node(at, viewer, "0_1_0").focus()
        at.page.keyboard.press("p")
        at.page.keyboard.press("ArrowRight")
        at.page.keyboard.press("p")
        at.settle()
        assert viewer.pinned == ["0_1_0", "0_2_0"] and texts(at, ".gv-box text:first-of-type") != []
        assert at.page.evaluate("document.activeElement.dataset.i") == "4", "the focus stays"
        at.page.keyboard.press("g")
        at.settle()
        assert viewer.supernodes == [["group 1", "0_1_0", "0_2_0"]] and viewer.pinned == []
        assert "2 nodes, layer 0" in " ".join(at.page.locator(".gv-box").all_text_contents())
        click(at, viewer, "1_3_1", modifiers=["Shift"])
        click(at, viewer, "E_1_1", modifiers=["Control"])
        assert viewer.pinned == ["1_3_1", "E_1_1"]
        weights = texts(at, ".gv-weight")
        assert sorted(at.page.locator(".gv-weight").all_text_contents()) == ["+0.500", "+1.50", "+3.00"], weights
        assert at.page.locator(".gv-scores tbody td").count() == 12
        at.page.get_by_role("button", name="ungroup group 1").click()
        at.settle()
        assert viewer.supernodes == [] and set(viewer.pinned) == {"0_1_0", "0_2_0", "1_3_1", "E_1_1"}
        at.page.get_by_role("button", name="unpin b").click()
        at.settle()
        assert "E_1_1" not in viewer.pinned
        node(at, viewer, "1_3_1").focus()
        at.page.keyboard.press("Enter")
        at.settle()
        assert viewer.selected == "1_3_1"
        at.page.keyboard.press("Escape")
        at.settle()
        assert viewer.selected == ""


def test_a_group_that_feeds_itself_is_told_and_not_made():
    viewer = whole()
    with bare.opened(viewer) as at:
        viewer.pinned = ["0_1_0", "1_3_1"]
        at.settle()
        viewer.group("two layers", ["0_1_0", "1_3_1"])
        at.settle()
        assert at.page.locator(".wb-error").count() == 0 and len(viewer.supernodes) == 1
        viewer.query = {"do": "group", "n": 9, "name": "mixed", "ids": ["0_2_0", "E_0_0"]}
        at.settle()
        assert "one kind makes a supernode" in at.page.locator(".wb-error").inner_text()
        assert len(viewer.supernodes) == 1


def test_labels_are_edited_in_place_and_found(tmp_path):
    viewer = whole(labels=tmp_path / "labels.json")
    with bare.opened(viewer) as at:
        click(at, viewer, "0_2_0")
        at.page.locator(".gv-label").fill("names of <i>cats</i>")
        at.page.keyboard.press("Enter")
        at.settle()
        assert viewer.labels == {"0_2_0": "names of <i>cats</i>"} and (tmp_path / "labels.json").exists()
        at.page.locator(".gv-search").fill("CATS")
        assert texts(at, ".gv-found button bdi") == ["names of <i>cats</i>"]
        viewer.selected = ""
        at.settle()
        at.page.locator(".gv-search").press("Enter")
        at.settle()
        assert viewer.selected == "0_2_0" and at.page.locator(".gv-found").is_hidden()
        at.page.locator(".gv-search").fill("nothing is called so")
        assert "none of the 9 nodes" in at.page.locator(".gv-found").inner_text()


def test_a_latent_and_a_supernode_are_scaled_in_the_model(traced):
    tracing, graph = traced
    viewer = GraphViewer(graph=graph, tracing=tracing, nodes=1.0, edges=1.0)
    with bare.opened(viewer) as at:
        first = next(i for i in ids(viewer) if i.startswith("0_") and i.endswith("_3"))
        viewer.selected = first
        at.settle()
        at.page.get_by_role("button", name="scale by 0").click()
        at.settle()
        assert viewer.trials[0]["ids"] == [first] and viewer.error == ""
        assert "predicted sign: 5 of 5 with attention held, 5 of 5 free" in at.page.locator(".gv-trial h4").inner_text()
        assert at.page.locator(".gv-trial tbody tr").count() == 5 and at.page.locator(".gv-no").count() == 0
        at.page.locator(".gv-side .gv-factor").fill("2.5")
        at.page.locator(".gv-side .gv-scale button").last.click()
        at.settle()
        assert viewer.trials[0]["factor"] == 2.5
        viewer.group("first layer", [i for i in ids(viewer) if i.startswith("0_") and i.endswith("_3")][:3])
        at.settle()
        at.page.locator(".gv-chip .gv-scale button").nth(2).click()
        at.settle()
        assert viewer.trials[0]["name"] == "first layer" and viewer.trials[0]["factor"] == -1
        at.page.get_by_role("button", name="Propose supernodes").click()
        at.settle()
        assert viewer.error == "" and (viewer.proposed or "alike" in viewer.said)


def test_a_card_is_shown_for_a_latent():
    contexts = {"tokens": ["a", "<b>"], "values": [0.5, None], "center": 0, "first": 3, "text": 1, "value": 0.5}
    data = {
        "latent": 3, "label": "", "token": "<b>", "dead": False, "rows": 10, "fired": 2, "density": 0.2, "max": 1.0,
        "mean": 0.5, "histogram": [[0.1, 1.0, 2]], "effects": None, "top": [contexts], "quantile": [], "random": [],
        "near": {}, "scores": [], "provenance": "here",
    }  # fmt: skip
    viewer = whole(index={1: lambda layer, latent: data | {"latent": latent}})
    with bare.opened(viewer) as at:
        click(at, viewer, "1_4_1")
        assert "Latent 4" in at.page.locator(".wb-card h3").inner_text() and at.page.locator(".wb-card b").count() == 0
        click(at, viewer, "0_1_0")
        assert (
            at.page.locator(".wb-card").count() == 0
            and "no index of layer 0" in at.page.locator(".gv-card").inner_text()
        )


def test_nothing_in_a_label_a_token_or_an_id_is_markup(tmp_path):
    one, evil = chain(), HOSTILE[0]
    one.nodes["label"] = [*HOSTILE, evil, HOSTILE[4], HOSTILE[1]]
    one.nodes.loc[3, "value"] = float("nan")
    viewer = GraphViewer(graph=one, tokens=HOSTILE, nodes=1.0, edges=1.0, title=evil)
    viewer.group(HOSTILE[4], ["0_1_0", "0_2_0"])
    viewer.label("1_3_1", evil)
    viewer.pinned = ["1_3_1", "E_0_0", "E_1_1"]
    viewer.proposed, viewer.said = [[evil, "1_3_1", "1_4_1"]], evil
    viewer.trials = [
        {"name": evil, "ids": [], "factor": 0, "agree": {"held": 0, "free": 0},
         "rows": [{"target": evil, "before": None, "predicted": None, "held": 1, "free": -1, "agree": {}}]}
    ]  # fmt: skip
    viewer.error = evil
    with bare.opened(viewer) as at:
        for name in ("1_3_1", "E_1_1", "0_1_0"):
            click(at, viewer, name)
            box = node(at, viewer, name).bounding_box()
            at.page.mouse.move(box["x"] + 2, box["y"] + 2)
        at.page.locator(".gv-search").fill("img")
        at.page.get_by_role("button", name="Export SVG").click()
        at.settle()
        assert at.page.evaluate("window.hit") is None and at.page.locator(".wb img, .wb script").count() == 0
        assert at.page.locator(".gv-graph .gv-layer", has_text="tokens").count() == 1
        assert (
            "U+202E" in at.page.locator(".gv-graph").inner_html()
            and "\u202e" not in at.page.locator(".wb").inner_text()
        )
        ElementTree.fromstring(viewer.svg)
        assert "<img" not in viewer.svg and "👩‍🚀" not in viewer.error
        at.close()


def test_the_picture_stands_alone():
    viewer = whole()
    with bare.opened(viewer) as at, at.page.expect_download() as got:
        at.page.get_by_role("button", name="Export SVG").click()
        at.settle()
    made = ElementTree.fromstring(Path(got.value.path()).read_text())
    assert viewer.svg and made.tag.endswith("svg") and got.value.suggested_filename == "graph.svg"
    drawn = [p for p in made.iter() if p.tag.endswith("path")]
    assert len(drawn) > 9 and all("fill:" in p.get("style", "") and not p.get("class") for p in drawn)
    assert "svg" not in viewer.get_state(), "not in the notebook"


def test_a_page_without_a_kernel_keeps_the_picture_and_what_needs_no_python():
    viewer = whole()
    viewer.group("early", ["0_1_0", "0_2_0"])
    viewer.pinned, viewer.selected = ["1_3_1"], "1_3_1"
    bare.worker.settle()
    viewer.live = False
    viewer.can = {"card": True, "scale": True}
    with bare.opened(viewer) as at:
        assert at.page.locator(".gv-graph .gv-node").count() == 9 and at.page.locator(".gv-box").count() == 3
        for name in ("Save JSON", "Propose supernodes", "ungroup early", "scale by 0"):
            assert at.page.get_by_role("button", name=name).first.is_disabled(), name
        assert at.page.get_by_role("button", name="Export SVG").is_enabled()
        at.page.evaluate("window.out = {push() {}, splice: () => []}")
        box = node(at, viewer, "0_1_0").bounding_box()
        at.page.mouse.click(box["x"] + 4, box["y"] + 4)
        assert at.page.locator(".gv-label").input_value() == "0/1 at 0"
        at.page.locator(".gv-label").fill("mine")
        at.page.keyboard.press("Enter")
        assert at.page.locator(".gv-names text", has_text="early").count() >= 1
        assert at.page.evaluate("state.labels['0_1_0']") == "mine"
        node(at, viewer, "1_4_1").focus()
        at.page.keyboard.press("p")
        assert "As it was when the page was written" in at.page.locator(".gv-subgraph").inner_text()
        at.close()


def test_ten_thousand_tokens_open_and_only_columns_with_nodes_have_room():
    rows = [row("token", -1, p, label=HOSTILE[p % 6]) for p in range(10_000)]
    rows += [row("latent", layer, 9_999 - 7 * layer, layer) for layer in range(60)] + [
        row("logit", 60, 9_999, label="y")
    ]
    edges = torch.zeros(61, len(rows))
    edges[:60, :10_000] = torch.rand(60, 10_000, generator=torch.Generator().manual_seed(0))
    edges[60, 10_000:10_060] = 1
    targets = torch.arange(10_000, 10_061)
    viewer = GraphViewer(graph=Graph(frame(rows), edges, targets, torch.eye(61)[60]), most=200)
    with bare.opened(viewer) as at:
        assert at.page.evaluate("painted") < 1500
        assert 1 < at.page.locator(".gv-token-name").count() <= 200
        assert at.page.locator(".gv-graph .gv-node.gv-latent").count() == len(ids(viewer)) == 60
        assert at.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_two_thousand_nodes_answer_a_hover_within_a_tenth_of_a_second():
    viewer = GraphViewer(graph=large(), most=2000, nodes=1.0, edges=1.0)
    with bare.opened(viewer, width=1600) as at:
        assert at.page.locator(".gv-graph .gv-node").count() > 1990
        times = at.page.evaluate("""async () => {
          const plot = document.querySelector('.gv-plot'), times = [];
          const nodes = [...document.querySelectorAll('.gv-graph .gv-node.gv-latent')];
          for (let k = 0; k < 12; k++) {
            const box = nodes[(k * 149) % nodes.length].getBoundingClientRect(), from = performance.now();
            plot.dispatchEvent(new PointerEvent('pointermove', {clientX: box.x + 2, clientY: box.y + 2}));
            await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
            times.push(performance.now() - from);
          }
          return times.sort((a, b) => a - b);
        }""")
        assert at.page.locator(".gv-tip").is_visible() and times[6] < 100, times
        sys.stdout.write(f"hover, 2,000 nodes: median {times[6]:.0f} ms, worst {times[-1]:.0f} ms\n")


def test_a_notebook_grows_by_less_than_300_kilobytes():
    viewer = GraphViewer(graph=large(800), nodes=0.5)
    state = viewer.get_state()
    assert len(json.dumps(bare.packed(state))) < 300_000


def test_nothing_overflows_at_a_thousand_pixels():
    viewer = whole()
    viewer.pinned = ids(viewer)
    viewer.selected = "1_3_1"
    bare.worker.settle()
    for width in (700, 1000):
        with bare.opened(viewer, width=width) as at:
            assert at.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
