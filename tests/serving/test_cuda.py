"""The CUDA path: the same answers from both engines, and an exit that changes no token before it.

With a device at hand `make test` runs these. Flash attention is used where it is installed, SDPA otherwise.
"""

from __future__ import annotations

import pytest
import torch

from hf_dynasor import Recipe, make_engine, run
from hf_dynasor.serving import load_model
from hf_dynasor.stopping import AnswerConsistency, EarlyExit

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here")

QUESTIONS = ["What is 17*6+4?", "What is 25*3+1?", "What is 8*8+8?"]


@pytest.fixture(scope="module")
def loaded():
    return load_model("embedded", device="cuda", dtype="float32")


def test_engines_on_cuda_answer_alike(loaded):
    answers = []
    for name in ("generate", "continuous"):
        with make_engine(loaded, engine=name) as engine:
            recipe = Recipe(budget=5, seed=0)
            answers.append([run(*_swap(recipe.build(question), engine)).text for question in QUESTIONS])
    assert answers[0] == answers[1] == ["106", "76", "72"]


def test_an_exit_on_cuda_changes_no_token_before_it(loaded):
    batch = loaded.tokenizer(QUESTIONS, return_tensors="pt", padding=True).to("cuda")
    plain = loaded.model.generate(**batch, max_new_tokens=64, do_sample=False)
    never = EarlyExit(loaded.tokenizer, AnswerConsistency(window=10_000, interval=4))
    probed = loaded.model.generate(**batch, max_new_tokens=64, do_sample=False, custom_generate=never)
    assert torch.equal(plain, probed)


def _swap(built, engine):
    program, policy = built
    return program, engine, policy
