"""Traces as workloads, and studies on them."""

import json
import random
from pathlib import Path

import pytest

from hf_dynasor.errors import ConfigurationError, InputError
from hf_dynasor.evaluation.scheduling_calibration import (
    bound_loss,
    calibrate_static,
    cross_calibrate,
    split_positions,
)
from hf_dynasor.evaluation.scheduling_study import Contender, make_contenders, make_study
from hf_dynasor.evaluation.workloads import open_depth_workload, open_workload
from hf_dynasor.scheduler import Even, Limits, StaticThreshold, make_scheduling_policy
from hf_dynasor.scheduler.depth import ConfidenceExit, FullDepth
from hf_dynasor.scheduler.simulate import (
    LARGE_MODEL,
    RecordedBranch,
    RecordedQuestion,
    Workload,
    write_workload,
)

DATA = Path(__file__).parents[3] / "shared" / "data" / "traces"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not here")


def make_workload(num_questions=40, *, budget=10, agreeing=0.6, seed=0):
    """Some questions on which all branches agree and are right, others on which they differ."""
    rng = random.Random(seed)
    questions = []
    for index in range(num_questions):
        choices = [0] if rng.random() < agreeing else [0, 0, 1, 2]
        groups = [rng.choice(choices) for _ in range(budget)]
        branches = tuple(
            RecordedBranch(num_tokens=rng.randint(20, 60), group=group, is_correct=group == 0)
            for group in groups
        )
        questions.append(RecordedQuestion(id=str(index), prompt_tokens=30, branches=branches))
    return Workload(name="toy", budget=budget, questions=tuple(questions))


def test_samples_become_branches_with_groups_and_grades(tmp_path):
    row = {
        "id": "set-0",
        "answer": "4",
        "samples": [
            {"answer": "4", "num_tokens": 7},
            {"answer": "4.0", "num_tokens": 9},
            {"answer": "5", "num_tokens": 3},
            {"answer": None, "num_tokens": 2},
        ],
    }
    path = tmp_path / "samples.jsonl"
    path.write_text(json.dumps(row) + "\n")
    workload = open_workload([path], prompt_tokens=55)
    (question,) = workload.questions
    assert [branch.group for branch in question.branches] == [0, 0, 1, None]
    assert [branch.is_correct for branch in question.branches] == [True, True, False, False]
    assert [branch.num_tokens for branch in question.branches] == [7, 9, 3, 2]
    assert (workload.budget, question.prompt_tokens, question.difficulty) == (4, 55, 2)


def test_a_workload_file_opens_as_itself_and_takes_a_smaller_budget(tmp_path):
    workload = make_workload()
    write_workload(workload, tmp_path / "w.json")
    assert open_workload([tmp_path / "w.json"]) == workload
    assert open_workload([tmp_path / "w.json"], budget=3).budget == 3
    with pytest.raises(InputError, match="Cannot read"):
        open_workload([tmp_path / "missing.json"])


@needs_data
def test_three_runs_of_long_chains_are_three_branches_of_each_question():
    paths = [DATA / f"probed_r1_qwen_7b_amc23_seed{seed}.jsonl" for seed in (42, 43, 44)]
    workload = open_workload(paths)
    assert workload.budget == 3
    assert all(len(question.branches) == 3 for question in workload.questions)
    assert len(workload.questions) == 32


@needs_data
def test_chains_with_an_exit_are_the_same_chains_or_shorter():
    paths = [DATA / f"probed_r1_qwen_7b_amc23_seed{seed}.jsonl" for seed in (42, 43)]
    full = open_depth_workload(paths, FullDepth())
    exited = open_depth_workload(paths, ConfidenceExit(threshold=0.995))
    assert [question.id for question in full.questions] == [question.id for question in exited.questions]
    totals = [
        sum(branch.num_tokens for question in each.questions for branch in question.branches)
        for each in (full, exited)
    ]
    assert totals[1] < 0.9 * totals[0]


@needs_data
def test_branches_of_many_chains_are_samples():
    workload = open_workload([DATA / "qwen3_8b_aime24.jsonl"], budget=16)
    assert len(workload.questions) == 30
    assert all(len(question.branches) == 128 for question in workload.questions)


def test_calibration_takes_the_cheapest_threshold_whose_loss_is_bounded():
    workload = make_workload(80)
    policy = calibrate_static(workload, draws=2)
    assert isinstance(policy, StaticThreshold)
    hopeless = calibrate_static(workload, draws=2, max_loss=-0.5)
    assert hopeless is None


def test_the_bound_of_a_loss_is_above_its_mean_and_zero_without_any():
    assert bound_loss([1.0, 1.0, 0.0], [1.0, 1.0, 0.0]) == 0.0
    assert bound_loss([1.0] * 10, [1.0] * 9 + [0.0]) > 0.1


def test_halves_share_no_question():
    calibration, test = split_positions(11)
    assert sorted(calibration + test) == list(range(11))
    assert split_positions(11) == (calibration, test)
    assert split_positions(11, seed=1) != (calibration, test)


def test_certaindex_sustains_a_higher_rate_and_the_found_rate_is_on_the_edge():
    study = make_study(make_workload(), num_programs=60, limits=Limits(max_requests=8), engine=LARGE_MODEL)
    contenders = make_contenders(StaticThreshold(), ["lpm", "gang_sjf + certaindex"])
    rates = {
        name: study.sustained_rate(contender, 2.0, start=1.0, precision=0.1)
        for name, contender in contenders.items()
    }
    assert rates["gang_sjf + certaindex"] > 1.3 * rates["lpm"]
    assert study.attainment(contenders["lpm"], rates["lpm"], 2.0) >= 0.9
    assert study.sustained_rate(contenders["lpm"], 0.01, start=1.0) is None


def test_a_contender_may_bring_shorter_branches():
    workload = make_workload(10)
    study = make_study(workload, num_programs=20)
    policy = make_scheduling_policy("fcfs")
    plain = Contender(name="plain", scheduling=policy, allocation=Even())
    shorter = Workload(
        name="toy",
        budget=workload.budget,
        questions=tuple(
            RecordedQuestion(
                id=question.id,
                prompt_tokens=question.prompt_tokens,
                branches=tuple(
                    RecordedBranch(num_tokens=5, group=branch.group, is_correct=branch.is_correct)
                    for branch in question.branches
                ),
            )
            for question in workload.questions
        ),
    )
    exiting = Contender(name="exit", scheduling=policy, allocation=Even(), workload=shorter)
    first, second = (study.run(contender, 1.0) for contender in (plain, exiting))
    assert [o.question_id for o in first.outcomes] == [o.question_id for o in second.outcomes]
    assert [o.is_correct for o in first.outcomes] == [o.is_correct for o in second.outcomes]
    assert second.num_tokens < first.num_tokens


def test_an_unknown_contender_lists_the_known_ones():
    with pytest.raises(ConfigurationError, match="Known: lpm"):
        make_contenders(StaticThreshold(), ["vllm"])


def make_chains(rights, num_tokens=100, name="chains"):
    """One chain for each question."""
    questions = tuple(
        RecordedQuestion(
            id=str(index),
            prompt_tokens=4,
            branches=(RecordedBranch(num_tokens=num_tokens, group=0, is_correct=is_right),),
        )
        for index, is_right in enumerate(rights)
    )
    return Workload(name=name, unit="chains", budget=1, questions=questions)


def test_each_part_gets_the_cheapest_rule_that_loses_nothing_on_the_others():
    full = make_chains([True] * 40)
    rules = {
        "safe": make_chains([True] * 40, 60),
        "bold": make_chains([index % 4 > 0 for index in range(40)], 20),
    }
    found = cross_calibrate(full, rules, num_parts=5)
    assert found.chosen == (("safe", True),) * 5
    assert [question.branches for question in found.workload.questions] == [
        question.branches for question in rules["safe"].questions
    ]
    assert found.workload.name == full.name


def test_a_rule_is_judged_without_the_question_that_it_is_used_on():
    """The bold rule fails on one question only: wherever that one is among those to choose on, it is refused."""
    full = make_chains([True] * 10)
    rules = {
        "safe": make_chains([True] * 10, 60),
        "bold": make_chains([index != 3 for index in range(10)], 20),
    }
    found = cross_calibrate(full, rules, num_parts=10, max_loss=0.005)
    used = [question.branches[0].num_tokens for question in found.workload.questions]
    assert used == [20 if index == 3 else 60 for index in range(10)]


def test_where_no_rule_keeps_the_bound_the_least_harmful_is_taken_and_told():
    full = make_chains([True] * 20)
    rules = {
        "worse": make_chains([index % 2 > 0 for index in range(20)], 10),
        "bad": make_chains([index % 5 > 0 for index in range(20)], 50),
    }
    assert set(cross_calibrate(full, rules, num_parts=4).chosen) == {("bad", False)}
    with pytest.raises(ConfigurationError, match="num_parts = 21"):
        cross_calibrate(full, rules, num_parts=21)


def test_accuracy_over_many_draws_is_the_share_of_right_votes():
    workload = make_workload(30, agreeing=0.5)
    study = make_study(workload, num_programs=20, limits=Limits(max_requests=16))
    contenders = make_contenders(StaticThreshold(detect_at=3))
    plain = study.accuracies(contenders["lpm"], draws=4)
    assert plain == study.accuracies(contenders["gang_sjf"], draws=4)
    assert len(plain) == 30
    assert {round(4 * share) / 4 for share in plain} == set(plain)
    decided = Contender(
        name="decided", scheduling=make_scheduling_policy("lpm"), allocation=Even(), stop_decided=True
    )
    assert study.accuracies(decided, draws=4) == plain
    halves = make_chains([True, False, True])
    short = Contender(
        name="short", scheduling=make_scheduling_policy("lpm"), allocation=Even(), workload=halves
    )
    assert study.accuracies(short, draws=99) == (1.0, 0.0, 1.0)
