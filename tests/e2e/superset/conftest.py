"""Superset on demo data, and Debian's Chromium signed in to it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from services.embedded import passwords
from services.embedded.superset import Superset
from services.settings import Settings, read_settings, settings
from tests.integration.conftest import CONNECTIONS, embedded_environment

EVENTS = 2_000


def scopehouse(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "scopehouse", *words], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr + done.stdout


@pytest.fixture(scope="package")
def superset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Superset]:
    """Running, with the dashboards of git, on the warehouse of a demo."""
    with pytest.MonkeyPatch.context() as patch:
        for name in CONNECTIONS:
            patch.delenv(name, raising=False)
        for name, value in embedded_environment(tmp_path_factory.mktemp("dashboards")).items():
            patch.setenv(name, value)
        settings.cache_clear()
        try:
            scopehouse("demo", "--events", str(EVENTS))
            scopehouse("up", "--with", "superset")
            yield Superset(read_settings())
        finally:
            scopehouse("down")
    settings.cache_clear()


@pytest.fixture(scope="package")
def warehouse(superset: Superset) -> Settings:
    """The settings that reach its warehouse."""
    return superset.settings


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    assert program, "Chromium is not installed: apt-get install chromium"
    with sync_playwright() as playwright:
        # Root's Chromium wants no sandbox; the pages are our own.
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        chromium = playwright.chromium.launch(executable_path=program, args=options)
        yield chromium
        chromium.close()


@pytest.fixture(scope="package")
def admin_page(superset: Superset, browser: Browser) -> Iterator[Page]:
    """A page whose user is the administrator."""
    page = browser.new_page(viewport={"width": 1600, "height": 2400})
    page.set_default_timeout(120_000)
    page.goto(f"{superset.url}/login/")
    page.locator("input#username, input[name=username]").first.fill("admin")
    page.locator("input#password, input[name=password]").first.fill(
        passwords.read(superset.settings.state_dir)["superset_admin"]
    )
    page.keyboard.press("Enter")
    page.wait_for_url("**/superset/welcome/**")
    yield page
    page.close()
