"""What is said where a model cannot be split as asked, and what `device_map` does."""

from __future__ import annotations

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, LlamaConfig

from hf_dynasor.core import Prompt, RequestKey, Score
from hf_dynasor.embedded import REASONER_PATH
from hf_dynasor.errors import ConfigurationError, UnsupportedError
from hf_dynasor.serving import ContinuousBatchingEngine, GenerateEngine, load_model, make_engine
from hf_dynasor.serving.layer_placement import check_device_map, plan_placing
from hf_dynasor.serving.loading import LoadedModel, prepare
from hf_dynasor.serving.prompt_logprobs import read_prompt_logprobs
from hf_dynasor.serving.shards import check_launched, group
from hf_dynasor.serving.solver import Solver
from tests.serving.kit import complete


def test_a_model_that_stays_whole_is_placed_as_ever():
    assert plan_placing("m", LlamaConfig(), None, 1) == {}


def test_a_model_without_a_plan_is_sent_to_the_device_map():
    with pytest.raises(UnsupportedError, match=r"no tensor-parallel plan for 'm' .gpt2.*--device-map auto"):
        plan_placing("m", GPT2Config(), None, 2)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "said"), [(6, 6, "num_attention_heads=6"), (8, 2, "num_key_value_heads=2")]
)
def test_heads_that_do_not_divide_are_named(heads, kv_heads, said):
    config = LlamaConfig(hidden_size=8 * heads, num_attention_heads=heads, num_key_value_heads=kv_heads)
    with pytest.raises(UnsupportedError, match=said):
        plan_placing("m", config, None, 4)


def test_a_device_map_chooses_the_devices_itself():
    with pytest.raises(ConfigurationError, match="Known: auto"):
        check_device_map("balanced", None, 1)
    for device, size in (("cpu", 1), (None, 2)):
        with pytest.raises(ConfigurationError, match="Expected one of the three"):
            check_device_map("auto", device, size)


def test_a_model_with_a_device_map_answers_as_without():
    texts = []
    for device_map in (None, "auto"):
        loaded = load_model("embedded", device_map=device_map)
        with GenerateEngine(loaded) as engine:
            texts.append(_ask(engine))
    assert texts[0] == texts[1]


@pytest.fixture
def load_split(tmp_path):
    """The embedded model with half of its layers in memory and half in files, fetched for each forward."""

    def load(first, second):
        places = {f"model.layers.{number}": first if number < 2 else second for number in range(4)}
        places |= dict.fromkeys(("model.embed_tokens", "lm_head"), first)
        places |= {"model.norm": second, "model.rotary_emb": "cpu"}
        model = AutoModelForCausalLM.from_pretrained(
            REASONER_PATH, device_map=places, offload_folder=tmp_path / first, dtype="float32"
        )
        tokenizer = AutoTokenizer.from_pretrained(REASONER_PATH)
        return prepare(LoadedModel(model=model, tokenizer=tokenizer, name="split"))

    return load


@pytest.mark.parametrize(("first", "second"), [("cpu", "disk"), ("disk", "cpu")])
def test_layers_on_several_devices_answer_as_one_that_is_whole(load_split, first, second):
    whole, split = load_model("embedded"), load_split(first, second)
    assert split.devices == ("cpu", "disk")
    assert "meta" in {parameter.device.type for parameter in split.model.parameters()}
    question, key = Prompt.chat("What is 2+3?"), RequestKey(program_id="p", request_id="s")
    read = []
    for loaded in (whole, split):
        ids = loaded.tokenizer.encode("17*6+4=106")
        with make_engine(loaded, reward="likelihood") as engine:
            assert isinstance(engine, GenerateEngine)
            solved = Solver(engine, budget=4, seed=1, max_new_tokens=64).solve("What is 17*6+4?")
            (rated,) = complete(engine, Score(key=key, prompt=question + "2+3=5"))
            states = engine.read_hidden_states([question])
            (told,) = read_prompt_logprobs(loaded, [ids], num_top=1)
            read.append((solved, rated.score, states[0], told.logprobs[1:]))
    (here, *numbers), (there, *split_numbers) = read
    assert (here.text, here.usage) == (there.text, there.usage)
    assert here.text == "106"
    for number, split_number in zip(numbers, split_numbers, strict=True):
        assert split_number == pytest.approx(number, abs=1e-4)


def test_layers_on_several_devices_share_no_pages():
    loaded = load_model("embedded")
    loaded.model.hf_device_map = {"model.layers.0": "cpu", "model.layers.1": "disk"}
    with pytest.raises(UnsupportedError, match=r"on cpu, disk, but the pages .* are on one device"):
        ContinuousBatchingEngine(loaded)


def test_a_split_model_runs_in_continuous_batching_only():
    loaded = load_model("embedded")
    split = LoadedModel(model=loaded.model, tokenizer=loaded.tokenizer, name="m", num_shards=2)
    with pytest.raises(UnsupportedError, match="The engine 'generate' runs m in one process"):
        make_engine(split, engine="generate")
    with pytest.raises(UnsupportedError, match="The engine 'generate' runs m in one process"):
        GenerateEngine(split)
    with pytest.raises(UnsupportedError, match="The likelihood as a reward runs m in one process"):
        make_engine(split, reward="likelihood")


def test_the_launcher_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(
        ConfigurationError, match=r"1 process of it runs. Start it as: torchrun .* --nproc-per-node 2"
    ):
        check_launched(2)
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigurationError, match="3 processes of it run"):
        check_launched(2)


def test_the_watch_calls_once_when_the_launcher_is_gone():
    parents = iter([7, 7, 1, 1])
    calls = []
    done = group.watch_launcher(
        lambda: (calls.append(1), done.set()), interval_s=0.01, parent=lambda: next(parents)
    )
    assert done.wait(10)
    assert calls == [1]


def _ask(engine):
    from hf_dynasor import Recipe, run

    program, policy = Recipe(budget=2, seed=1).build("What is 2+3?")
    return run(program, engine, policy).text
