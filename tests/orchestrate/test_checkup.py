"""What a coordinator does for whoever examines the way to it, and no more than that."""

from __future__ import annotations

import socket
import threading

import pytest
from fastapi import FastAPI, HTTPException, Request
from fastapi.testclient import TestClient

from roadtrain.errors import PeerError
from roadtrain.orchestrate.checkup import BYTES_MAX, checkup_router

WORD = "0123456789abcdef" * 2


def admit(request: Request) -> None:
    if "authorization" not in request.headers:
        raise HTTPException(401)


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    app.include_router(checkup_router(admit))
    return TestClient(app, headers={"authorization": "x"}, client=("127.0.0.1", 5))


def test_bytes_go_both_ways_and_no_more_than_so_many(client: TestClient) -> None:
    assert len(client.get("/api/measure", params={"size": 1000}).content) == 1000
    assert client.get("/api/measure", params={"size": BYTES_MAX + 1}).status_code == 422
    assert client.put("/api/measure", content=bytes(1000)).json() == {"bytes": 1000}
    with pytest.raises(PeerError):
        client.put("/api/measure", content=bytes(BYTES_MAX + 1))


def test_strangers_get_nothing(client: TestClient) -> None:
    del client.headers["authorization"]
    for method, path in (("GET", "/api/measure"), ("PUT", "/api/measure"), ("POST", "/api/dial")):
        assert client.request(method, path).status_code == 401


@pytest.mark.parametrize("answer", [WORD, WORD[::-1], WORD[:5], ""])
def test_who_is_dialled_shows_that_it_is_the_one(client: TestClient, answer: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def speak() -> None:
            other, _ = server.accept()
            with other:
                other.sendall(answer.encode())

        thread = threading.Thread(target=speak)
        thread.start()
        said = client.post("/api/dial", json={"port": server.getsockname()[1], "word": WORD}).json()
        thread.join()
    assert said == {"host": "127.0.0.1", "reached": answer == WORD}


def test_nobody_listens_there(client: TestClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert client.post("/api/dial", json={"port": port, "word": WORD}).json()["reached"] is False


@pytest.mark.parametrize("asked", [{}, {"port": 0, "word": WORD}, {"port": 80, "word": "GET / HTTP"}, []])
def test_what_is_no_request_is_refused(client: TestClient, asked: object) -> None:
    with pytest.raises(PeerError):
        client.post("/api/dial", json=asked)
