"""`pipeline("dynasor-reasoning")`, and a user's own text-generation pipeline as an engine."""

import pytest
from transformers import pipeline

import hf_dynasor
from hf_dynasor.embedded import REASONER_PATH
from hf_dynasor.errors import ConfigurationError, InputError, ModelLoadError


@pytest.fixture(scope="module")
def reason():
    pipe = pipeline("dynasor-reasoning", device="cpu")
    yield pipe
    pipe.close()


def test_without_a_model_it_is_the_embedded_one(reason):
    assert reason.model.name_or_path == str(REASONER_PATH)
    row = reason("What is 7+8?", seed=0)
    assert row["answer"] == "15"
    assert row["stop_reason"] == "certain"
    assert row["usage"]["net_tokens"] > 0


def test_a_list_is_solved_side_by_side_in_order(reason):
    rows = reason([f"What is {n}+2?" for n in (3, 4, 5)], seed=0, budget=5)
    assert [row["answer"] for row in rows] == ["5", "6", "7"]


def test_options_of_construction_hold_and_a_call_overrides_them():
    pipe = pipeline("dynasor-reasoning", device="cpu", budget=2, policy="even", seed=0)
    try:
        assert [grant["units"] for grant in pipe("What is 3+2?")["grants"]] == [2]
        assert [grant["units"] for grant in pipe("What is 3+2?", budget=3)["grants"]] == [3]
    finally:
        pipe.close()


def test_it_works_again_after_being_closed():
    pipe = pipeline("dynasor-reasoning", device="cpu")
    for _ in range(2):
        assert pipe("What is 3+2?", budget=2, seed=1)["answer"] is not None
        pipe.close()


def test_an_unknown_option_is_refused_and_lists_the_known_ones(reason):
    with pytest.raises(ConfigurationError, match=r"Unknown option 'bugdet'. Known: .*budget"):
        reason("What is 3+2?", bugdet=3)


def test_an_empty_question_is_refused(reason):
    with pytest.raises(InputError, match="empty question"):
        reason("")


@pytest.mark.parametrize("engine", ["generate", "continuous"])
def test_a_users_own_pipeline_is_the_engine_of_a_program(engine):
    own = pipeline("text-generation", model=str(REASONER_PATH), device="cpu")
    answer = hf_dynasor.solve("What is 7+8?", model=own, engine=engine, budget=10)
    assert answer.text == "15"
    # The user's pipeline is as it was: it still generates.
    assert own([{"role": "user", "content": "What is 2+3?"}], max_new_tokens=4)[0]["generated_text"]


def test_a_pipeline_for_another_task_is_refused(reason):
    with pytest.raises(ModelLoadError, match="text-generation"):
        hf_dynasor.solve("What is 7+8?", model=reason)


def test_a_running_engine_is_used_and_left_open():
    engine = hf_dynasor.make_engine(engine="generate")
    try:
        assert hf_dynasor.solve("What is 7+8?", model=engine, seed=0).text == "15"
        engine.check_health()
    finally:
        engine.close()


def test_solver_refuses_a_recipe_beside_its_fields():
    with pytest.raises(ConfigurationError, match="the one or the other"):
        hf_dynasor.Solver(recipe=hf_dynasor.Recipe(), budget=3)


@pytest.mark.parametrize("option", ["engine", "dtype", "device"])
def test_options_of_construction_are_refused_at_a_call(reason, option):
    """They once were taken and ignored."""
    with pytest.raises(ConfigurationError, match=option):
        reason("What is 3+2?", **{option: "cpu"})


def test_a_conversation_is_one_question(reason):
    row = reason([{"role": "user", "content": "What is 7+8?"}], seed=0)
    assert row["answer"] == "15"


def test_a_list_and_a_single_question_draw_the_same(reason):
    single = reason("What is 83*47-159?", seed=0, budget=3, policy="even")
    (listed,) = reason(["What is 83*47-159?"], seed=0, budget=3, policy="even")
    assert single["votes"] == listed["votes"]
    assert single["usage"]["sampled"] == listed["usage"]["sampled"]


def test_options_for_loading_are_refused_with_a_running_engine():
    engine = hf_dynasor.make_engine(engine="generate")
    try:
        with pytest.raises(ConfigurationError, match="running engine"):
            hf_dynasor.Solver(engine, dtype="bfloat16")
    finally:
        engine.close()


def test_a_question_that_cannot_be_asked_ends_alone():
    with hf_dynasor.Solver(seed=0, budget=2, policy="even") as solver:
        outcomes = sorted(
            solver.solve_many(["What is 2+2?", "", "What is 3+3?", None]), key=lambda item: item.index
        )
    assert [outcome.index for outcome in outcomes] == [0, 1, 2, 3]
    assert [outcome.error is None for outcome in outcomes] == [True, False, True, False]
