"""The operator's page in the system's Chromium, without a window; what the page complains about fails the test."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

# Milliseconds after which a page that shows something else is wrong; machines that test many things at once are slow.
expect.set_options(timeout=60_000)

_NAMES = ("chromium", "chromium-browser", "google-chrome")
DESKTOP = (1440, 900)

# Every control that is on the screen and smaller than a fingertip, with its size.
SMALL_TARGETS = """() => [...document.querySelectorAll('button, select, input, textarea, summary, nav a, .link-button')]
  .filter((element) => element.checkVisibility() && !element.matches('.unseen, #skip'))
  .map((element) => [element, element.getBoundingClientRect()])
  .filter(([, box]) => box.width && (box.height < 43.5 || box.width < 29))
  .map(([element, box]) => `${element.outerHTML.slice(0, 80)} ${Math.round(box.width)}x${Math.round(box.height)}`)"""

# Every control without a name that a screen reader could say.
NAMELESS = """() => [...document.querySelectorAll(
    'button, select, input, textarea, a, [role=slider], [role=img], canvas')]
  .filter((element) => element.checkVisibility() && !element.ariaLabel && !element.textContent.trim()
    && !element.labels?.length && !element.querySelector('img[alt]:not([alt=""])'))
  .map((element) => element.outerHTML.slice(0, 120))"""

# Text whose contrast with the colour behind it is below WCAG AA: 4.5, 3 where it is large.
FAINT = """() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const colour = rgba(getComputedStyle(one).backgroundColor);
      if (colour[3] > 250) return colour;
    }
    return rgba(getComputedStyle(document.body).backgroundColor);
  };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walk.nextNode(); node; node = walk.nextNode()) {
    const element = node.parentElement;
    if (!node.textContent.trim() || !element.checkVisibility()) continue;
    if (element.closest('.hatched, :disabled, option, .unseen, svg')) continue;
    const style = getComputedStyle(element);
    const [one, other] = [light(rgba(style.color)), light(behind(element))].sort((a, b) => b - a);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    const contrast = (one + 0.05) / (other + 0.05);
    if (contrast < (large ? 3 : 4.5)) found.push(`${node.textContent.trim().slice(0, 40)}: ${contrast.toFixed(2)}`);
  }
  return found;
}"""


@contextmanager
def browser() -> Iterator[Browser]:
    """A Chromium of its own; the test is skipped where there is none."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip(f"none of {', '.join(_NAMES)} is installed: the page is tested in a browser")
    # Chromium's sandbox refuses to be run by root.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=[*options, "--disable-dev-shm-usage"])
        try:
            yield chromium
        finally:
            chromium.close()


@contextmanager
def opened(
    chromium: Browser, address: str, *, size: tuple[int, int] = DESKTOP, allowed: str | None = None, **options: Any
) -> Iterator[Page]:
    """The page at `address`, in a profile of its own; an error in its console fails the test, unless `allowed` is in
    it.
    """
    context = chromium.new_context(viewport={"width": size[0], "height": size[1]}, locale="en-GB", **options)
    errors: list[str] = []
    try:
        page = context.new_page()
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(f"{error}\n{error.stack}"))
        page.goto(address)
        yield page
        wrong = [error for error in errors if allowed is None or allowed not in error]
        assert not wrong, wrong
    finally:
        context.close()


def screenshot(page: Page, file: Path, most_bytes: int) -> None:
    """The page as a PNG with the largest palette that fits."""
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    for colours in (256, 128, 64, 32, 16):
        image.quantize(colours, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(file, optimize=True)
        if file.stat().st_size <= most_bytes:
            return
