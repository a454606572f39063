"""Tests of the tools."""

from workshop.tools import Hammer


def test_strike():
    assert Hammer("h").strike("nail") == 1
