"""Pictures of the running Superset's dashboards: `make docs-pictures` writes docs/pictures/<domain>.png, small.

Wants `scopehouse up --with superset`, data (`scopehouse demo`) and Debian's Chromium.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

from services.embedded import passwords
from services.embedded.superset import Superset
from services.settings import settings
from services.superset import files

FOLDER = Path(__file__).with_name("pictures")


def main() -> None:
    """Sign in, open each dashboard, wait for its charts, take its picture."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        sys.exit("error: Chromium is not installed: apt-get install chromium")
    superset = Superset(settings())
    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=program, args=options)
        page = browser.new_page(viewport={"width": 1500, "height": 1900}, device_scale_factor=0.6)
        page.goto(f"{superset.url}/login/")
        page.locator("input#username, input[name=username]").first.fill("admin")
        password = passwords.read(superset.settings.state_dir)["superset_admin"]
        page.locator("input#password, input[name=password]").first.fill(password)
        page.keyboard.press("Enter")
        page.wait_for_url("**/superset/welcome/**")
        for path, dashboard in files.of_kind(files.read(), "dashboards").items():
            domain = path.split("/")[0]
            # Without the bars around it: standalone=2 leaves the tiles alone.
            page.goto(f"{superset.url}/superset/dashboard/{domain}/?standalone=2&expand_filters=0")
            page.locator("[data-test-chart-id]").nth(len(list(files.charts_on(dashboard))) - 1).wait_for()
            page.wait_for_timeout(2_000)
            expect(page.locator("[data-test=loading-indicator]")).to_have_count(0, timeout=120_000)
            page.wait_for_timeout(3_000)  # charts are drawn with a movement
            page.screenshot(path=FOLDER / f"{domain}.png")
        browser.close()


if __name__ == "__main__":
    main()
