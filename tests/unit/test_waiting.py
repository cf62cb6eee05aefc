"""Waking those who wait for the engine's loop."""

import asyncio

import pytest

from pyllama_mtp.waiting import WaitingTask, WaitingThread, wake_all


def test_an_event_loop_that_is_just_closed_keeps_nobody_asleep(monkeypatch: pytest.MonkeyPatch):
    """It was asked whether it is closed, and raised RuntimeError where another thread closed it after that, which
    ended every completion of the model.
    """

    async def wait() -> WaitingTask:
        return WaitingTask(lambda: True)

    loop = asyncio.new_event_loop()
    task, thread = loop.run_until_complete(wait()), WaitingThread(lambda: True)
    loop.close()
    monkeypatch.setattr(loop, "is_closed", lambda: False)
    wake_all([task, thread])
    assert thread._bell.acquire(blocking=False)
