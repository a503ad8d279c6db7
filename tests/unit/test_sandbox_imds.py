"""An instance's metadata service, asked by botocore and by hand."""

import json
import urllib.error
import urllib.request
from dataclasses import replace

import pytest

from wren_worker.sandbox.imds import Identity, MetadataServer

IDENTITY = Identity(
    instance_id="i-1",
    instance_type="c5.xlarge",
    image_id="ami-1",
    region="us-east-1",
    zone="us-east-1a",
    account="123456789012",
    private_ip="10.0.0.1",
    launch_timestamp=0.0,
    role=lambda: "wren-x-instance",
    access_key="ASIA0000000000000001",
    user_data=b"#cloud-config\n",
    spot=False,
    tags=lambda: {"wren:fleet": "x"},
)


@pytest.fixture
def serve():
    servers = []

    def start(**changes):
        servers.append(MetadataServer(replace(IDENTITY, **changes)))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def ask(server, path, token=None, method="GET", **headers):
    if token:
        headers["X-aws-ec2-metadata-token"] = token
    request = urllib.request.Request(f"{server.endpoint}/latest/{path}", method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, ""


def token(server):
    return ask(server, "api/token", method="PUT", **{"X-aws-ec2-metadata-token-ttl-seconds": "60"})[1]


def test_needs_a_token(serve):
    server = serve()
    assert ask(server, "meta-data/instance-id")[0] == 401
    assert ask(server, "meta-data/instance-id", "made-up")[0] == 401
    assert ask(server, "api/token", method="PUT")[0] == 400
    assert ask(server, "meta-data/instance-id", token(server)) == (200, "i-1")


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("meta-data/instance-type", "c5.xlarge"),
        ("meta-data/placement/region", "us-east-1"),
        ("meta-data/placement/availability-zone", "us-east-1a"),
        ("meta-data/iam/security-credentials/", "wren-x-instance"),
        ("meta-data/tags/instance", "wren:fleet"),
        ("meta-data/tags/instance/wren:fleet", "x"),
        ("user-data", "#cloud-config\n"),
    ],
)
def test_tells_what_ec2_tells(serve, path, told):
    server = serve()
    assert ask(server, path, token(server)) == (200, told)


@pytest.mark.parametrize("path", ["meta-data/spot/instance-action", "meta-data/tags/instance/nope", "meta-data/x", "x"])
def test_what_is_not_there_is_404(serve, path):
    server = serve()
    assert ask(server, path, token(server))[0] == 404


def test_tags_are_hidden_unless_asked_for_and_fresh_otherwise(serve):
    hidden = serve(tags=lambda: None)
    assert ask(hidden, "meta-data/tags/instance/wren:fleet", token(hidden))[0] == 404
    tags = {}
    server = serve(tags=lambda: tags)
    tags["wren:drain"] = "1"
    assert ask(server, "meta-data/tags/instance/wren:drain", token(server)) == (200, "1")


def test_spot_notice(serve):
    server = serve(spot=True)
    server.announce_interruption(120)
    status, text = ask(server, "meta-data/spot/instance-action", token(server))
    assert status == 200
    assert json.loads(text)["action"] == "terminate"


def test_identity_document(serve):
    server = serve()
    document = json.loads(ask(server, "dynamic/instance-identity/document", token(server))[1])
    assert (document["instanceId"], document["region"]) == ("i-1", "us-east-1")


def test_botocore_gets_credentials(serve):
    from botocore.utils import IMDSFetcher, InstanceMetadataFetcher

    server = serve()
    fetcher = InstanceMetadataFetcher(base_url=server.endpoint, env={}, user_agent="test")
    credentials = fetcher.retrieve_iam_role_credentials()
    assert credentials["access_key"] == "ASIA0000000000000001"
    assert credentials["role_name"] == "wren-x-instance"
    assert isinstance(fetcher, IMDSFetcher)
