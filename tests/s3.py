"""A real S3 server for tests: seaweedfs, with an identity that may do everything and one that may only read."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

READY_SECONDS = 60
GRPC_ABOVE = 10_000


@dataclass(frozen=True)
class S3Server:
    """A running server.

    Attributes:
        endpoint: its address.
        admin: access key and secret key of the identity that may do everything, even make buckets by writing to them.
        writer: those of the identity that may read and write, as a trainer's should.
        reader: those of the identity that may list and read.
    """

    endpoint: str
    admin: tuple[str, str]
    writer: tuple[str, str]
    reader: tuple[str, str]

    def client(self, keys: tuple[str, str] | None = None):
        """A plain boto3 client, for looking at what the code under test did."""
        import boto3
        from botocore.config import Config

        key, secret = keys or self.admin
        return boto3.client("s3", endpoint_url=self.endpoint, aws_access_key_id=key, aws_secret_access_key=secret,
                            region_name="us-east-1", config=Config(s3={"addressing_style": "path"}))

    def new_bucket(self) -> str:
        """A fresh bucket's name."""
        name = f"test-{secrets.token_hex(6)}"
        self.client().create_bucket(Bucket=name)
        return name

    def environment(self, keys: tuple[str, str] | None = None) -> dict[str, str]:
        """The environment variables of an identity, by default the writer's."""
        key, secret = keys or self.writer
        return {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}


def free_ports(count: int, address: str = "127.0.0.1") -> list[int]:
    """Ports that nobody listens on; low enough that ports for gRPC, 10,000 above, exist too."""
    found: list[int] = []
    while len(found) < count:
        # Below the ports that the kernel gives to clients: one that asks a port of theirs may be connected to itself.
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as one, socket.socket() as other:
            try:
                one.bind((address, port))
                other.bind((address, port + GRPC_ABOVE))
            except OSError:
                continue
        found.append(port)
    return found


@contextmanager
def running_server(folder: Path, address: str = "127.0.0.1") -> Iterator[S3Server]:
    """A server at an address of this machine whose data lies in `folder`, for as long as the context lasts."""
    weed = shutil.which("weed") or str(Path(sys.executable).parent / "weed")
    admin, writer, reader = ((f"AK{secrets.token_hex(8)}", secrets.token_hex(16)) for _ in range(3))
    identities = [
        {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}
        for name, (key, secret), actions in (("admin", admin, ["Admin", "Read", "Write", "List", "Tagging"]),
                                             ("writer", writer, ["Read", "Write", "List"]),
                                             ("reader", reader, ["Read", "List"]))
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    ports = dict(zip(("master", "volume", "filer", "s3"), free_ports(4, address), strict=True))
    command = [
        # A test run that is killed takes its server with it.
        *(["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []),
        weed, "server", f"-dir={folder}", f"-ip={address}", f"-ip.bind={address}", "-filer", "-s3",
        f"-s3.config={folder / 's3.json'}", "-master.telemetry=false", "-master.volumeSizeLimitMB=64",
        # Each bucket that is written to has volumes of its own; with none left, writing is an InternalError.
        "-volume.max=2000",
        *(option for name, port in ports.items() for option in (f"-{name}.port={port}",
                                                                f"-{name}.port.grpc={port + GRPC_ABOVE}")),
        # Two more servers at fixed ports: where they are taken, all of seaweedfs ends, and xdist runs one a worker.
        "-s3.port.iceberg=0", "-s3.port.lance=0",
        # Ready after 3.5 s, or 8 where the volume server's first heartbeat comes before there is a leader.
        "-master.electionTimeout=1s",
    ]
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder,
                                   env={**os.environ, "HOME": str(folder),
                                        # One volume a bucket, not seven.
                                        "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"})
        try:
            server = S3Server(f"http://{address}:{ports['s3']}", admin, writer, reader)
            _wait_until_ready(server, process, folder / "weed.log")
            yield server
        finally:
            process.kill()
            process.wait()
            for port in ports.values():
                for left in (*Path("/tmp").glob(f"seaweedfs-*-{port}.sock"),
                             *Path("/tmp").glob(f"seaweedfs-*-{port + GRPC_ABOVE}.sock")):
                    left.unlink(missing_ok=True)


def _wait_until_ready(server: S3Server, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    fault: Exception | None = None
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the S3 server ended with {process.returncode}:\n{log.read_text()[-2000:]}")
        try:
            bucket = server.new_bucket()
            server.client().put_object(Bucket=bucket, Key="ready", Body=b"ready")
        except Exception as error:
            fault = error
            time.sleep(0.2)
        else:
            return
    raise RuntimeError(f"the S3 server was not ready after {READY_SECONDS} s ({fault}):\n{log.read_text()[-2000:]}")
