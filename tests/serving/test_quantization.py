"""Weights in 8 and 4 bits, really loaded and run on the CPU; what cannot be is refused by name."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from transformers import AutoConfig

from hf_dynasor import Solver
from hf_dynasor.cli import main
from hf_dynasor.embedded import REASONER_PATH
from hf_dynasor.errors import ConfigurationError, MissingExtraError
from hf_dynasor.serving import load_model, make_engine
from hf_dynasor.serving.quantization import QUANTIZATIONS, plan_quantization

CPU = torch.device("cpu")

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="needs the extra quant"
)
# Said by bitsandbytes or torch on import and on its first use; nothing of ours can change it.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:bitsandbytes"),
]


@pytest.fixture(scope="module")
def full_size():
    return load_model("embedded", device="cpu").model.get_memory_footprint()


@needs_bitsandbytes
@pytest.mark.parametrize(("quantization", "share"), [("bnb-8bit", 0.4), ("bnb-4bit", 0.25)])
def test_a_quantised_model_is_small_and_still_answers(quantization, share, full_size):
    loaded = load_model("embedded", device="cpu", quantization=quantization)
    assert loaded.model.get_memory_footprint() < share * full_size
    with Solver(loaded, budget=4, seed=0) as solver:
        assert [solver.solve(f"What is {n}+2?").text for n in (3, 9)] == ["5", "11"]


@needs_bitsandbytes
@pytest.mark.parametrize("engine", ["generate", "continuous"])
def test_both_engines_run_it_and_greedy_answers_agree(engine):
    with Solver(
        make_engine("embedded", engine=engine, device="cpu", quantization="bnb-4bit"),
        budget=1,
        policy="even",
        temperature=0.0,
    ) as solver:
        assert solver.solve("What is 17*6+4?").text == "106"
        solver.engine.close()


@needs_bitsandbytes
def test_the_command_line_loads_it(capsys):
    options = ["--quantization", "bnb-4bit", "--budget", "3", "--policy", "even", "--json"]
    assert main(["solve", "What is 2+3?", *options]) == 0
    assert '"answer": "5"' in capsys.readouterr().out


def test_nothing_is_planned_where_nothing_is_asked_for():
    assert plan_quantization("x", None, object(), dtype="auto", device=CPU) == {}


def plan(**options):
    config = AutoConfig.from_pretrained(REASONER_PATH)
    return plan_quantization(
        "reasoner", options.pop("name", "bnb-8bit"), config, dtype="auto", device=CPU, **options
    )


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ConfigurationError, match=r"Unknown quantization 'int3'\. Known: bnb-4bit, bnb-8bit"):
        plan(name="int3")


def test_weights_that_are_in_another_form_already_are_refused():
    with pytest.raises(ConfigurationError, match="a GGUF file"):
        plan(gguf_file="x.gguf")
    config = AutoConfig.from_pretrained(REASONER_PATH)
    config.quantization_config = {"quant_method": "awq"}
    with pytest.raises(ConfigurationError, match="quantization_config"):
        plan_quantization("reasoner", "bnb-4bit", config, dtype="auto", device=CPU)


def test_a_model_that_is_split_is_refused():
    with pytest.raises(ConfigurationError, match="tensor_parallel = 2"):
        plan(tensor_parallel=2)


def test_a_missing_package_is_named_with_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'hf-dynasor\[quant\]'"):
        plan()


def test_a_loaded_model_cannot_be_quantised_any_more():
    loaded = load_model("embedded", device="cpu")
    with pytest.raises(ConfigurationError, match=r"quantization='bnb-8bit'.*loaded already"):
        make_engine(loaded, quantization="bnb-8bit")


def test_the_command_line_knows_the_same_names(capsys):
    with pytest.raises(SystemExit):
        main(["solve", "?", "--quantization", "int3"])
    told = capsys.readouterr().err
    assert all(name in told for name in QUANTIZATIONS)
