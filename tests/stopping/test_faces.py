"""One contract over every criterion and processor of the package, with stock `generate`."""

import importlib
import pkgutil

import pytest
import torch
from transformers import LogitsProcessor, StoppingCriteria

import hf_dynasor.serving as serving
import hf_dynasor.stopping as stopping
from hf_dynasor.errors import ConfigurationError, UnsupportedError
from hf_dynasor.stopping import (
    AnswerConsistency,
    BatchCertaindexCriteria,
    CutCriteria,
    GuidedProcessor,
    ProbingCriteria,
    ThinkingBudgetProcessor,
)
from tests.stopping.kit import QUESTIONS, cut_padding, encode

NUM_TOKENS = 96
RESUME = "\n\nWait, let me double check.\n\n"


class Recorder(StoppingCriteria):
    """Passes a criterion through and keeps what it said."""

    def __init__(self, criterion):
        self.criterion, self.said = criterion, []

    def __call__(self, input_ids, scores, **kwargs):
        verdict = self.criterion(input_ids, scores, **kwargs)
        self.said.append((input_ids, verdict))
        return verdict


def make_faces(model, tokenizer):
    """For each face what is passed to `generate`, and how a call is begun."""
    rule = AnswerConsistency(window=2, interval=16)
    probing = ProbingCriteria(model, tokenizer, rule)
    guided = GuidedProcessor(model, tokenizer, interval=16, resume=RESUME)
    plainly = dict
    return {
        "probing": ([], [probing], lambda **batch: probing.prepare(**batch)),
        "batch": ([], [BatchCertaindexCriteria(model, tokenizer, detect_at=2)], plainly),
        "guided": ([guided], [], plainly),
        "cut": ([guided], [CutCriteria(guided)], plainly),
        "budget": ([ThinkingBudgetProcessor(model, tokenizer, maximum=24, grace=8)], [], plainly),
    }


def is_face(item):
    return isinstance(item, type) and issubclass(item, (StoppingCriteria, LogitsProcessor))


def find_faces():
    """Every criterion and processor that a module of the package defines."""
    modules = [
        importlib.import_module(found.name)
        for room in (stopping, serving)
        for found in pkgutil.iter_modules(room.__path__, f"{room.__name__}.")
        if not found.ispkg
    ]
    return {item for module in modules for item in vars(module).values() if is_face(item)} - {
        StoppingCriteria,
        LogitsProcessor,
    }


NAMES = ("probing", "batch", "guided", "cut", "budget")


def generate(loaded, face, batch, **options):
    processors, criteria, begin = face
    output = loaded.model.generate(
        **begin(**batch),
        logits_processor=processors,
        stopping_criteria=criteria,
        **({"max_new_tokens": NUM_TOKENS, "do_sample": False} | options),
    )
    new = output[:, batch["input_ids"].shape[1] :]
    return [cut_padding(row, loaded.tokenizer.pad_token_id) for row in new]


@pytest.fixture(params=NAMES)
def face(request, reasoner):
    return make_faces(reasoner.model, reasoner.tokenizer)[request.param]


@pytest.fixture
def batch(reasoner):
    return encode(reasoner.tokenizer, QUESTIONS)


def test_every_face_is_in_the_contract(reasoner):
    faces = make_faces(reasoner.model, reasoner.tokenizer)
    tested = {type(item) for face in faces.values() for item in (*face[0], *face[1])}
    public = {item for name in stopping.__all__ if is_face(item := getattr(stopping, name))}
    assert tested == public == {kind for kind in find_faces() if not kind.__name__.startswith("_")}


def test_no_criterion_or_processor_leaves_open_whether_it_runs_in_continuous_batches():
    faces = find_faces()
    assert len(faces) > len(NAMES)  # those inside the engines too
    assert all("supports_continuous_batching" in vars(kind) for kind in faces)


@pytest.mark.parametrize("name", ["probing", "batch", "cut"])
def test_a_criterion_says_one_bool_for_each_row_on_the_inputs_device(reasoner, batch, name):
    processors, criteria, begin = make_faces(reasoner.model, reasoner.tokenizer)[name]
    recorder = Recorder(criteria[0])
    generate(reasoner, (processors, [recorder], begin), batch)
    assert recorder.said
    for ids, verdict in recorder.said:
        assert verdict.shape == (ids.shape[0],)
        assert verdict.dtype is torch.bool
        assert verdict.device == ids.device


def test_two_calls_in_a_row_give_the_same(reasoner, face, batch):
    assert generate(reasoner, face, batch) == generate(reasoner, face, batch)


def test_a_call_with_another_batch_in_between_changes_nothing(reasoner, face, batch):
    first = generate(reasoner, face, batch)
    generate(reasoner, face, encode(reasoner.tokenizer, QUESTIONS[:1]))
    assert generate(reasoner, face, batch) == first


def test_the_order_of_rows_is_irrelevant(reasoner, face, batch):
    order = [2, 0, 3, 1]
    moved = {name: tensor[order] for name, tensor in batch.items()}
    straight = generate(reasoner, face, batch)
    assert generate(reasoner, face, moved) == [straight[row] for row in order]


@pytest.mark.parametrize("name", ["probing", "guided", "cut", "budget"])
def test_a_row_in_a_left_padded_batch_ends_as_it_does_alone(reasoner, batch, name):
    face = make_faces(reasoner.model, reasoner.tokenizer)[name]
    together = generate(reasoner, face, batch)
    alone = [generate(reasoner, face, encode(reasoner.tokenizer, [question]))[0] for question in QUESTIONS]
    assert together == alone


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_face_works_with_scores_samples_and_without_a_cache(reasoner, face, use_cache):
    processors, criteria, begin = face
    batch = encode(reasoner.tokenizer, QUESTIONS[:1])
    asked = begin(**batch, num_return_sequences=2)
    torch.manual_seed(0)
    output = reasoner.model.generate(
        **asked,
        logits_processor=processors,
        stopping_criteria=criteria,
        do_sample=True,
        max_new_tokens=40,
        use_cache=use_cache,
        output_scores=True,
        return_dict_in_generate=True,
    )
    assert output.sequences.shape[0] == 2
    assert len(output.scores) == output.sequences.shape[1] - batch["input_ids"].shape[1]


class Collect:
    """A streamer that keeps its tokens."""

    def __init__(self):
        self.tokens, self.has_ended = [], False

    def put(self, value):
        self.tokens.append(value)

    def end(self):
        self.has_ended = True


def test_a_face_streams(reasoner, face):
    processors, criteria, begin = face
    batch = encode(reasoner.tokenizer, QUESTIONS[:1])
    streamer = Collect()
    output = reasoner.model.generate(
        **begin(**batch),
        logits_processor=processors,
        stopping_criteria=criteria,
        streamer=streamer,
        max_new_tokens=40,
    )
    assert streamer.has_ended
    assert torch.cat([item.reshape(-1) for item in streamer.tokens]).tolist() == output[0].tolist()


def test_max_new_tokens_is_exact(reasoner, face):
    """Peers' bug 5: generation in chunks overshot, 100 asked and 128 given."""
    batch = encode(reasoner.tokenizer, ["What is 482*73-159?"])
    for limit in (1, 17, 33):
        assert len(generate(reasoner, face, batch, max_new_tokens=limit)[0]) <= limit


@pytest.mark.parametrize("name", ["guided", "cut", "batch"])
def test_beam_search_is_refused(reasoner, batch, name):
    face = make_faces(reasoner.model, reasoner.tokenizer)[name]
    with pytest.raises(UnsupportedError, match="num_beams=1"):
        generate(reasoner, face, batch, num_beams=3, max_new_tokens=40)


def test_beam_search_is_refused_by_the_probing_criterion(reasoner, batch):
    probing = ProbingCriteria(reasoner.model, reasoner.tokenizer)
    with pytest.raises(UnsupportedError, match="num_beams=1"):
        reasoner.model.generate(**probing.prepare(**batch), stopping_criteria=[probing], num_beams=3)


def test_a_probing_criterion_that_was_not_prepared_says_how(reasoner, batch):
    probing = ProbingCriteria(reasoner.model, reasoner.tokenizer)
    with pytest.raises(ConfigurationError, match=r"prepare\(\*\*inputs\)"):
        reasoner.model.generate(**batch, stopping_criteria=[probing], max_new_tokens=4)
    reasoner.model.generate(**probing.prepare(**batch), stopping_criteria=[probing], max_new_tokens=4)
    with pytest.raises(ConfigurationError, match=r"prepare\(\*\*inputs\)"):
        reasoner.model.generate(**batch, stopping_criteria=[probing], max_new_tokens=4)
