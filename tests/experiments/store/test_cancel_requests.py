"""Requests to end stages: files, one for each stage."""

import json
import os
import time

import pytest

from experiments.store.documents import StoreError
from experiments.store.drivers import cancel_requests, request_cancel, settle_cancel
from tests.faults import read_only_disk

A, B = "a" * 64, "b" * 64


def test_what_is_asked_is_told_until_it_is_settled(tmp_path):
    assert cancel_requests(tmp_path) == {}
    before = time.time()
    request_cancel(tmp_path, [A, B])
    request_cancel(tmp_path, [A])
    told = cancel_requests(tmp_path)
    assert told.keys() == {A, B} and all(before - 2 < at <= time.time() + 2 for at in told.values())
    settle_cancel(tmp_path, A)
    assert cancel_requests(tmp_path).keys() == {B}
    settle_cancel(tmp_path, A)


def test_a_request_says_who_asked_and_when(tmp_path):
    request_cancel(tmp_path, [A])
    told = json.loads((tmp_path / "cancel" / A).read_text())
    assert told["pid"] == os.getpid() and told["user"] and abs(told["time"] - time.time()) < 60


def test_half_a_request_is_none(tmp_path):
    request_cancel(tmp_path, [A])
    (tmp_path / "cancel" / f".{B}.12345678.partial").write_text("{")
    assert cancel_requests(tmp_path).keys() == {A}


def test_a_request_that_cannot_be_written_is_told():
    with read_only_disk() as disk, pytest.raises(StoreError, match="cancel: cannot be written"):
        request_cancel(disk, [A])
