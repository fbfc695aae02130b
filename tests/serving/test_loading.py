"""Models come from folders, GGUF files, hub names and pipelines, and every mistake is one clear line."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from transformers import GenerationConfig, pipeline

from hf_dynasor.errors import ConfigurationError, MissingExtraError, ModelLoadError
from hf_dynasor.serving import LoadedModel, from_pipeline, load_model
from hf_dynasor.serving.loading import prepare
from hf_dynasor.serving.model_source import locate_model
from tests.serving.kit import make_model, make_tokenizer


@pytest.fixture(scope="module")
def folder(loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny"
    loaded.model.save_pretrained(path)
    loaded.tokenizer.save_pretrained(path)
    return path


def get_error(name: object, **options: object) -> str:
    with pytest.raises(ModelLoadError) as caught:
        load_model(str(name), device="cpu", **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_loads_as_float32_on_the_cpu(folder: Path) -> None:
    loaded = load_model(folder, device="cpu")
    assert (loaded.name, loaded.model.dtype, loaded.max_context) == ("tiny", torch.float32, 512)
    assert loaded.eos_token_ids == {2}
    assert not loaded.model.training
    assert load_model(folder, dtype="bfloat16", device="cpu").model.dtype == torch.bfloat16


def test_a_hub_name_offline_is_one_line_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Left to itself huggingface_hub retries for more than 20 seconds."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = get_error("no-such-owner/no-such-model")
    assert message.startswith(
        "Model 'no-such-owner/no-such-model' is neither a local folder nor in the local cache"
    )
    assert "offline" in message


def test_local_files_only_never_asks_the_hub() -> None:
    assert "neither a local folder" in get_error("no-such-owner/no-such-model", local_files_only=True)


@pytest.mark.parametrize("name", ["/no/such/folder", "./nowhere", "a/b/c"])
def test_a_folder_that_is_not_there_is_not_taken_for_a_hub_name(name: str) -> None:
    assert get_error(name) == f"No such folder: {name!r}."


def test_a_folder_called_embedded_does_not_hide_the_embedded_model(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any folder of that name in the working directory broke the default model."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "embedded").mkdir()
    name = locate_model("embedded", None)[0]
    assert (Path(name) / "config.json").is_file()
    assert "no config.json" in get_error("./embedded")
    shutil.copytree(folder, tmp_path / "embedded", dirs_exist_ok=True)
    for source in ("./embedded", Path("embedded"), tmp_path / "embedded"):
        assert load_model(source, device="cpu").max_context == 512
    with pytest.raises(ModelLoadError, match="No such folder: 'elsewhere'"):
        load_model(Path("elsewhere"), device="cpu")


def test_folders_that_hold_no_model(folder: Path, tmp_path: Path) -> None:
    assert "no config.json" in get_error(tmp_path)
    (tmp_path / "config.json").write_text("{broken")
    assert "not a valid JSON" in get_error(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "zorg"}')
    assert "zorg" in get_error(tmp_path)
    shutil.copytree(folder, tmp_path / "torn")
    (tmp_path / "torn" / "model.safetensors").write_bytes(b"garbage" * 100)
    assert "Cannot load model 'torn'" in get_error(tmp_path / "torn")
    (tmp_path / "torn" / "model.safetensors").unlink()
    assert "model.safetensors" in get_error(tmp_path / "torn")
    (tmp_path / "torn" / "tokenizer.json").unlink()
    assert "tokenizer of 'torn'" in get_error(tmp_path / "torn")
    assert "neither a model folder nor a .gguf file" in get_error(tmp_path / "config.json")


def test_encoder_decoder_models_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5", "is_encoder_decoder": True}))
    assert "encoder-decoder" in get_error(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"GGUF" + b"\x07" * 400])
def test_broken_gguf_files(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    assert "Cannot load model 'model'" in get_error(path)
    assert get_error(tmp_path / "other.gguf").startswith("No such file")


def test_gguf_without_its_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'hf-dynasor\[gguf\]'"):
        load_model(path, device="cpu")


def test_unknown_dtypes_and_devices_are_configuration_errors(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="Unknown dtype 'int3'"):
        load_model(folder, dtype="int3", device="cpu")
    with pytest.raises(ConfigurationError, match="device = 'zorg'"):
        load_model(folder, device="zorg")


def test_a_users_own_pipeline_is_taken_with_its_generation_config() -> None:
    tokenizer = make_tokenizer()
    pipe = pipeline("text-generation", model=make_model(tokenizer), tokenizer=tokenizer, device="cpu")
    pipe.model.generation_config.eos_token_id = [2, 7]
    taken = from_pipeline(pipe)
    assert taken.model is pipe.model
    assert taken.eos_token_ids == {2, 7}


def test_settings_that_a_pipeline_was_made_with_are_named_as_left_out(
    loaded: LoadedModel, caplog: pytest.LogCaptureFixture
) -> None:
    """`pipeline(..., max_new_tokens=3)` gave answers of any length, without a word."""
    parts = {"model": loaded.model, "tokenizer": loaded.tokenizer, "device": "cpu"}
    with caplog.at_level(logging.WARNING, "hf_dynasor"):
        from_pipeline(pipeline("text-generation", **parts))
        assert not caplog.records
        from_pipeline(pipeline("text-generation", max_new_tokens=3, stop_sequence="a", **parts))
    (record,) = caplog.records
    assert record.getMessage().endswith("own settings: max_new_tokens=3, stop_strings=['a']")
    config = GenerationConfig(eos_token_id=[5, 6])
    taken = from_pipeline(pipeline("text-generation", generation_config=config, **parts))
    assert taken.eos_token_ids == {5, 6}


def test_pipelines_of_other_tasks_are_refused(loaded: LoadedModel) -> None:
    class Other:
        task = "summarization"

    with pytest.raises(ModelLoadError, match="'summarization' but expected one for 'text-generation'"):
        from_pipeline(Other())


def test_settings_of_the_generation_config_that_are_left_out_are_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tokenizer = make_tokenizer()
    config = GenerationConfig(repetition_penalty=1.3, temperature=0.6, top_p=0.9, eos_token_id=2)
    with caplog.at_level(logging.WARNING):
        prepare(
            LoadedModel(
                model=make_model(tokenizer), tokenizer=tokenizer, name="tiny", generation_config=config
            )
        )
    assert "repetition_penalty=1.3" in caplog.text
    assert "temperature" not in caplog.records[-1].getMessage()
