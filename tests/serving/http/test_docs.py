"""`docs/serving.md` names everything that the server has, and nothing that it has not."""

from __future__ import annotations

import argparse
import dataclasses
import re
from pathlib import Path

import httpx
import pytest

from hf_dynasor.cli.serve import API_KEY_VARIABLE, add_serve_options
from hf_dynasor.serving.http import programs_api, responses_wire, wire
from hf_dynasor.serving.http.metrics import PREFIX, Metrics
from hf_dynasor.serving.http.settings import ServerSettings

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "serving.md").read_text()


def read_section(title):
    return PAGE.split(f"\n## {title}")[1].split("\n## ")[0]


def test_every_option_is_on_the_page_and_no_other():
    parser = argparse.ArgumentParser(add_help=False)
    add_serve_options(parser)
    options = {name for action in parser._actions for name in action.option_strings}
    section = read_section("Options")
    assert set(re.findall(r"`(--[a-z-]+)`", section)) == options
    assert f"`{API_KEY_VARIABLE}`" in section


def test_every_setting_is_on_the_page_and_no_other():
    fields = {field.name for field in dataclasses.fields(ServerSettings)}
    rows = [line.split("|")[1] for line in read_section("Settings").splitlines() if line.startswith("| `")]
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == fields


def test_every_metric_is_on_the_page_with_its_labels_and_no_other():
    metrics = Metrics(num_running=int, num_waiting=int, read_cache=int, read_scheduling=(float, float))
    found = {
        name.removeprefix(f"{PREFIX}_"): set(collector._labelnames)
        for collector, names in metrics.registry._collector_to_names.items()
        for name in names[:1]
    }
    rows = [line.split("|") for line in read_section("Metrics").splitlines() if line.startswith("| `")]
    said = {
        name: set(re.findall(r"`(\w+)`", labels))
        for _, names, labels, *_ in rows
        for name in re.findall(r"`(\w+)`", names)
    }
    assert said == found


def test_every_route_is_on_the_page_and_no_other(address):
    paths = httpx.get(f"{address}/openapi.json").json()["paths"]
    routes = {f"{method.upper()} {path}" for path, operations in paths.items() for method in operations}
    said = set(re.findall(r"`((?:GET|POST|DELETE|PUT) /[^`]*)`", read_section("Routes")))
    assert said - {"GET /", "GET /page/{name}", "GET /openapi.json"} == routes


def test_every_error_code_is_on_the_page_and_no_other():
    folder = ROOT / "hf_dynasor" / "serving" / "http"
    texts = [path.read_text() for path in folder.glob("*.py") if path.name != "responses.py"]
    codes = {code for text in texts for code in re.findall(r"code(?:: str)? ?= ?\"(\w+)\"", text)}
    rows = [line for line in read_section("Errors").splitlines() if re.match(r"\| [45]", line)]
    assert {re.findall(r"`(\w+)`", row)[0] for row in rows} == codes


MODELS = [
    *(
        wire.ChatRequest,
        wire.CompletionRequest,
        wire.DynasorOptions,
        wire.AdaptiveCompute,
        wire.StreamOptions,
    ),
    *(wire.TokenizeRequest, wire.DetokenizeRequest, wire.ControlRequest, wire.TemplateOptions),
    *(responses_wire.ResponseRequest, responses_wire.Reasoning, programs_api.ProgramRequest),
]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_field_is_on_the_page(model):
    section = read_section("Fields")
    assert [name for name in model.model_fields if not re.search(rf"`{name}\b", section)] == []


def test_every_field_of_the_tables_exists():
    known = {name for model in MODELS for name in model.model_fields}
    rows = [line.split("|")[1] for line in read_section("Fields").splitlines() if line.startswith("| `")]
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) <= known


def test_the_defaults_of_the_settings_are_the_codes_own():
    said = {}
    for line in read_section("Settings").splitlines():
        if line.startswith("| `"):
            _, names, values, *_ = line.split("|")
            for name, value in zip(re.findall(r"`(\w+)`", names), values.split(","), strict=False):
                said[name] = value.strip()
    units = {"MiB": 2**20, "Mi": 2**20}
    for field in dataclasses.fields(ServerSettings):
        number = re.fullmatch(r"(\d+)(?: (\w+))?", said.get(field.name, ""))
        if number:
            assert field.default == int(number[1]) * units.get(number[2], 1), field.name
