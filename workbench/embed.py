"""Widgets as HTML that needs no kernel: their state as inert JSON, each module once a page, and a small runtime.

Any anywidget draws from its state and keeps what its own JavaScript does; boxes, labels and texts of ipywidgets are
laid out; another control is named in a line. Python is gone: what a click would ask of it stays unanswered.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .html import Markup, escape, join, tag

RUNTIME = Path(__file__).parent / "embed.js"
SHARED = ("_esm", "_css")
# the browser itself refuses whatever a page may try to load; WebGL figures build functions (eval), modules are blobs
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval' blob:; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:; media-src data:; worker-src blob:; connect-src data: blob:"
)
State = Mapping[str, Mapping[str, Any]]  # of each model: model_name, state, buffers, as notebooks keep it


def states(widgets: Sequence[Any]) -> dict[str, Any]:
    """The state of live widgets and of all that they hold, as a notebook would keep it."""
    from ipywidgets.embed import dependency_state

    return dependency_state(list(widgets), drop_defaults=False)


def view(model: str) -> Markup:
    """Where a model is drawn; the page needs `scripts` of its state too."""
    return tag("div", attrs={"class": "wb-view", "data-model": model})


def scripts(state: State) -> Markup:
    """All states of a page and what draws them, once. Modules that several widgets share are held once."""
    shared: dict[str, str] = {}
    models = {}
    for name, model in state.items():
        values = dict(model["state"])
        if "_esm" in values:
            values["live"] = False  # ours then say that no kernel answers
        for key in SHARED:
            if isinstance(text := values.get(key), str):
                short = hashlib.sha256(text.encode()).hexdigest()[:16]
                shared[short] = text
                values[key] = short
        buffers = [{"path": b["path"], "data": _base64(b)} for b in model.get("buffers", [])]
        models[name] = {"name": model["model_name"], "state": values, "buffers": buffers}
    return join(
        _inert("wb-shared", shared),
        _inert("wb-models", models),
        Markup(f"<script>{in_script(RUNTIME.read_text('utf-8'))}</script>"),
    )


def page(body: Markup, *, title: str, head: Markup | str = "", local: bool = False) -> str:
    """A whole page that the browser lets load nothing, or scripts that lie beside it when `local`."""
    policy = POLICY.replace("script-src", "script-src 'self' file:") if local else POLICY
    start = tag(
        "head",
        Markup('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        Markup('<link rel="icon" href="data:,">'),
        tag("title", title),
        head,
    )
    return "<!doctype html>\n" + tag("html", start, tag("body", body), attrs={"lang": "en"})


def in_script(text: str) -> str:
    """Text that cannot end the script it stands in."""
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _inert(name: str, value: Any) -> Markup:
    text = json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
    return Markup(f'<script type="application/json" id="{escape(name)}">{text}</script>')


def _base64(buffer: Mapping[str, Any]) -> str:
    """A buffer as notebooks keep it (`encoding`, `data`), in base64."""
    if buffer.get("encoding", "base64") != "base64":
        return base64.b64encode(bytes.fromhex(buffer["data"])).decode()
    return buffer["data"]
