"""Chromium, and JupyterLab over a folder of notebooks. Where either is missing these tests are skipped, and say why."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from . import lab

# Where the machine has none of these, Playwright's own is used, if it has been fetched (see the Makefile).
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
INSTALL = "apt-get install chromium, or put another Chromium or Chrome on the PATH"
# Root may start it only without its sandbox; the other flags keep it from calling home.
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip


@pytest.fixture(scope="package")
def chromium():
    sync_api = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install -e '.[browser]'")
    with sync_api.sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, NAMES)), playwright.chromium.executable_path)
        if not Path(found).exists():
            pytest.skip(f"no Chromium: {INSTALL}")
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def jupyterlab(chromium, tmp_path_factory):
    """JupyterLab over a new folder, as `lab.Lab`: one server for all tests."""
    pytest.importorskip("jupyterlab", reason="no JupyterLab: pip install -e '.[jupyter]'")
    folder = tmp_path_factory.mktemp("jupyterlab")
    with lab.served(folder) as address:
        yield lab.Lab(chromium, folder / "notebooks", address)
