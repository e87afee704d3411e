"""How large the report of a large run is, and how soon its verdict can be read in a browser.

    python benchmarks/report.py [--rows 5000] [--prompts 60] [--browser /usr/bin/chromium] [--repeats 5]

The run is made up, in the form that a real one leaves. Prints one JSON object; the time is from the start of loading to the
first paint after which the verdict is on the page, median of several loads, each in a fresh browser context.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path


def main() -> int:
    """Make the run, write its page, load it, print the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--prompts", type=int, default=60)
    parser.add_argument("--browser", default="/usr/bin/chromium")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    tests = Path(__file__).resolve().parents[1] / "tests"
    sys.path[:0] = [str(tests), str(tests / "report")]
    from playwright.sync_api import sync_playwright
    from report_runs import run_folder

    from cotune.report.html import write_report

    with tempfile.TemporaryDirectory() as folder:
        run = run_folder(Path(folder) / "run", rows=given.rows, prompts=given.prompts, dev=300)
        started = time.perf_counter()
        page = write_report(run)
        written = time.perf_counter() - started
        seconds, paints = [], []
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=given.browser, args=["--no-sandbox"])
            for _ in range(given.repeats):
                shown = browser.new_context().new_page()
                started = time.perf_counter()
                shown.goto(page.as_uri(), wait_until="commit")
                shown.locator("h1").first.wait_for(state="visible")
                seconds.append(time.perf_counter() - started)
                shown.wait_for_load_state("load")
                paint = shown.evaluate("performance.getEntriesByType('paint').map(entry => entry.startTime / 1000)")
                paints += paint[:1]
                shown.context.close()
            browser.close()
        size = page.stat().st_size
    print(
        json.dumps(
            {
                "rows": given.rows,
                "prompts": given.prompts,
                "megabytes": round(size / 1e6, 2),
                "verdict_visible_s": round(statistics.median(seconds), 3),
                "first_paint_s": round(statistics.median(paints), 3) if paints else None,
                "written_in_s": round(written, 2),
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
