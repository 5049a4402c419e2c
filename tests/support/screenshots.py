"""Screenshots of every view of the station on the rendered demo part, into service/screenshots:

PYTHONPATH=. python tests/support/screenshots.py
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import cv2
import httpx2
import numpy as np
from browser import browser, opened, screenshot
from playwright.sync_api import Browser, Page, expect
from processes import running_service

from service.bundle.manifest import MANIFEST
from training.data.demo_parts import KINDS, render_defect, render_good

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "service" / "screenshots"
PARTS = 48


def two_versions(models: Path) -> None:
    """The demo recipe, and a newer version of it that is not active."""
    for version in ("1", "2"):
        shutil.copytree(ROOT / "models" / "demo" / "1", models / "demo" / version)
    file = models / "demo" / "2" / MANIFEST
    manifest = json.loads(file.read_text())
    # Stricter, so that a comparison has something to show.
    stricter = {name: 0.8 * manifest["thresholds"][name] for name in ("review", "reject")}
    changed = {"version": "2", "created": "2026-11-28T10:00:00Z", "thresholds": manifest["thresholds"] | stricter}
    file.write_text(json.dumps(manifest | changed))


def inspect(client: httpx2.Client, number: int, rng: np.random.Generator, *, defect: bool) -> None:
    image = render_defect(rng, KINDS[number % len(KINDS)])[0] if defect else render_good(rng)
    # Now and then the light fails.
    if number % 17 == 11:
        image = (image * 0.25).astype(np.uint8)
    headers = {"Content-Type": "image/png", "X-Part-Id": f"SN-{4700 + number}", "X-Camera-Id": f"cam {1 + number % 4}"}
    lot = {"X-Lot-Id": f"L-{20 + number // 20}", "X-Meta-Order": "4711"}
    client.post("/inspect", content=cv2.imencode(".png", image[:, :, ::-1])[1].tobytes(), headers=headers | lot)


def review(page: Page) -> None:
    """Some parts are reviewed, so that the other views have reviews to show; the last one stays marked."""
    page.select_option("#review-filters [name=verdict]", "NG")
    for key in "dgdd":
        part = page.locator("#review-part .name").inner_text()
        expect(page.locator("#mark")).to_have_attribute("width", "256")
        page.fill("#review-type", {"d": "stain", "g": ""}[key])
        page.click("#review-defect" if key == "d" else "#review-good")
        expect(page.locator("#review-part .name")).not_to_have_text(part)
    expect(page.locator("#mark")).to_have_attribute("width", "256")
    box = page.locator("#mark").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.34 * box["width"], box["y"] + 0.73 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.56 * box["width"], box["y"] + 0.88 * box["height"])
    page.mouse.up()


def shoot(chromium: Browser, client: httpx2.Client, rng: np.random.Generator) -> None:
    def save(page: Page, name: str) -> None:
        page.wait_for_timeout(500)
        screenshot(page, FOLDER / f"{name}.png", most_bytes=150_000)

    address = f"{client.base_url}/"
    with opened(chromium, f"{address}?theme=dark#/review", size=(1440, 900)) as page:
        expect(page.locator("#review-types button, #review-part .name").first).to_be_visible()
        review(page)
        save(page, "review")
    with opened(chromium, f"{address}?theme=dark&line=Line+3", size=(1920, 1080)) as page:
        inspect(client, PARTS, rng, defect=True)
        expect(page.locator("#live-name b")).to_have_text(f"SN-{4700 + PARTS}")
        expect(page.locator("#live-image")).to_be_visible()
        save(page, "live")
    with opened(chromium, f"{address}?theme=light&language=de", size=(390, 844)) as page:
        inspect(client, PARTS + 1, rng, defect=False)
        expect(page.locator("#live-name b")).to_have_text(f"SN-{4701 + PARTS}")
        save(page, "live-phone")
    filled = {
        "history": "#history-list td",
        "quality?by=camera": ".chart",
        "recipes": "#what-if table",
        "report": "#report table",
        "system": "dd",
    }
    with opened(chromium, f"{address}?theme=light", size=(1440, 900)) as page:
        for view, selector in filled.items():
            page.evaluate(f"location.hash = '#/{view}'")
            expect(page.locator(selector).first).to_be_visible()
            save(page, {"report": "shift-report"}.get(view, view.split("?")[0]))
        page.evaluate("location.hash = '#/recipes/demo/1'")
        expect(page.locator(".report h1")).to_be_visible()
        save(page, "report")
        page.evaluate("location.hash = '#/recipes/demo/2/comparison'")
        expect(page.locator(".report h1")).to_be_visible(timeout=600_000)
        save(page, "comparison")
        page.evaluate("location.hash = '#/history?reviewed=true'")
        page.locator("#history-list a").first.click()
        expect(page.locator("#part-image")).to_be_visible()
        save(page, "part")
        page.evaluate("location.hash = '#/try'")
        page.locator("#try-examples button").nth(1).click()
        expect(page.locator("#try-verdict")).to_be_visible()
        save(page, "try")


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    rng = np.random.default_rng(5)
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder, "models")
        two_versions(models)
        (models / "demo" / "ACTIVE").write_text("1\n")
        with (
            running_service(Path(folder, "models"), Path(folder, "log"), record_images="all", backend="ort-cpu") as (
                _,
                client,
            ),
            browser() as chromium,
        ):
            for number in range(PARTS):
                inspect(client, number, rng, defect=number % 5 == 0)
            shoot(chromium, client, rng)


if __name__ == "__main__":
    main()
