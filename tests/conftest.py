"""Fixtures shared by the tests: one thread, a Dask cluster, a browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as microlab does, but here torch may be imported first

import torch

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, or one process would be left alone with them at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums in a fixed order, here and in the processes that the test starts."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def cluster() -> Iterator:
    """A Dask cluster inside this process, two threads."""
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 1, "threads_per_worker": 2, "processes": False, "dashboard_address": None}
    with distributed.LocalCluster(**options, protocol="tcp") as started:
        yield started


@pytest.fixture(scope="module")
def browser(chromium) -> Iterator:
    """A headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as p:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        started = p.chromium.launch(executable_path=chromium, args=flags)
        yield started
        started.close()


@pytest.fixture
def open_page(browser) -> Iterator[Callable]:
    """Show HTML, or a file, in a page as wide as a phone; any error in it, or any request, fails the test."""
    pages, problems = [], []

    def show(html: str | Path, **options: Any) -> Any:
        page = browser.new_page(**{"viewport": {"width": 390, "height": 844}, **options})
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("request", lambda r: problems.append(r.url) if r.url.startswith("http") else None)
        if isinstance(html, Path):
            page.goto(html.resolve().as_uri())
        else:
            page.set_content(f'<!doctype html><html lang="en"><title>t</title><main>{html}</main></html>')
        pages.append(page)
        return page

    yield show
    for page in pages:
        page.close()
    assert problems == []


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of Chromium; the test is skipped where there is none."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("no Chromium; .ci/run installs it")
    return path
