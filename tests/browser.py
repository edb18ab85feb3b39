"""Chromium driven through its DevTools pipe: no driver beside the browser, and no port that others could reach."""

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from select import select
from typing import Any

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
_SECONDS = 60.0


class Tab:
    """A page of the browser: what it says, what it asks for, and what a reader does with it."""

    def __init__(self, browser: "subprocess.Popen[bytes]", commands: int, answers: int) -> None:
        self.messages: list[str] = []
        self.requests: list[str] = []
        self._browser, self._commands, self._answers = browser, commands, answers
        self._session, self._number, self._left = "", 0, b""
        self._events: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask the browser for something, and note what it tells until the answer is there."""
        self._number += 1
        asked = {"id": self._number, "method": method, "params": parameters}
        message = {**asked, "sessionId": self._session} if self._session else asked
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._number:
            self._note(answer)
        assert "error" not in answer, (method, answer["error"])
        result: dict[str, Any] = answer["result"]
        return result

    def open(self, page: Path, width: int = 1400, *, scheme: str = "light", medium: str = "") -> None:
        """Show a file in a window of ``width`` pixels; with the ``medium`` ``print`` as it is laid out on paper."""
        self.messages.clear()
        self.requests.clear()
        self._events.clear()
        is_phone = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=is_phone)
        self.call(
            "Emulation.setEmulatedMedia", media=medium, features=[{"name": "prefers-color-scheme", "value": scheme}]
        )
        self.call("Page.navigate", url=page.as_uri())
        while "Page.loadEventFired" not in self._events:
            self._note(self._receive())

    def ask(self, expression: str) -> Any:
        """Return what an expression is worth in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def box_of(self, selector: str, *, scroll: bool = True) -> tuple[float, float, float, float]:
        """Return left, top, right and bottom of an element in the window, in pixels, once it is in sight."""
        element = f"document.querySelector({json.dumps(selector)})"
        if scroll:
            self.ask(f"{element}.scrollIntoView({{block: 'center'}})")
        left, top, right, bottom = self.ask(
            f"(({{left, top, right, bottom}}) => [left, top, right, bottom])({element}.getBoundingClientRect())"
        )
        return left, top, right, bottom

    def click_on(self, selector: str) -> None:
        """Click on the middle of an element."""
        left, top, right, bottom = self.box_of(selector)
        self.click((left + right) / 2, (top + bottom) / 2)

    def point_at(self, x: float, y: float) -> None:
        """Move the pointer to a place of the window, in pixels."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, x: float, y: float) -> None:
        """Click on a place of the window, in pixels."""
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """Press a key, such as ``ArrowLeft``, on what has the focus."""
        code = {"ArrowLeft": 37, "ArrowRight": 39, "Escape": 27}[key]
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def print_pdf(self) -> bytes:
        """Return the page as it is printed."""
        return base64.b64decode(self.call("Page.printToPDF", printBackground=True)["data"])

    def _receive(self) -> dict[str, Any]:
        until = time.monotonic() + _SECONDS
        while b"\0" not in self._left:
            if not select([self._answers], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TimeoutError(f"the browser has been silent for {_SECONDS:g} s")
            part = os.read(self._answers, 2**20)
            if not part:
                raise EOFError(f"the browser has ended: {self._browser.poll()}")
            self._left += part
        first, _, self._left = self._left.partition(b"\0")
        answer: dict[str, Any] = json.loads(first)
        return answer

    def _note(self, event: dict[str, Any]) -> None:
        method, told = event.get("method", ""), event.get("params", {})
        self._events.append(method)
        if method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif method == "Runtime.consoleAPICalled":
            self.messages.append(" ".join(str(one.get("value", "")) for one in told["args"]))
        elif method == "Runtime.exceptionThrown":
            self.messages.append(str(told["exceptionDetails"]))
        elif method == "Log.entryAdded":
            self.messages.append(told["entry"]["text"])


@contextmanager
def opened_browser(profile: Path) -> Iterator[Tab]:
    """A browser with a profile of its own, ended with the block."""
    assert BROWSER is not None, "whoever calls it has looked"
    to_browser, commands = os.pipe()
    answers, from_browser = os.pipe()
    # The pipe's ends are 3 and 4 in the browser, whatever they are here: a shell of one line moves them there.
    line = f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}'
    command = ["bash", "-c", line, BROWSER, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
    browser = subprocess.Popen(command, pass_fds=(to_browser, from_browser), stderr=subprocess.DEVNULL)
    os.close(to_browser)
    os.close(from_browser)
    try:
        yield Tab(browser, commands, answers)
    finally:
        os.close(commands)  # upon which the browser ends
        os.close(answers)
        try:
            browser.wait(timeout=10)
        except subprocess.TimeoutExpired:
            browser.kill()
            browser.wait()
