"""Debian's Chromium without a window, driven over its DevTools protocol: as much of that as tests of one page take."""

import itertools
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

START_SECONDS = 60
WAIT_SECONDS = 20
LISTENS = re.compile(r"DevTools listening on (ws://\S+)")


def find() -> str | None:
    """The program; None: it is not installed."""
    return next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )


class Browser:
    """A browser with a profile of its own, and one connection to it."""

    def __init__(self, program: str, folder: Path):
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--mute-audio"]
        flags += [f"--user-data-dir={folder / 'profile'}", "--remote-debugging-port=0", "about:blank"]
        self._log = folder / "log"
        self._opened = ExitStack()
        with self._log.open("wb") as out:
            self._process = subprocess.Popen(
                [program, *flags],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=os.environ | {"HOME": str(folder)},
            )
        try:
            opened = connect(self._address(), max_size=None, open_timeout=START_SECONDS)
            self._socket: ClientConnection = self._opened.enter_context(opened)
        except BaseException:
            self.close()
            raise
        self._numbers = itertools.count(1)
        self.events: list[dict[str, Any]] = []

    def _address(self) -> str:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            if found := LISTENS.search(self._log.read_text(errors="replace")):
                return found[1]
            time.sleep(0.05)
        raise AssertionError(f"the browser did not start:\n{self._log.read_text(errors='replace')}")

    def call(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        """A command of the protocol, and its result; events that come meanwhile are kept."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        self._socket.send(json.dumps(message))
        while True:
            answer = json.loads(self._socket.recv(timeout=WAIT_SECONDS))
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self.events.append(answer)

    def close(self) -> None:
        """Ends it, and what it started."""
        if hasattr(self, "_socket"):
            try:
                self.call("Browser.close")
            except Exception:  # it may be gone before it answers
                pass
            self._opened.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @contextmanager
    def page(self, url: str, width: int = 1200, height: int = 800, mobile: bool = False) -> Iterator["Page"]:
        """A page that keeps its own storage, and forgets it."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        try:
            for domain in ("Page", "Runtime", "Log", "Network"):
                page.call(f"{domain}.enable")
            metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
            page.call("Emulation.setDeviceMetricsOverride", **metrics)
            page.open(url)
            yield page
        finally:
            self.call("Target.disposeBrowserContext", browserContextId=context)


class Page:
    """One page. Selectors are of CSS."""

    def __init__(self, browser: Browser, session: str):
        self._browser = browser
        self._session = session

    def call(self, method: str, **parameters: Any) -> Any:
        return self._browser.call(method, self._session, **parameters)

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def reload(self) -> None:
        """Returns with the new document."""
        self.run("window.isOld = true")
        self.call("Page.reload")
        self.until("!window.isOld && document.readyState === 'complete'")

    def run(self, code: str) -> Any:
        """The value of an expression of JavaScript, awaited."""
        result = self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, code: str) -> Any:
        """Waits until an expression is true, and returns it."""
        end = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                if value := self.run(code):
                    return value
            except AssertionError:  # between two documents
                if time.monotonic() > end:
                    raise
            assert time.monotonic() < end, f"never true: {code}\n{self.problems()}"
            time.sleep(0.02)

    def text(self, selector: str) -> str:
        return self.run(f"document.querySelector({json.dumps(selector)}).textContent")

    def texts(self, selector: str) -> list[str]:
        return self.run(f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.textContent)")

    def click(self, selector: str) -> None:
        """In the middle of what is seen of it, as a mouse does."""
        box = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'nearest'}); const b = e.getBoundingClientRect();"
            "return [b.x + b.width / 2, b.y + b.height / 2, b.width * b.height]; })()"
        )
        assert box[2] > 0, f"{selector} is not seen"
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def type(self, text: str) -> None:
        """Into what has the focus."""
        self.call("Input.insertText", text=text)

    def press(self, key: str, *, shift: bool = False) -> None:
        codes = {"Enter": 13, "Tab": 9, "Escape": 27, " ": 32}
        common = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": codes[key]}
        written = {"text": {"Enter": "\r", " ": " "}[key]} if key in ("Enter", " ") else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", modifiers=8 * shift, **common, **written)
        self.call("Input.dispatchKeyEvent", type="keyUp", modifiers=8 * shift, **common)

    def problems(self) -> list[str]:
        """Errors of scripts, of the policy and of the network so far."""
        self.run("0")
        found = []
        for event in self._browser.events:
            if event.get("sessionId") != self._session:
                continue
            parameters = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                found.append(
                    parameters["exceptionDetails"]["text"] + str(parameters["exceptionDetails"].get("exception"))
                )
            elif event["method"] == "Log.entryAdded" and parameters["entry"]["level"] == "error":
                found.append(parameters["entry"]["text"])
        return found

    def forget_problems(self) -> None:
        """Those so far were meant."""
        events = self._browser.events
        events[:] = [event for event in events if event["method"] not in ("Runtime.exceptionThrown", "Log.entryAdded")]

    def requested(self) -> set[str]:
        """Addresses that the page asked for."""
        self.run("0")
        sent = (e for e in self._browser.events if e.get("sessionId") == self._session)
        return {e["params"]["request"]["url"] for e in sent if e["method"] == "Network.requestWillBeSent"}
