"""What benchmarks make of what they measured."""

import pytest

from benchmarks.engine import with_ratios


def test_how_many_times_as_fast_comes_from_speeds_that_are_not_rounded():
    rows = {
        "docmill, int8": {"output": 640, "seconds": 10.0, "output_per_s": 64.0},
        "one by one": {"output": 32, "seconds": 230.0, "output_per_s": 0.1},
    }
    ratios = {name: row["ratio"] for name, row in with_ratios(rows).items()}
    assert ratios == {"docmill, int8": pytest.approx(460), "one by one": 1}
    del rows["one by one"]
    assert with_ratios(rows)["docmill, int8"]["ratio"] == 1
