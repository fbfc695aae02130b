"""Reward models from disk: their kind is told by their configuration, and what cannot work says what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, LlamaConfig

from hf_dynasor.embedded import REASONER_PATH, STEP_REWARD_PATH
from hf_dynasor.errors import ConfigurationError, ModelLoadError
from hf_dynasor.serving import load_model, make_engine
from hf_dynasor.serving.rewards import (
    LikelihoodReward,
    ScalarHeadReward,
    StepClassReward,
    StepInput,
    StepLabelReward,
    load_reward_model,
    rate_steps,
)
from tests.serving.reward_kit import (
    CHAINS,
    QUESTION,
    STEPS,
    ProcessRewardModel,
    ask_messages,
    load_shared_tokenizer,
    make_causal,
    make_classes,
    make_scalar,
)

TOKENIZER = load_shared_tokenizer()
HERE: dict[str, Any] = {"device": "cpu", "dtype": "float32"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {
        "scalar": make_scalar(TOKENIZER),
        "two labels": make_scalar(TOKENIZER, 2),
        "classes": make_classes(TOKENIZER),
        "causal": make_causal(TOKENIZER),
    }
    found = {}
    for name, loaded in made.items():
        found[name] = tmp_path_factory.mktemp(name.replace(" ", "_"))
        loaded.model.save_pretrained(found[name])
        TOKENIZER.save_pretrained(found[name])
    return found


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("scalar", "auto", ScalarHeadReward),
        ("classes", "auto", StepClassReward),
        ("causal", "step_labels", StepLabelReward),
        ("causal", "likelihood", LikelihoodReward),
    ],
)
def test_a_saved_model_loads_as_its_kind_and_scores_as_before(folders, name, kind, expected):
    made = {"scalar": make_scalar, "classes": make_classes, "causal": make_causal}[name](TOKENIZER)
    reward = load_reward_model(folders[name], kind=kind, **HERE)
    assert type(reward) is expected
    scores = [rating.score for rating in rate_steps(reward, QUESTION, STEPS)]
    before = [rating.score for rating in rate_steps(expected(made), QUESTION, STEPS)]
    assert scores == pytest.approx(before, rel=1e-4)


def test_options_reach_the_class_of_the_kind(folders):
    reward = load_reward_model(folders["causal"], kind="likelihood", span="step", pattern=r"\d", **HERE)
    assert reward.normaliser == r"smallest token probability of the step, of those that match \d"
    with pytest.raises(ConfigurationError, match="tag = '<none>'"):
        load_reward_model(folders["causal"], kind="step_labels", tag="<none>", **HERE)


def test_a_bare_language_model_has_to_be_told_apart(folders):
    with pytest.raises(ModelLoadError, match=r"say kind='step_labels' .* or kind='likelihood'"):
        load_reward_model(folders["causal"], **HERE)


def test_an_architecture_of_no_kind_has_to_be_told_apart(tmp_path):
    LlamaConfig(architectures=["LlamaForQuestionAnswering"]).save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match=r"Cannot tell the kind .* 'LlamaForQuestionAnswering': say"):
        load_reward_model(tmp_path, **HERE)


def test_a_wrong_number_of_labels_is_refused_before_loading(folders):
    with pytest.raises(ConfigurationError, match="num_labels = 2 as kind = scalar but expected 1"):
        load_reward_model(folders["two labels"], **HERE)
    with pytest.raises(ConfigurationError, match="num_labels = 1 as kind = step_classes but expected 2"):
        load_reward_model(folders["scalar"], kind="step_classes", **HERE)


def test_a_head_that_was_never_trained_is_refused(folders, tmp_path):
    """A sequence classifier over a bare language model loads with a random head, and would score at random."""
    make_causal(TOKENIZER).model.save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {
        "architectures": ["LlamaForSequenceClassification"],
        "id2label": {"0": "x"},
        "label2id": {"x": 0},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelLoadError, match="no weights for score"):
        load_reward_model(tmp_path, **HERE)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(
        ConfigurationError, match="Known: auto, likelihood, scalar, step_classes, step_labels"
    ):
        load_reward_model("embedded", kind="prm")
    with pytest.raises(ModelLoadError, match="No such folder"):
        load_reward_model("./nowhere")


@pytest.mark.parametrize("sharded", [False, True])
def test_a_process_reward_model_needs_none_of_its_checkpoints_code(tmp_path, sharded):
    """Qwen2.5-Math-PRM names its own code in its configuration; the head is read without running it."""
    model = ProcessRewardModel(TOKENIZER).eval()
    model.config.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "evil.Qwen2ForProcessRewardModel"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text("raise SystemExit('this code must not run')")
    TOKENIZER.save_pretrained(tmp_path)
    _save_weights(model, tmp_path, sharded)
    reward = load_reward_model(tmp_path, **HERE)
    assert type(reward) is StepClassReward
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    for chain in CHAINS:
        written = "".join(f"{step.strip()}<extra_0>" for step in chain)
        text = tokenizer.apply_chat_template(ask_messages(written), tokenize=False)
        ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False)])
        with torch.inference_mode():
            probabilities = model(ids).softmax(dim=-1)
        expected = probabilities[ids == tokenizer.convert_tokens_to_ids("<extra_0>")][:, 1].tolist()
        scores = [rating.score for rating in rate_steps(reward, QUESTION, chain)]
        assert scores == pytest.approx(expected, rel=1e-4)


def _save_weights(model: torch.nn.Module, folder: Path, sharded: bool) -> None:
    tensors = model.state_dict()
    if not sharded:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = {key: f"model-0000{1 + key.startswith('score.')}-of-00002.safetensors" for key in tensors}
    for name in set(names.values()):
        part = {key: tensor for key, tensor in tensors.items() if names[key] == name}
        save_file(part, folder / name, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 0}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_the_embedded_reward_is_the_likelihood_under_the_embedded_reasoner():
    reward = load_reward_model("embedded", device="cpu")
    right, wrong = (
        rate_steps(reward, "What is 17 * 6 + 4?", (step, "The answer"))[0].score
        for step in ("17*6=102\n\n", "17*6=112\n\n")
    )
    assert reward.name == "likelihood(embedded)"
    assert reward.normaliser == "smallest token probability of the path"
    assert right > 0.5 > 0.05 > wrong


def test_the_likelihood_of_the_generator_needs_a_generator():
    with pytest.raises(ConfigurationError, match="without a generator"):
        load_reward_model("likelihood")


def test_the_trained_step_reward_loads_as_a_scalar_head():
    reward = load_reward_model(STEP_REWARD_PATH, closes_turn=False, ending="\n\n", **HERE)
    ratings = rate_steps(reward, "What is 17 * 6 + 4?", STEPS)
    assert type(reward) is ScalarHeadReward
    assert all(0.0 < rating.score < 1.0 for rating in ratings)


def test_the_likelihood_shares_the_generators_weights_and_leaves_it_alone():
    loaded = load_model(REASONER_PATH, device="cpu")
    reward = load_reward_model("likelihood", generator=loaded)
    own = reward._loaded.model
    assert own is not loaded.model
    assert own.config is not loaded.model.config
    pairs = zip(own.parameters(), loaded.model.parameters(), strict=True)
    assert all(mine.data_ptr() == theirs.data_ptr() for mine, theirs in pairs)
    assert reward.encode(StepInput.of("1+1?", ("1+1=2",))).ids


def test_a_reward_of_a_wrong_type_is_refused():
    with pytest.raises(ConfigurationError, match="type float but expected a name"):
        make_engine(load_model(REASONER_PATH, device="cpu"), reward=0.5)


@pytest.mark.parametrize("name", ["embedded", "likelihood"])
def test_a_likelihood_is_no_other_kind(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"'{name}' as kind = scalar"):
        load_reward_model(name, kind="scalar")


@pytest.mark.parametrize("reward", ["auto", None])
def test_a_kind_without_a_reward_model_is_refused(reward: str | None) -> None:
    with pytest.raises(ConfigurationError, match="reward_kind = scalar without a reward model"):
        make_engine("embedded", reward=reward, reward_kind="scalar", device="cpu")
