"""The page in a real browser: what a user does, what a hostile model does, and that it works without a mouse."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyllama_mtp
from support import chromium
from support.scripted import ScriptedModel, serving
from support.serving import Served

INPUT, LAST = "#input", "#messages li:last-child"
HOSTILE = (
    '<img src=x onerror="window.hit=1"><script>window.hit=2</script><a href="javascript:window.hit=3">here</a>'
    "<iframe srcdoc='<script>parent.hit=4</script>'></iframe> [link](javascript:alert(1)) https://evil.example/ "
    "<style>*{display:none}</style>\n```html\n</code></pre><svg onload=window.hit=5>\n```\n&lt;b&gt; \u202e\0"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Browser]:
    program = chromium.find()
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("Chromium is not installed, which the tests of the page need: apt-get install chromium")
        pytest.skip("needs Chromium: apt-get install chromium")
    browser = chromium.Browser(program, tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture
def model() -> ScriptedModel:
    return ScriptedModel()


@pytest.fixture
def page(browser: chromium.Browser, model: ScriptedModel) -> Iterator[chromium.Page]:
    with serving(model) as url, browser.page(url) as page:
        page.until("document.querySelector('#model').textContent === 'scripted'")
        yield page
        assert page.problems() == []
        assert {address.startswith(url) for address in page.requested()} == {True}


def ended(page: chromium.Page, n: int) -> None:
    """Waits for n messages, the last of them complete."""
    page.until(f"document.querySelectorAll('#messages > li').length === {n} && !document.querySelector('#send').hidden")


def say(page: chromium.Page, text: str) -> None:
    page.run("document.querySelector('#input').focus()")
    page.type(text)
    page.press("Enter")


def content(page: chromium.Page) -> str:
    return page.text(f"{LAST} .content")


def test_an_answer_appears_as_it_is_made(page: chromium.Page, model: ScriptedModel):
    model.seconds = 0.05
    said = "one two three four five six seven eight"
    say(page, said)
    page.until(f"(document.querySelector('{LAST} .content')?.textContent ?? '').startsWith('one')")
    partial = content(page)
    assert said.startswith(partial) and partial != said
    ended(page, 2)
    assert content(page) == said
    assert page.texts("#messages .content") == [said, said]
    assert "50.0 tokens/s" in page.text(LAST) and "50 % of drafts" in page.text(LAST)


@pytest.mark.parametrize("how", ["button", "key"])
def test_stop(page: chromium.Page, model: ScriptedModel, how: str):
    """What was said stays, and the server computes no more of it."""
    model.seconds = 0.05
    say(page, "word " * 100)
    page.until(f"(document.querySelector('{LAST} .content')?.textContent ?? '').length > 5")
    page.click("#stop") if how == "button" else page.press("Escape")
    ended(page, 2)
    assert 5 < len(content(page)) < 500 and "stopped" in page.text(LAST)
    end = time.monotonic() + 5
    while not model.streams[-1].closed:
        assert time.monotonic() < end
    model.seconds = 0
    say(page, "again")
    ended(page, 4)
    assert content(page) == "again"


def test_regenerate_and_edit(page: chromium.Page, model: ScriptedModel):
    say(page, "first")
    ended(page, 2)
    say(page, "second")
    ended(page, 4)
    assert [message["content"] for message in model.asked[-1]["prompt"]] == ["first", "first", "second"]
    page.click(f"{LAST} .tools button")
    ended(page, 4)
    assert len(model.asked) == 3 and model.asked[2]["prompt"] == model.asked[1]["prompt"]
    page.click("#messages li:first-child .tools button")  # edit
    page.until("document.activeElement.getAttribute('aria-label') === 'Edited message'")
    page.type(" but other")
    page.press("Enter")
    ended(page, 2)
    assert page.texts("#messages .content") == ["first but other"] * 2
    assert model.asked[-1]["prompt"] == [{"role": "user", "content": "first but other"}]


def test_a_conversation_outlives_a_reload(page: chromium.Page, model: ScriptedModel):
    say(page, "remember me")
    ended(page, 2)
    model.seconds = 0.05
    say(page, "a long answer " * 20)
    page.until("document.querySelectorAll('#messages > li').length === 4")
    page.until(f"document.querySelector('{LAST} .content').textContent.length > 5")
    page.reload()
    page.until("document.querySelector('#model').textContent === 'scripted'")
    ended(page, 4)
    assert page.texts("#messages .content")[:2] == ["remember me"] * 2
    assert 5 < len(content(page)) < 280
    page.click("#new")
    page.reload()
    page.until("document.querySelector('#model').textContent === 'scripted'")
    ended(page, 0)


def test_what_a_hostile_model_writes_is_text(page: chromium.Page, model: ScriptedModel):
    """Markup, scripts, links and styles: shown as they were written, in answers, thoughts and after a reload."""
    say(page, HOSTILE)
    ended(page, 2)
    say(page, f"(({HOSTILE.replace('))', ')')})){HOSTILE}")
    ended(page, 4)
    for _ in range(2):
        assert page.run("window.hit") is None
        assert (
            page.run(
                "document.querySelectorAll('main a, main img, main script, main iframe, main style, main svg').length"
            )
            == 0
        )
        shown = content(page)
        for piece in ('onerror="window.hit=1"', "<script>window.hit=2</script>", "javascript:alert(1)", "&lt;b&gt;"):
            assert piece in shown
        assert page.run("getComputedStyle(document.querySelector('#input')).display") != "none"
        page.reload()
        page.until("document.querySelector('#model').textContent === 'scripted'")


def test_messages_of_another_script_in_the_store(page: chromium.Page):
    """What is kept may have been written by anything: it is text, or it is left out."""
    kept = [{"role": "assistant", "content": "<b>x</b>"}, 5, None, {"role": "system", "content": "y"}]
    kept.append({"role": "user", "content": {}})
    for name, value in (("chat", json.dumps(kept)), ("settings", "[")):
        write = f"localStorage.setItem('pyllama-mtp.{name}', {json.dumps(value)})"
        page.run(f"addEventListener('pagehide', () => {write}), 0")  # after the page's own
    page.reload()
    ended(page, 1)
    assert content(page) == "<b>x</b>"


def test_thoughts_are_folded_away(page: chromium.Page):
    say(page, "((a secret thought))and an answer")
    ended(page, 2)
    details = f"{LAST} details.thinking"
    assert content(page) == "and an answer" and page.text(f"{details} .thought") == "a secret thought"
    assert page.run(f"document.querySelector('{details}').open") is False
    page.click(f"{details} summary")
    assert page.run(f"document.querySelector('{details}').open") is True
    page.reload()
    page.until(f"document.querySelector('{details} .thought')?.textContent === 'a secret thought'")


def test_settings(page: chromium.Page, model: ScriptedModel):
    page.click("#toggle-settings")
    for name, value in (
        ("system", "Be brief."),
        ("temperature", "0.5"),
        ("top_k", "7"),
        ("seed", "9"),
        ("max_tokens", "50"),
    ):
        page.run(f"document.querySelector('[name={name}]').focus()")
        page.type(value)
    say(page, "hello")
    ended(page, 2)
    assert model.asked[-1]["prompt"][0] == {"role": "system", "content": "Be brief."}
    assert {name: model.asked[-1][name] for name in ("temperature", "top_k", "seed", "max_tokens")} == {
        "temperature": 0.5,
        "top_k": 7,
        "seed": 9,
        "max_tokens": 50,
    }
    page.reload()
    page.until("document.querySelector('[name=system]').value === 'Be brief.'")


def test_figures_of_the_server(page: chromium.Page, model: ScriptedModel):
    model.seconds = 0.02
    say(page, "word " * 60)
    page.until("document.querySelector('#running').textContent === '1'")
    page.until("Number(document.querySelector('#speed').textContent) > 5")
    ended(page, 2)
    page.until("document.querySelector('#running').textContent === '0'")
    page.until("document.querySelectorAll('#positions li').length === 2")
    assert page.texts("#positions li") == ["167 %", "233 %"]
    assert page.text("#cached") == "40 %"


def test_without_a_mouse(page: chromium.Page, model: ScriptedModel):
    """Everything is reached with Tab, is named, and shows that it has the focus."""
    say(page, "by key")
    ended(page, 2)
    page.run("document.body.focus(); document.activeElement.blur()")
    reached = []
    for _ in range(12):
        page.press("Tab")
        if page.run("document.activeElement !== document.body"):
            reached.append(page.run("(document.activeElement.id || document.activeElement.textContent).trim()"))
            assert page.run("getComputedStyle(document.activeElement).outlineStyle") != "none"
    for name in ("new", "toggle-settings", "toggle-figures", "Edit", "Regenerate", "input", "send"):
        assert name in reached
    unnamed = page.run(
        "[...document.querySelectorAll('button, input, select, textarea')].filter(e => !(e.textContent.trim() || "
        "e.labels?.length || e.getAttribute('aria-label'))).length"
    )
    assert unnamed == 0
    page.run("document.querySelector('#toggle-settings').focus()")
    page.press("Enter")
    assert page.run("document.querySelector('#toggle-settings').getAttribute('aria-expanded')") == "true"
    page.run("document.querySelector('#input').focus()")
    page.type("line")
    page.press("Enter", shift=True)
    assert page.run("document.querySelector('#input').value") == "line\n"


def test_on_a_phone(browser: chromium.Browser, model: ScriptedModel):
    with serving(model) as url, browser.page(url, 360, 640, mobile=True) as page:
        page.until("document.querySelector('#model').textContent === 'scripted'")
        say(page, "unbroken" * 40 + "\n```\n" + "x" * 300 + "\n```\n" + "line\n" * 60)
        ended(page, 2)
        assert page.run("document.documentElement.scrollWidth <= innerWidth")
        for selector in (INPUT, "#send", "#toggle-settings"):
            box = page.run(
                f"(({{left, right, top, bottom}}) => [left, innerWidth - right, top, innerHeight - bottom])"
                f"(document.querySelector('{selector}').getBoundingClientRect())"
            )
            assert min(box) >= 0, (selector, box)
        page.click("#toggle-settings")
        assert page.run("document.documentElement.scrollWidth <= innerWidth")
        page.click("#toggle-settings")
        page.click("#toggle-figures")
        page.until("document.querySelector('#figures').offsetHeight > 0")
        assert page.run("document.querySelector('#input').getBoundingClientRect().bottom <= innerHeight")
        assert page.problems() == []


def test_a_key_is_asked_for_and_kept_for_the_tab(browser: chromium.Browser, model: ScriptedModel):
    with serving(model, api_keys=("sesame",)) as url, browser.page(url) as page:
        page.until("!document.querySelector('#error').hidden")
        assert "API key" in page.text("#error")
        page.click("#toggle-settings")
        page.run("document.querySelector('[name=key]').focus()")
        page.type("sesame")
        page.press("Tab")
        page.until("document.querySelector('#model').textContent === 'scripted'")
        say(page, "let me in")
        ended(page, 2)
        assert content(page) == "let me in"
        assert "sesame" not in page.run("JSON.stringify(localStorage)")


def test_errors_are_told(page: chromium.Page, model: ScriptedModel):
    page.click("#toggle-settings")
    page.run("document.querySelector('[name=min_p]').focus()")
    page.type("0.5")
    page.run("document.querySelector('[name=min_p]').dispatchEvent(new Event('change'))")
    model.agenerate = refuse
    say(page, "hello")
    page.until("!document.querySelector('#error').hidden")
    assert page.text("#error") == "min_p is 0.5, which this test refuses"
    ended(page, 1)
    assert any("400" in problem for problem in page.problems())
    page.forget_problems()


def refuse(*_: object, **__: object) -> None:
    raise pyllama_mtp.InvalidRequestError("min_p is 0.5, which this test refuses")


def test_with_a_model(browser: chromium.Browser, served: Served):
    with browser.page(served.url) as page:
        page.until("document.querySelector('#model').textContent === 'pair'")
        page.click("#toggle-settings")
        page.run("document.querySelector('[name=max_tokens]').focus()")
        page.type("30")
        say(page, "Write a function.")
        ended(page, 2)
        assert content(page)
        assert page.problems() == []


def test_the_policy_lets_nothing_in(served: Served):
    headers = served.ask("GET", "/").headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'" and policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "connect-src", "img-src")} == {"'self'"}
    assert "unsafe" not in headers["content-security-policy"]


def test_files_hold_no_address_and_no_markup_of_texts():
    """Nothing is loaded from elsewhere, and no text is ever parsed as markup."""
    forbidden = ["http:", "https:", "//cdn", "innerHTML", "outerHTML", "insertAdjacentHTML", "eval(", "document.write"]
    folder = Path(pyllama_mtp.__file__).parent / "server" / "page"
    for path in folder.iterdir():
        if path.suffix in (".html", ".js", ".css", ".svg"):
            text = path.read_text().replace("http://www.w3.org/2000/svg", "")
            for word in forbidden:
                assert word not in text, (path.name, word)
            assert len(text.splitlines()) < 300
