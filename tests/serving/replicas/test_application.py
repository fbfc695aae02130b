"""The application is checked before Ray starts anything; the example's config file is one that it takes."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

from hf_dynasor.cli import main
from hf_dynasor.errors import ConfigurationError, EngineError
from hf_dynasor.recipe import Recipe
from hf_dynasor.serving.http.settings import ServerSettings, Tenant
from hf_dynasor.serving.replicas.scaling import scale_by_backlog
from tests.serving.replicas.kit import needs_ray

EXAMPLE = Path(__file__).parents[3] / "examples" / "serve_replicas.yaml"


@pytest.fixture
def application():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own, about pydantic
        from hf_dynasor.serving.replicas import application

    return application


@needs_ray
def test_the_example_is_taken_and_names_the_function_that_takes_it(application):
    yaml = pytest.importorskip("yaml")
    (entry,) = yaml.safe_load(EXAMPLE.read_text())["applications"]
    module, _, name = entry["import_path"].partition(":")
    assert (module, getattr(application, name)) == (application.__name__, application.from_config)
    assert application.from_config(entry["args"]) is not None


@needs_ray
def test_what_is_unknown_in_a_config_file_is_named(application):
    with pytest.raises(ConfigurationError, match="Unknown section 'modle'"):
        application.from_config({"modle": {}})
    with pytest.raises(ConfigurationError, match="Unknown field of Scale 'replica'"):
        application.from_config({"scale": {"replica": 2}, "job_store": "x"})
    with pytest.raises(ConfigurationError, match="share their programs and batches through a file"):
        application.from_config({"scale": {"replicas": 2}})
    with pytest.raises(ConfigurationError, match="Unknown field of Tenant 'wieght'"):
        application.from_config({"settings": {"tenants": {"key": {"wieght": 2}}}, "job_store": "x"})
    with pytest.raises(ConfigurationError, match="seconds of at least 0"):
        application.Scale(downscale_delay_s=-1.0)
    with pytest.raises(ConfigurationError, match="1 <= replicas <= max_replicas"):
        application.Scale(replicas=3, max_replicas=2)


@needs_ray
def test_keys_and_tenants_of_a_config_file_are_those_of_a_server(application):
    section = {"api_keys": ["a", "b"], "tenants": {"a": {"name": "team", "weight": 2.0}}}
    settings = application._read_settings(section, Recipe())
    assert settings == ServerSettings(
        api_keys=("a", "b"), tenants={"a": Tenant(name="team", weight=2.0)}, recipe=Recipe()
    )


@needs_ray
def test_limits_for_callers_are_divided():
    from hf_dynasor.serving.replicas.replica import split_limits

    settings = split_limits(ServerSettings(requests_per_minute=10, max_concurrent_per_key=None), 4)
    assert (settings.requests_per_minute, settings.max_concurrent_per_key) == (3, None)


def test_replicas_follow_the_backlog_within_their_bounds():
    def ask(**metrics):
        return scale_by_backlog(
            SimpleNamespace(
                aggregated_metrics=metrics,
                capacity_adjusted_min_replicas=1,
                capacity_adjusted_max_replicas=4,
            )
        )[0]

    assert ask() == 1
    assert ask(own={"a": 40.0, "b": 10.0}, queued={"a": 14.0, "b": 14.0}) == 2
    assert ask(own={"a": 1000.0}) == 4


@pytest.mark.parametrize(
    "other", [["--tensor-parallel", "2"], ["--device-map", "auto"], ["--tls-key", "k.pem"]]
)
def test_what_replicas_do_not_go_with_is_said(capsys, other):
    assert main(["serve", "--replicas", "2", *other]) == 2
    assert f"Got {other[0]} with --replicas 2" in capsys.readouterr().err


@needs_ray
def test_a_ray_that_does_not_start_is_one_clear_error(monkeypatch):
    import ray

    from hf_dynasor.serving.replicas.local import run_replicas

    def fail(**options):
        raise Exception("The current node timed out during startup.\nAnd more.")

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(
        EngineError, match=r"^Ray did not start: The current node timed out during startup\.$"
    ):
        run_replicas(None)
