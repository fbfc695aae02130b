"""Reward models of each kind against plain transformers code, alone and in batches, with and without reuse."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from hf_dynasor.certaindex.likelihood import RESULT_DIGITS
from hf_dynasor.core import Chat, Message
from hf_dynasor.errors import ConfigurationError, EngineError
from hf_dynasor.serving.rewards import (
    LikelihoodReward,
    ProductReward,
    Rating,
    RewardModel,
    ScalarHeadReward,
    StepClassReward,
    StepInput,
    StepLabelReward,
    rate_steps,
)
from tests.serving.reward_kit import (
    CHAINS,
    QUESTION,
    STEPS,
    ask_messages,
    load_shared_tokenizer,
    load_tokenizer,
    make_causal,
    make_classes,
    make_encoder,
    make_scalar,
)

TOKENIZER = load_shared_tokenizer()
KINDS: dict[str, Callable[..., RewardModel]] = {
    "scalar": lambda **sizes: ScalarHeadReward(make_scalar(TOKENIZER), **sizes),
    "scalar open": lambda **sizes: ScalarHeadReward(
        make_scalar(TOKENIZER), closes_turn=False, ending="\n\n", **sizes
    ),
    "step_labels": lambda **sizes: StepLabelReward(make_causal(TOKENIZER), **sizes),
    "turns": lambda **sizes: StepLabelReward(make_causal(TOKENIZER), layout="turns", **sizes),
    "step_classes": lambda **sizes: StepClassReward(make_classes(TOKENIZER), **sizes),
    "likelihood": lambda **sizes: LikelihoodReward(make_causal(TOKENIZER), **sizes),
    "likelihood on average": lambda **sizes: LikelihoodReward(
        make_causal(TOKENIZER), combination="geometric_mean", **sizes
    ),
    "likelihood of digits": lambda **sizes: LikelihoodReward(
        make_causal(TOKENIZER), pattern=RESULT_DIGITS, combination="product", **sizes
    ),
}
PATHS = [StepInput.of(QUESTION, chain[:end]) for chain in CHAINS for end in range(1, len(chain) + 1)]
PATHS.append(StepInput.of("2+2?", ("2+2=4\n\n",)))


def score_all(reward: RewardModel, paths: list[StepInput]) -> list[float]:
    return [rating.score for rating in reward.score([reward.encode(path) for path in paths])]


@torch.inference_mode()
def plain_scalar(steps: tuple[str, ...]) -> float:
    """As the card of a sequence classifier does it: the templated conversation, the one logit."""
    ids = TOKENIZER.apply_chat_template(
        ask_messages("".join(steps)), tokenize=True, return_tensors="pt", return_dict=False
    )
    return torch.sigmoid(make_scalar(TOKENIZER).model(ids).logits[0, 0]).item()


@torch.inference_mode()
def plain_scalar_open(steps: tuple[str, ...]) -> float:
    """As the card of the embedded step reward does it: the path as far as it is written."""
    text = TOKENIZER.apply_chat_template(ask_messages(), tokenize=False, add_generation_prompt=True)
    text += "".join(steps) if "".join(steps).endswith("\n\n") else "".join(steps) + "\n\n"
    ids = TOKENIZER(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    return torch.sigmoid(make_scalar(TOKENIZER).model(ids).logits[0, 0]).item()


@torch.inference_mode()
def plain_step_labels(steps: tuple[str, ...]) -> float:
    """As the card of Math-Shepherd does it: the candidates' softmax at every tag, the last one taken."""
    candidates = [TOKENIZER.convert_tokens_to_ids(label) for label in ("+", "-")]
    tag = TOKENIZER.convert_tokens_to_ids("ки")
    text = QUESTION + " " + "\n".join(f"{step.strip()} ки" for step in steps)
    ids = torch.tensor([TOKENIZER.encode(text)])
    logits = make_causal(TOKENIZER).model(ids).logits[:, :, candidates]
    return logits.softmax(dim=-1)[:, :, 0][ids == tag][-1].item()


@torch.inference_mode()
def plain_turns(steps: tuple[str, ...]) -> float:
    """Each step a turn of the user, the label read where the assistant would write it."""
    texts = [f"{QUESTION} {steps[0].strip()}", *(step.strip() for step in steps[1:])]
    conversation: list[dict[str, str]] = []
    for text in texts:
        conversation += [{"role": "user", "content": text}, {"role": "assistant", "content": "+"}]
    ids = TOKENIZER.apply_chat_template(
        conversation[:-1], add_generation_prompt=True, return_tensors="pt", return_dict=False
    )
    candidates = [TOKENIZER.convert_tokens_to_ids(label) for label in ("+", "-")]
    return make_causal(TOKENIZER).model(ids).logits[0, -1, candidates].softmax(dim=-1)[0].item()


@torch.inference_mode()
def plain_step_classes(steps: tuple[str, ...]) -> float:
    """As the card of Qwen2.5-Math-PRM does it: the second class's softmax at every separator, the last one taken."""
    written = "<extra_0>".join(step.strip() for step in steps) + "<extra_0>"
    text = TOKENIZER.apply_chat_template(ask_messages(written), tokenize=False)
    ids = torch.tensor([TOKENIZER.encode(text, add_special_tokens=False)])
    probabilities = make_classes(TOKENIZER).model(ids).logits.softmax(dim=-1)
    return probabilities[ids == TOKENIZER.convert_tokens_to_ids("<extra_0>")][-1, 1].item()


@torch.inference_mode()
def read_logprobs(steps: tuple[str, ...]) -> tuple[list[float], list[str]]:
    """The log-probability and the text of every token that was written."""
    opening = TOKENIZER.apply_chat_template(ask_messages(), add_generation_prompt=True, return_dict=False)
    written = [token for step in steps for token in TOKENIZER.encode(step, add_special_tokens=False)]
    ids = torch.tensor([[*opening, *written]])
    logprobs = make_causal(TOKENIZER).model(ids).logits.float().log_softmax(dim=-1)[0, :-1]
    chosen = logprobs.gather(-1, ids[0, 1:, None])[:, 0].tolist()[len(opening) - 1 :]
    return chosen, [TOKENIZER.decode([token]) for token in written]


def plain_likelihood(steps: tuple[str, ...]) -> float:
    return math.exp(min(read_logprobs(steps)[0]))


def plain_average(steps: tuple[str, ...]) -> float:
    logprobs, _ = read_logprobs(steps)
    return math.exp(sum(logprobs) / len(logprobs))


def plain_digits(steps: tuple[str, ...]) -> float:
    total, is_result = 0.0, False
    for logprob, text in zip(*read_logprobs(steps), strict=True):
        is_result = text == "=" or (is_result and text.isdigit())
        total += logprob if is_result and text != "=" else 0.0
    return math.exp(total)


PLAIN = {
    "scalar": plain_scalar,
    "scalar open": plain_scalar_open,
    "step_labels": plain_step_labels,
    "turns": plain_turns,
    "step_classes": plain_step_classes,
    "likelihood": plain_likelihood,
    "likelihood on average": plain_average,
    "likelihood of digits": plain_digits,
}


@pytest.fixture(params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_kind_equals_plain_transformers_code(kind):
    reward = KINDS[kind]()
    for chain in CHAINS:
        expected = [PLAIN[kind](chain[:end]) for end in range(1, len(chain) + 1)]
        assert [rating.score for rating in rate_steps(reward, QUESTION, chain)] == pytest.approx(
            expected, abs=1e-5
        )


def test_scores_differ_between_paths_so_that_equal_ones_mean_something(kind):
    scores = score_all(KINDS[kind](), PATHS)
    assert len({f"{score:.4g}" for score in scores}) > (2 if kind == "likelihood" else len(PATHS) // 2)


def test_a_step_scores_the_same_alone_and_in_any_company(kind):
    reward = KINDS[kind](max_cached_tokens=0)
    alone = [score_all(reward, [path])[0] for path in PATHS]
    assert score_all(reward, PATHS) == pytest.approx(alone, rel=1e-4)
    assert score_all(reward, PATHS[::-1]) == pytest.approx(alone[::-1], rel=1e-4)


def test_a_reused_prefix_gives_the_scores_of_a_full_reading(kind):
    full = KINDS[kind](max_cached_tokens=0)
    reused = KINDS[kind]()
    for paths in ([path] for path in PATHS):
        assert score_all(reused, paths) == pytest.approx(score_all(full, paths), rel=1e-4)
    assert score_all(reused, PATHS) == pytest.approx(score_all(full, PATHS), rel=1e-4)


def test_small_batches_and_small_caches_change_nothing(kind):
    small = KINDS[kind](max_batch_tokens=150, max_cached_tokens=120)
    assert score_all(small, PATHS) == pytest.approx(score_all(KINDS[kind](), PATHS), rel=1e-4)
    assert small.reader.cache.num_tokens <= 120


def test_logits_computed_in_pieces_are_the_same(monkeypatch):
    expected = score_all(KINDS["likelihood"](), PATHS)
    monkeypatch.setattr("hf_dynasor.serving.rewards.reader.MAX_LOGIT_VALUES", 7 * len(TOKENIZER))
    assert score_all(KINDS["likelihood"](), PATHS) == pytest.approx(expected, rel=1e-4)


def test_a_later_step_is_scored_without_reading_its_ancestors(kind):
    reward = KINDS[kind]()
    first, second = (reward.encode(StepInput.of(QUESTION, STEPS[:end])) for end in (1, 2))
    (before,) = reward.score([first])
    assert (before.num_read, before.num_reused) == (len(first.ids), 0)
    (after,) = reward.score([second])
    assert after.num_read + after.num_reused == len(second.ids)
    written = len(TOKENIZER.encode(STEPS[1], add_special_tokens=False))
    assert after.num_read <= written + 12  # the end of a turn, a tag, or the next turn's header
    assert after.num_reused >= len(first.ids) - 12


def test_siblings_that_arrive_together_read_their_context_once():
    reward = KINDS["likelihood"]()
    paths = [StepInput.of(QUESTION, (f"17*6={result}\n\n",)) for result in (102, 112, 101, 106)]
    steps = [reward.encode(path) for path in paths]
    ratings = reward.score(steps)
    opening = len(
        TOKENIZER.apply_chat_template(ask_messages(), add_generation_prompt=True, return_dict=False)
    )
    written = sum(len(step.ids) - opening for step in steps)
    assert sum(rating.num_read for rating in ratings) <= opening + written + len(steps)
    # Where one beginning ends and the next goes on, a likelihood reads one token twice.
    sums = [
        rating.num_read + rating.num_reused - len(step.ids)
        for rating, step in zip(ratings, steps, strict=True)
    ]
    assert all(0 <= extra <= 2 for extra in sums)


def test_equal_steps_are_read_once_and_counted_for_the_first(kind):
    reward = KINDS[kind]()
    step = reward.encode(PATHS[0])
    first, second = reward.score([step, step])
    assert first.num_read == len(step.ids)
    assert (second.num_read, second.num_reused, second.score) == (0, len(step.ids), first.score)


def test_padding_of_the_tokenizer_does_not_matter(kind):
    sides = []
    for side in ("left", "right"):
        TOKENIZER.padding_side = side
        sides.append(score_all(KINDS[kind](), PATHS))
    TOKENIZER.padding_side = "left"
    assert sides[0] == pytest.approx(sides[1], rel=1e-4)


def test_a_likelihood_of_the_step_alone_leaves_its_context_out():
    reward = LikelihoodReward(make_causal(TOKENIZER), span="step", combination="geometric_mean")
    logprobs, _ = read_logprobs(STEPS[:2])
    num_last = len(TOKENIZER.encode(STEPS[1], add_special_tokens=False))
    (score,) = score_all(reward, [StepInput.of(QUESTION, STEPS[:2])])
    assert score == pytest.approx(math.exp(sum(logprobs[-num_last:]) / num_last), rel=1e-4)


def test_digits_of_the_question_and_of_operands_are_not_rated():
    reward = LikelihoodReward(make_causal(TOKENIZER), pattern=RESULT_DIGITS)
    step = reward.encode(StepInput.of("What is 1=23?", ("4*5=20\n\n", "20+1=21")))
    assert [TOKENIZER.decode([step.ids[place]]) for place in step.rated] == list("2021")


def test_an_empty_step_is_rated_as_the_path_before_it(kind):
    reward = KINDS[kind]()
    (score,) = score_all(reward, [StepInput.of(QUESTION, (*STEPS[:1], ""))])
    assert 0.0 <= score <= 1.0
    if kind not in ("step_labels", "turns", "step_classes"):
        assert score == pytest.approx(score_all(reward, [StepInput.of(QUESTION, STEPS[:1])])[0], rel=1e-4)


def test_nothing_written_has_likelihood_one():
    assert score_all(KINDS["likelihood"](), [StepInput.of(QUESTION, ("",))]) == [1.0]


def test_a_path_beyond_the_context_is_refused_with_both_lengths(kind):
    with pytest.raises(ConfigurationError, match=r"path of \d{3,} tokens to score but \w+ takes at most 256"):
        KINDS[kind]().encode(StepInput.of(QUESTION, ("1+1=2\n\n" * 60, "2+2=4")))


def test_an_encoder_reads_a_pair_of_texts_and_reuses_nothing():
    tokenizer = load_tokenizer()
    tokenizer.chat_template = None
    loaded = make_encoder(tokenizer)
    reward = ScalarHeadReward(loaded, max_batch_tokens=120)
    expected = []
    for path in PATHS:
        with torch.inference_mode():
            inputs = tokenizer(path.question, path.written, return_tensors="pt")
            expected.append(torch.sigmoid(loaded.model(**inputs).logits[0, 0]).item())
    ratings = reward.score([reward.encode(path) for path in PATHS])
    assert [rating.score for rating in ratings] == pytest.approx(expected, rel=1e-4)
    assert all(rating.num_reused == 0 for rating in ratings)


def test_a_product_multiplies_scores_and_adds_tokens():
    first, second = KINDS["scalar"](), KINDS["step_classes"]()
    both = ProductReward(KINDS["scalar"](), KINDS["step_classes"]())
    parts = [reward.score([reward.encode(PATHS[2])])[0] for reward in (first, second)]
    (rating,) = both.score([both.encode(PATHS[2])])
    assert rating.score == pytest.approx(parts[0].score * parts[1].score)
    assert rating.num_read == sum(part.num_read for part in parts)
    assert first.normaliser in both.normaliser
    assert second.normaliser in both.normaliser
    with pytest.raises(ConfigurationError, match="at least two"):
        ProductReward(first)


def test_every_kind_names_its_normaliser_and_itself(kind):
    reward = KINDS[kind]()
    assert isinstance(reward, RewardModel)
    assert reward.normaliser
    assert "(" in reward.name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StepLabelReward(make_causal(TOKENIZER), tag="<tag>"), "tag = '<tag>'"),
        (lambda: StepLabelReward(make_causal(TOKENIZER), plus="good"), "plus = 'good'"),
        (lambda: StepLabelReward(make_causal(TOKENIZER), minus="bad step"), "minus = 'bad step'"),
        (lambda: StepLabelReward(make_causal(TOKENIZER), minus="+"), "two different tokens"),
        (lambda: StepLabelReward(make_causal(TOKENIZER), layout="lines"), "Known: tags, turns"),
        (lambda: StepClassReward(make_classes(TOKENIZER), separator="<sep>"), "separator = '<sep>'"),
        (lambda: StepClassReward(make_classes(TOKENIZER, num_labels=3)), "num_labels = 3"),
        (lambda: StepClassReward(make_classes(TOKENIZER), right_class=2), "expected 0 or 1"),
        (lambda: ScalarHeadReward(make_scalar(TOKENIZER, num_labels=2)), "num_labels = 2"),
        (lambda: LikelihoodReward(make_causal(TOKENIZER), combination="mean"), "Known: geometric_mean"),
        (lambda: LikelihoodReward(make_causal(TOKENIZER), span="token"), "Known: path, step"),
        (lambda: LikelihoodReward(make_causal(TOKENIZER), pattern="("), "regular expression"),
        (lambda: StepInput.of(QUESTION, ()), "at least one"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()


@pytest.mark.parametrize("score", [1.5, -0.1, math.nan, math.inf])
def test_a_score_outside_the_interval_cannot_be_told(score):
    with pytest.raises(EngineError, match=r"NaN|\[0, 1\]"):
        Rating(score=score, num_read=1)


def test_a_model_that_returns_nan_is_an_error_and_no_score():
    loaded = make_scalar.__wrapped__(TOKENIZER)
    torch.nn.init.constant_(loaded.model.score.weight, math.nan)
    reward = ScalarHeadReward(loaded)
    with pytest.raises(EngineError, match="NaN"):
        reward.score([reward.encode(PATHS[0])])


def test_extreme_logits_stay_in_the_interval():
    for sign in (-1.0, 1.0):
        loaded = make_scalar.__wrapped__(TOKENIZER)
        with torch.no_grad():
            loaded.model.score.weight.mul_(sign * 1e6)
        assert all(0.0 <= score <= 1.0 for score in score_all(ScalarHeadReward(loaded), PATHS))


def test_the_chat_template_gets_the_whole_conversation():
    opening = Chat(
        messages=(
            Message(role="user", content="1+1"),
            Message(role="assistant", content="2"),
            Message(role="user", content="2+2"),
        )
    )
    reward = KINDS["scalar"]()
    step = reward.encode(StepInput(opening=opening, step="4"))
    assert TOKENIZER.decode(step.ids) == (
        "<|begin|><|user|>1+1<|end|><|assistant|>2<|end|><|user|>2+2<|end|><|assistant|>4<|end|>"
    )


def test_a_model_without_chat_template_says_so():
    tokenizer = load_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ConfigurationError, match="no chat template"):
        StepClassReward(make_classes(tokenizer)).encode(PATHS[0])
    with pytest.raises(ConfigurationError, match="no chat template"):
        LikelihoodReward(make_causal(tokenizer)).encode(PATHS[0])
