"""The metadata service, version 2, against a small one of our own."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from wren_worker.aws.imds import ImdsMetadata
from wren_worker.errors import FleetError
from wren_worker.testing import FakeClock

VALUES = {
    "/latest/meta-data/instance-id": "i-0abc",
    "/latest/meta-data/instance-type": "c5.xlarge",
    "/latest/meta-data/tags/instance/wren:drain": "1",
}


class Service(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.token = "t0"
        self.n_tokens = 0
        self.faults: list[int] = []
        self.requests: list[str] = []

    @property
    def environ(self):
        return {"AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://127.0.0.1:{self.server_port}/"}


class Handler(BaseHTTPRequestHandler):
    server: Service

    def answer(self, status, text=""):
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_PUT(self):
        assert self.path == "/latest/api/token"
        assert int(self.headers["X-aws-ec2-metadata-token-ttl-seconds"]) == 21600
        self.server.n_tokens += 1
        self.server.token = f"t{self.server.n_tokens}"
        self.answer(200, self.server.token)

    def do_GET(self):
        self.server.requests.append(self.path)
        if self.server.faults:
            self.answer(self.server.faults.pop(0))
        elif self.headers["X-aws-ec2-metadata-token"] != self.server.token:
            self.answer(401)
        elif self.path in VALUES:
            self.answer(200, VALUES[self.path])
        else:
            self.answer(404)

    def log_message(self, *_):
        pass


@pytest.fixture
def service():
    with Service() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def metadata(service, clock):
    return ImdsMetadata(service.environ, clock=clock)


def test_identity_is_asked_for_once_with_one_token(metadata, service):
    assert metadata.instance_id() == metadata.instance_id() == "i-0abc"
    assert metadata.instance_type() == "c5.xlarge"
    assert len(service.requests) == 2
    assert service.n_tokens == 1


def test_tags_are_asked_for_each_time(metadata, service):
    assert metadata.tag("wren:drain") == metadata.tag("wren:drain") == "1"
    assert metadata.tag("wren:other") is None
    assert len(service.requests) == 3


def test_a_token_is_renewed_before_it_ends(metadata, service, clock):
    metadata.instance_id()
    clock.advance(21_600 * 0.95)
    metadata.tag("wren:drain")
    assert service.n_tokens == 2


def test_a_token_that_is_refused_is_renewed(metadata, service):
    metadata.instance_id()
    service.token = "another"
    assert metadata.tag("wren:drain") == "1"
    assert service.n_tokens == 2


def test_a_hiccup_is_waited_out(metadata, service):
    service.faults = [500, 503]
    assert metadata.instance_id() == "i-0abc"


def test_a_silence_is_a_sentence(service, metadata):
    service.faults = [500] * 10
    with pytest.raises(FleetError, match="does not answer"):
        metadata.instance_id()
    assert len(service.requests) == 5


def test_nobody_there_is_a_sentence(free_port):
    environ = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://127.0.0.1:{free_port}"}
    with pytest.raises(FleetError, match=f"127.0.0.1:{free_port}"):
        ImdsMetadata(environ, clock=FakeClock()).instance_id()


def test_a_proxy_of_the_environment_is_not_used(service, clock, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert ImdsMetadata(service.environ, clock=clock).instance_id() == "i-0abc"
