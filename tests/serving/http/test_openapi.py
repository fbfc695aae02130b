"""The OpenAPI document says what the server does, and needs no other host."""

from __future__ import annotations

import json

from hf_dynasor.serving.http.app import create_app
from hf_dynasor.serving.http.settings import ServerSettings


def test_every_operation_tells_its_errors_in_openais_shape(http):
    document = http.get("/openapi.json").json()
    assert "422" not in json.dumps(document)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            answers = operation["responses"]
            assert {"400", "401", "404", "413", "429", "503", "504"} <= set(answers)
            if path not in ("/health", "/ready"):
                schema = answers["503"]["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/Error"}
    assert "text/event-stream" in (document["paths"]["/v1/responses"]["post"]["responses"]["200"]["content"])


def test_a_server_with_keys_says_so(engine, model):
    app = create_app(engine, model, ServerSettings(api_keys=("key",)))
    assert app.openapi()["components"]["securitySchemes"]["key"]["scheme"] == "bearer"


def test_half_characters_and_unknown_places_are_clear_refusals(http):
    """A client may name a field by half a UTF-16 pair, which has no bytes of its own."""
    reply = http.post(
        "/v1/chat/completions",
        content=b'{"messages": [{"role": "user", "content": "hi"}], "\\ud800": 1}',
        headers={"content-type": "application/json"},
    )
    assert reply.status_code == 400
    assert reply.json()["error"]["type"] == "invalid_request_error"
    assert http.get("/v1/programs?limit=0").json()["error"]["param"] == "limit"
    for body in ({"stop_token_ids": [10**8]}, {"stop_token_ids": [-1]}, {"logit_bias": {"99999999": 1}}):
        reply = http.post("/v1/completions", json={"prompt": "hi", "max_tokens": 2} | body)
        assert (reply.status_code, reply.json()["error"]["param"].split(".")[0]) == (400, next(iter(body)))


def test_head_and_missing_routes(http):
    assert http.head("/health").status_code == 200
    missing = http.get("/v1/nothing")
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "invalid_request_error")
    assert http.get("/v1/completions").status_code == 405
    assert http.options("/v1/completions").status_code == 405


def test_the_tokenizer_tells_what_clients_count_with(http, loaded):
    info = http.get("/tokenizer_info").json()
    assert info["eos_token"] == loaded.tokenizer.eos_token
    assert info["vocab_size"] == loaded.config.vocab_size
