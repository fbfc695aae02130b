"""The page in a real browser: what it shows is what happens, by mouse and by keyboard, with nothing from outside."""

from __future__ import annotations

import json
import os
import time
from urllib.parse import urlsplit

import pytest

from hf_dynasor.serving import load_model, make_engine
from hf_dynasor.serving.http.app import create_app
from hf_dynasor.serving.http.model_info import ServedModel
from tests.e2e.browser import find_browser, open_browser
from tests.serving.http.kit import serve
from tests.serving.replicas.kit import count_running, start_replicas

pytest.importorskip("selenium", reason="selenium is not installed: pip install selenium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_browser() is None, reason="no Chromium with its driver on this machine"),
    # Of selenium's own process handling, not ours.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """An address, and what tells how many requests run behind it."""
    if (replicas := int(os.environ.get("HF_DYNASOR_E2E_REPLICAS", "1"))) > 1:
        with start_replicas(tmp_path_factory.mktemp("replicas"), replicas=replicas) as (_, address):
            yield address, lambda: count_running(address)
        return
    loaded = load_model("embedded")
    with (
        make_engine(loaded, engine="continuous") as engine,
        serve(create_app(engine, ServedModel(loaded, "embedded", 0))) as address,
    ):
        yield address, lambda: engine.num_in_flight


@pytest.fixture(scope="module")
def address(server):
    return server[0]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with open_browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def page(browser, address):
    for kind in ("browser", "performance"):
        browser.get_log(kind)  # what earlier tests left
    browser.get(address)
    page = Page(browser)
    page.wait_for("model", lambda text: text == "embedded")
    return page


class Page:
    """The page, by the names of its parts."""

    def __init__(self, browser):
        self.browser = browser

    def find(self, name):
        return self.browser.find_element("id", name)

    def text(self, name):
        return self.find(name).text

    def count(self, selector):
        return len(self.browser.find_elements("css selector", selector))

    def fill(self, **values):
        for name, value in values.items():
            self.browser.execute_script("arguments[0].value = arguments[1]", self.find(name), str(value))

    def wait_until(self, is_true, seconds=120):
        deadline = time.monotonic() + seconds
        while not (found := is_true()):
            assert time.monotonic() < deadline, self.browser.find_element("tag name", "body").text
            time.sleep(0.02)
        return found

    def wait_for(self, name, is_true):
        self.wait_until(lambda: is_true(self.text(name)))

    def press(self, *keys):
        from selenium.webdriver import ActionChains

        ActionChains(self.browser).send_keys(*keys).perform()

    @property
    def focused(self):
        return self.browser.switch_to.active_element.get_attribute("id")


def test_a_question_is_answered_while_one_watches(page):
    page.fill(question="What is 17*6+4?", budget=20, temperature=0.7)
    page.find("send").click()
    page.wait_for("status", lambda text: text.startswith("Ended"))
    assert page.text("answer") == "106"
    assert "certain" in page.text("status")
    assert page.count("#branches li.agrees") >= 3
    assert page.text("units") == "5 of 20 samples"
    assert page.text("saved").endswith("(75%)")
    assert float(page.find("certainty").get_attribute("value")) > 0.7
    assert "(entropy)" in page.text("certainty-text")
    assert page.count("#curve .dot") >= 1
    assert page.find("send").is_enabled()
    assert not page.find("cancel").is_enabled()


def test_branches_appear_and_grow_and_cancel_ends_them(page, server):
    page.fill(question="What is 83*47+29?", budget=64, temperature=2)
    page.find("send").click()
    page.wait_until(lambda: page.count("#branches li.growing"))
    script = "return [...document.querySelectorAll('#branches pre')].map(x => x.textContent.length)"
    first = page.browser.execute_script(script)
    page.wait_until(lambda: sum(page.browser.execute_script(script)) > sum(first))
    assert page.find("cancel").is_enabled()
    page.find("cancel").click()
    page.wait_for("status", lambda text: text == "Cancelled.")
    page.wait_until(lambda: server[1]() == 0)
    page.wait_until(lambda: page.find("send").is_enabled())
    page.fill(question="What is 7+8?", budget=5, temperature=0.7)
    page.find("send").click()
    page.wait_for("answer", lambda text: text == "15")


def test_the_certaindex_moves_from_grant_to_grant(page):
    page.fill(question="What is 83*47+29?", budget=20, temperature=1.1)
    page.find("send").click()
    page.wait_for("status", lambda text: text.startswith("Ended"))
    ends = page.text("units")
    assert ends.endswith("of 20 samples")
    if ends != "5 of 20 samples":  # it was not certain at once: the curve has a point for each grant
        assert page.count("#curve .dot") >= 2


def test_it_can_be_used_by_keyboard_alone(page):
    from selenium.webdriver.common.keys import Keys

    page.find("tab-ask").send_keys("")  # focus
    page.press(Keys.ARROW_RIGHT)
    assert (page.focused, page.find("load").is_displayed()) == ("tab-load", True)
    page.press(Keys.ARROW_LEFT)
    assert (page.focused, page.find("ask").is_displayed()) == ("tab-ask", True)
    visited = []
    for _ in range(6):
        page.press(Keys.TAB)
        visited.append(page.focused)
    assert visited == ["question", "program", "budget", "temperature", "key", "send"]
    page.press(Keys.ENTER)
    page.wait_for("status", lambda text: text.startswith("Ended"))


def test_the_second_tab_shows_the_load(page):
    page.fill(question="What is 83*47+29?", budget=64, temperature=2)
    page.find("send").click()
    page.wait_until(lambda: page.count("#branches li"))
    page.find("tab-load").click()
    page.wait_for("running", lambda text: text.endswith("of 256"))
    page.wait_until(lambda: page.count("#programs tr") >= 1)
    page.wait_until(lambda: page.count("#load-curve polyline") == 1)
    assert page.text("waiting") == "0 of 512"
    page.find("tab-ask").click()
    if page.find("cancel").is_enabled():
        page.find("cancel").click()
    page.wait_until(lambda: page.find("send").is_enabled())


def test_every_input_has_a_label_and_every_heading_its_place(page):
    from selenium.webdriver.common.by import By

    for field in page.browser.find_elements(By.CSS_SELECTOR, "input, select, textarea, meter, button, svg"):
        if field.is_displayed():
            assert field.accessible_name, field.get_attribute("outerHTML")
    assert page.count("h1") == page.count("main") == 1
    assert page.browser.find_element(By.TAG_NAME, "html").get_attribute("lang") == "en"


def test_a_refused_question_is_told(page):
    page.fill(question=" ")
    page.browser.execute_script("document.getElementById('form').noValidate = true")
    page.find("send").click()
    page.wait_for("status", lambda text: text.startswith("Error: "))
    assert page.find("send").is_enabled()
    page.browser.get_log("browser")  # the refusal is in the console, as it should be


def test_nothing_is_in_the_console_and_nothing_comes_from_outside(page, address):
    page.fill(question="What is 7+8?", budget=5, temperature=0.7)
    page.find("send").click()
    page.wait_for("answer", lambda text: text == "15")
    page.find("tab-load").click()
    page.wait_until(lambda: page.count("#programs tr"))
    assert page.browser.get_log("browser") == []
    rows = [json.loads(entry["message"])["message"] for entry in page.browser.get_log("performance")]
    urls = [row["params"]["request"]["url"] for row in rows if row["method"] == "Network.requestWillBeSent"]
    assert urls
    assert {urlsplit(url).netloc for url in urls} == {urlsplit(address).netloc}


def test_a_script_from_elsewhere_is_not_run(page):
    """What a model writes is text: markup in an answer does nothing."""
    page.browser.execute_script(
        "growBranch({branches: new Map()}, {request_id: 'x', num_tokens: 1, "
        "text: '<img src=x onerror=\"window.hit=1\"><b id=planted>y</b>'})"
    )
    assert page.count("#planted") == 0
    assert page.browser.execute_script("return window.hit") is None
