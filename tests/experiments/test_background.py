"""Tasks that are repeated in a thread while a context lasts."""

import threading

import pytest

from experiments.background import BackgroundThread
from tests.conformance.drivers import wait_until


def test_a_task_is_repeated_until_the_context_ends() -> None:
    calls: list[str] = []

    def task() -> bool:
        calls.append(threading.current_thread().name)
        return True

    with BackgroundThread(task, 0.01, "a task") as thread:
        wait_until(lambda: len(calls) > 3)
        assert thread.is_alive()
    assert not thread.is_alive() and set(calls) == {"a task"}
    count = len(calls)
    threading.Event().wait(0.05)
    assert len(calls) == count


def test_a_task_that_returns_false_is_not_called_again() -> None:
    calls: list[int] = []

    def task() -> bool:
        calls.append(1)
        return False

    with BackgroundThread(task, 0.01, "once") as thread:
        wait_until(lambda: not thread.is_alive())
    assert calls == [1]


def test_an_error_in_the_context_ends_the_thread_and_is_raised() -> None:
    thread = BackgroundThread(lambda: True, 0.01, "task")
    with pytest.raises(KeyError), thread:
        raise KeyError("x")
    assert not thread.is_alive()
