# ruff: noqa
# Part of user-data for images that lack something (user-data-bootstrap.yaml): gets the archive, checks it, runs its
# bootstrap.sh. Dense because user-data is small; lines that are comments are not sent. A line with BUCKET, KEY, SHA256,
# REGION and PATIENCE comes first (fleet/userdata.py). AWS_ENDPOINT_URL is the SDKs' own.
import hashlib, hmac, io, json, os, subprocess, sys, tarfile, time
from urllib.request import Request, urlopen


def call(url, method="GET", **headers):
    return urlopen(
        Request(url, None, {k.replace("_", "-"): v for k, v in headers.items()}, method=method), timeout=20
    ).read()


def imds(path, method="GET", **headers):
    return call("http://169.254.169.254/latest/" + path, method, **headers).decode()


def credentials(path="meta-data/iam/security-credentials/"):
    token = imds("api/token", "PUT", X_aws_ec2_metadata_token_ttl_seconds="300")
    role = imds(path, X_aws_ec2_metadata_token=token).split()[0]
    return json.loads(imds(path + role, X_aws_ec2_metadata_token=token))


def sign(host, path, keys, stamp):
    empty = hashlib.sha256().hexdigest()
    signed = {"host": host, "x-amz-content-sha256": empty, "x-amz-date": stamp, "x-amz-security-token": keys["Token"]}
    names, lines = ";".join(signed), "".join(f"{k}:{v}\n" for k, v in signed.items())
    scope = f"{stamp[:8]}/{REGION}/s3/aws4_request"
    canonical = hashlib.sha256(f"GET\n{path}\n\n{lines}\n{names}\n{empty}".encode()).hexdigest()
    key = ("AWS4" + keys["SecretAccessKey"]).encode()
    for part in (*scope.split("/"), f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{canonical}"):
        key = hmac.digest(key, part.encode(), "sha256")
    who = f"AWS4-HMAC-SHA256 Credential={keys['AccessKeyId']}/{scope}"
    return signed | {"authorization": f"{who},SignedHeaders={names},Signature={key.hex()}"}


def fetch():
    base, path = f"https://{BUCKET}.s3.{REGION}.amazonaws.com" + ".cn" * REGION.startswith("cn-"), "/" + KEY
    if other := os.environ.get("AWS_ENDPOINT_URL"):
        base, path = other, f"/{BUCKET}/{KEY}"
    return call(
        base + path, **sign(base.split("//")[1], path, credentials(), time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()))
    )


end = time.monotonic() + PATIENCE
while __name__ == "__main__":
    try:
        data = fetch()
        if hashlib.sha256(data).hexdigest() != SHA256:
            raise ValueError("its sha256 is another")
        tarfile.open(fileobj=io.BytesIO(data)).extractall("/opt/wren/bootstrap")
        sys.exit(subprocess.call(["bash", "/opt/wren/bootstrap/cloud-init/bootstrap.sh"]))
    # the role and its rights may take a while to be seen
    except Exception as error:
        print(f"wren: {KEY}: {error}", file=sys.stderr, flush=True)
        if time.monotonic() > end:
            sys.exit(1)
        time.sleep(3)
