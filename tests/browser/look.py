"""Open pages in headless Chromium with the network refused; say what was drawn and what was asked for.

python tests/browser/look.py FILE.html [OUT.png]
"""

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--enable-unsafe-swiftshader"]  # fmt: skip


@dataclass
class Seen:
    """What a page did: figures asked for and drawn, requests that left it, errors it logged."""

    figures: int = 0
    drawn: int = 0
    cards: int = 0
    asked: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    extra: Any = None

    @property
    def ok(self) -> bool:
        return self.figures == self.drawn and not self.asked and not self.errors


def sealed(page: Page, own: tuple[str, ...], asked: list[str]) -> None:
    """Refuse and note every request whose address does not begin with one of these."""

    def route(request: Any) -> None:
        if request.request.url.startswith(own):
            request.continue_()
        else:
            asked.append(request.request.url)
            request.abort()

    page.route("**/*", route)


def look(path: Path, shot: Path | None = None, *, dark: bool = False, act: Callable[[Page], Any] | None = None) -> Seen:
    seen = Seen()
    with sync_playwright() as play, tempfile.TemporaryDirectory() as profile:
        context = play.chromium.launch_persistent_context(
            profile,
            executable_path="/usr/bin/chromium",
            headless=True,
            args=FLAGS,
            viewport={"width": 1100, "height": 900},
            color_scheme="dark" if dark else "light",
        )
        page = context.new_page()

        sealed(page, ("file:", "data:", "blob:"), seen.asked)
        page.on("console", lambda m: seen.errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: seen.errors.append(str(e)))
        page.goto(path.resolve().as_uri(), wait_until="load")
        seen.figures = page.locator("script[data-figure]").count()
        if seen.figures:
            done = f"document.querySelectorAll('.figure .main-svg').length >= {seen.figures}"
            page.wait_for_function(f"() => {done}", timeout=60_000)
        seen.drawn = page.evaluate(
            "[...document.querySelectorAll('.figure')].filter(f => f.querySelector('.main-svg')).length"
        )
        seen.cards = page.locator("article, .wb-card").count()
        seen.extra = act(page) if act else None
        if shot:
            page.wait_for_timeout(1000)
            page.screenshot(path=str(shot), full_page=True)
        context.close()
    return seen


if __name__ == "__main__":
    found = look(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None, dark="--dark" in sys.argv)
    sys.stdout.write(f"{found}\n")
    sys.exit(0 if found.ok else 1)
