"""The callback in a real `Trainer` run of the embedded model, and in trl's; the helpers on scripted engines."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

from hf_dynasor import ReasoningEvalCallback
from hf_dynasor.embedded import REASONER_PATH
from hf_dynasor.embedded.problems import generate_problems
from hf_dynasor.errors import ConfigurationError, InputError
from hf_dynasor.evaluation import Question
from hf_dynasor.evaluation.measures import make_compute_metrics
from hf_dynasor.evaluation.savings import measure_savings
from hf_dynasor.recipe import Recipe
from hf_dynasor.testing import Reply, ScriptedEngine

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

FIGURES = ("accuracy", "net_tokens", "tokens_saved", "tokens_saved_at_equal_accuracy")
QUESTIONS = [Question(id=f"q{n}", question=f"What is {n}+2?", answer=str(n + 2)) for n in range(3, 7)]


def votes(**by_question):
    """An engine whose samples of a question are these answers, ten tokens each."""

    def reply(request):
        name = request.key.program_id.partition("#")[0]
        index = int(request.key.request_id.removeprefix("sample-"))
        return Reply(text=f"\\boxed{{{by_question[name][index]}}}", num_tokens=10)

    return ScriptedEngine(reply)


def test_savings_by_hand():
    """a: 5 times right, stops at 5 of 10. b: 5 votes disagree, runs on and wins. Right at 1 of both only from 6 on."""
    questions = [Question(id=name, question=f"{name}?", answer="1") for name in "ab"]
    engine = votes(a="1111111111", b="2221111111")
    figures = measure_savings(questions, Recipe(budget=10, seed=0), engine)
    assert (figures["accuracy"], figures["full_accuracy"]) == (1.0, 1.0)
    assert (figures["net_tokens"], figures["full_net_tokens"]) == (75.0, 100.0)
    assert figures["tokens_saved"] == pytest.approx(0.25)
    # Even at 7 samples is right on both (4 votes of 7); between 6 and 7 the vote is level and falls to the first.
    assert figures["tokens_saved_at_equal_accuracy"] == pytest.approx(1 - 75 / 70)
    assert len(engine.submitted) == 20


def test_certaindex_tells_right_from_wrong_by_hand():
    questions = [Question(id=name, question=f"{name}?", answer="1") for name in "abc"]
    engine = votes(a="1111", b="2314", c="1112")
    figures = measure_savings(questions, Recipe(budget=4, seed=0, detect_at=2), engine)
    assert 0.9 < figures["certaindex_correlation"] <= 1


def test_other_programs_are_run_on_both_sides():
    engine = ScriptedEngine(lambda request: Reply(text="\\boxed{5}", num_tokens=10, probability=0.9))
    recipe = Recipe(program="best_of_n", budget=20, seed=0, preset="sc/gsm8k")
    figures = measure_savings(QUESTIONS[:1], recipe, engine)
    assert figures["tokens_saved"] == pytest.approx(0.75)
    assert "tokens_saved_at_equal_accuracy" not in figures


def test_savings_need_a_seed():
    with pytest.raises(ConfigurationError, match="without a seed"):
        measure_savings(QUESTIONS, Recipe(), ScriptedEngine([]))


def test_compute_metrics_grades_generated_ids():
    texts = {1: "\\boxed{4}", 2: "I do not know.", 3: "So \\boxed{7}."}
    compute = make_compute_metrics(lambda rows: [texts[row[0]] for row in rows], answer_format="number")

    class Evaluated:
        predictions = np.array([[1, 9, -100], [2, -100, -100], [3, 3, 3]])
        label_ids = np.array([[1, -100], [1, -100], [1, -100]])

    assert compute(Evaluated()) == {"accuracy": 1 / 3, "answered": 2 / 3, "gen_len": 2.0}


@pytest.fixture
def tokenizer():
    return AutoTokenizer.from_pretrained(REASONER_PATH)


def make_rows(tokenizer, num):
    rows = []
    for item in generate_problems(num, seed=5, split="train", levels=(1,)):
        turns = [
            {"role": "user", "content": item.question},
            {"role": "assistant", "content": f"The answer is \\boxed{{{item.answer}}}."},
        ]
        ids = tokenizer.apply_chat_template(turns, return_dict=True)["input_ids"]
        ids = [*ids, *[tokenizer.pad_token_id] * (96 - len(ids))][:96]
        rows.append(
            {
                "input_ids": ids,
                "labels": [-100 if token == tokenizer.pad_token_id else token for token in ids],
            }
        )
    return rows


def make_trainer(tokenizer, folder, **options):
    model = AutoModelForCausalLM.from_pretrained(REASONER_PATH, dtype=torch.float32)
    rows = make_rows(tokenizer, 8)
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=4, eval_strategy="steps", eval_steps=2, logging_steps=2,
        per_device_train_batch_size=2, use_cpu=True, seed=1, disable_tqdm=True, save_strategy="no",
        learning_rate=1e-3, **options,
    )  # fmt: skip
    return Trainer(
        model=model, args=arguments, train_dataset=rows, eval_dataset=rows[:2], processing_class=tokenizer
    )


def list_steps(trainer, name):
    return [row["step"] for row in trainer.state.log_history if name in row]


def test_a_real_run_logs_the_curve_and_trains_as_without_it(tokenizer, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    bare = make_trainer(tokenizer, tmp_path / "bare", report_to="none")
    bare.train()
    watched = make_trainer(tokenizer, tmp_path / "watched", report_to="tensorboard")
    watched.add_callback(ReasoningEvalCallback(QUESTIONS, trainer=watched, budget=6, max_new_tokens=64))
    watched.train()
    for name in FIGURES:
        assert list_steps(watched, f"eval_reasoning_{name}") == [2, 4], name
    assert watched.model.training == bare.model.training
    for (name, one), other in zip(bare.model.named_parameters(), watched.model.parameters(), strict=True):
        assert torch.equal(one, other), name
    (file,) = (tmp_path / "watched").rglob("events.out.*")
    events = accumulator.EventAccumulator(str(file))
    events.Reload()
    assert [item.step for item in events.Scalars("eval/reasoning_accuracy")] == [2, 4]


def test_without_a_trainer_the_figures_are_in_the_history_and_the_metrics(tokenizer, tmp_path):
    trainer = make_trainer(tokenizer, tmp_path, report_to="none")
    trainer.add_callback(ReasoningEvalCallback(QUESTIONS[:2], budget=2, policy="even", max_new_tokens=64))
    metrics = trainer.evaluate()
    assert metrics["eval_reasoning_accuracy"] == 1.0
    assert metrics["eval_reasoning_tokens_saved"] == 0.0
    assert list_steps(trainer, "eval_reasoning_accuracy") == [0]


@pytest.mark.slow
def test_a_trainer_of_trl_is_a_trainer(tokenizer, tmp_path):
    trl = pytest.importorskip("trl", reason="trl is not installed")
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": item.question}],
                "completion": [{"role": "assistant", "content": f"The answer is \\boxed{{{item.answer}}}."}],
            }
            for item in generate_problems(4, seed=5, split="train", levels=(1,))
        ]
    )
    arguments = trl.SFTConfig(
        output_dir=str(tmp_path), max_steps=1, eval_strategy="steps", eval_steps=1, report_to="none", use_cpu=True,
        per_device_train_batch_size=2, bf16=False, gradient_checkpointing=True, save_strategy="no", max_length=96,
    )  # fmt: skip
    trainer = trl.SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(REASONER_PATH, dtype=torch.float32),
        args=arguments, train_dataset=rows, eval_dataset=rows, processing_class=tokenizer,
    )  # fmt: skip
    trainer.add_callback(ReasoningEvalCallback(QUESTIONS[:2], trainer=trainer, budget=2, max_new_tokens=64))
    trainer.train()
    assert list_steps(trainer, "eval_reasoning_accuracy") == [1]


def test_what_cannot_work_is_refused(tokenizer, tmp_path):
    with pytest.raises(InputError, match="no questions"):
        ReasoningEvalCallback([])
    with pytest.raises(ConfigurationError, match="the one or the other"):
        ReasoningEvalCallback(QUESTIONS, recipe=Recipe(), budget=3)
    trainer = make_trainer(tokenizer, tmp_path, report_to="none")
    trainer.processing_class = trainer.callback_handler.processing_class = None
    trainer.add_callback(ReasoningEvalCallback(QUESTIONS))
    with pytest.raises(ConfigurationError, match="no tokenizer"):
        trainer.evaluate()
