"""A studio over the tiny model that listens, as for other programs."""

import threading

import pytest

from auffusion_cli.studio.app import Studio
from auffusion_cli.studio.history import History
from auffusion_cli.studio.making import Maker


@pytest.fixture(scope="session")
def sounds(tmp_path_factory):
    """The folder of the studio."""
    return tmp_path_factory.mktemp("studio")


@pytest.fixture(scope="session")
def address(tiny_model, sounds):
    """Where it listens; it ends with the tests."""
    import uvicorn

    studio = Studio(Maker(lambda: tiny_model, tiny_model.defaults, History(sounds)), "tiny")
    config = uvicorn.Config(studio.app, host="127.0.0.1", port=0, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        thread.join(0.02)
        assert thread.is_alive()
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(30)
