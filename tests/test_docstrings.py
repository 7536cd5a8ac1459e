"""The examples in docstrings run and show what they promise."""

import doctest
import sys

import pytest

from s2rm import S2GRU, Views


@pytest.mark.parametrize("documented", [Views, S2GRU], ids=lambda documented: documented.__name__)
def test_examples_run(documented):
    """The examples of one object, in its module's names."""
    names = vars(sys.modules[documented.__module__])
    (test,) = doctest.DocTestFinder(recurse=False).find(documented, documented.__name__, globs=dict(names))
    assert test.examples
    results = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test)
    assert not results.failed
