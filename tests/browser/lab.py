"""JupyterLab with real kernels, driven by Chromium, the network refused.

`with lab.running(folder) as home, home.notebook(cells) as at:` runs the cells; `at.page` is Playwright's page,
`at.wait(f, what)` waits for a claim, `at.known()` is what the kernel wrote by `note(name=value)`, which it finds there.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from look import FLAGS, sealed
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import Page, sync_playwright

SLOW = 30_000  # ms: one act on a busy machine
ROOT = Path(__file__).parent.parent.parent
SETTINGS = {
    # no news, no update check; every cell stays in the page
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
    "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
}
NOTE = """import json, os, pathlib
KNOWN = {}
def note(**values):
    KNOWN.update(values)
    part = pathlib.Path("NAME.known.part")
    part.write_text(json.dumps(KNOWN))
    os.replace(part, "NAME.known")
note(began=True)
"""


class At:
    """A notebook open in a tab. `asked`: requests that left the loopback; `errors`: what its page threw."""

    def __init__(self, page: Page, folder: Path, name: str):
        self.page, self.folder, self.name = page, folder, name
        self.asked: list[str] = []
        self.errors: list[str] = []

    def known(self) -> dict[str, Any]:
        path = self.folder / f"{self.name}.known"
        return json.loads(path.read_text()) if path.exists() else {}

    def wait(self, claim: Callable[[], Any], what: str, seconds: float = 60) -> Any:
        """What the claim gives once it holds. Raises AssertionError with a picture's place when it never does."""
        begun = time.monotonic()
        while time.monotonic() - begun < seconds:
            if found := claim():
                return found
            if self.page.locator(".jp-OutputArea-output", has_text="Traceback (most recent").count():
                raise AssertionError(f"a cell failed before: {what}; {self.report()}")
            self.page.wait_for_timeout(100)
        raise AssertionError(f"not within {seconds} s: {what}; {self.report()}")

    def report(self) -> str:
        """What there is to know about a failure."""
        shot = self.folder / f"{self.name}_failed.png"
        self.page.screenshot(path=str(shot))
        outputs = self.page.locator(".jp-OutputArea-output").all_inner_texts()
        return f"known {self.known()}; outputs {str(outputs)[:2000]}; threw {self.errors}; see {shot}"

    def see(self, selector: str) -> Any:
        """The first element of a selector, once it is drawn."""
        found = self.page.locator(selector).first
        self.wait(found.is_visible, f"{selector} is drawn")
        return found

    def shot(self, name: str) -> None:
        self.page.screenshot(path=str(self.folder / f"{name}.png"), full_page=False)


class Lab:
    """A server, its browser, and the folder of its notebooks."""

    def __init__(self, folder: Path, context: Any, base: str, token: str):
        self.folder, self.context, self.base, self.token = folder, context, base, token
        self._count = 0

    @contextmanager
    def notebook(self, cells: Sequence[str], *, width: int = 1300, height: int = 1400) -> Iterator[At]:
        """Open a notebook of these cells and run it to the end of what a blocking cell would need."""
        self._count += 1
        name = f"flow{self._count}"
        made = nbformat.v4.new_notebook(
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
            cells=[nbformat.v4.new_code_cell(cell) for cell in (NOTE.replace("NAME", name), *cells)],
        )
        nbformat.write(made, self.folder / f"{name}.ipynb")
        page = self.context.new_page()
        page.set_viewport_size({"width": width, "height": height})
        page.set_default_timeout(SLOW)
        at = At(page, self.folder, name)

        sealed(page, (self.base, "data:", "blob:"), at.asked)
        page.on("pageerror", lambda e: at.errors.append(str(e)))
        try:
            page.goto(f"{self.base}/lab/tree/{name}.ipynb?reset&token={self.token}")
            page.wait_for_selector(".jp-Notebook .jp-Cell")
            at.wait(self._connected, "a kernel")  # else Lab asks which to take and drops the first cell
            page.get_by_role("menuitem", name="Run", exact=True).click()
            page.get_by_text("Run All Cells", exact=True).click()
            at.wait(at.known, "the first cell ran")
            yield at
            assert at.asked == [], f"the notebook asked for {at.asked}"
            assert at.errors == [], f"the page failed: {at.errors}"
        except PlaywrightError as error:
            raise AssertionError(f"{error}\n{at.report()}") from error
        finally:
            page.close()
            self._shut(name)

    def _connected(self) -> bool:
        try:
            kernels = self._ask("GET", "api/kernels")
        except urllib.error.HTTPError as error:
            if error.code == 500:  # what the server says while a kernel starts
                return False
            raise
        return any(k["connections"] and k["execution_state"] == "idle" for k in kernels)

    def _shut(self, name: str) -> None:
        """End the notebook's kernel: the next one needs its memory."""
        for session in self._ask("GET", "api/sessions"):
            if session["path"] == f"{name}.ipynb":
                self._ask("DELETE", f"api/sessions/{session['id']}")

    def _ask(self, method: str, path: str) -> Any:
        asked = urllib.request.Request(
            f"{self.base}/{path}", method=method, headers={"Authorization": f"token {self.token}"}
        )
        with urllib.request.urlopen(asked, timeout=30) as answer:
            text = answer.read()
        return json.loads(text) if text else None


@contextmanager
def running(folder: Path) -> Iterator[Lab]:
    """JupyterLab on loopback over a folder, with settings and profile of its own."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    token, base = "flows", f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as held:
        own = Path(held)
        (own / "app").mkdir()
        (own / "app" / "overrides.json").write_text(json.dumps(SETTINGS))
        settings = {"CONFIG_DIR": "config", "DATA_DIR": "data", "RUNTIME_DIR": "runtime"}
        environment = os.environ | {f"JUPYTER_{k}": str(own / v) for k, v in settings.items()}
        environment |= {
            "JUPYTERLAB_SETTINGS_DIR": str(own / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(own / "workspaces"),
            "IPYTHONDIR": str(own / "ipython"),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
            "OMP_NUM_THREADS": "1",
        }
        command = [
            sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
            f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
            f"--LabApp.app_settings_dir={own / 'app'}",
        ]  # fmt: skip
        with (folder / "lab.log").open("w") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
            try:
                _up(server, f"{base}/api?token={token}", folder / "lab.log")
                with sync_playwright() as play:
                    context = play.chromium.launch_persistent_context(
                        str(own / "profile"), executable_path="/usr/bin/chromium", headless=True, args=FLAGS
                    )
                    yield Lab(folder, context, base, token)
                    context.close()
            finally:
                server.terminate()
                server.wait(30)


def _up(server: subprocess.Popen, address: str, log: Path) -> None:
    for _ in range(300):
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.2)
    raise AssertionError(f"JupyterLab did not start: {log.read_text()[-2000:]}")
