"""What the images are made of is what the tests ran with."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCKERFILES = ["operator/Dockerfile", "trainer/Dockerfile", "trainer/Dockerfile.unsloth"]
PINNED = ["operator/requirements.txt", "trainer/requirements.txt", "trainer/requirements-unsloth.txt",
          *(f"deploy/tools/{tool}.txt" for tool in ("hatchling", "uv", "cyclonedx-bom"))]
PIN = re.compile(r"^([A-Za-z0-9_.-]+)==([^ \\;]+)")


def _pins(path):
    return {match[1]: match[2] for line in path.read_text().splitlines() if (match := PIN.match(line))}


@pytest.mark.parametrize("part", ["operator", "trainer"])
def test_an_image_holds_the_versions_that_the_tests_ran_with(part):
    pins, tested = _pins(ROOT / part / "requirements.txt"), _pins(ROOT / "constraints.txt")
    assert pins
    assert {name: version for name, version in pins.items() if tested.get(name) != version} == {}


@pytest.mark.parametrize("part", ["operator", "trainer"])
def test_an_image_holds_all_that_its_program_needs(part):
    wanted = [re.match(r"[A-Za-z0-9_.-]+", needed)[0].lower()
              for folder in ("crds", part)
              for needed in tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]["dependencies"]]
    assert set(wanted) - {"finetune-api"} <= set(_pins(ROOT / part / "requirements.txt"))


@pytest.mark.parametrize("name", PINNED)
def test_every_file_of_an_image_is_pinned_by_its_digest_and_no_registry_is_named(name):
    text = (ROOT / name).read_text()
    blocks = re.split(r"\n(?=\S)", text.strip())
    assert all("--hash=sha256:" in block for block in blocks)
    assert "://" not in text


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_installs_nothing_that_is_not_pinned_by_its_digest(name):
    text = (ROOT / name).read_text().replace("\\\n", " ")
    installs = [command for line in text.splitlines() for command in line.split("&&") if "pip install" in command
                or re.search(r"pip\b.* install ", command)]
    assert len(installs) >= 3
    for command in installs:
        # Our own wheels come from the stage before, without an index.
        assert "--require-hashes" in command or "--no-index --no-deps" in command, command
    copied = set(re.findall(r"^COPY ((?:deploy|operator|trainer)/\S+)", text, re.MULTILINE))
    read = {file for file in PINNED if any(file == one or file.startswith(f"{one}/") for one in copied)}
    assert {f"deploy/tools/{Path(one).name}" for one in re.findall(r"/opt/tools/\S+", text)} <= read
    ignored = (ROOT / f"{name}.dockerignore").read_text()
    assert all(any(one.startswith(kept) for kept in re.findall(r"^!(\S+)", ignored, re.MULTILINE)) for one in copied)


@pytest.mark.parametrize("name", ["trainer/Dockerfile", "trainer/Dockerfile.unsloth"])
def test_a_trainers_image_finds_the_driver_that_its_node_mounts_and_asks_for_no_gpu_itself(name):
    variables = dict(re.findall(r"(\w+)=(\S+)", (ROOT / name).read_text().rpartition("\nENV ")[2].partition("\n")[0]))
    assert variables == {"PATH": "$PATH:/usr/local/nvidia/bin", "LD_LIBRARY_PATH": "/usr/local/nvidia/lib64",
                         "NVIDIA_DRIVER_CAPABILITIES": "compute,utility"}
    # With "all", a node whose default runtime is NVIDIA's gives every GPU to pods that asked for none.
    assert "NVIDIA_VISIBLE_DEVICES=" not in (ROOT / name).read_text()


def test_the_operator_needs_no_torch():
    assert "torch" not in _pins(ROOT / "operator" / "requirements.txt")
