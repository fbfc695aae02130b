"""Draws docs/page.png: the server's page in headless Chromium, after one question to the embedded model.

    python tools/page_screenshot.py [--output docs/page.png] [--question "What is 17*6+4?"]

Needs Chromium and its driver (Debian: chromium, chromium-driver) and selenium.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the browser and the server on loopback are those of the tests


def main() -> None:
    """Ask, wait, draw."""
    from hf_dynasor.serving import load_model, make_engine
    from hf_dynasor.serving.http.app import create_app
    from hf_dynasor.serving.http.model_info import ServedModel
    from tests.e2e.browser import open_browser
    from tests.serving.http.kit import serve

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", default=str(ROOT / "docs" / "page.png"))
    parser.add_argument("--question", default="What is 17*6+4?")
    options = parser.parse_args()
    loaded = load_model("embedded")
    engine = make_engine(loaded, engine="continuous")
    with (
        serve(create_app(engine, ServedModel(loaded, "embedded", 0))) as address,
        tempfile.TemporaryDirectory() as profile,
        open_browser(Path(profile), size=(1200, 790)) as browser,
    ):
        browser.get(address)
        browser.execute_script("document.getElementById('question').value = arguments[0]", options.question)
        browser.find_element("id", "send").click()
        deadline = time.monotonic() + 120
        while not browser.find_element("id", "status").text.startswith("Ended"):
            if time.monotonic() > deadline:
                raise SystemExit(browser.find_element("id", "status").text)
            time.sleep(0.1)
        time.sleep(0.5)  # colours fade in
        browser.save_screenshot(options.output)
    engine.close()


if __name__ == "__main__":
    main()
