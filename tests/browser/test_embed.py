"""Widgets in exported pages: drawn from state, still clickable, nothing asked for."""

import base64
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))

from look import look

from widgets import TokenStrip
from workbench import embed, report

pytestmark = pytest.mark.browser
BYTES = """export default {
  initialize({model}) { model.set('ready_', 1); },
  render({model, el}) {
    const v = model.get('nested').data, floats = new Float32Array(v.buffer, v.byteOffset, v.byteLength / 4);
    el.textContent = `${model.get('ready_')} ${[...floats].join(' ')}`;
    model.on('change:x', () => el.append(` x=${model.get('x')}`));
    model.set('x', 5);
  }
}"""


def test_a_widget_of_a_page_draws_and_its_clicks_work(tmp_path):
    strip = TokenStrip(tokens=["one", "<i>two</i>"], values=[1, -1], label="</script>")
    page = report.page(tmp_path / "p.html", ["# A page", strip])

    def act(p):
        p.locator(".wb-t").nth(1).click()
        return p.locator(".wb-picked").inner_text(), p.locator(".wb h4").inner_text()

    seen = look(page, tmp_path / "p.png", act=act)
    assert seen.ok, seen
    assert seen.extra == ("<i>two</i>", "</script>")


def test_to_html_is_a_page_of_its_own(tmp_path):
    TokenStrip(tokens=["one"], values=[1]).to_html(tmp_path / "w.html", title="One")
    seen = look(tmp_path / "w.html", act=lambda p: (p.title(), p.locator(".wb-t").count()))
    assert seen.ok and seen.extra == ("One", 1)


def test_binary_state_boxes_and_controls(tmp_path):

    data = base64.b64encode(np.array([1.5, -2], np.float32).tobytes()).decode()
    state = {
        "box": {
            "model_name": "HBoxModel",
            "state": {"children": ["IPY_MODEL_any", "IPY_MODEL_slider", "IPY_MODEL_text"]},
        },
        "any": {
            "model_name": "AnyModel",
            "state": {"_esm": BYTES, "_css": "", "nested": {}},
            "buffers": [{"path": ["nested", "data"], "encoding": "base64", "data": data}],
        },
        "slider": {"model_name": "FloatSliderModel", "state": {}},
        "text": {"model_name": "HTMLModel", "state": {"value": "<b onclick='x'>bold</b><img src=http://a.invalid/x>"}},
    }
    html = embed.page(embed.join(embed.view("box"), embed.view("gone"), embed.scripts(state)), title="x")
    (tmp_path / "b.html").write_text(html)
    seen = look(tmp_path / "b.html", act=lambda p: p.locator(".wb-view").all_inner_texts())
    assert seen.ok, seen
    assert "1 1.5 -2 x=5" in seen.extra[0] and "FloatSlider" in seen.extra[0] and "bold" in seen.extra[0]
    assert "run the notebook again" in seen.extra[1]


def test_a_module_that_fails_says_so(tmp_path):
    state = {"a": {"model_name": "AnyModel", "state": {"_esm": "export default {render() { throw Error('no data') }}"}}}
    (tmp_path / "f.html").write_text(embed.page(embed.join(embed.view("a"), embed.scripts(state)), title="x"))
    seen = look(tmp_path / "f.html", act=lambda p: p.locator(".note").inner_text())
    assert seen.extra == "This widget could not be drawn: no data" and seen.errors
