"""The bootstrap archive, the program in user-data that fetches it, and the last words."""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

import wren_worker
from wren_worker.errors import ConfigError
from wren_worker.fleet import bootstrap
from wren_worker.fleet.userdata import Bootstrap
from wren_worker.version import VERSION

ROOT = Path(wren_worker.__file__).parents[1]
KEYS = {"AccessKeyId": "AKIAEXAMPLE", "SecretAccessKey": "secret/+", "Token": "token=="}
STAMP = "20261121T101500Z"


def script(name, **facts):
    spec = importlib.util.spec_from_file_location(name, ROOT / "cloud-init" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    vars(module).update(facts)
    spec.loader.exec_module(module)
    return module


def signed_by_botocore(auth, method, url, headers, body, service):
    request = AWSRequest(method=method, url=url, headers=headers, data=body)
    request.context["timestamp"] = STAMP
    signer = auth(Credentials(KEYS["AccessKeyId"], KEYS["SecretAccessKey"], KEYS["Token"]), service, "eu-west-3")
    return signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)


def test_the_fetch_signs_as_botocore_does():
    fetch = script("fetch", BUCKET="b", KEY="wheels/a-1.tar.gz", SHA256="0" * 64, REGION="eu-west-3", PATIENCE=1)
    host, path = "b.s3.eu-west-3.amazonaws.com", "/wheels/a-1.tar.gz"
    headers = fetch.sign(host, path, KEYS, STAMP)
    signature = headers.pop("authorization").rpartition("Signature=")[2]
    found = signed_by_botocore(S3SigV4Auth, "GET", f"https://{host}{path}", headers, b"", "s3")
    assert signature == found


def test_the_last_words_are_signed_as_botocore_does():
    lastwords = script("lastwords")
    body = json.dumps({"logGroupName": "pywren-standalone"}).encode()
    headers = {
        "content-type": "application/x-amz-json-1.1",
        "host": "logs.eu-west-3.amazonaws.com",
        "x-amz-date": STAMP,
        "x-amz-security-token": KEYS["Token"],
        "x-amz-target": "Logs_20140328.PutLogEvents",
    }
    ours = lastwords.signature(headers, body, region="eu-west-3", service="logs", keys=KEYS, stamp=STAMP)
    url = "https://logs.eu-west-3.amazonaws.com/"
    found = signed_by_botocore(SigV4Auth, "POST", url, headers, body, "logs")
    assert ours.rpartition("Signature=")[2] == found


def test_last_words_that_cannot_be_shipped_go_to_the_console(tmp_path):
    console, logs = tmp_path / "console", tmp_path / "log"
    logs.mkdir()
    console.touch()
    (logs / "daemon.log").write_text("the very reason\n")
    environ = {
        "PATH": "/usr/bin:/bin",
        "WREN_CONSOLE": str(console),
        "WREN_LOG_DIR": str(logs),
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:9",  # nobody listens at the discard port
    }
    program = [sys.executable, "-IS", str(ROOT / "cloud-init" / "lastwords.py"), "failed", "cloud-init.service"]
    subprocess.run(program, env=environ, timeout=30, check=True)
    said = console.read_text()
    for sign in ("cloud-init.service failed, power off", "the very reason", "could not be shipped"):
        assert sign in said


# --- the archive ------------------------------------------------------------------------------------------------------


def test_equal_inputs_give_equal_bytes():
    first, second = bootstrap.build(python="3.11"), bootstrap.build(python="3.11")
    assert first == second
    assert first.key == f"wheels/bootstrap-{first.sha256}.tar.gz"
    assert bootstrap.build(python="3.12").sha256 != first.sha256


def test_own_wheel_installs_and_runs_elsewhere(tmp_path):
    wheel = tmp_path / f"wren_worker-{VERSION}-py3-none-any.whl"
    wheel.write_bytes(bootstrap.own_wheel())
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = "import wren_worker, wren_worker.config as c; print(wren_worker.__file__, c.shared_file('supervisord.conf'))"
    import_path = f"import sys; sys.path[:0] = [{str(tmp_path / 'site')!r}]; {code}"
    done = subprocess.run([sys.executable, "-c", import_path], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert all(word.startswith(str(tmp_path)) for word in done.stdout.split())
    check = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--target", str(tmp_path / "t")]
    subprocess.run([*check, "--quiet", str(wheel)], check=True, timeout=60)


def wheels(folder, *names):
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(b"a wheel")
    return folder


def test_wheels_that_are_missing_or_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="lack cloudpickle"):
        bootstrap.build(
            python="3.11", packages=wheels(tmp_path / "a", "numpy-2.4.6-cp311-cp311-manylinux_2_28_x86_64.whl")
        )
    with pytest.raises(ConfigError, match=r"cp312.* cannot be installed under Python 3\.11"):
        bootstrap.build(
            python="3.11",
            packages=wheels(
                tmp_path / "b",
                "cloudpickle-3.1.2-py3-none-any.whl",
                "numpy-2.4.6-cp312-cp312-manylinux_2_28_x86_64.whl",
            ),
        )
    with pytest.raises(ConfigError, match="macosx"):
        bootstrap.build(
            python="3.11",
            packages=wheels(
                tmp_path / "c", "cloudpickle-3.1.2-py3-none-any.whl", "numpy-2.4.6-cp311-cp311-macosx_14_0_arm64.whl"
            ),
        )
    found = bootstrap.build(
        python="3.11",
        packages=wheels(
            tmp_path / "d", "cloudpickle-3.1.2-py3-none-any.whl", "x-1-cp39-abi3-manylinux_2_28_x86_64.whl"
        ),
    )
    with tarfile.open(fileobj=io.BytesIO(found.data)) as archive:
        assert "packages/x-1-cp39-abi3-manylinux_2_28_x86_64.whl" in archive.getnames()


@pytest.mark.parametrize("value", ["a b", "a'b", "", "ü", "a\nb"])
def test_what_would_change_the_program_in_user_data_is_refused(value):
    good = {"bucket": "b", "key": "k", "sha256": "0" * 64, "region": "r"}
    for name in good:
        with pytest.raises(ConfigError, match=name):
            Bootstrap(**{**good, name: value})
