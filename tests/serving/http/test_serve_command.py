"""What the options of `hf-dynasor serve` change in the server that it starts."""

from __future__ import annotations

import httpx

from tests.serving.http.kit import start_server


def test_the_embedded_reward_rates_steps_and_the_programs_defaults_hold():
    with (
        start_server("--budget", "3", "--served-model-name", "mine") as (_, address),
        httpx.Client(base_url=address, timeout=120) as http,
    ):
        assert http.get("/v1/models").json()["data"][0]["id"] == "mine"
        ask = {"messages": [{"role": "user", "content": "What is 17*6+4?"}], "seed": 0}
        rated = {"program": "rebase", "budget": 3, "options": {"reward": "model"}}
        reply = http.post("/v1/chat/completions", json=ask | {"dynasor": rated})
        assert reply.status_code == 200, reply.text
        assert reply.json()["usage"]["dynasor"]["reward_tokens"] > 0
        plain = http.post("/v1/chat/completions", json=ask | {"dynasor": {"policy": "even"}}).json()
        assert plain["dynasor"]["budget"] == plain["dynasor"]["units_spent"] == 3
