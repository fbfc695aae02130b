"""The in-place probe: it reads what plain generation would write, and leaves no trace."""

import pytest
import torch
from torch.nn.functional import pad
from transformers import DynamicCache, MistralConfig, MistralForCausalLM, StaticCache, T5Config

from hf_dynasor.errors import ConfigurationError, UnsupportedError
from hf_dynasor.stopping import Need, Prober, find_think_markers
from hf_dynasor.stopping.caches import LiveBatch, check_model
from hf_dynasor.stopping.view import ForwardPass, ProbeView
from tests.stopping.kit import QUESTIONS, encode, make_plain_tokenizer, make_tiny_model


def think(model, batch, num_tokens=24):
    """A live batch in the middle of its generation: all but the newest token are in the cache."""
    ids = model.generate(**batch, max_new_tokens=num_tokens, min_new_tokens=num_tokens, do_sample=False)
    mask = pad(batch["attention_mask"], (0, num_tokens), value=1)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        ForwardPass(model)(ids[:, :-1], mask[:, :-1], cache, 1)
    return LiveBatch(cache=cache, pending=ids[:, -1:], mask=mask), ids


def snapshot(cache):
    return [(layer.keys.clone(), layer.values.clone()) for layer in cache.layers]


def is_unchanged(cache, before):
    return all(
        torch.equal(layer.keys, keys) and torch.equal(layer.values, values)
        for layer, (keys, values) in zip(cache.layers, before, strict=True)
    )


def test_a_probe_reads_what_greedy_generation_would_write(reasoner):
    """Peers' bug 8: the probe saw another prompt than the main stream, so another conversation was measured."""
    model, tokenizer = reasoner.model, reasoner.tokenizer
    batch = encode(tokenizer, QUESTIONS)
    live, ids = think(model, batch)
    prober = Prober(model, tokenizer, mode="decode")
    suffix = tokenizer.encode(prober.suffix, add_special_tokens=False)
    for row, result in enumerate(prober.read(live, range(4))):
        start = int(live.mask[row].argmax())
        context = torch.tensor([[*ids[row, start:].tolist(), *suffix]])
        said = model.generate(context, attention_mask=torch.ones_like(context), max_new_tokens=32)
        said = said[0, context.shape[1] :]
        assert tuple(said[: len(result.ids)].tolist()) == result.ids
        assert result.num_tokens == len(suffix) + len(result.ids)
        assert len(result.logprobs) == len(result.ids)


@pytest.mark.parametrize("rows", [(0, 1, 2, 3), (2,), (0, 3)])
@pytest.mark.parametrize("mode", ["decode", "verify"])
def test_a_probe_leaves_the_live_cache_as_it_was(reasoner, rows, mode):
    live, _ = think(reasoner.model, encode(reasoner.tokenizer, QUESTIONS))
    before = snapshot(live.cache)
    prober = Prober(reasoner.model, reasoner.tokenizer, mode=mode)
    first = prober.read(live, rows)
    prober.read(live, rows, previous=first)
    prober.read(live, rows, previous=[None, *first[1:]])
    assert is_unchanged(live.cache, before)


def test_an_error_in_the_middle_leaves_the_live_cache_as_it_was(reasoner):
    live, _ = think(reasoner.model, encode(reasoner.tokenizer, QUESTIONS))
    before = snapshot(live.cache)

    def interrupt():
        with ProbeView(ForwardPass(reasoner.model), live, range(4)) as view:
            view.extend([[5, 6]] * 4, keep=1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert is_unchanged(live.cache, before)


def test_some_rows_read_the_same_as_all_rows(reasoner):
    live, _ = think(reasoner.model, encode(reasoner.tokenizer, QUESTIONS))
    prober = Prober(reasoner.model, reasoner.tokenizer)
    everything = prober.read(live, range(4))
    for rows in ((1,), (0, 2), (1, 2, 3)):
        some = prober.read(live, rows)
        assert [result.ids for result in some] == [everything[row].ids for row in rows]


def test_verifying_reads_the_same_answers_as_decoding(reasoner):
    """With the right answer, a wrong one, one of another length and none at all to verify."""
    live, _ = think(reasoner.model, encode(reasoner.tokenizer, QUESTIONS), num_tokens=60)
    decoded = Prober(reasoner.model, reasoner.tokenizer, mode="decode").read(live, range(4))
    prober = Prober(reasoner.model, reasoner.tokenizer)
    for shift in range(4):
        told = [*decoded[shift:], *decoded[:shift]]
        for previous in (told, [None, *told[1:]]):
            verified = prober.read(live, range(4), previous=previous)
            assert [result.ids for result in verified] == [result.ids for result in decoded]
            for result, other in zip(verified, decoded, strict=True):
                assert result.logprobs == pytest.approx(other.logprobs, abs=1e-4)
                assert result.entropy == pytest.approx(other.entropy, abs=1e-4)
    assert all(result.is_verified for result in prober.read(live, range(4), previous=decoded))


def test_a_verified_answer_takes_one_forward_pass(reasoner, monkeypatch):
    live, _ = think(reasoner.model, encode(reasoner.tokenizer, QUESTIONS[:1]))
    prober = Prober(reasoner.model, reasoner.tokenizer)
    first = prober.read(live, [0])
    calls = []
    handle = reasoner.model.register_forward_pre_hook(lambda *_: calls.append(1))
    prober.read(live, [0], previous=first)
    handle.remove()
    assert len(calls) == 1


def test_an_answer_ends_at_its_brace_or_the_limit_not_after_a_fixed_count(tokenizer, tiny):
    live, _ = think(tiny, encode(tokenizer, QUESTIONS[:2]))
    for limit in (1, 3, 8):
        for result in Prober(tiny, tokenizer, max_answer_tokens=limit).read(live, [0, 1]):
            assert 1 <= len(result.ids) <= limit
            ended = result.is_closed or "\n" in result.text or result.ids[-1] == tokenizer.eos_token_id
            assert len(result.ids) == limit or ended


def test_an_end_of_turn_ends_the_probe_and_is_no_answer(tokenizer, tiny):
    live, _ = think(tiny, encode(tokenizer, QUESTIONS[:1]))
    ids = Prober(tiny, tokenizer, mode="decode").read(live, [0])[0].ids
    prober = Prober(tiny, tokenizer, mode="decode", eos_token_ids=[ids[0]])
    result = prober.read(live, [0])[0]
    assert (result.ids, result.text, result.answer) == (ids[:1], "", None)


def test_without_a_cache_the_context_is_computed_anew(reasoner):
    live, ids = think(reasoner.model, encode(reasoner.tokenizer, QUESTIONS))
    prober = Prober(reasoner.model, reasoner.tokenizer)
    fresh = prober.read(LiveBatch(cache=None, pending=ids, mask=live.mask), range(4))
    assert [result.ids for result in fresh] == [result.ids for result in prober.read(live, range(4))]


def test_only_the_entropy_costs_no_decoding(reasoner):
    live, _ = think(reasoner.model, encode(reasoner.tokenizer, QUESTIONS[:2]))
    markers = find_think_markers(reasoner.tokenizer)
    prober = Prober(reasoner.model, reasoner.tokenizer, suffix="closed", markers=markers)
    results = prober.read(live, [0, 1], needs=frozenset({Need.ENTROPY}))
    assert "</think>" in prober.suffix
    assert all(result.answer is None and result.ids == () and result.entropy >= 0 for result in results)


def make_sliding(tokenizer, window):
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=window,
        initializer_range=0.3,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    return MistralForCausalLM(config).eval()


@pytest.mark.parametrize("window", [8, 30, 200])
def test_a_sliding_window_is_put_back_exactly(tokenizer, window):
    model = make_sliding(tokenizer, window)
    batch = encode(tokenizer, QUESTIONS[:2])
    live, ids = think(model, batch)
    before = snapshot(live.cache)
    prober = Prober(model, tokenizer)
    first = prober.read(live, [0, 1])
    again = prober.read(live, [0, 1], previous=first[::-1])
    fresh = prober.read(LiveBatch(cache=None, pending=ids, mask=live.mask), [0, 1])
    assert is_unchanged(live.cache, before)
    assert [result.ids for result in first] == [result.ids for result in again]
    assert [result.ids for result in first] == [result.ids for result in fresh]
    assert live.cache.get_seq_length() == ids.shape[1] - 1


def test_a_static_cache_is_refused_with_a_way_out(tokenizer, tiny):
    batch = encode(tokenizer, QUESTIONS[:1])
    cache = StaticCache(config=tiny.config, max_cache_len=64)
    tiny(batch["input_ids"], past_key_values=cache)
    live = LiveBatch(cache=cache, pending=batch["input_ids"][:, -1:])
    with pytest.raises(UnsupportedError, match=r"StaticCache.*DynamicCache.*cache_implementation.*recompute"):
        Prober(tiny, tokenizer).read(live, [0])


def test_an_offloaded_cache_is_refused(tokenizer, tiny):
    cache = DynamicCache(config=tiny.config)
    cache.offloading = True
    with pytest.raises(UnsupportedError, match="offloading"):
        Prober(tiny, tokenizer).read(LiveBatch(cache=cache, pending=torch.tensor([[5]])), [0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"suffix": "no box"}, "suffix = 'no box' .*closed, final_answer, paper, short"),
        ({"mode": "guess"}, "Unknown probe mode 'guess'. Known: decode, verify"),
        ({"max_answer_tokens": 0}, "max_answer_tokens = 0 .* at least 1"),
        ({"format": "poem"}, "Unknown answer format"),
    ],
)
def test_bad_options_raise_with_value_range_and_fix(tokenizer, tiny, options, message):
    with pytest.raises(ConfigurationError, match=message):
        Prober(tiny, tokenizer, **options)


def test_what_cannot_think_in_one_stream_is_refused(tokenizer, tiny):
    with pytest.raises(ConfigurationError, match="expected a transformers model"):
        Prober("gpt", tokenizer)
    with pytest.raises(ConfigurationError, match="tokenizer"):
        Prober(tiny, None)

    class Translator:
        config = T5Config()
        generate = None

    with pytest.raises(ConfigurationError, match="encoder-decoder"):
        check_model(Translator())


def test_a_tokenizer_without_markers_can_use_every_suffix(tiny):
    plain = make_plain_tokenizer()
    model = make_tiny_model(plain)
    assert Prober(model, plain, suffix="closed").suffix == "\n\nThe answer is \\boxed{"
