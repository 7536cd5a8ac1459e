"""The examples in docstrings run and show what they promise."""

import doctest
import inspect
import sys

import pytest
import torch

from s2rm import S2GRU, RelationalMemory, RIMs, Views
from s2rm.models.saved import load, load_any
from s2rm.sensors import Forecaster


@pytest.mark.parametrize(
    "documented", [Views, S2GRU, RIMs, RelationalMemory, Forecaster], ids=lambda documented: documented.__name__
)
def test_examples_run(documented):
    """The examples of one object, in its module's names."""
    names = vars(sys.modules[documented.__module__])
    (test,) = doctest.DocTestFinder(recurse=False).find(
        documented, documented.__name__, globs={"torch": torch, **names}
    )
    assert test.examples
    results = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test)
    assert not results.failed


METHODS = [each for name, each in inspect.getmembers(Forecaster, callable) if not name.startswith("_")]


@pytest.mark.parametrize("documented", [load, load_any, *METHODS], ids=lambda each: each.__qualname__)
def test_what_may_be_refused_is_said(documented):
    assert "Raises:\n" in inspect.getdoc(documented)
