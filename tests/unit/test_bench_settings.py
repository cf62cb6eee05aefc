"""What the command line's words mean, and what is refused."""

from pathlib import Path

import pytest

from pyllama_mtp import InvalidRequestError
from pyllama_mtp.bench.peer import PeerSetting
from pyllama_mtp.bench.peer_sweep import given_setting
from pyllama_mtp.bench.plan import Phase, context_size, phases
from pyllama_mtp.bench.prompts import token_prompt
from pyllama_mtp.bench.settings import Settings, extended_rates, make_settings, parse_draft_lengths, parse_numbers

RATES = (0.868, 0.765, 0.687)


def settings(**options) -> Settings:
    return make_settings(Path("t"), Path("h"), **{"draft_lengths": (3,), "load": {"n_threads": 1}} | options)


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        ("3", (3,)),
        ("auto", ("auto",)),
        ("0..8", tuple(range(9))),
        ("1,3,auto", (1, 3, "auto")),
        ("0..2,16", (0, 1, 2, 16)),
    ],
)
def test_draft_lengths(text: str, lengths: tuple):
    assert parse_draft_lengths(text) == lengths


@pytest.mark.parametrize("text", ["", "x", "3..1", "17", "-1", "1..", "auto..3", "1.5", "0..17"])
def test_draft_lengths_that_are_none(text: str):
    with pytest.raises(InvalidRequestError):
        parse_draft_lengths(text)


def test_numbers():
    assert parse_numbers(".868,.765", float) == (0.868, 0.765)
    with pytest.raises(InvalidRequestError, match="expected integers"):
        parse_numbers("100,many", int)


def test_rates_continue_with_the_last_conditional_one():
    assert extended_rates(RATES, 2) == RATES[:2]
    assert extended_rates(RATES, 3) == RATES
    longer = extended_rates(RATES, 6)
    assert longer[:3] == RATES
    assert [longer[i] / longer[i - 1] for i in (3, 4, 5)] == pytest.approx([0.687 / 0.765] * 3)
    assert extended_rates((0.5,), 3) == pytest.approx((0.5, 0.25, 0.125))
    assert extended_rates((0.5, 0.0), 4) == (0.5, 0, 0, 0)
    assert extended_rates((), 4) == ()


def test_defaults_follow_the_prompts():
    text = settings()
    assert (text.prompts, text.max_tokens, text.temperature, text.top_p) == ("space-invaders", 800, 0.6, 0.95)
    assert (text.runs, text.warmup, text.ignore_eos, text.contexts) == (1, 0, False, ())
    forced = settings(synthetic_acceptance=RATES, max_tokens=96)
    assert (forced.prompts, forced.max_tokens, forced.temperature, forced.top_p) == ("tokens", 96, 0, 1)
    assert (forced.warmup, forced.ignore_eos, forced.contexts) == (1, True, (100,))
    assert settings(peer="llama.cpp").ignore_eos  # both must generate the same number of tokens
    assert settings(draft_lengths=(0, 1, 1, 2)).draft_lengths == (1, 2)  # plain decoding is always measured


def test_seeds():
    assert [settings(temperature=0.6).seed_of(i) for i in (0, 1)] == [None, None]
    assert [settings(temperature=0.6, seed=5).seed_of(i) for i in (0, 1)] == [5, 6]
    assert [settings(temperature=0).seed_of(i) for i in (0, 1)] == [0, 1]  # forced acceptance repeats


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runs": 0}, "runs is 0"),
        ({"warmup": -1}, "warmup is -1"),
        ({"max_tokens": 1}, "max_tokens is 1"),
        ({"contexts": (1,)}, "at least 2 tokens"),
        ({"contexts": (64,), "prompts": "space-invaders"}, "contexts are for prompts of token ids"),
        ({"prompts": "poems"}, "poems"),
        ({"synthetic_acceptance": (0.5, 0.6)}, "rates do not increase"),
        ({"temperature": -1.0}, "temperature"),
        ({"acceptance": "never"}, "never"),
    ],
)
def test_refused(options: dict, message: str):
    with pytest.raises(InvalidRequestError, match=message):
        settings(**options)


def test_drafts_need_a_head():
    with pytest.raises(InvalidRequestError, match="--mtp-head"):
        make_settings(Path("t"), None, draft_lengths=(3,))
    assert make_settings(Path("t"), None, draft_lengths=(0,)).draft_lengths == ()


def test_context_holds_the_longest_prompt_and_its_completion():
    assert context_size(settings(contexts=(100, 4000), max_tokens=100)) == 4352


def test_prompts_of_token_ids():
    prompt = token_prompt(50, 0, 262144)
    assert len(prompt) == 50 and prompt[0] == 2 and all(1000 <= token < 262144 for token in prompt[1:])
    assert prompt == token_prompt(50, 0, 262144)
    assert prompt[1] != token_prompt(50, 1, 262144)[1]  # or the KV cache would be reused
    assert all(0 <= token < 512 for token in token_prompt(50, 0, 512))


def test_without_a_peer_all_lengths_take_turns():
    assert phases(settings(draft_lengths=(1, 2, "auto")), None) == [Phase((0, 1, 2, "auto"), None)]


def test_the_peer_drafts_as_many_and_its_fastest_is_met():
    fastest = PeerSetting(2, backend_sampling=True)
    plan = phases(settings(draft_lengths=(3, "auto")), fastest)
    assert [(phase.draft_lengths, phase.peer.n_max) for phase in plan] == [((0,), 0), ((0, 3), 3), ((0, "auto"), 2)]
    plan = phases(settings(draft_lengths=(3,)), fastest)
    assert [(phase.draft_lengths, phase.peer.n_max) for phase in plan] == [((0,), 0), ((0, 3), 3), ((0, 3), 2)]
    assert all(phase.peer.backend_sampling for phase in plan)


def test_settings_of_the_peer():
    assert given_setting(settings(peer_settings="sweep")) is None
    assert given_setting(settings(peer_settings="default", draft_lengths=(2,))) == PeerSetting(2)
    assert given_setting(settings(peer_settings="backend_sampling=on,flash_attention=off,n_max=4,p_min=0.5")) == (
        PeerSetting(4, backend_sampling=True, flash_attention="off", p_min=0.5)
    )
    setting = PeerSetting(3, draft_backend_sampling=False)
    assert given_setting(settings(peer_settings=str(setting))) == setting


@pytest.mark.parametrize("text", ["fast", "n_max=x", "n_cpu=3", "flash_attention=maybe", "backend_sampling"])
def test_settings_of_the_peer_that_are_none(text: str):
    with pytest.raises(InvalidRequestError, match="expected sweep, default, or such as n_max=3"):
        given_setting(settings(peer_settings=text))
