from collections.abc import Iterator

import pytest

from tests.browser import browser as chromium


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Browser]:
    if chromium.MISSING:
        pytest.skip(chromium.MISSING)
    with chromium.started(tmp_path_factory.mktemp("profile")) as found:
        yield found
