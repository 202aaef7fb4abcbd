"""A container registry on an address that nodes reach; what was pushed once stays for later runs."""

from __future__ import annotations

import json

import httpx

from tests.cluster.cache import cache_folder, make_room
from tests.cluster.processes import Run
from tests.cluster.waiting import wait_for

PORT = 5000
# Two versions of the trainer's dependencies.
MOST_BYTES = 8 << 30


def start_registry(run: Run, address: str) -> str:
    """Starts one for as long as the run, and gives its HOST:PORT, the beginning of its images' names."""
    host = f"{address}:{PORT}"
    storage = cache_folder() / "registry"
    # Another worker's registry may be serving the same folder.
    if run.take(cache_folder() / "registry.lock"):
        make_room(storage, MOST_BYTES)
    storage.mkdir(parents=True, exist_ok=True)
    settings = run.folder / "registry.yml"
    settings.write_text(json.dumps({
        "version": "0.1", "log": {"level": "warn"}, "http": {"addr": host},
        "storage": {"filesystem": {"rootdirectory": str(storage)}},
    }))
    process = run.start("registry", ["docker-registry", "serve", settings])

    def answers() -> bool:
        process.running()
        try:
            return httpx.get(f"http://{host}/v2/", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    wait_for(answers, "the registry to answer")
    return host
