"""`expect`: playwright's assertions, which look again until the page shows what a test waits for.

A plain `assert locator.count() == 1` looks once. A page that a kernel fills is behind at times:
such a test fails on a busy machine. For the same reason each wait is long: it bounds what hangs, and measures nothing.
"""

PATIENCE = 180_000  # milliseconds


def expect(locator):
    """The assertions for this locator (imported late: without playwright the browser tests skip and must be read)."""
    from playwright.sync_api import expect

    expect.set_options(timeout=PATIENCE)
    return expect(locator)
