"""A scripted reasoner for tree programs: steps, rewards and seeds that depend on the request alone."""

import random

from hf_dynasor.core import FinishReason, Prompt, Score, TokenIds
from hf_dynasor.testing import Reply

PROMPT = Prompt.chat("What is 2+2?")


def count_steps(request):
    """How deep the prompt already is."""
    return sum(isinstance(segment, TokenIds) for segment in request.prompt.segments)


def reason(request, *, num_steps=3, answers=("4", "4", "5")):
    """A step, or the last one with an answer; `(name, seed)` decides which, and how likely it is."""
    rng = random.Random(f"{request.key.request_id} {getattr(request, 'sampling', None)}")
    if isinstance(request, Score):
        return Reply(score=rng.random(), num_tokens=2)
    left = num_steps - count_steps(request)
    final = f"So \\boxed{{{rng.choice(answers)}}}."
    if not request.sampling.stop:  # to the end of the path
        steps = [f"{rng.choice('abc')}={index}" for index in range(max(0, left - 1))]
        return Reply(
            text="\n\n".join([*steps, final]),
            num_tokens=4 * (len(steps) + 1),
            probability=rng.uniform(0.1, 1),
        )
    if left <= 1:
        return Reply(text=final, num_tokens=4, probability=rng.uniform(0.1, 1))
    return Reply(
        text=f"{rng.choice('abc')}={left}",
        num_tokens=rng.randint(1, 4),
        finish_reason=FinishReason.STOP,
        probability=rng.uniform(0.1, 1),
    )
