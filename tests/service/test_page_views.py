"""Every view of the station in a browser on a running service; the operator's and the quality engineer's job."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from browser import FAINT, NAMELESS, SMALL_TARGETS, browser, opened
from bundles import gray, make_bundle, png
from playwright.sync_api import Browser, Locator, Page, expect
from processes import running_service

from service.bundle.folder import Bundle, describe
from service.bundle.manifest import MANIFEST, QualityLimits
from service.http.problems import PROBLEMS
from service.images.quality import Quality, find_faults

WEB = Path(__file__).parents[2] / "service" / "web"
VIEWS = ["live", "review", "recipes", "history", "quality", "report", "system", "try"]
# A view shows this once it has asked the service.
FILLED = {
    "live": "#live-strip button",
    "review": "#review-part .name",
    "recipes": "#what-if table",
    "history": "#history-list tbody tr",
    "quality": ".chart",
    "report": "#report table",
    "system": ".facts",
    "try": "#try-examples img",
}
SIZES = {"wall": (1920, 1080), "tablet": (820, 1180), "phone": (390, 844)}
BRIGHTNESS = {"OK": 51, "REVIEW": 110, "NG": 200}
NUMBERS = itertools.count(1)
REPORT = (
    b"<html><style>h1 { color: rgb(1, 2, 3) }</style><body><h1>How sure</h1><script>alert(1)</script></body></html>"
)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    folder = tmp_path_factory.mktemp("views")
    make_bundle(folder / "models")
    blind(make_bundle(folder / "models", "blind", review=0.9, reject=0.95))
    (folder / "models" / "broken" / "1").mkdir(parents=True)
    (folder / "models" / "broken" / "1" / MANIFEST).write_text("{")
    with running_service(folder / "models", folder / "log", default_recipe="part", record_images="all") as (_, client):
        for verdict in [*["OK"] * 6, "NG", "REVIEW", "OK", "NG"]:
            inspect(client, verdict)
        with_report(make_bundle(folder / "models", version="2", label="newer"))
        yield client


def with_report(bundle: Bundle) -> None:
    """The report is a file of the bundle that its manifest lists."""
    (bundle.path / "report.html").write_bytes(REPORT)
    manifest = json.loads((bundle.path / MANIFEST).read_text())
    manifest["files"]["report.html"] = describe({"report.html": REPORT})["report.html"].model_dump(mode="json")
    (bundle.path / MANIFEST).write_text(json.dumps(manifest))


def blind(bundle: Bundle) -> None:
    """Nine of ten defects pass as OK."""
    manifest = json.loads((bundle.path / MANIFEST).read_text())
    manifest["thresholds"]["calibration"] |= {
        "defect_images": 10,
        "defect_source": "labelled",
        "escapes": 9,
        "escape_interval": [0.55, 0.998],
    }
    (bundle.path / MANIFEST).write_text(json.dumps(manifest))


def inspect(client: httpx2.Client, verdict: str, part: str | None = None) -> None:
    number = next(NUMBERS)
    image = gray(BRIGHTNESS[verdict])
    # A camera that repeats itself is taken for a broken one.
    image[number // 64 % 64, number % 64] //= 2
    headers = {
        "Content-Type": "image/png",
        "X-Part-Id": part or f"SN-{number}",
        "X-Camera-Id": f"cam {number % 2}",
        "X-Lot-Id": "L-1",
        "X-Meta-Order": "4711",
    }
    assert client.post("/inspect?recipe=part", content=png(image), headers=headers).json()["verdict"] == verdict


def words(language: str) -> dict[str, str]:
    text = (WEB / "words" / f"{language}.js").read_text()
    pairs = re.findall(r'(\w+): "((?:[^"\\]|\\.)*)"', text)
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def test_both_languages_have_all_words_with_the_same_gaps_and_no_other() -> None:
    english, german = words("en"), words("de")
    assert english.keys() == german.keys()
    assert [name for name in english if english[name].count("{}") != german[name].count("{}")] == []
    assert all(german.values())
    code = "\n".join(file.read_text() for file in [*WEB.glob("*.js"), *WEB.glob("views/*.js"), WEB / "index.html"])
    used = set(re.findall(r'word\("(\w+)"', code)) | set(re.findall(r'data-word="(\w+)"', code))
    assert used <= english.keys()
    # Names that are put together: word(`view_${name}`), or stand in a list or table of names.
    begun = tuple(re.findall(r"word\(`(\w+_)\$", code))
    unused = {
        name for name in english.keys() - used if not name.startswith(begun) and not re.search(rf"\b{name}\b", code)
    }
    assert {name for name in unused if not name.endswith("_from")} == set()


def test_every_problem_has_words_and_the_form_of_no_fault_changed_unseen() -> None:
    assert {name.removeprefix("code_") for name in words("de") if name.startswith("code_")} == PROBLEMS.keys()
    limits = dict.fromkeys(("sharpness_min", "contrast_min", "brightness_min", "brightness_max", "aspect_min"), 9.0)
    strict = QualityLimits(**limits, dark_max=0.1, bright_max=0.1, aspect_max=0.1)
    found = [*find_faults(Quality(0, 0, 0, 1, 1, 1), strict), *find_faults(Quality(0, 0, 255, 1, 1, 1), strict)]
    faults = {fault.split(":")[0].replace(" ", "_") for fault in found}
    assert {name.removeprefix("fault_") for name in words("de") if name.startswith("fault_")} == faults | {"frozen"}


@pytest.mark.parametrize("language", ["en", "de"])
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_every_view_fits_can_be_read_and_pressed(
    chromium: Browser, service: httpx2.Client, size: str, theme: str, language: str
) -> None:
    address = f"{service.base_url}/?theme={theme}&language={language}"
    with opened(chromium, address, size=SIZES[size], has_touch=size != "wall") as page:
        for view in VIEWS:
            page.click(f"#views [data-view={view}]")
            expect(page.locator(FILLED[view]).first).to_be_visible()
            expect(page.locator("#views [aria-current]")).to_have_text(re.compile(words(language)[f"view_{view}"]))
            found = {name: page.evaluate(script) for name, script in CHECKS.items()}
            assert found == {name: [] for name in CHECKS}, view
            assert page.locator(".trouble").count() == 0, view


@pytest.mark.parametrize(("language", "said"), [("en", 0), ("de", 1)])
def test_a_report_says_where_its_language_is_not_that_of_the_page(
    chromium: Browser, service: httpx2.Client, language: str, said: int
) -> None:
    with opened(chromium, f"{service.base_url}/?language={language}#/recipes/part/2") as page:
        expect(page.locator(".report h1")).to_be_visible()
        expect(page.locator("main p", has_text=words(language)["report_language"])).to_have_count(said)


CHECKS = {
    "small": SMALL_TARGETS,
    "nameless": NAMELESS,
    "faint": FAINT,
    "wider than the screen": """() => document.documentElement.scrollWidth <= innerWidth ? []
      : [...document.querySelectorAll('main *')].filter((element) => !element.closest('.scroll, .row, #views')
          && element.getBoundingClientRect().right > innerWidth).map((element) => element.outerHTML.slice(0, 100))""",
}


def test_an_operator_sees_a_reject_marks_its_defect_and_goes_on(chromium: Browser, service: httpx2.Client) -> None:
    with opened(chromium, f"{service.base_url}/") as page:
        inspect(service, "NG", "SN-operator")
        expect(page.locator("#live-word")).to_have_text("NG")
        expect(page.locator("#live-name b")).to_have_text("SN-operator")
        page.click("#live-review a")
        expect(page.locator("#review-part .name")).to_have_text("SN-operator")
        expect(page.locator("#mark")).to_have_attribute("width", "64")
        waiting = page.locator("#review-head").inner_text()
        # A box with the mouse, a stroke with the brush, the type by hand.
        box = page.locator("#mark").bounding_box()
        assert box is not None
        drag(page, box, (0.25, 0.25), (0.5, 0.5))
        page.keyboard.press("p")
        drag(page, box, (0.7, 0.7), (0.8, 0.8))
        page.fill("#review-type", "scratch")
        page.click("#review-defect")
        expect(page.locator("#review-part .name")).not_to_have_text("SN-operator")
        expect(page.locator("#review-head")).not_to_have_text(waiting)
        # The next one by keyboard alone: a box on the image, a type that is known, and the decision.
        inspected = page.locator("#review-part .name").inner_text()
        expect(page.locator("#mark")).to_have_attribute("width", "64")
        expect(page.locator("#review-types button")).to_have_text("1 scratch")
        page.focus("#mark")
        page.keyboard.press("b")
        for key in ["Enter", "ArrowRight", "ArrowDown", "Enter", "1", "d"]:
            page.keyboard.press(key)
        expect(page.locator("#review-part .name")).not_to_have_text(inspected)
        overruled = page.locator("#review-part .name").inner_text()
        page.keyboard.press("g")
        expect(page.locator("#review-part .name")).not_to_have_text(overruled)
    reviewed = {row["part_id"]: row for row in service.get("/inspections?reviewed=true").json()}
    first, second, third = (
        service.get(f"/inspections/{reviewed[part]['inspection_id']}").json()["reviews"][0]
        for part in ("SN-operator", inspected, overruled)
    )
    assert (first["before"], first["after"], first["defect_type"], first["mask"]) == ("NG", "defect", "scratch", True)
    (marked,) = first["boxes"]
    assert all(abs(marked[name] - 16) <= 1 for name in ("x", "y", "width", "height"))
    assert (second["after"], second["defect_type"], second["mask"]) == ("defect", "scratch", False)
    assert second["boxes"] == [{"x": 32, "y": 32, "width": 8, "height": 8}]
    assert (third["after"], third["boxes"]) == ("good", [])
    assert service.get(f"/reviews/{first['review_id']}/mask.png").content.startswith(b"\x89PNG")


def drag(page: Page, box: dict[str, float], start: tuple[float, float], end: tuple[float, float]) -> None:
    for number, (x, y) in enumerate((start, end)):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        if number == 0:
            page.mouse.down()
    page.mouse.up()


def version(page: Page, name: str) -> Locator:
    return page.locator(f".versions tr:has(th:text-is('{name}'))")


def test_a_quality_engineer_finds_compares_changes_and_saves(chromium: Browser, service: httpx2.Client) -> None:
    with opened(chromium, f"{service.base_url}/#/history", accept_downloads=True) as page:
        page.select_option("[name=verdict]", "NG")
        page.fill("[name=lot]", "L-1")
        page.click("#history-form .main")
        expect(page.locator("#history-list tbody tr").first).to_be_visible()
        assert set(page.locator("#history-list tbody td:nth-child(2)").all_inner_texts()) == {"✕ NG"}
        with page.expect_download() as saved:
            page.click("#history-csv")
        rows = list(csv.DictReader(io.StringIO(Path(saved.value.path()).read_text())))
        assert {row["verdict"] for row in rows} == {"NG"}
        with page.expect_download() as saved:
            page.click("#history-zip")
        assert any(name.startswith("images/") for name in zipfile.ZipFile(saved.value.path()).namelist())
        page.locator("#history-list tbody a").first.click()
        expect(page.locator("#part-image")).to_be_visible()
        expect(page.locator("#part-facts")).to_contain_text("4711")

        page.click("[data-view=quality]")
        expect(page.locator(".chart")).not_to_have_count(0)
        page.select_option("[name=by]", "camera")
        expect(page.locator("details table tbody tr")).to_have_count(2)

        # What other thresholds would have done, by handle; then they are in force.
        page.click("[data-view=recipes]")
        expect(page.locator("#view")).to_contain_text("Newer and not active: 2")
        handle = page.locator("[data-handle=reject]")
        handle.focus()
        before = page.locator("#what-if td").all_inner_texts()
        for _ in range(6):
            page.keyboard.press("PageUp")
        expect(page.locator("#what-if .worse, #what-if .better").first).to_be_visible()
        assert page.locator("#what-if td").all_inner_texts() != before
        page.click("#limits-apply")
        page.click("dialog [value=yes]")
        expect(page.locator("#limits-reset")).to_be_enabled()
        (part,) = (one for one in service.get("/recipes").json() if one["recipe"] == "part")
        assert part["limits"]["source"] == "changed"
        assert part["thresholds"]["reject"] > 0.7
        page.click("#limits-reset")
        page.click("dialog [value=yes]")
        expect(page.locator("#limits-reset")).to_be_disabled()

        # The newer version: its report, beside the one in service, in service, and back.
        version(page, "2").get_by_role("link", name="Report").click()
        heading = page.locator(".report h1")
        expect(heading).to_have_text("How sure")
        expect(heading).to_have_css("color", "rgb(1, 2, 3)")
        page.go_back()
        version(page, "2").get_by_role("link", name="Compare").click()
        expect(page.locator(".report h1")).to_have_text("part: version 2, before it serves")
        expect(page.locator(".report")).to_contain_text("nobody looked at it")
        page.go_back()
        row = version(page, "2")
        row.get_by_role("button", name="Run as shadow").click()
        expect(page.get_by_role("button", name="End the shadow")).to_be_visible()
        page.get_by_role("button", name="End the shadow").click()
        row.get_by_role("button", name="Activate").click()
        page.click("dialog [value=yes]")
        expect(version(page, "2")).to_contain_text("in service")
        page.get_by_role("button", name="Roll back").click()
        page.click("dialog [value=yes]")
        expect(version(page, "1")).to_contain_text("in service")

        # Recipes that nobody may rely on are named.
        page.get_by_role("link", name="broken").click()
        expect(page.locator("#view .warning").first).to_contain_text("unfit")
        page.get_by_role("link", name="blind").click()
        expect(page.locator("#view .warning").first).to_contain_text("blind: it passed 9 of 10 labelled defects")


def test_the_service_speaks_german_too_and_a_recipe_is_begun_by_its_photos(
    chromium: Browser, service: httpx2.Client
) -> None:
    photo = {"content": png(gray(90)), "headers": {"Content-Type": "image/png"}}
    assert service.post("/inspect?recipe=part", content=png(gray(0)), headers=photo["headers"]).status_code == 200
    with opened(chromium, f"{service.base_url}/?language=de", allowed="Failed to load resource") as page:
        expect(page.locator("#live-text")).to_contain_text("zu dunkel (0 unter 10)")
        page.click("[data-view=recipes]")
        expect(page.locator("#view")).to_contain_text("gewählt")
        page.fill("[name=collect]", "bracket")
        page.click("#collect-form button")
        expect(page.locator("#view")).to_contain_text("sammelt Bilder für sein erstes Training")
        assert service.post("/inspect?recipe=bracket", **photo).json()["code"] == "collecting"  # type: ignore[arg-type]
        page.click("[data-view=live]")
        expect(page.locator("#live-text")).to_contain_text("Das Rezept sammelt Bilder: Rezept bracket hat noch kein")
        page.click("[data-view=recipes]")
        page.get_by_role("link", name="bracket").click()
        expect(page.locator(".facts").first).to_contain_text("Bilder bisher1")
        page.get_by_role("button", name="Nicht mehr sammeln").click()
        page.click("dialog [value=yes]")
        expect(page.get_by_role("link", name="bracket")).to_have_count(0)


def test_what_the_service_refuses_is_said_and_a_question_that_is_closed_changes_nothing(
    chromium: Browser, service: httpx2.Client
) -> None:
    with opened(chromium, f"{service.base_url}/#/history/none", allowed="Failed to load resource") as page:
        expect(page.locator(".trouble")).to_be_visible()
        page.click("[data-view=recipes]")
        page.get_by_role("button", name="Roll back").click()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.method))
        page.keyboard.press("Escape")
        expect(page.locator("dialog")).to_have_count(0)
        assert "POST" not in asked
        refusal = {"title": "Forbidden", "detail": "not with this key"}
        page.route(re.compile("/verify"), lambda route: route.fulfill(status=403, json=refusal))
        page.get_by_role("button", name="Verify").click()
        expect(page.locator(".trouble")).to_have_text("Forbidden: not with this key")
        expect(page.locator("#key-form")).to_be_visible()
