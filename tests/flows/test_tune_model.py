"""Tuning as a flow: what it shares with builds."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from flows import tune_model
from tasks.documents import SourceError
from tasks.generate.writer import engine_held


def test_trials_wait_for_the_engine_that_a_build_has(monkeypatch, tmp_path):
    order, begun = [], threading.Event()

    def load_model(*_, **__):
        order.append("tuning")
        raise SourceError("far enough")

    def tuned() -> None:
        begun.set()
        tune_model.tune_model("bundled", "auto", "cpu", None, 0, print)

    monkeypatch.setattr(tune_model, "load_model", load_model)
    monkeypatch.setattr(tune_model, "cache_home", lambda: tmp_path)
    with ThreadPoolExecutor(1) as pool:
        with engine_held("cpu", tmp_path):
            done = pool.submit(tuned)
            begun.wait()
            time.sleep(0.3)
            order.append("build")
        with pytest.raises(SourceError, match="far enough"):
            done.result()
    assert order == ["build", "tuning"]
