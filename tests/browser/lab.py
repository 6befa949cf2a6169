"""What a person does in JupyterLab, and what stands there afterwards."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import nbformat

from labutils import parameters

# Every cell is in the page, not only those in view; no question about news.
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
CELLS = ".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook .jp-Cell"
IDLE = "#jp-main-statusbar >> text=/[|] Idle$/"  # the circle beside the kernel's name is empty before there is one, too
# A run is over when a cell has been waiting for the kernel, none is any more and the kernel is idle. An observer
# misses no moment, as looking now and then would in a short run.
WATCH = """() => {
    const waiting = () => [...document.querySelectorAll(".jp-InputPrompt")].some((p) => p.textContent.includes("*"));
    window.started = false;
    window.over = () => window.started && !waiting();
    new MutationObserver(() => { window.started ||= waiting(); })
        .observe(document.querySelector(".jp-Notebook"), {subtree: true, childList: true, characterData: true});
}"""
# Of each cell: its number, the words of its errors, its pictures, and of its text outside code the equations and what
# is left of those that were not rendered.
SEEN = """(cells) => cells.map((cell) => {
    const text = (part) => {
        const copy = part.cloneNode(true);
        copy.querySelectorAll("code, pre, mjx-container").forEach((inner) => inner.remove());
        return copy.textContent;
    };
    const all = (selector) => [...cell.querySelectorAll(selector)];
    return {
        number: cell.querySelector(".jp-InputPrompt")?.textContent ?? "",
        errors: all("[data-mime-type='application/vnd.jupyter.error']").map((e) => e.textContent),
        warnings: all("[data-mime-type='application/vnd.jupyter.stderr']").map((e) => e.textContent),
        pictures: all(".jp-OutputArea img").filter((e) => e.complete && e.naturalWidth > 0).length,
        equations: all("mjx-container").length,
        raw: all(".jp-RenderedMarkdown").map(text).filter((t) => t.includes("$")),
        wrong: all("mjx-merror, [data-mjx-error], mjx-mtext[style*=red]").map((e) => e.outerHTML.slice(0, 300)),
    };
})"""

# Every picture that has stood below a cell, if only for a moment.
COLLECT = """() => {
    window.frames_seen = new Set();
    new MutationObserver(() => document.querySelectorAll(".jp-OutputArea img").forEach((e) => frames_seen.add(e.src)))
        .observe(document.querySelector(".jp-Notebook"), {subtree: true, childList: true, attributes: true});
}"""
# From a key on a slider's handle to the moment when a picture of its cell is another and has been decoded.
TIME = """(handle) => {
    const cell = handle.closest(".jp-Cell");
    const pictures = () => [...cell.querySelectorAll(".jp-OutputArea img")].map((e) => e.src).join();
    handle.addEventListener("keydown", () => {
        const before = pictures(), start = performance.now();
        window.milliseconds = null;
        const look = new MutationObserver(async () => {
            if (pictures() === before) return;
            look.disconnect();
            await Promise.all([...cell.querySelectorAll("img")].map((e) => e.decode().catch(() => null)));
            window.milliseconds = performance.now() - start;
        });
        look.observe(cell, {subtree: true, childList: true, attributes: true});
    }, {capture: true});
}"""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """JupyterLab over folder/notebooks, with no settings but those above; yields its address with the token.

    Raises RuntimeError with what it has said when it ends or does not answer within two minutes.
    """
    (folder / "notebooks").mkdir()
    (folder / "tmp").mkdir()
    for name, values in SETTINGS.items():
        path = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(values))
    own = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime",
           "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
           "IPYTHONDIR": "ipython", "TMPDIR": "tmp"}  # fmt: skip
    token = secrets.token_hex()
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--IdentityProvider.token={token}",
        "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0", f"--ServerApp.root_dir={folder / 'notebooks'}",
    ]  # fmt: skip
    said = folder / "server.log"
    with said.open("w") as log:
        environment = os.environ | {name: str(folder / path) for name, path in own.items()}
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{_port(server, folder / 'runtime', said)}/lab/{{}}?token={token}"
    finally:
        server.terminate()  # and with it its kernels
        server.wait()


def _port(server: subprocess.Popen, runtime: Path, said: Path) -> int:
    """The free port that the server has found, once it has written it down."""
    deadline = time.monotonic() + 120
    while not (text := "".join(path.read_text() for path in runtime.glob("jpserver-*.json"))).rstrip().endswith("}"):
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"JupyterLab did not start:\n{said.read_text()}")
        time.sleep(0.05)
    return json.loads(text)["port"]


def quickly(notebook: nbformat.NotebookNode, name: str) -> None:
    """Write the numbers of the smoke profile into the parameters cell, as the notebook advises for trying things."""
    (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    for parameter, value in parameters.written_profile("smoke")[name].items():
        line = re.compile(rf"^({parameter}: \w+) = .*?(?=  #|$)", re.MULTILINE)
        cell.source, found = line.subn(rf"\1 = {json.dumps(value)}", cell.source)
        assert found == 1, parameter


def emptied(notebook: nbformat.NotebookNode) -> None:
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None


def equations(markdown: str) -> int:
    """How many equations a Markdown text has: $…$ and $$…$$ outside code."""
    text = re.sub(r"```.*?```|`[^`\n]+`", "", markdown, flags=re.DOTALL)
    return len(re.findall(r"\$\$.+?\$\$|\$.+?\$", text, re.DOTALL))


@dataclass
class Lab:
    browser: object
    folder: Path
    address: str

    @contextmanager
    def opened(self, notebook: nbformat.NotebookNode, name: str) -> Iterator[Opened]:
        """The notebook, written into the served folder as NAME.ipynb and opened in a window of its own."""
        nbformat.write(notebook, self.folder / f"{name}.ipynb")
        page = self.browser.new_page(viewport={"width": 1440, "height": 900})
        opened = Opened(page)
        page.goto(self.address.format(f"workspaces/{name}/tree/{name}.ipynb"))
        page.wait_for_selector(IDLE, timeout=120_000)
        yield opened
        for kernel in page.request.get(self.address.replace("lab/{}", "api/kernels")).json():
            page.request.delete(self.address.replace("lab/{}", f"api/kernels/{kernel['id']}"))
        page.close()


@dataclass
class Opened:
    page: object
    elsewhere: set[str] = field(default_factory=set)

    def __post_init__(self):
        self.page.on("request", self._note)

    def _note(self, request) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:")):
            self.elsewhere.add(request.url)

    def run_all(self) -> list[dict]:
        """Run all cells, as the menu does; then what each shows."""
        self.page.evaluate(WATCH)
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        return self._seen()

    def restart_and_run_all(self) -> list[dict]:
        """The button ⏩, and yes to its question; then what each cell shows."""
        self.page.evaluate(WATCH)
        self.page.locator("[data-command='notebook:restart-run-all']").first.click()
        self.page.get_by_role("button", name="Confirm Kernel Restart").click()
        return self._seen()

    def press(self, handle, key: str, times: int) -> list[float]:
        """Milliseconds from each press of `key` on a slider's handle to another picture in its cell."""
        handle.evaluate(TIME)
        handle.focus()
        found = []
        for _ in range(times):
            self.page.keyboard.press(key)
            self.page.wait_for_function("() => window.milliseconds !== null", timeout=10_000)
            found.append(self.page.evaluate("window.milliseconds"))
        return found

    def _seen(self) -> list[dict]:
        self.page.wait_for_function("() => window.over()", timeout=400_000)
        self.page.wait_for_selector(IDLE, timeout=60_000)
        return self.page.locator(CELLS).evaluate_all(SEEN)
