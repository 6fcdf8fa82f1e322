"""Makes docs/mlflow.png by the clicks that docs/mlflow.md describes.

    pip install playwright
    python -m dapbench.tracking.screenshot dapbench/quick/hopper

It runs in the checkout, and needs Chromium (found on PATH, or named by CHROMIUM) and runs recorded in mlflow.db.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

DATABASE = "sqlite:///mlflow.db"
PICTURE = Path("docs/mlflow.png")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


@contextmanager
def user_interface() -> Iterator[str]:
    """MLflow's server on a free local port, ended with all that it started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = subprocess.DEVNULL
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", DATABASE, "--workers", "1"]
    command += ["--port", str(port)]
    server = subprocess.Popen(command, env=os.environ | QUIET, start_new_session=True, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):  # seconds, enough for a busy machine
            try:
                urllib.request.urlopen(address, timeout=1).close()
                break
            except urllib.error.URLError:
                time.sleep(1)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def compare(page: Page, address: str, experiment: str) -> None:
    """From the start page to the methods' learning curves."""
    page.goto(f"{address}/#/experiments")
    page.get_by_label("Close", exact=True).first.click()  # the assistant
    page.get_by_text("Model training").first.click()
    page.get_by_text(experiment, exact=True).first.click()
    page.locator("label:has(input[value=CHART])").first.click()
    page.get_by_text("Group by").first.click()
    page.get_by_role("menuitemcheckbox", name="title", exact=True).first.click()
    page.keyboard.press("Escape")
    page.mouse.move(0, 0)
    page.wait_for_timeout(8000)  # the charts are drawn one after the other


def main(experiment: str) -> None:
    """Writes the picture of an experiment's learning curves."""
    with user_interface() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(120_000)
        compare(page, address, experiment)
        page.screenshot(path=PICTURE)
        browser.close()
    print(f"{PICTURE}: {PICTURE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
