"""Trace files: what is read from them, and how broken ones are refused."""

import gzip
import json
import math
import re

import pytest

from hf_dynasor.errors import ConfigurationError, InputError
from hf_dynasor.evaluation.traces import (
    DEFAULT_POLICIES,
    DEPTH_POLICIES,
    JOINT_POLICIES,
    build_depth_policy,
    build_joint_policy,
    read_traces,
)
from hf_dynasor.evaluation.traces.width import locate_probes
from tests.evaluation.trace_kit import SHARED, probed_row, trial_row, write_lines


def test_any_file_of_a_run_brings_the_others(tmp_path):
    write_lines(tmp_path / "probed_m_s1.jsonl", probed_row(), probed_row("q-1"))
    write_lines(tmp_path / "boundary_m_s1.jsonl", trial_row())
    write_lines(tmp_path / "text_m_s1.jsonl", {"id": "q-1", "text": "so"})
    for prefix in ("probed", "boundary", "text"):
        traces = read_traces([tmp_path / f"{prefix}_m_s1.jsonl"])
        assert traces.kind == "depth"
        assert traces.sources == ("m_s1",)
        first, second = traces.depth()
        assert [(p.position, p.place) for p in first.probes] == [
            (64, "interval"),
            (100, "boundary"),
            (128, "interval"),
        ]
        assert first.probes[1].confidence == 0.99
        assert [p.is_hesitant for p in first.probes] == [False, False, True]
        assert (first.text, second.text, first.group) == (None, "so", "q")


def test_the_files_of_one_run_are_read_once(tmp_path):
    paths = [
        write_lines(tmp_path / "probed_m_s1.jsonl", probed_row()),
        write_lines(tmp_path / "boundary_m_s1.jsonl", trial_row()),
    ]
    assert len(read_traces(paths).traces) == 1


def test_a_question_of_several_runs_names_its_run(tmp_path):
    one = write_lines(tmp_path / "probed_m_s1.jsonl", probed_row(), probed_row("q-7"))
    two = write_lines(tmp_path / "probed_m_s2.jsonl", probed_row())
    assert [trace.id for trace in read_traces([one, two]).traces] == ["m_s1/q-0", "q-7", "m_s2/q-0"]


def test_an_answer_at_the_end_of_a_chain_is_left_out_since_it_can_change_nothing(tmp_path):
    path = write_lines(tmp_path / "probed_m.jsonl", probed_row(num_tokens=128))
    assert [p.position for p in read_traces([path]).depth()[0].probes] == [64]


def test_the_cap_is_known_where_a_chain_was_cut_off(tmp_path):
    cut = probed_row("q-1", num_tokens=500, finish_reason="length")
    path = write_lines(tmp_path / "probed_m.jsonl", probed_row(), cut)
    assert [(t.cap, t.is_finished) for t in read_traces([path]).depth()] == [(500, True), (500, False)]
    path = write_lines(tmp_path / "probed_n.jsonl", probed_row())
    assert read_traces([path]).depth()[0].cap is None


def test_numbers_as_answers_are_read_as_texts(tmp_path):
    path = write_lines(tmp_path / "probed_m.jsonl", probed_row(answer=27.0, final_answer=0.5))
    trace = read_traces([path]).depth()[0]
    assert (trace.reference, trace.answer) == ("27", "0.5")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (probed_row(num_tokens=0), "num_tokens is 0; expected a whole number of at least 1"),
        (probed_row(is_correct="yes"), "is_correct is 'yes'; expected true or false"),
        (probed_row(probes=[[64, "9", True]]), r"expected lists of \[position"),
        (probed_row(probes=[[-1, "9", True, 4]]), "position is -1"),
        (probed_row(answer=None), "answer is None; expected a text that is not empty"),
        ([], "a JSON list; expected an object"),
    ],
)
def test_a_broken_line_is_named_with_its_field_and_left_out(tmp_path, row, message):
    path = write_lines(tmp_path / "probed_m.jsonl", probed_row("ok"), row, probed_row("fine"))
    traces = read_traces([path])
    assert [trace.id for trace in traces.traces] == ["ok", "fine"]
    (broken,) = traces.broken_lines
    assert broken.number == 2
    assert re.search(rf"{message}.*\(probed_m.jsonl\)", broken.reason)
    with pytest.raises(InputError, match="1 broken lines; first: line 1: "):
        read_traces([write_lines(tmp_path / "probed_n.jsonl", row)])


def test_a_broken_boundary_line_leaves_out_its_question_and_no_other(tmp_path):
    path = write_lines(tmp_path / "probed_m.jsonl", *(probed_row(f"q-{i}") for i in range(3)))
    beside = write_lines(tmp_path / "boundary_m.jsonl", *(trial_row(f"q-{i}") for i in range(3)))
    beside.write_text(beside.read_text().replace('{"id": "q-1"', '{"id": "q-1', 1))
    traces = read_traces([path])
    assert [trace.id for trace in traces.traces] == ["q-0", "q-2"]
    assert all(any(p.place == "boundary" for p in trace.probes) for trace in traces.depth())
    assert [broken.number for broken in traces.broken_lines] == [2]


def test_a_broken_line_of_samples_or_branches_is_left_out(tmp_path):
    good = {"id": "a-0", "answer": "9", "samples": ["The answer is 9."]}
    path = write_lines(tmp_path / "s.jsonl", good, {"id": "a-1", "answer": "9", "samples": 3})
    path.write_text(path.read_text() + "{")
    traces = read_traces([path])
    assert [t.id for t in traces.traces] == ["a-0"]
    assert sorted(b.number for b in traces.broken_lines) == [2, 3]


def test_compressed_files_are_read_and_find_each_other(tmp_path):
    for name, row in (("probed_m.jsonl", probed_row()), ("boundary_m.jsonl", trial_row())):
        text = (json.dumps(row) + "\n").encode()
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text))
    traces = read_traces([tmp_path / "boundary_m.jsonl.gz"])
    assert traces.sources == ("m",)
    assert len(traces.depth()[0].probes) == 3
    whole = (tmp_path / "probed_m.jsonl.gz").read_bytes()
    for name, content in (("probed_cut.jsonl.gz", whole[:-20]), ("probed_no.jsonl.gz", b"{}")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"Cannot read .*{name}"):
            read_traces([tmp_path / name])


def test_a_cap_that_is_named_wins_and_must_fit(tmp_path):
    path = write_lines(tmp_path / "probed_m.jsonl", probed_row(num_tokens=500))
    assert read_traces([path], cap=700).depth()[0].cap == 700
    with pytest.raises(InputError, match="cap = 499 but 'q-0' of m has 500 tokens"):
        read_traces([path], cap=499)
    samples = write_lines(tmp_path / "s.jsonl", {"id": "a", "answer": "9", "samples": ["9"]})
    with pytest.raises(InputError, match="no single chains"):
        read_traces([samples], cap=700)


def test_confidence_outside_its_range_is_refused(tmp_path):
    write_lines(tmp_path / "probed_m.jsonl", probed_row())
    path = write_lines(tmp_path / "boundary_m.jsonl", trial_row(confidence=1.5))
    with pytest.raises(InputError, match=r"confidence is 1.5; expected a probability"):
        read_traces([path])


def test_an_answer_without_a_confidence_has_that_of_its_tokens(tmp_path):
    write_lines(tmp_path / "probed_m.jsonl", probed_row())
    rows = [{"logprobs": [math.log(0.9), math.log(0.4), 0.0005]}, {"logprobs": []}]
    confidences = []
    for row in rows:
        path = write_lines(tmp_path / "boundary_m.jsonl", trial_row(confidence=None, **row))
        confidences += [p.confidence for p in read_traces([path]).depth()[0].probes if p.place == "boundary"]
    assert confidences == [pytest.approx(0.36 ** (1 / 3)), None]


@pytest.mark.parametrize("prefix", ["probed", "boundary"])
def test_a_question_that_stands_twice_in_a_file_of_a_run_is_refused(tmp_path, prefix):
    write_lines(tmp_path / "probed_m.jsonl", *[probed_row()] * (2 if prefix == "probed" else 1))
    path = write_lines(tmp_path / "boundary_m.jsonl", *[trial_row()] * (2 if prefix == "boundary" else 1))
    with pytest.raises(InputError, match=f"{prefix}_m.jsonl, line 2: question 'q-0' stands twice"):
        read_traces([path])


def test_files_that_cannot_be_replayed_say_why(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n\n")
    (tmp_path / "bad.jsonl").write_text("{\n")
    write_lines(tmp_path / "other.jsonl", {"question": "?"})
    write_lines(tmp_path / "boundary_lonely.jsonl", trial_row())
    write_lines(tmp_path / "probed_x.jsonl", probed_row())
    write_lines(tmp_path / "boundary_x.jsonl", trial_row("stranger"))
    for name, message in (
        ("missing.jsonl", "No such file"),
        ("boundary_missing.jsonl", "no such file"),
        ("empty.jsonl", "holds no trace"),
        ("bad.jsonl", r"holds no trace \(1 broken lines; first: line 1: not JSON"),
        ("other.jsonl", "is no known trace: its first line has question"),
        ("boundary_lonely.jsonl", "Found no .*probed_lonely"),
        ("boundary_x.jsonl", "'stranger', which probed_x.jsonl does not have"),
    ):
        with pytest.raises(InputError, match=message):
            read_traces([tmp_path / name])
    with pytest.raises(InputError, match="expected at least one"):
        read_traces([])


def test_kinds_are_not_mixed(tmp_path):
    one = write_lines(tmp_path / "probed_m.jsonl", probed_row())
    two = write_lines(tmp_path / "s.jsonl", {"id": "a", "answer": "9", "samples": ["The answer is 9."]})
    with pytest.raises(InputError, match="depth, samples but expected one kind"):
        read_traces([one, two])
    with pytest.raises(InputError, match="kind 'samples' but expected 'depth'"):
        read_traces([two]).depth()


def test_samples_are_texts_or_judged_answers(tmp_path):
    texts = write_lines(
        tmp_path / "s.jsonl", {"id": "a-0", "answer": "9", "samples": ["The answer is 9.", "?"]}
    )
    found = read_traces([texts]).samples()[0]
    assert found.samples[0].answer == "9"
    assert [sample.num_tokens for sample in found.samples] == [4, 1]
    judged = write_lines(
        tmp_path / "j.jsonl", {"idx": 900, "samples": [{"answer": "1+1", "correct": 1, "chars": 9}]}
    )
    sample = read_traces([judged]).samples()[0].samples[0]
    assert (sample.is_correct, sample.num_tokens) == (True, 3)


def test_chains_of_one_question_know_where_they_were_asked(tmp_path):
    row = {
        "id": "a-0",
        "answer": "9",
        "probe_interval": 100,
        "branches": [{"probes": ["9", "ERR"], "num_tokens": 250, "answer": "9"}],
    }
    branch = read_traces([write_lines(tmp_path / "w.jsonl", row)]).width_depth()[0].branches[0]
    assert (branch.positions, branch.probes) == ((100, 200), ("9", None))


def test_a_probe_never_stands_earlier_than_it_was_taken():
    for num_probes in range(12):
        for num_tokens in range(50, 1500, 70):
            places = locate_probes(num_probes, 100, num_tokens)
            assert list(places) == sorted(places)
            assert all(min(num_tokens, 100 * (i + 1)) <= p <= num_tokens for i, p in enumerate(places))


def test_every_named_policy_can_be_built_and_the_defaults_are_named():
    assert all(build_depth_policy(name) == policy for name, policy in DEPTH_POLICIES.items())
    assert all(build_joint_policy(name) == policy for name, policy in JOINT_POLICIES.items())
    assert all(policy.name for policy in (*DEPTH_POLICIES.values(), *JOINT_POLICIES.values()))
    assert DEFAULT_POLICIES["depth"] in DEPTH_POLICIES
    assert DEFAULT_POLICIES["width_depth"] in JOINT_POLICIES


def test_unknown_names_and_options_list_the_known_ones():
    with pytest.raises(ConfigurationError, match=r"'statik'. Known: confidence, consistency, crazy"):
        build_depth_policy("statik")
    with pytest.raises(ConfigurationError, match=r"option of policy 'confidence' 'tau'. Known: threshold"):
        build_depth_policy("confidence", {"tau": 1})
    with pytest.raises(ConfigurationError, match="threshold = 2 but expected"):
        build_depth_policy("confidence", {"threshold": 2})
    with pytest.raises(ConfigurationError, match="width = 'many'"):
        build_joint_policy("settled_majority", {"width": "many"})


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared traces are not here")
def test_all_shared_traces_are_read():
    counts = {}
    for path in sorted(SHARED.glob("*.jsonl")):
        traces = read_traces([path])
        counts[traces.kind] = counts.get(traces.kind, 0) + 1
        with path.open() as file:
            first = json.loads(file.readline())
        assert len(traces.traces) >= 24, path
        assert first.get("id", traces.traces[0].id) in {trace.id for trace in traces.traces}
    assert counts == {"depth": 22, "samples": 2, "width_depth": 1}
