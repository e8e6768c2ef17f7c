"""FeatureMap as built, in a bare page with the software renderer."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import bare

from widgets import FeatureMap
from workbench.geometry import Plane

pytestmark = pytest.mark.browser
WIDE, TALL = 15, 10
HOSTILE = ["<b>x</b>", "<script>window.hit=1</script>", "\u202eabc", "שלום", "👩‍🚀", "\ud800", ""]
# draws the widget again from the page's state, as a cell run again does; `before` runs first
AGAIN = """async ([source, before, times]) => {
  const undo = eval(before)();
  const module = await import(URL.createObjectURL(new Blob([source], {type: 'text/javascript'})));
  const model = {get: k => window.state[k], set() {}, save_changes() {}, on() {}, off() {}};
  let text;
  for (let i = 0; i < times; i++) {
    const el = document.body.appendChild(document.createElement('div')), end = await module.default.render({model, el});
    await new Promise(f => requestAnimationFrame(() => setTimeout(f, 30)));
    text = el.innerText;
    end();
    el.remove();
  }
  undo();
  return text;
}"""

SPY = """() => {
  const get = HTMLCanvasElement.prototype.getContext;
  window.made = [];
  HTMLCanvasElement.prototype.getContext = function (...a) {
    const c = get.apply(this, a);
    if (a[0] === 'webgl' && !made.includes(c)) made.push(c);
    return c;
  };
  return () => { HTMLCanvasElement.prototype.getContext = get; };
}"""
BLIND = """() => {
  const get = HTMLCanvasElement.prototype.getContext;
  HTMLCanvasElement.prototype.getContext = function (kind, ...a) {
    return /webgl/.test(kind) ? null : get.call(this, kind, ...a);
  };
  return () => { HTMLCanvasElement.prototype.getContext = get; };
}"""
PLACE = """([side, i]) => {
  const c = document.querySelector('.wb').fm.charts[side], b = c.box.getBoundingClientRect();
  const [x, y] = i < 0 ? [0, 0] : c.scatter.getScreenPosition(i);
  return [b.left + c.box.clientLeft + x, b.top + c.box.clientTop + y];
}"""
INKED = """() => {
  const c = document.querySelector('.fm-box canvas'), d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
  let n = 0;
  for (let i = 3; i < d.length; i += 4) n += d[i] > 40;
  return n / (d.length / 4);
}"""
NAMED = """() => [...document.querySelectorAll('.wb button, .wb input, .wb select')].every(
  b => (b.ariaLabel || b.innerText || b.closest('label')?.innerText || '').trim())"""


@pytest.fixture(scope="module", autouse=True)
def one_browser():
    with bare.browser():
        yield


def grid(shift=0.0):
    """Latents on a grid, row by row; the true neighbours are the next one, on the map near, and one far away."""
    n = WIDE * TALL
    at = torch.arange(n)
    xy = torch.stack([(at % WIDE).float() + shift, (at // WIDE).float()], -1)
    near = torch.stack([(at + 1) % n, (at + n // 2) % n], -1)
    cosines = torch.tensor([0.9, 0.25]).repeat(n, 1)
    return Plane(xy, at, near, cosines, 0.8, 0.45, 2 / (n - 1), 0.1, "umap", 2, 7, 0.5)


def table():
    n = WIDE * TALL
    return pd.DataFrame(
        {
            "density": np.where(np.arange(n) == 3, np.nan, np.geomspace(1e-5, 0.1, n)),
            "kind": pd.Series([["noun", "verb", "<i>odd</i>"][i % 3] for i in range(n)], dtype=object),
            "label": pd.Series([HOSTILE[i] if i < len(HOSTILE) else f"label {i}" for i in range(n)], dtype=object),
            "top_token": pd.Series([f" tok{i}" for i in range(n)], dtype=object),
        }
    )


def drawn(at):
    at.page.wait_for_function("[...document.querySelectorAll('.fm-map')].every(m => m.dataset.drawn)")


def place(at, latent, side=0):
    """Where a latent is in the window; the map's corner for -1."""
    return at.page.evaluate(PLACE, [side, latent])


def lit(at, side=0):
    return set(at.page.evaluate("s => document.querySelector('.wb').fm.charts[s].scatter.get('selectedPoints')", side))


def drag(at, corners):
    at.page.mouse.move(*corners[0])
    at.page.mouse.down()
    for start, end in zip(corners, [*corners[1:], corners[0]], strict=True):
        for part in (0.25, 0.5, 0.75, 1):
            at.page.mouse.move(*(a + part * (b - a) for a, b in zip(start, end, strict=True)))
            at.page.wait_for_timeout(14)
    at.page.mouse.up()
    at.settle()


def around(at, first, last, side=0):
    """Corners of a box a third of a step around two latents of the grid."""
    (x0, y0), (x1, y1) = place(at, first, side), place(at, last, side)
    step = 0.3 * (place(at, 1, side)[0] - place(at, 0, side)[0])
    left, right, top, bottom = min(x0, x1) - step, max(x0, x1) + step, min(y0, y1) - step, max(y0, y1) + step
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def inked(at):
    """Share of the canvas that is painted."""
    return at.page.evaluate(INKED)


def test_draws_from_its_state_says_how_far_to_believe_it_and_cleans_up():
    with bare.opened(FeatureMap(plane=grid(), table=table())) as at:
        drawn(at)
        assert 0.005 < inked(at) < 0.5
        trust = at.page.locator(".fm-trust").inner_text()
        assert "45 % of the 2 nearest" in trust and "chance 1.34 %" in trust and "0.800 trustworthiness" in trust
        assert "UMAP, 2 neighbours by cosine, seed 7. 150 latents" in trust
        assert "50 % of neighbours shared by maps of three seeds (chance 1.34 %)" in trust
        assert "no value: 1" in at.page.locator(".fm-legend").inner_text()
        assert (
            at.page.locator(".fm-list tbody tr").count() == 10
            and "All 150 latents" in at.page.locator(".fm-list").inner_text()
        )
        left = at.page.evaluate("document.body.children.length")
        at.close()
        assert at.page.evaluate("document.body.children.length") == left  # the engine leaves nothing behind


def test_a_click_picks_and_lines_lead_to_the_neighbours_of_the_original_space():
    widget = FeatureMap(plane=grid(), table=table())
    with bare.opened(widget) as at:
        drawn(at)
        at.page.mouse.click(*place(at, 37))
        at.settle()
        assert widget.latent == 37 and widget.selection == [] and lit(at) == set()
        assert at.page.locator(".fm-line").count() == 2 and at.page.locator(".fm-line.fm-far").count() == 1
        said = at.page.locator(".fm-picked").inner_text()
        assert "1 of its 2" in said and "0.900" in said and "label 38" in said
        for line, latent in ((".fm-line:not(.fm-far)", 38), (".fm-line.fm-far", 112)):
            end = at.page.locator(line).evaluate("l => [+l.getAttribute('x2'), +l.getAttribute('y2')]")
            assert np.allclose(end, np.subtract(place(at, latent), place(at, -1)), atol=0.6)
        before = np.subtract(place(at, 112), place(at, 38))
        at.page.get_by_role("button", name="Zoom to them").click()
        at.page.wait_for_timeout(100)
        grown, (x, y) = np.subtract(place(at, 112), place(at, 38)) / before, np.subtract(place(at, 112), place(at, -1))
        assert grown.min() > 1.5 and np.ptp(grown) < 0.01 and x > 0 and 0 < y < 520
        at.page.get_by_label("Show the whole map").click()
        at.page.locator(".fm-picked tbody tr").nth(1).click()
        at.settle()
        assert widget.latent == 112
        widget.latent = 140
        at.settle()
        assert "latent 140" in at.page.locator(".fm-picked").inner_text()
        assert "label 112" in at.page.locator(".fm-tip").inner_text() or at.page.locator(".fm-tip").is_hidden()
        x, y = place(at, 0)
        at.page.mouse.click(x - 14, y + 14)  # beside the points
        at.settle()
        assert widget.latent == -1 and at.page.locator(".fm-line").count() == 0


def test_a_lasso_fills_the_table_and_the_table_picks():
    widget = FeatureMap(plane=grid(), table=table())
    with bare.opened(widget) as at:
        drawn(at)
        widget.latent = 100
        at.settle()
        at.page.locator(".fm-lasso").click()
        drag(at, around(at, 32, 49))
        inside = [row * WIDE + column for row in (2, 3) for column in (2, 3, 4)]
        assert widget.selection == inside == sorted(lit(at))
        assert widget.latent == 100  # a lasso let go where it began is no click
        assert at.page.locator(".fm-lasso").get_attribute("aria-pressed") == "false"
        assert "6 selected" in at.page.locator(".fm-list h3").inner_text()
        at.page.locator(".fm-list tbody tr").nth(0).click()  # the densest
        at.settle()
        assert widget.latent == 49 and widget.selection == inside
        at.page.get_by_role("button", name="latent", exact=True).click()
        at.settle()
        assert widget.rows["sort"] == "latent"
        assert at.page.evaluate("document.activeElement.dataset.key") == "id"  # the redraw keeps the focus
        at.page.keyboard.down("Shift")
        drag(at, around(at, 0, 16))
        at.page.keyboard.up("Shift")
        assert widget.selection == [0, 1, 15, 16] and widget.latent == 49
        at.page.get_by_role("button", name="Clear selection").click()
        at.settle()
        assert widget.selection == [] and lit(at) == set()
        widget.selection = [5, 140]
        at.settle()
        assert lit(at) == {5, 140}


def test_it_is_worked_by_keyboard():
    flat = grid()
    flat.xy[140] = flat.xy[40] + torch.tensor([0.05, 0.6])  # nearer than the next to the right, but not to the right
    widget = FeatureMap(plane=flat, table=table())
    with bare.opened(widget) as at:
        drawn(at)
        widget.latent = 40
        at.settle()
        at.page.locator(".fm-box").focus()
        for key in ("ArrowRight", "ArrowUp", "ArrowUp", "ArrowLeft"):
            at.page.keyboard.press(key)
        assert "label 70" in at.page.locator(".fm-said").inner_text()
        at.settle()
        assert widget.latent == 40  # only Enter picks
        at.page.keyboard.press("Enter")
        at.settle()
        assert widget.latent == 70
        before = place(at, 70)
        at.page.keyboard.press("+")
        at.page.wait_for_timeout(100)
        assert abs(place(at, 74)[0] - place(at, 70)[0]) > 1.3 * 4 * (place(at, 1)[0] - place(at, 0)[0]) / 1.5
        at.page.keyboard.press("0")
        at.page.wait_for_timeout(100)
        assert np.allclose(place(at, 70), before, atol=1)
        at.page.keyboard.press("Escape")
        at.page.keyboard.press("Escape")
        at.settle()
        assert widget.latent == -1
        assert at.page.evaluate(NAMED)


def test_a_page_scrolls_past_a_map_that_was_not_clicked():
    with bare.opened(FeatureMap(plane=grid()), height=500) as at:
        drawn(at)
        step = place(at, 1)[0] - place(at, 0)[0]
        at.page.mouse.move(*place(at, 100))
        at.page.mouse.wheel(0, 60)
        at.page.wait_for_function("scrollY > 0")
        assert place(at, 1)[0] - place(at, 0)[0] == pytest.approx(step)
        at.page.mouse.click(*place(at, 100))
        at.page.mouse.wheel(0, -120)
        at.page.wait_for_timeout(150)
        assert place(at, 1)[0] - place(at, 0)[0] > 1.1 * step and at.page.evaluate("scrollY") > 0


def test_search_finds_words_and_numbers():
    widget = FeatureMap(plane=grid(), table=table())
    with bare.opened(widget) as at:
        drawn(at)
        at.page.get_by_role("searchbox").fill("LABEL 14")
        at.page.wait_for_function("document.querySelector('.fm-bar [role=status]').textContent")
        assert "11 found" in at.page.locator(".fm-bar").inner_text() and at.page.locator(".fm-hit").count() == 11
        at.page.keyboard.press("Enter")
        at.page.keyboard.press("Enter")
        at.settle()
        assert widget.latent == 140 and "2 of 11" in at.page.locator(".fm-bar").inner_text()
        at.page.get_by_role("searchbox").fill("nowhere")
        at.page.wait_for_function("document.querySelector('.fm-bar [role=status]').textContent.includes('nothing')")
        assert at.page.locator(".fm-hit").count() == 0


def test_colours_follow_the_column_the_group_alone_and_the_theme():
    widget = FeatureMap(plane=grid(), table=table())
    with bare.opened(widget) as at:
        drawn(at)
        at.page.get_by_label("Colour points by").select_option("kind")
        at.settle()
        assert widget.color == "kind" and "<i>odd</i>" in at.page.locator(".fm-legend").inner_text()
        verb = at.page.locator(".fm-group", has_text="verb")
        verb.click()
        at.page.wait_for_function(
            "document.querySelector('.wb').fm.charts[0].scatter.get('selectedPoints').length === 50"
        )
        assert lit(at) == set(range(1, 150, 3)) and verb.get_attribute("aria-pressed") == "true"
        at.page.mouse.click(*place(at, 3))
        at.settle()
        assert widget.latent == -1  # a noun: not shown
        at.page.get_by_role("button", name="Show all").click()
        at.page.wait_for_function(
            "document.querySelector('.wb').fm.charts[0].scatter.get('selectedPoints').length === 0"
        )
        widget.color = "density"
        at.settle()
        colors = "document.querySelector('.wb').fm.charts[0].scatter.get('pointColor').slice(-2).flat().join()"
        light = at.page.evaluate(colors)
        at.page.emulate_media(color_scheme="dark")
        at.page.wait_for_function(f"{colors} !== '{light}'")
        assert at.page.evaluate("document.querySelector('.wb').fm.charts[0].scatter.get('backgroundColor')[0]") < 0.2


PRESS = """async () => {
  const chart = document.querySelector('.wb').fm.charts[0], box = chart.box.getBoundingClientRect();
  const frames = async () => { for (let i = 0; i < 3; i++) await new Promise(requestAnimationFrame); };
  const say = (type, x, buttons) => chart.scatter.get('canvas').dispatchEvent(
    new MouseEvent(type, {bubbles: true, clientX: box.x + x, clientY: box.y + x, buttons}));
  say('mousemove', 20, 0);
  await frames();
  const before = chart.scatter.getScreenPosition(5);
  say('mousemove', 200, 0);
  say('mousedown', 200, 1);
  await frames();
  const pressed = chart.scatter.getScreenPosition(5);
  say('mousemove', 230, 1);
  await frames();
  say('mouseup', 230, 0);
  return [before, pressed, chart.scatter.getScreenPosition(5)].map(p => Math.round(p[0]));
}"""


def test_a_press_within_the_frame_of_a_move_does_not_drag_the_map():
    with bare.opened(FeatureMap(plane=grid())) as at:
        drawn(at)
        before, pressed, dragged = at.page.evaluate(PRESS)
        assert before == pressed and abs(dragged - pressed - 30) <= 1


def test_two_maps_light_each_other_up_and_count_what_has_no_match():
    match = pd.DataFrame({"a": range(40), "b": range(100, 140), "cosine": 0.5})
    widget = FeatureMap(plane=grid(), table=table(), other=grid(0.5), match=match, titles=("<b>one</b>", "two"))
    with bare.opened(widget, width=1200) as at:
        drawn(at)
        assert "<b>one</b>" in at.page.locator("figcaption").nth(0).inner_text()
        assert "40 of 150 in <b>one</b> and 40 of 150 in two have a match" in at.page.locator(".fm-note").inner_text()
        at.page.mouse.move(*place(at, 5))
        at.page.wait_for_selector(".fm-map:nth-child(2) .fm-match", state="attached")
        assert "two: latent 105 (cosine 0.500)" in at.page.locator(".fm-tip").nth(0).inner_text()
        at.page.mouse.move(*place(at, 105, 1))
        at.page.wait_for_selector(".fm-map:nth-child(1) .fm-match", state="attached")
        at.page.locator(".fm-lasso").nth(0).click()
        drag(at, around(at, 30, 48))  # 30 to 33 and 45 to 48
        assert widget.selection == [30, 31, 32, 33, 45, 46, 47, 48] and lit(at, 1) == {130, 131, 132, 133}
        assert "4 have a match (4 latents of two, lit there), 4 have none" in at.page.locator(".fm-list").inner_text()
        at.page.locator(".fm-lasso").nth(1).click()
        drag(at, around(at, 100, 101, 1))
        assert widget.selection == [] and widget.other_selection == [100, 101] and lit(at, 0) == {0, 1}
        assert widget.rows["side"] == 1 and "two: 2 selected" in at.page.locator(".fm-list h3").inner_text()
        at.page.mouse.click(*place(at, 105, 1))
        at.settle()
        assert widget.other_latent == 105 and widget.latent == -1
        at.page.locator(".fm-matches button").click()
        at.settle()
        assert widget.latent == 5


def test_words_are_words_and_nothing_else():
    widget = FeatureMap(plane=grid(), table=table())
    with bare.opened(widget) as at:
        drawn(at)
        for latent in range(len(HOSTILE)):
            widget.latent = latent
            at.settle()
            at.page.mouse.move(*place(at, latent))
            at.page.wait_for_function(f"document.querySelector('.fm-tip b')?.textContent === 'latent {latent}'")
            said = at.page.locator(".fm-tip").inner_text()
            assert latent > 1 or HOSTILE[latent] in said
            assert latent != 2 or "U+202E" in said
            assert latent != 3 or "no value" in said
        assert at.page.locator(".wb b b, .wb script, .wb i i").count() == 0 and at.page.evaluate("window.hit") is None


def test_a_page_without_a_kernel_keeps_the_map_the_neighbours_and_the_lasso(tmp_path):
    widget = FeatureMap(plane=grid(), table=table())
    widget.to_html(tmp_path / "map.html")
    with bare.browser() as context:
        page = context.new_page()
        at = bare.At(page, widget)
        page.on("pageerror", lambda e: at.errors.append(str(e)))
        page.on("console", lambda m: at.errors.append(m.text) if m.type == "error" else None)
        page.goto((tmp_path / "map.html").as_uri())
        at.settle = lambda: page.wait_for_timeout(150)
        drawn(at)
        page.mouse.click(*place(at, 37))
        assert "1 of its 2" in page.locator(".fm-picked").inner_text() and page.locator(".fm-line").count() == 2
        page.locator(".fm-lasso").click()
        drag(at, around(at, 32, 49))
        assert "6 selected" in page.locator(".fm-list h3").inner_text()
        first = page.locator(".fm-list tbody tr").nth(0)
        assert first.get_attribute("data-id") == "49"
        page.locator(".fm-list [data-key=id]").click()
        page.locator(".fm-list [data-key=id]").click()
        assert page.locator(".fm-list tbody tr").nth(0).get_attribute("data-id") == "32"
        page.get_by_label("Colour points by").select_option("kind")
        assert "verb" in page.locator(".fm-legend").inner_text()
        page.get_by_role("searchbox").fill("label 14")
        page.wait_for_function("document.querySelectorAll('.fm-hit').length === 11")
        assert at.errors == [], at.errors
        page.close()


def test_twenty_maps_opened_and_closed_leave_no_drawing_surface():
    with bare.opened(FeatureMap(plane=grid())) as at:
        drawn(at)
        at.page.evaluate(AGAIN, [str(at.widget._esm), SPY, 20])
        assert at.page.evaluate("made.length") == 20
        assert at.page.evaluate("made.filter(gl => !gl.isContextLost()).length") == 0
        assert at.page.evaluate("document.querySelector('.wb').fm.gl.isContextLost()") is False


def test_a_drawing_surface_that_was_taken_away_can_be_had_again():
    with bare.opened(FeatureMap(plane=grid())) as at:
        drawn(at)
        at.page.evaluate("document.querySelector('.wb').fm.gl.getExtension('WEBGL_lose_context').loseContext()")
        at.page.get_by_role("button", name="Draw again").click()
        at.page.wait_for_function("document.querySelector('.fm-map').dataset.drawn === '2'")
        assert inked(at) > 0.005 and "Drag to move" in at.page.locator(".fm-note").inner_text()
        at.close()


def test_without_webgl_it_says_so_and_keeps_the_table():
    with bare.opened(FeatureMap(plane=grid(), table=table())) as at:
        said = at.page.evaluate(AGAIN, [str(at.widget._esm), BLIND, 1])
        assert "this browser offers no WebGL" in said and "All 150 latents" in said and "label 149" in said
