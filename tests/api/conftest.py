"""Fixtures of the tests of bad input."""

import re
from contextlib import contextmanager

import pytest

from bad_input import contents


@pytest.fixture
def refused():
    """Expect one kind of exception, with one message and no other, and no change in anything that is watched."""

    @contextmanager
    def expect(kind, message, *watched):
        pattern = message if isinstance(message, re.Pattern) else re.compile(re.escape(message))
        before = contents(watched)
        with pytest.raises(kind) as caught:
            yield
        assert pattern.fullmatch(str(caught.value)), f"{caught.value!r}\nwanted {pattern.pattern}"
        assert contents(watched) == before

    return expect
