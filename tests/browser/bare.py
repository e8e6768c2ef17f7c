"""A widget's built module in a bare page, its model joined to the real Python widget; no Jupyter, no network.

`with bare.opened(widget) as at:` then `at.page` is Playwright's page; `at.settle()` carries changes both ways until
nothing moves. `python tests/browser/bare.py` opens nothing: see `shots` for pictures.
"""

import base64
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from look import FLAGS, sealed
from playwright.sync_api import Page, sync_playwright

from widgets import worker

HARNESS = """async ([source, style, state]) => {
  const view = text => new DataView(Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer);
  const revive = v => v && v.__bytes !== undefined ? view(v.__bytes)
    : Array.isArray(v) ? v.map(revive)
    : v && typeof v === 'object' ? Object.fromEntries(Object.entries(v).map(([k, x]) => [k, revive(x)])) : v;
  const on = {}, pending = {};
  window.state = revive(state);
  window.out = [];
  const tell = k => [...(on['change:' + k] ?? []), ...(on['change'] ?? [])].forEach(f => f());
  const model = {
    get: k => window.state[k],
    set: (k, v) => { window.state[k] = v; pending[k] = v; tell(k); },
    save_changes: () => { window.out.push({...pending}); for (const k in pending) delete pending[k]; },
    send: content => window.out.push({__message: content}),
    on: (events, f) => events.split(' ').forEach(e => (on[e] ??= new Set()).add(f)),
    off: (events, f) => events.split(' ').forEach(e => f ? on[e]?.delete(f) : delete on[e]),
  };
  // as the widget manager does: all values first, then who listens
  window.fromPython = changes => {
    const made = revive(changes);
    for (const k in made) window.state[k] = made[k];
    for (const k in made) tell(k);
  };
  window.listeners = () => Object.values(on).reduce((n, s) => n + s.size, 0);
  document.head.append(Object.assign(document.createElement('style'), {textContent: style}));
  const el = document.body.appendChild(document.createElement('div'));
  const module = await import(URL.createObjectURL(new Blob([source], {type: 'text/javascript'})));
  window.begun = performance.now();
  window.cleanUp = await module.default.render({model, el});
  await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
  window.painted = performance.now() - window.begun;
}"""


class At:
    """A widget in a page. `asked`: requests that left it; `errors`: what it logged or threw."""

    def __init__(self, page: Page, widget: Any):
        self.page, self.widget = page, widget
        self.asked: list[str] = []
        self.errors: list[str] = []
        self._known = widget.get_state()

    def settle(self, timeout: float = 30) -> None:
        """Carry what the page said to Python, wait for the worker, carry the answer back, until all is still."""
        while True:
            said = self.page.evaluate("window.out.splice(0)")
            for change in said:
                if "__message" in change:
                    self.widget._handle_custom_msg(change["__message"], [])
                else:
                    self.widget.set_state({k: v for k, v in change.items() if k in self.widget.keys})
                    self._known |= {k: v for k, v in change.items() if k in self._known}
            worker.settle(timeout)
            now = self.widget.get_state()
            news = {k: v for k, v in now.items() if not same(v, self._known.get(k))}
            self._known = now
            if news:
                self.page.evaluate("changes => window.fromPython(changes)", packed(news))
            if not said and not news:
                return

    def close(self) -> None:
        """Run the clean-up. Raises AssertionError when a listener or an element stays."""
        self.page.evaluate("window.cleanUp()")
        assert self.page.evaluate("listeners()") == 0, "listeners stay after the clean-up"
        assert self.page.evaluate("document.querySelectorAll('.wb').length") == 0, "elements stay after the clean-up"


def same(a: Any, b: Any) -> bool:
    return a is b or json.dumps(packed(a)) == json.dumps(packed(b))


def packed(value: Any) -> Any:
    """A state as JSON; binary values marked."""
    if isinstance(value, bytes | bytearray | memoryview):
        return {"__bytes": base64.b64encode(bytes(value)).decode()}
    if isinstance(value, dict):
        return {k: packed(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [packed(v) for v in value]
    return value


_context: Any = None


@contextmanager
def browser() -> Iterator[Any]:
    """One Chromium for all widgets opened inside."""
    global _context
    if _context is not None:
        yield _context
        return
    with sync_playwright() as play, tempfile.TemporaryDirectory() as profile:
        _context = play.chromium.launch_persistent_context(
            profile, executable_path="/usr/bin/chromium", headless=True, args=FLAGS
        )
        try:
            yield _context
        finally:
            _context.close()
            _context = None


@contextmanager
def opened(widget: Any, *, width: int = 1000, height: int = 800, dark: bool = False) -> Iterator[At]:
    """The widget in a page of its own. Raises AssertionError at the end if the page asked for anything or failed."""
    with browser() as context:
        page = context.new_page()
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme="dark" if dark else "light")
        at = At(page, widget)

        sealed(page, ("about:", "data:", "blob:"), at.asked)
        page.on("pageerror", lambda e: at.errors.append(str(e)))
        page.on("console", lambda m: at.errors.append(m.text) if m.type == "error" else None)
        page.set_content("<!doctype html><meta charset='utf-8'><style>body{margin:8px}</style><body></body>")
        if dark:
            page.add_style_tag(content="body{background:#0e1013}")
        esm, css = (str(getattr(widget, key)) for key in ("_esm", "_css"))
        page.evaluate(HARNESS, [esm, css, packed(widget.get_state())])
        at.settle()
        try:
            yield at
            assert at.asked == [], f"the widget asked for {at.asked}"
            assert at.errors == [], f"the page failed: {at.errors}"
        finally:
            page.close()


def shots(widget: Any, folder: Path, name: str, act: Any = None) -> list[Path]:
    """Pictures of a widget in light and dark at 1,000 and 1,600 px; `act(at)` first brings it where it is looked at."""
    made = []
    for dark in (False, True):
        for width in (1000, 1600):
            with opened(widget, width=width, dark=dark) as at:
                if act is not None:
                    act(at)
                    at.settle()
                path = folder / f"{name}_{'dark' if dark else 'light'}_{width}.png"
                at.page.screenshot(path=str(path), full_page=True)
                made.append(path)
    return made
