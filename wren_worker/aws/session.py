"""One boto3 session and its clients, created when first needed and shared by all threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from wren_worker.aws.credentials import Renewal
from wren_worker.aws.errors import explain, is_aws_error
from wren_worker.errors import ConfigError

if TYPE_CHECKING:
    import boto3
    from botocore.config import Config
    from types_boto3_ec2 import EC2Client
    from types_boto3_iam import IAMClient
    from types_boto3_logs import CloudWatchLogsClient
    from types_boto3_s3 import S3Client
    from types_boto3_sqs import SQSClient
    from types_boto3_sts import STSClient

__all__ = ["Aws"]

T = TypeVar("T")
Purpose = Literal["default", "hot", "lease", "logs"]

#: SQS answers a long poll after 20 s at the latest; an answer that late must still be read.
_READ_TIMEOUT = 30.0


class Aws:
    """An identity in a region, and the clients that act as it. Safe to share between threads.

    Endpoints (``AWS_ENDPOINT_URL``), credentials and profiles are boto3's own business.

    Args:
        region: The AWS region; None asks boto3 (environment, profile).
        profile: A profile of the AWS configuration; None is boto3's default.
        account: The account id, when it is known; else STS is asked once.
        on_instance: Ask the instance's metadata service for credentials more patiently than boto3 does by itself
            (one try of a second would lose the role at the first hiccup).
        pool_size: Connections per client.
        user_agent: What requests say about themselves in AWS's logs.
        exports: ``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID`` and ``AWS_SECRET_ACCESS_KEY`` of a sandbox that this
            process talks to without having them in its environment.
    """

    def __init__(
        self,
        region: str | None = None,
        profile: str | None = None,
        *,
        account: str | None = None,
        on_instance: bool = False,
        pool_size: int = 16,
        user_agent: str = "wren-worker",
        exports: Mapping[str, str] | None = None,
    ) -> None:
        self._region = region or None
        self._profile = profile or None
        self._account = account or None
        self._on_instance = on_instance
        self._pool_size = pool_size
        self._user_agent = user_agent
        self._exports = exports
        self._endpoint_url = exports["AWS_ENDPOINT_URL"] if exports else None
        self._lock = threading.RLock()  # boto3 sessions are not safe for threads, their clients are
        self._session: boto3.Session | None = None
        self._clients: dict[tuple[str, Purpose], object] = {}
        self._renewal = Renewal(lambda: None)

    @property
    def region(self) -> str:
        """Return the region.

        Raises:
            ConfigError: None is set anywhere.
        """
        region = self._region or self._ensure_session().region_name
        if not region:
            raise ConfigError(
                "No AWS region is set. Pass --region, or set AWS_REGION or a region in ~/.aws/config. "
                "Without an AWS account: `wren-standalone demo`, or `sandbox up`."
            )
        return region

    @property
    def account(self) -> str:
        """Return the account id, asking STS the first time.

        Raises:
            ConfigError: There are no valid credentials.
        """
        if self._account is None:
            try:
                self._account = self.sts().get_caller_identity()["Account"]
            except Exception as error:
                if not is_aws_error(error):
                    raise
                raise ConfigError(explain(error)) from error
        return self._account

    def sqs(self) -> SQSClient:
        """Return the client for sends, long polls and deletes."""
        return self._client(
            "sqs", "hot", lambda session, config: session.client("sqs", config=config, endpoint_url=self._endpoint_url)
        )

    def sqs_lease(self) -> SQSClient:
        """Return the client for lease heartbeats: quick to give up, since its caller tries again in time."""
        return self._client(
            "sqs",
            "lease",
            lambda session, config: session.client("sqs", config=config, endpoint_url=self._endpoint_url),
        )

    def s3(self) -> S3Client:
        """Return the S3 client."""
        return self._client(
            "s3", "hot", lambda session, config: session.client("s3", config=config, endpoint_url=self._endpoint_url)
        )

    def ec2(self) -> EC2Client:
        """Return the EC2 client."""
        return self._client(
            "ec2",
            "default",
            lambda session, config: session.client("ec2", config=config, endpoint_url=self._endpoint_url),
        )

    def iam(self) -> IAMClient:
        """Return the IAM client."""
        return self._client(
            "iam",
            "default",
            lambda session, config: session.client("iam", config=config, endpoint_url=self._endpoint_url),
        )

    def sts(self) -> STSClient:
        """Return the STS client."""
        return self._client(
            "sts",
            "default",
            lambda session, config: session.client("sts", config=config, endpoint_url=self._endpoint_url),
        )

    def service_quotas(self) -> Any:
        """Return the Service Quotas client."""
        return self._client(
            "service-quotas",
            "default",
            lambda session, config: session.client("service-quotas", config=config, endpoint_url=self._endpoint_url),
        )

    def logs(self) -> CloudWatchLogsClient:
        """Return the CloudWatch Logs client for reading and for setting up."""
        return self._client(
            "logs",
            "default",
            lambda session, config: session.client("logs", config=config, endpoint_url=self._endpoint_url),
        )

    def logs_shipping(self) -> CloudWatchLogsClient:
        """Return the CloudWatch Logs client for shipping lines: quick to give up."""
        return self._client(
            "logs",
            "logs",
            lambda session, config: session.client("logs", config=config, endpoint_url=self._endpoint_url),
        )

    def _client(self, service: str, purpose: Purpose, create: Callable[[boto3.Session, Config], T]) -> T:
        found = self._clients.get((service, purpose))
        if found is None:
            with self._lock:
                found = self._clients.get((service, purpose))
                if found is None:
                    found = self._create(purpose, create)
                    self._clients[service, purpose] = found
        return cast("T", found)

    def _create(self, purpose: Purpose, create: Callable[[boto3.Session, Config], T]) -> T:
        region = self.region  # raises with a sentence before boto3 does without
        assert region  # noqa: S101 - narrows the type
        try:
            client = create(self._ensure_session(), self._config(purpose))
            self._renewal.watch(client)
            return client
        except Exception as error:
            if not is_aws_error(error):
                raise
            raise ConfigError(explain(error)) from error

    def _config(self, purpose: Purpose) -> Config:
        from botocore.config import Config  # noqa: PLC0415 - boto is loaded when needed

        quick = purpose in ("lease", "logs")
        attempts = {"lease": 1, "logs": 2, "hot": 3, "default": 5}[purpose]
        return Config(
            connect_timeout=3.0 if quick else 5.0,
            read_timeout=5.0 if quick else _READ_TIMEOUT,
            retries={"mode": "standard", "total_max_attempts": attempts},
            max_pool_connections=self._pool_size,
            tcp_keepalive=True,
            user_agent_extra=self._user_agent,
            # requests of the data path are built by this package alone, and checking them costs a sixth of a call
            parameter_validation=purpose not in ("hot", "lease"),
            # what this package stores is checked by its reader against a sha256 that travels another way
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )

    def _ensure_session(self) -> boto3.Session:
        with self._lock:
            if self._session is None:
                self._session = self._new_session()
            return self._session

    def _new_session(self) -> boto3.Session:
        import boto3  # noqa: PLC0415 - boto is loaded when needed
        import botocore.session  # noqa: PLC0415 - likewise

        core = botocore.session.get_session()
        if self._exports is not None:
            core.set_credentials(self._exports["AWS_ACCESS_KEY_ID"], self._exports["AWS_SECRET_ACCESS_KEY"])
        if self._on_instance:
            core.set_config_variable("metadata_service_num_attempts", 5)
            core.set_config_variable("metadata_service_timeout", 2)
            if core.get_credentials() is None:
                # a client made now would stay without for good, and the role may be there in a second
                raise ConfigError("The instance's metadata service gives no credentials: has it an instance profile?")
        self._renewal = Renewal(core.get_credentials)
        try:
            return boto3.Session(botocore_session=core, region_name=self._region, profile_name=self._profile)
        except Exception as error:
            if not is_aws_error(error):
                raise
            raise ConfigError(explain(error)) from error
