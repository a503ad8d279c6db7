#!/usr/bin/env python3
"""Ships what a machine has to say to the log stream ``<instance id>-boot``, and when that fails, to its console.

Runs under systemd, when the daemon may be what failed: standard library only, and every step has an end.

- ``boot``: what cloud-init and the units said, once cloud-init is through.
- ``off``: why the machine goes, while it goes.
- ``stopped``: supervisord is gone; speaks only when that was no orderly stop.
- ``failed UNIT``: a unit failed without which nothing would ever run here.
"""

import datetime
import hashlib
import hmac
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request

GROUP = "pywren-standalone"
TIMEOUT = 3.0  # of one request, seconds
N_LINES = 40
MAX_LINE_CHARACTERS = 4000
LOG_DIR = os.environ.get("WREN_LOG_DIR", "/var/log/wren")


def tail(path, n_lines=N_LINES):
    """Return a file's last lines, none when it cannot be read."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 65536))
            return file.read().decode("utf-8", "replace").splitlines()[-n_lines:]
    except OSError:
        return []


def journal(*arguments):
    """Return the journal's last lines of this boot."""
    command = ["journalctl", "-b", "-q", "-o", "short-monotonic", "--no-hostname", "-n", str(N_LINES), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.decode("utf-8", "replace").splitlines()


def gather(occasion):
    """Yield ``(source, line)``, what explains most last."""
    yield from (("journal", line) for line in journal("-u", "wren-*", "-u", "cloud-*"))
    if occasion != "off":
        yield from (("cloud-init", line) for line in tail("/var/log/cloud-init-output.log"))
    if occasion != "boot":
        for name in ("supervisord.log", "daemon.log", "listener.log", "deadman.log"):
            yield from ((name, line) for line in tail(os.path.join(LOG_DIR, name), 15))


def request(url, *, method="GET", headers=None, body=None):
    """Return the answer's text; never through a proxy when it is the metadata service."""
    found = urllib.request.Request(url, method=method, headers=headers or {}, data=body)  # noqa: S310 - AWS endpoints
    handlers = [urllib.request.ProxyHandler({})] if url.startswith(imds_endpoint()) else []
    with urllib.request.build_opener(*handlers).open(found, timeout=TIMEOUT) as answer:
        return answer.read().decode()


def imds_endpoint():
    """Return where the metadata service is."""
    return os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://169.254.169.254").rstrip("/")


def identity():
    """Return ``(instance id, region, credentials)`` of this machine."""
    base = imds_endpoint() + "/latest/"
    lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    headers = {"X-aws-ec2-metadata-token": request(base + "api/token", method="PUT", headers=lifetime)}
    instance_id = request(base + "meta-data/instance-id", headers=headers)
    region = request(base + "meta-data/placement/region", headers=headers)
    role = request(base + "meta-data/iam/security-credentials/", headers=headers).split()[0]
    keys = json.loads(request(base + "meta-data/iam/security-credentials/" + role, headers=headers))
    return instance_id, region, keys


def signature(headers, body, *, region, service, keys, stamp):
    """Return the Authorization header of a POST to ``/`` with these lower-case, sorted headers, all signed."""
    names = ";".join(headers)
    lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
    canonical = f"POST\n/\n\n{lines}\n{names}\n{hashlib.sha256(body).hexdigest()}"
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = ("AWS4" + keys["SecretAccessKey"]).encode()
    for part in (*scope.split("/"), text):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    credential = f"{keys['AccessKeyId']}/{scope}"
    return f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={key.hex()}"


def ask_logs(operation, content, *, region, keys):
    """Ask CloudWatch Logs for one thing."""
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    endpoint = os.environ.get("AWS_ENDPOINT_URL_LOGS") or os.environ.get("AWS_ENDPOINT_URL")
    endpoint = (endpoint or f"https://logs.{region}.{suffix}").rstrip("/")
    body = json.dumps(content).encode()
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    headers = {
        "content-type": "application/x-amz-json-1.1",
        "host": endpoint.partition("//")[2],
        "x-amz-date": stamp,
        "x-amz-security-token": keys["Token"],
        "x-amz-target": f"Logs_20140328.{operation}",
    }
    headers["Authorization"] = signature(headers, body, region=region, service="logs", keys=keys, stamp=stamp)
    request(endpoint + "/", method="POST", headers=headers, body=body)


def ship(occasion, lines):
    """Put the lines into the stream, one event each."""
    instance_id, region, keys = identity()
    stream = f"{instance_id}-boot"
    try:
        ask_logs("CreateLogStream", {"logGroupName": GROUP, "logStreamName": stream}, region=region, keys=keys)
    except urllib.error.HTTPError as error:
        if b"ResourceAlreadyExists" not in error.read():
            raise
    now = int(time.time() * 1000)
    events = []
    for source, line in lines:
        fields = {"event": f"boot.{occasion}", "instance_id": instance_id, "source": source, "line": line}
        events.append({"timestamp": now, "message": json.dumps(fields)})
    content = {"logGroupName": GROUP, "logStreamName": stream, "logEvents": events}
    ask_logs("PutLogEvents", content, region=region, keys=keys)


def to_console(lines):
    """Write where EC2's console output comes from; nobody is there to hear of a failure."""
    try:
        with open(os.environ["WREN_CONSOLE"], "ab", buffering=0) as console:
            for source, line in lines:
                console.write(f"wren: {source}: {line}\n".encode())
    except (KeyError, OSError):
        pass


def main(arguments, environ):
    """Say what there is to say on this occasion."""
    occasion = arguments[0] if arguments else "off"
    if occasion == "stopped" and environ.get("SERVICE_RESULT") == "success":
        return
    lines = [(source, line[:MAX_LINE_CHARACTERS]) for source, line in gather(occasion)]
    if occasion == "failed":
        lines.append(("systemd", f"{arguments[1]} failed, power off"))
        to_console(lines[-1:])
    elif occasion == "stopped":
        how = f"{environ.get('EXIT_CODE')} {environ.get('EXIT_STATUS')}"
        lines.append(("systemd", f"supervisord ended: {environ.get('SERVICE_RESULT')}, {how}"))
        to_console(lines[-1:])
    if not lines:
        return
    try:
        ship(occasion, lines)
    except (OSError, ValueError, LookupError) as error:
        to_console([*lines[-20:], ("lastwords", f"could not be shipped: {error}")])


if __name__ == "__main__":
    main(sys.argv[1:], os.environ)
