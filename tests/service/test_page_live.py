"""The live screen and the view for one image, in a browser on a running service."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
from browser import DESKTOP, browser, opened
from bundles import gray, make_bundle, png
from fakes import wait_for
from playwright.sync_api import Browser, Page, Route, expect
from processes import running_service

VERDICTS = {"OK": gray(51), "REVIEW": gray(110), "NG": gray(200), "NOT_INSPECTED": gray(0)}
WORDS = {"OK": "OK", "REVIEW": "REVIEW", "NG": "NG", "NOT_INSPECTED": "NOT INSPECTED"}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    folder = tmp_path_factory.mktemp("live")
    make_bundle(folder / "models")
    keep = gray(255)
    keep[:32] = 0
    make_bundle(folder / "models", "half", keep=png(keep[:, :, :1].repeat(3, axis=2)))
    with running_service(folder / "models", folder / "log", default_recipe="part") as (_, client):
        yield client


PANELS = ((1024, 768), (1280, 720), (1280, 800), (1366, 768), (1920, 1080), DESKTOP)
NUMBERS = itertools.count(1)


def photo(verdict: str) -> bytes:
    """An image that gets the verdict, never the same: a camera that repeats itself is taken for a broken one."""
    image, number = VERDICTS[verdict].copy(), next(NUMBERS)
    image[number // 64 % 64, number % 64] //= 2
    return png(image)


def inspect(client: httpx2.Client, part: str, verdict: str = "OK", camera: str = "cam 1") -> None:
    headers = {"Content-Type": "image/png", "X-Part-Id": part, "X-Camera-Id": camera}
    client.post("/inspect?recipe=part", content=photo(verdict), headers=headers)


def area(page: Page, selector: str) -> float:
    box = page.locator(selector).bounding_box()
    assert box is not None
    return box["width"] * box["height"]


def test_each_verdict_fills_its_panel_with_a_shape_and_a_word(chromium: Browser, service: httpx2.Client) -> None:
    with opened(chromium, f"{service.base_url}") as page:
        expect(page.locator("#link")).to_have_text("ready")
        sizes = {}
        for number, (verdict, shape) in enumerate(zip(WORDS, "✓▲✕∅", strict=True)):
            inspect(service, f"SN-{number}", verdict)
            expect(page.locator("#live-word")).to_have_text(WORDS[verdict])
            expect(page.locator("#live-shape")).to_have_text(shape)
            expect(page.locator("#live-verdict")).to_have_class(re.compile(rf"verdict {verdict}\b"))
            expect(page.locator("#live-name b")).to_have_text(f"SN-{number}")
            sizes[verdict] = area(page, "#live-verdict")
            # Readable at two metres: a tenth of the screen's height.
            box = page.locator("#live-shape").bounding_box()
            assert box is not None
            assert box["height"] >= 90
            # All of it at once, on a short screen too.
            for width, height in PANELS:
                page.set_viewport_size({"width": width, "height": height})
                assert page.evaluate("document.documentElement.scrollHeight <= innerHeight"), (verdict, width, height)
        # Not inspected is as loud as a reject: the same panel, whatever the verdict.
        assert min(sizes.values()) >= 0.95 * max(sizes.values()), sizes


def test_a_part_of_the_strip_is_shown_until_the_newest_is_wanted_again(
    chromium: Browser, service: httpx2.Client
) -> None:
    with opened(chromium, f"{service.base_url}") as page:
        inspect(service, "older", "NG")
        inspect(service, "newer", "OK")
        expect(page.locator("#live-name b")).to_have_text("newer")
        page.locator("#live-strip button").nth(-2).click()
        expect(page.locator("#live-name b")).to_have_text("older")
        expect(page.locator(".boxes i")).to_have_count(1)
        inspect(service, "newest", "OK")
        expect(page.locator("#live-strip button").last).to_have_attribute("aria-label", "OK newest")
        expect(page.locator("#live-name b")).to_have_text("older")
        page.click("#live-back")
        expect(page.locator("#live-name b")).to_have_text("newest")
        with_map = page.locator("#live-image").get_attribute("alt")
        page.click("#live-map")
        expect(page.locator("#live-image")).not_to_have_attribute("alt", str(with_map))
        page.hover("#live-image")
        expect(page.locator(".loupe")).to_be_visible()


def test_parts_that_are_missing_in_a_count_are_named(chromium: Browser, service: httpx2.Client) -> None:
    with opened(chromium, f"{service.base_url}/?camera=counted") as page:
        for number in (1, 2, 3, 4, 5, 6, 7, 10, 11):
            inspect(service, f"A-{number:03d}", "OK", "counted")
            expect(page.locator("#live-name b")).to_have_text(f"A-{number:03d}")
            said = "⚠ 2 missing before this part" if number == 10 else ""
            expect(page.locator("#live-missing")).to_have_text(said)
        expect(page.locator("#live-strip .gap")).to_have_count(1)
        # Names that do not count up tell nothing.
        inspect(service, "B-400", "OK", "counted")
        inspect(service, "B-500", "OK", "counted")
        expect(page.locator("#live-name b")).to_have_text("B-500")
        expect(page.locator("#live-missing")).to_have_text("")


def test_a_screen_for_one_camera_shows_that_camera_alone(chromium: Browser, service: httpx2.Client) -> None:
    inspect(service, "left", "NG", "left")
    inspect(service, "right", "OK", "right")
    with opened(chromium, f"{service.base_url}/?camera=left&line=Line+3&kiosk=1") as page:
        expect(page.locator("#line")).to_have_text("Line 3")
        expect(page.locator("#live-name b")).to_have_text("left")
        expect(page.locator("#views")).to_be_hidden()
        inspect(service, "right again", "OK", "right")
        inspect(service, "left again", "OK", "left")
        expect(page.locator("#live-name b")).to_have_text("left again")
        expect(page.locator("#live-strip button")).to_have_count(2)


def test_a_verdict_that_nothing_stands_behind_is_hatched(chromium: Browser, tmp_path: Path) -> None:
    make_bundle(tmp_path / "models")
    with (
        running_service(tmp_path / "models", tmp_path / "log") as (process, client),
        opened(chromium, f"{client.base_url}", allowed="Failed to load resource") as page,
    ):
        inspect(client, "last")
        expect(page.locator("#live-word")).to_have_text("OK")
        expect(page.locator("#live-verdict")).not_to_have_class(re.compile("hatched"))
        process.kill()
        expect(page.locator("#live-notice")).to_have_text("no connection to the service")
        expect(page.locator("#live-verdict")).to_have_class(re.compile("hatched"))
        expect(page.locator("#link")).to_have_class("lost")
        page.select_option("#language", "de")
        expect(page.locator("#live-notice")).to_have_text("keine Verbindung zum Dienst")


class Held:
    """Replies that the page waits for until the test lets them go, in whatever order."""

    def __init__(self, page: Page, pattern: str) -> None:
        self.routes: list[Route] = []
        page.route(re.compile(pattern), lambda route: self.routes.append(route))
        self._page = page

    def take(self, number: int) -> Route:
        while len(self.routes) <= number:
            self._page.wait_for_timeout(10)
        return self.routes[number]

    def answer(self, number: int) -> None:
        """Let the page have a reply, and make of it what it will."""
        route = self.take(number)
        self._until("requestfinished", route, route.continue_)

    def abort(self, number: int) -> None:
        route = self.take(number)
        self._until("requestfailed", route, route.abort)

    def _until(self, event: str, route: Route, let_go: Callable[[], None]) -> None:
        with self._page.expect_event(event, lambda request: request == route.request, timeout=300_000):
            let_go()
        # The page has read it, and an image has been decoded and drawn.
        self._page.evaluate("() => new Promise((done) => setTimeout(() => requestAnimationFrame(done), 100))")


def drop(page: Page, verdict: str) -> None:
    page.set_input_files("#try-file", {"name": "part.png", "mimeType": "image/png", "buffer": photo(verdict)})


def brightness(page: Page, selector: str) -> float:
    """Of the middle of an image's upper half."""
    return page.locator(selector).evaluate(
        """async (image) => {
          // Another one may take its place meanwhile.
          await image.decode().catch(() => {});
          const pen = new OffscreenCanvas(1, 1).getContext('2d');
          pen.drawImage(image, image.naturalWidth / 2, image.naturalHeight / 4, 1, 1, 0, 0, 1, 1);
          return pen.getImageData(0, 0, 1, 1).data[0];
        }"""
    )


def test_the_reply_to_an_earlier_image_is_never_shown_beside_a_later_one(
    chromium: Browser, service: httpx2.Client
) -> None:
    with opened(chromium, f"{service.base_url}/try", allowed="ERR_FAILED") as page:
        expect(page.locator("#try-recipe option")).to_have_count(2)
        held = Held(page, r"/inspect\?")
        drop(page, "NG")
        drop(page, "OK")
        held.take(1).continue_()
        expect(page.locator("#try-verdict")).to_contain_text("OK")
        held.answer(0)
        expect(page.locator("#try-verdict")).to_contain_text("OK")
        assert brightness(page, "#try-sent") == 51
        drop(page, "NG")
        expect(page.locator("#try-result")).to_be_hidden()
        drop(page, "REVIEW")
        held.take(3).continue_()
        expect(page.locator("#try-verdict")).to_contain_text("REVIEW")
        held.abort(2)
        expect(page.locator("#try-verdict")).to_contain_text("REVIEW")
        drop(page, "OK")
        held.take(4).abort()
        expect(page.locator("#try-verdict")).to_contain_text("NOT INSPECTED")
        expect(page.locator("#try-pictures")).to_be_hidden()


def test_places_that_do_not_count_are_dark_and_of_the_image_that_is_shown(
    chromium: Browser, service: httpx2.Client
) -> None:
    with opened(chromium, f"{service.base_url}/try") as page:
        page.select_option("#try-recipe", "half")
        held = Held(page, r"/keep\.png")
        drop(page, "NG")
        drop(page, "REVIEW")
        held.take(1).continue_()
        expect(page.locator("#try-sent")).to_have_js_property("naturalWidth", 64)
        expect(page.locator("#try-verdict")).to_be_visible()
        # As it was sent first, then darkened.
        wait_for(lambda: brightness(page, "#try-sent") < 0.5 * 110)
        darkened = brightness(page, "#try-sent")
        held.answer(0)
        assert brightness(page, "#try-sent") == darkened
