"""One session and its clients."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from wren_worker.aws.session import Aws
from wren_worker.errors import ConfigError

EXPORTS = {"AWS_ENDPOINT_URL": "http://localhost:1", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}


@pytest.fixture(autouse=True)
def _no_metadata_service(monkeypatch):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def test_no_region_is_said_before_boto3_does():
    with pytest.raises(ConfigError, match="--region"):
        _ = Aws().region
    with pytest.raises(ConfigError, match="--region"):
        Aws().sqs()


def test_the_environment_and_the_argument_name_the_region(monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert Aws().region == "eu-west-1"
    assert Aws("eu-north-1").region == "eu-north-1"


def test_no_credentials_are_a_sentence():
    with pytest.raises(ConfigError, match="aws configure"):
        _ = Aws("us-east-1").account


def test_an_unknown_profile_is_a_sentence():
    with pytest.raises(ConfigError, match="nobody"):
        Aws("us-east-1", "nobody").sqs()


def test_an_instance_without_a_role_says_so():
    with pytest.raises(ConfigError, match="instance profile"):
        Aws("us-east-1", on_instance=True).sqs()


def test_a_given_account_asks_nobody():
    assert Aws("us-east-1", account="123456789012", exports=EXPORTS).account == "123456789012"


def test_threads_share_one_client():
    aws = Aws("us-east-1", exports=EXPORTS)
    ready, found = threading.Barrier(8), []

    def ask():
        ready.wait()
        found.append(aws.s3())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 1


def test_importing_costs_no_boto3():
    modules = "session, sqs, s3, ec2, provision, logs, logs_reader, imds"
    loaded = "{'boto3', 'botocore', 'watchtower'} & set(sys.modules)"
    program = f"import sys\nfrom wren_worker.aws import {modules}\nassert not {loaded}"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
