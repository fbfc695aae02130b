"""Prompts read together say what each of them says alone, and what the model's own logits say."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_dynasor.serving import load_model
from hf_dynasor.serving.prompt_logprobs import read_prompt_logprobs, split_prompts


@pytest.fixture(scope="module")
def loaded():
    return load_model("embedded")


TEXTS = ["What is 17*6+4?", "5", "Add 2 and 3, then take away 4 from what you get.", "1+1=2"]


def test_prompts_read_together_say_what_they_say_alone(loaded):
    prompts = [loaded.tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]
    together = read_prompt_logprobs(loaded, prompts, num_top=3)
    for prompt, read in zip(prompts, together, strict=True):
        (alone,) = read_prompt_logprobs(loaded, [prompt], num_top=3)
        assert read.logprobs[0] is None
        assert read.logprobs[1:] == pytest.approx(alone.logprobs[1:], abs=1e-4)
        assert len(read.logprobs) == len(read.top_logprobs) == len(prompt)


def test_each_number_is_the_models_own_and_the_top_one_marks_greedy_tokens(loaded):
    prompt = loaded.tokenizer.encode(TEXTS[2], add_special_tokens=False)
    (read,) = read_prompt_logprobs(loaded, [prompt], num_top=1)
    with torch.inference_mode():
        logits = loaded.model(torch.tensor([prompt])).logits[0].float()
    scores = torch.log_softmax(logits, dim=-1)
    for place, token_id in enumerate(prompt[1:]):
        assert read.logprobs[place + 1] == pytest.approx(float(scores[place, token_id]), abs=1e-4)
        ((best_id, best),) = read.top_logprobs[place + 1]
        assert best_id == int(scores[place].argmax())
        assert (best == read.logprobs[place + 1]) == (best_id == token_id)


@given(st.lists(st.integers(1, 5000), max_size=40), st.sampled_from([100, 50_000, 10**7]))
def test_every_prompt_is_read_once_and_batches_stay_within_the_bound(lengths, vocabulary_size):
    batches = split_prompts(lengths, vocabulary_size)
    assert sorted(place for batch in batches for place in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[place] for place in batch)
        assert len(batch) == 1 or len(batch) * longest * vocabulary_size <= 2**25
