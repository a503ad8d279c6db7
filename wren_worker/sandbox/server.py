"""The sandbox's process: moto behind the gateway, the hypervisor beside it."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wren_worker.sandbox import lean

__all__ = ["Sandbox"]

_REGION = "us-east-1"
_SERVICES = ("sqs", "s3", "ec2", "iam", "logs", "sts", "ssm")


class Sandbox:
    """AWS on loopback, and its instances, from construction until ``close``.

    Args:
        folder: Where instances live.
        port: 0 takes a free one.
        supervisord_conf: What supervisord runs on an instance.
        deadman: The dead-man script.
    """

    def __init__(self, folder: Path, *, port: int, supervisord_conf: Path, deadman: Path) -> None:
        lean.prepare(_REGION)
        # moto is imported here and not above: it reads its settings when it is imported, and takes half a second
        from wren_worker.sandbox import s3, sqs  # noqa: PLC0415
        from wren_worker.sandbox.cloud import ACCOUNT, Cloud, mend_instances  # noqa: PLC0415
        from wren_worker.sandbox.filters import mend_filters  # noqa: PLC0415
        from wren_worker.sandbox.fleets import mend_fleets  # noqa: PLC0415
        from wren_worker.sandbox.gateway import Gateway  # noqa: PLC0415
        from wren_worker.sandbox.http_server import moto_application, serve  # noqa: PLC0415
        from wren_worker.sandbox.hypervisor import Hypervisor, Site  # noqa: PLC0415
        from wren_worker.sandbox.launches import Capacity, Tokens, mend_launches  # noqa: PLC0415

        self.folder = folder
        self.capacity = Capacity()
        sqs.mend_queues()
        s3.mend_objects()
        mend_instances()
        mend_filters()
        tokens = Tokens()
        mend_fleets(self.capacity, tokens, mend_launches(self.capacity, tokens))
        cloud = Cloud()
        cloud.connect()
        self.image_id = cloud.bake_image()
        self.gateway = Gateway(
            inner=moto_application(),
            controls=self,
            account=ACCOUNT,
            sqs=sqs.answer,
            sqs_operations=frozenset(sqs.OPERATIONS),
            s3=s3.answer,
        )
        self._server = serve(self.gateway, port)
        self.endpoint = f"http://127.0.0.1:{self._server.port}"
        self.hypervisor = Hypervisor(
            cloud,
            Site(
                folder=folder,
                endpoint=self.endpoint,
                supervisord_conf=supervisord_conf,
                deadman=deadman,
                package=Path(__file__).resolve().parents[1],
                path=os.environ.get("PATH", os.defpath),
                environment=os.environ,
            ),
            launching=tokens.lock,
        )
        self.hypervisor.start()
        self._thread = threading.Thread(target=self._server.serve_forever, name="aws", daemon=True)
        self._thread.start()

    def close(self) -> list[int]:
        """End every instance, then AWS; return pids that would not die."""
        left = self.hypervisor.close()
        self._server.server_close()  # its threads are daemons, and the process ends next
        return left

    def control(self, method: str, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answer ``/wren/<path>``.

        Raises:
            KeyError: There is no such thing.
        """
        match (method, *path.split("/")):
            case ("GET", "status"):
                return {"image_id": self.image_id, "machines": self.hypervisor.machines()}
            case ("GET", "capacity"):
                return self.capacity.limits()
            case ("POST", "capacity"):
                for instance_type, count in body.items():
                    self.capacity.limit(instance_type, count if count is None else int(count))
                return self.capacity.limits()
            case ("POST", "front"):
                self.hypervisor.reach_aws_by(str(body["endpoint"]) or self.endpoint)
                return {}
            case ("POST", "interrupt", instance_id):
                self.hypervisor.interrupt(instance_id, float(body.get("notice_time", 120.0)))
                return {}
            case ("POST", "crash", instance_id):
                self.hypervisor.crash(instance_id)
                return {}
        raise KeyError(path)
