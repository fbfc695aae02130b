"""`make_engine` takes a model however it is named, and says what it chose."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from transformers import pipeline

import hf_dynasor.serving
from hf_dynasor.errors import ConfigurationError, ModelLoadError, UnsupportedError
from hf_dynasor.serving import ContinuousBatchingEngine, GenerateEngine, LoadedModel, factory, make_engine
from tests.serving.kit import ask, complete


def test_on_a_cpu_auto_is_the_padded_batch(loaded: LoadedModel) -> None:
    with make_engine(loaded) as engine:
        assert isinstance(engine, GenerateEngine)
    with make_engine(loaded, engine="continuous", num_blocks=32) as engine:
        assert isinstance(engine, ContinuousBatchingEngine)


def test_on_cuda_auto_falls_back_with_a_reason(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(loaded: LoadedModel) -> None:
        raise UnsupportedError("tiny cannot share pages.")

    class OnCuda:
        device = torch.device("cuda")

    monkeypatch.setattr(factory, "ContinuousBatchingEngine", refuse)
    monkeypatch.setattr(factory, "GenerateEngine", lambda loaded: "fallback")
    with caplog.at_level(logging.WARNING):
        assert make_engine(LoadedModel(model=OnCuda(), tokenizer=None, name="tiny")) == "fallback"
    assert "tiny cannot share pages" in caplog.text
    with pytest.raises(UnsupportedError):
        make_engine(LoadedModel(model=OnCuda(), tokenizer=None, name="tiny"), engine="continuous")


def test_a_users_pipeline_serves_as_the_engine(loaded: LoadedModel) -> None:
    pipe = pipeline("text-generation", model=loaded.model, tokenizer=loaded.tokenizer, device="cpu")
    with make_engine(pipe) as engine:
        (done,) = complete(engine, ask("abc", max_new_tokens=3))
    assert len(done.token_ids) == 3


@pytest.mark.parametrize(("option", "value"), [("dtype", "bfloat16"), ("device", "cuda:5")])
def test_options_of_loading_are_refused_for_what_is_loaded(
    option: str, value: str, loaded: LoadedModel
) -> None:
    """`make_engine(loaded, dtype="bfloat16", device="cuda:5")` gave float32 on the CPU."""
    pipe = pipeline("text-generation", model=loaded.model, tokenizer=loaded.tokenizer, device="cpu")
    for model in (loaded, pipe):
        with pytest.raises(
            ConfigurationError, match=rf"{option}='{value}' .*torch.float32 on cpu.*leave {option} out"
        ):
            make_engine(model, **{option: value})  # type: ignore[arg-type]
        for not_given in ("auto", None):
            make_engine(model, **{option: not_given}).close()  # type: ignore[arg-type]


def test_a_path_is_loaded(loaded: LoadedModel, tmp_path: Path) -> None:
    loaded.model.save_pretrained(tmp_path)
    loaded.tokenizer.save_pretrained(tmp_path)
    with make_engine(tmp_path, device="cpu") as engine:
        assert engine.name == f"generate({tmp_path.name})"
    with pytest.raises(ModelLoadError):
        make_engine(tmp_path / "nowhere", device="cpu")


def test_an_unknown_engine_lists_the_known(loaded: LoadedModel) -> None:
    with pytest.raises(
        ConfigurationError, match=r"Unknown engine 'vllm'\. Known: auto, continuous, generate"
    ):
        make_engine(loaded, engine="vllm")  # type: ignore[arg-type]


def test_the_package_exports_what_it_says() -> None:
    names = hf_dynasor.serving.__all__
    assert names == sorted(names, key=lambda name: (name[0].islower(), name))
    assert all(hasattr(hf_dynasor.serving, name) for name in names)
