"""The History view on a million records: how long a person looks at an empty page, and waits for a search.

PYTHONPATH=. python tests/support/measure_history.py [ROWS]
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from browser import browser, opened
from bundles import make_bundle
from measure_records import ROWS, fill
from playwright.sync_api import Page, expect
from processes import running_service

FIRST_ROW = "#history-list tbody tr"


def ms(started: float) -> str:
    return f"{1000 * (time.perf_counter() - started):.0f} ms"


def look(page: Page, rows: int) -> None:
    paint = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
    print(f"| first paint, from the address on | {page.evaluate(paint):.0f} ms |")
    searches = {
        "a part by its name": ({"part_id": f"SN-{rows // 2:07d}"}, 1),
        "parts whose names begin alike": ({"part_id": f"SN-{rows // 200:05d}*"}, 50),
        "NG of one camera": ({"camera": "cam 3", "verdict": "NG"}, 50),
        "a lot": ({"lot": f"L-{rows // 1000}"}, 50),
        "a part that is not there": ({"part_id": "nobody"}, 0),
    }
    for name, (fields, found) in searches.items():
        page.evaluate("location.hash = '#/history'")
        expect(page.locator(FIRST_ROW)).to_have_count(50)
        for field, value in fields.items():
            one = page.locator(f"#history-form [name={field}]")
            one.select_option(value) if field == "verdict" else one.fill(value)
        started = time.perf_counter()
        page.click("#history-form button")
        page.wait_for_function(
            "([selector, count]) => location.hash.includes('=') && "
            "document.querySelectorAll(selector).length === count "
            "&& (count > 0 || document.querySelector('#history-list p'))",
            arg=[FIRST_ROW, found],
            polling="raf",
        )
        print(f"| {name} | {ms(started)} |", flush=True)
    page.evaluate("location.hash = '#/history'")
    expect(page.locator(FIRST_ROW)).to_have_count(50)
    started = time.perf_counter()
    page.click("#history-more")
    page.wait_for_function(
        "(selector) => document.querySelectorAll(selector).length === 100", arg=FIRST_ROW, polling="raf"
    )
    print(f"| fifty more | {ms(started)} |", flush=True)


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"{rows} rows, written in {fill(folder / 'records', rows):.0f} s")
        make_bundle(folder / "models")
        with (
            running_service(folder / "models", folder / "log", backend="ort-cpu", records_days=0) as (_, client),
            browser() as chromium,
        ):
            started = time.perf_counter()
            with opened(chromium, f"{client.base_url}/#/history") as page:
                page.wait_for_selector(FIRST_ROW)
                print(f"| the page with its first fifty parts, in a new browser | {ms(started)} |")
                look(page, rows)


if __name__ == "__main__":
    main()
