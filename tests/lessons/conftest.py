"""What all tests of the lessons share."""

from collections.abc import Iterator

import pytest
from check_helpers import references_kept


@pytest.fixture(autouse=True)
def _references_kept() -> Iterator[None]:
    """Each problem's right outputs are computed once, not for every answer that is tried on it."""
    with references_kept():
        yield
