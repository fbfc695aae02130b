"""Reward models on a server, over vLLM's three routes; the scores come from a real reward model behind them."""

from __future__ import annotations

import math
import random

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from hf_dynasor.core import FinishReason, Prompt, RequestKey, Score, TokenIds
from hf_dynasor.errors import ConfigurationError, EngineError
from hf_dynasor.serving.remote import RemoteReward, RetryPolicy
from hf_dynasor.serving.remote.making import make_remote_engine
from hf_dynasor.serving.rewards import EncodedStep, RewardModel, StepInput, load_reward_model, rate_steps
from hf_dynasor.serving.solver import Solver
from tests.serving.http.kit import serve
from tests.serving.kit import Collector

QUESTION = "What is 17*6+4?"
RIGHT, WRONG = ["17*6=102\n\n", "102+4=106"], ["17*6=102\n\n", "102+4=119"]


@pytest.fixture(scope="module")
def judge():
    return load_reward_model("embedded")


def make_app(judge, routes, log):
    """A server in vLLM's shapes, whose numbers are the embedded reward's."""

    def rate(question, answer):
        return rate_steps(judge, question, [answer])[0].score

    async def score(request):
        body = await request.json()
        log.append(("/score", body))
        pairs = zip(body["text_1"], body["text_2"], strict=True)
        rows = [{"index": index, "score": rate(*pair)} for index, pair in enumerate(pairs)]
        return JSONResponse({"data": rows[::-1], "usage": {"prompt_tokens": 10 * len(rows)}})

    async def classify(request):
        body = await request.json()
        log.append(("/classify", body))
        chances = [rate(*text.split("\n\n", 1)) for text in body["input"]]
        rows = [{"index": index, "probs": [1 - chance, chance]} for index, chance in enumerate(chances)]
        return JSONResponse({"data": rows})

    async def pooling(request):
        body = await request.json()
        log.append(("/pooling", body))
        question, answer = (turn["content"] for turn in body["messages"])
        chance = rate(question, answer)
        logit = math.log(chance / (1 - chance)) - 20 * (chance == 0.5)
        return JSONResponse({"data": [{"index": 0, "data": [[0.3], [logit]]}]})

    async def models(request):
        return JSONResponse({"data": [{"id": "judge", "owned_by": "vllm"}]})

    async def document(request):
        return JSONResponse({"paths": {route: {} for route in routes}})

    known = {"/score": score, "/classify": classify, "/pooling": pooling}
    return Starlette(
        routes=[
            Route("/v1/models", models),
            Route("/openapi.json", document),
            *(Route(route, known[route], methods=["POST"]) for route in routes),
        ]
    )


@pytest.mark.parametrize("route", ["/score", "/classify", "/pooling"])
def test_a_step_is_rated_as_by_the_model_behind_the_route(judge, route):
    log = []
    with serve(make_app(judge, [route], log)) as address:
        reward = RemoteReward(f"{address}/v1")
        assert isinstance(reward, RewardModel)
        assert reward.route == route
        assert reward.name == f"judge at {address.removeprefix('http://')}{route}"
        steps = [reward.encode(StepInput.of(QUESTION, chain)) for chain in (RIGHT, WRONG)]
        ratings = reward.score(steps)
    expected = [rate_steps(judge, QUESTION, ["".join(chain)])[0].score for chain in (RIGHT, WRONG)]
    assert [rating.score for rating in ratings] == pytest.approx(expected, abs=1e-6)
    assert ratings[0].score > ratings[1].score
    assert all(rating.num_read > 0 for rating in ratings)
    assert len(log) == (2 if route == "/pooling" else 1)  # a batch is one request where the route takes one


def test_the_first_known_route_is_taken_and_the_server_s_account_is_kept(judge):
    with serve(make_app(judge, ["/pooling", "/score"], [])) as address:
        reward = RemoteReward(f"{address}/v1")
        assert reward.route == "/score"
        steps = [reward.encode(StepInput.of(QUESTION, chain)) for chain in (RIGHT, WRONG, RIGHT)]
        assert sum(rating.num_read for rating in reward.score(steps)) == 30


def test_a_search_over_a_remote_model_is_guided_by_a_remote_reward(judge, address):
    log = []
    with (
        serve(make_app(judge, ["/score"], log)) as rewards,
        make_remote_engine(f"{address}/v1", tokenizer="embedded", reward=f"{rewards}/v1") as engine,
    ):
        recipe = {"program": "rebase", "budget": 6, "seed": 1, "program_options": {"reward": "model"}}
        answer = Solver(engine, **recipe).solve(QUESTION)
    assert answer.text == "106"
    assert answer.usage.reward > 0
    assert {body["model"] for _, body in log} == {"judge"}
    assert all(text.startswith("What is 17*6+4?") for _, body in log for text in body["text_1"])


def test_a_reward_in_this_process_rates_what_a_remote_model_writes(address):
    with make_remote_engine(f"{address}/v1", tokenizer="embedded", reward="embedded") as engine:
        recipe = {"program": "best_of_n", "budget": 4, "seed": 1, "program_options": {"reward": "model"}}
        answer = Solver(engine, **recipe).solve(QUESTION)
    assert answer.text == "106"
    assert answer.usage.reward > 0


def test_token_ids_cannot_be_rated_without_the_tokenizer_and_texts_can(judge, address):
    with (
        serve(make_app(judge, ["/score"], [])) as rewards,
        make_remote_engine(f"{address}/v1", tokenizer=None, reward=f"{rewards}/v1") as engine,
    ):
        key = RequestKey(program_id="p", request_id="s")
        with pytest.raises(ConfigurationError, match="--tokenizer"):
            engine.submit([Score(key=key, prompt=Prompt.chat(QUESTION) + TokenIds(ids=(1,)))], Collector())
        collector = Collector()
        engine.submit([Score(key=key, prompt=Prompt.chat(QUESTION) + "".join(RIGHT))], collector)
        done = collector.wait(1)[key]
    assert done.finish_reason is FinishReason.EOS
    assert 0.5 < done.score <= 1


def open_scripted(reply, **options):
    def answer(request):
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "judge"}]})
        if request.url.path == "/openapi.json":
            return httpx.Response(200, json={"paths": {"/score": {}}})
        return reply(request)

    policy = RetryPolicy(max_attempts=3, base_s=0.001)
    given = {"retries": policy, "rng": random.Random(0), "transport": httpx.MockTransport(answer)}
    return RemoteReward("http://rewards.test/v1", **given, **options)


def test_a_busy_reward_server_is_asked_again_and_a_broken_one_is_one_error():
    replies = iter(
        [
            httpx.Response(503),
            httpx.Response(200, text='{"data": [{"sc'),
            httpx.Response(200, json={"data": [{"score": 0.25}]}),
        ]
    )
    reward = open_scripted(lambda request: next(replies))
    assert reward.score([reward.encode(StepInput.of("q", ["a"]))])[0].score == 0.25
    broken = open_scripted(lambda request: httpx.Response(500, text="oh no"))
    with pytest.raises(EngineError, match="oh no Given up after 3 attempts"):
        broken.score([broken.encode(StepInput.of("q", ["a"]))])


def test_fewer_scores_than_steps_are_never_taken_for_the_rest():
    reward = open_scripted(lambda request: httpx.Response(200, json={"data": [{"score": 0.25}]}))
    steps = [reward.encode(StepInput.of("q", ["a"]))] * 2
    with pytest.raises(EngineError, match="answered"):
        reward.score(steps)


def test_what_cannot_work_is_named(judge, address):
    with pytest.raises(ConfigurationError, match="/score, /classify, /pooling"):
        RemoteReward(f"{address}/v1")
    with pytest.raises(ConfigurationError, match="Unknown route '/rank'"):
        RemoteReward(f"{address}/v1", route="/rank")
    with pytest.raises(ConfigurationError, match="'likelihood'"):
        make_remote_engine(f"{address}/v1", reward="likelihood")
    with pytest.raises(ConfigurationError, match="another reward model"):
        open_scripted(lambda request: httpx.Response(200)).score([EncodedStep(ids=(1,))])
