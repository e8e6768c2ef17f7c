"""What all our widgets share: sealed modules, checked arguments, work off the kernel's thread, a page of their own."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import traitlets as t

from workbench import embed, lineage
from workbench.html import Markup

from . import worker

STATIC = Path(__file__).parent / "static"
STYLE = Markup("<style>:root { color-scheme: light dark; } body { margin: 16px auto; max-width: 1600px; }</style>")
PAUSE = 0.2  # seconds between two updates of one widget: a screen needs no more


class Widget(anywidget.AnyWidget):
    """Traits are plain data. `error` and `busy` are lines that the widget shows; `live`: whether a kernel answers."""

    live = t.Bool(True).tag(sync=True)
    busy = t.Unicode("").tag(sync=True)
    error = t.Unicode("").tag(sync=True)

    def __init__(self, **traits: Any):
        self._guard = threading.RLock()  # the front-end's changes and the worker's take turns
        self._sent, self._late = 0.0, {}
        super().__init__(**traits)

    def set_state(self, sync_data: dict[str, Any]) -> None:
        with self._guard:
            super().set_state(sync_data)

    def put(self, **traits: Any) -> None:
        """Set several traits at once; safe from any thread."""
        with self._guard, self.hold_sync():
            for name, value in traits.items():
                self.set_trait(name, value)

    def stream(self, **traits: Any) -> None:
        """As `put`, at most five times a second: what comes faster waits for the next call, or for `put(**flush())`."""
        self._late |= traits
        if time.monotonic() - self._sent >= PAUSE:
            self._sent = time.monotonic()
            self.put(**self.flush())

    def flush(self) -> dict[str, Any]:
        """What `stream` still holds back."""
        late, self._late = self._late, {}
        return late

    def work(self, what: str, call: Callable[[worker.Job], None], *, key: str = "") -> worker.Job:
        """Run `call` on the widgets' one thread; `what` is shown meanwhile, an error as one line.

        Of the calls of one `key` (by default `what`) only the last counts.
        """

        def run(job: worker.Job) -> None:
            self.put(busy=what, error="")
            try:
                call(job)
            finally:
                self.put(**self.flush(), busy="")

        def failed(error: Exception) -> None:
            self.put(error=one_line(error))

        if what and worker.busy():
            self.put(busy=f"{what}: waits for its turn")
        return worker.submit((id(self), key or what), run, failed)

    def cancel(self, key: str) -> None:
        """Drop what waits under a key of `work`, and tell what runs to end."""
        worker.cancel((id(self), key))
        if not worker.pending(id(self)):
            self.put(busy="")

    def close(self) -> None:
        worker.cancel_all(id(self))
        super().close()

    def _repr_mimebundle_(self, **given: Any) -> Any:
        """What a notebook keeps: the widget, and where there is one a picture for viewers that draw no widgets."""
        data, metadata = super()._repr_mimebundle_(**given) or ({}, {})
        still = self._still()
        return (data | {"text/html": still} if still else data), metadata

    def _still(self) -> str:
        """HTML without script that stands for the widget; none by default."""
        return ""

    def to_html(self, path: Path | str | None = None, *, title: str = "") -> str:
        """A page with this widget alone that needs no kernel and no network, written to `path` if one is given."""
        return self._whole_page(embed.states([self]), path, title)

    def _whole_page(self, state: dict[str, Any], path: Path | str | None, title: str) -> str:
        body = embed.join(embed.view(self.model_id), embed.scripts(state))
        html = embed.page(body, title=title or type(self).__name__, head=STYLE)
        if path is not None:
            lineage.write(Path(path), html.encode())
        return html


def one_line(error: BaseException) -> str:
    """An error as a widget shows it."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
