"""What a process has of its machine, read from files as kernels write them; and how many programs that is for."""

import os

import pytest
from finetune_api.estimate import PROGRAM, programs_at_once
from finetune_trainer.hardware.host import memory_bytes, processors, resident_bytes
from finetune_trainer.rewards.program import _at_once

GIB = 1024**3
HERE = len(os.sched_getaffinity(0))


@pytest.fixture
def machine(tmp_path):
    """Writes this process's control group and limits; gives the folders that stand for /proc and /sys/fs/cgroup."""
    def write(group, files):
        (tmp_path / "proc" / "self").mkdir(parents=True)
        (tmp_path / "proc" / "self" / "cgroup").write_text(group)
        for name, content in files.items():
            path = tmp_path / "groups" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return tmp_path / "proc", tmp_path / "groups"

    return write


@pytest.mark.parametrize(("group", "files"), [
    ("0::/\n", {"cpu.max": "50000 100000\n"}),
    ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "100000 100000\n"}),
    ("4:memory:/\n3:cpu,cpuacct:/pods/x\n", {"cpu/pods/x/cpu.cfs_quota_us": "90000\n",
                                             "cpu/pods/x/cpu.cfs_period_us": "100000\n"}),
    ("3:cpu,cpuacct:/not/seen/from/here\n", {"cpu/cpu.cfs_quota_us": "1000\n", "cpu/cpu.cfs_period_us": "100000\n"}),
], ids=["v2", "v2, the group above", "v1", "v1, in a container"])
def test_a_quota_counts_whatever_the_host_has(machine, group, files):
    assert processors({}, *machine(group, files)) == 1


@pytest.mark.parametrize("files", [
    {}, {"cpu.max": "max 100000\n"}, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}])
def test_without_a_quota_the_processors_count_that_it_may_run_on(machine, files):
    assert processors({}, *machine("0::/\n1:cpu:/\n", files)) == HERE


@pytest.mark.parametrize(("asked", "counted"), [("1", 1), ("1000", HERE), ("0", HERE), ("", HERE), ("x", HERE)])
def test_a_pod_keeps_no_more_processors_busy_than_it_asked_for(machine, asked, counted):
    assert processors({"FINETUNE_CPUS": asked}, *machine("0::/\n", {})) == counted


@pytest.mark.parametrize(("group", "files", "gib"), [
    ("0::/\n", {"memory.max": f"{GIB}\n"}, 1), ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": f"{GIB}"}, 1),
    ("4:memory:/x\n", {"memory/x/memory.limit_in_bytes": f"{GIB}\n", "memory/memory.limit_in_bytes": f"{2**63 - 4096}"},
     1),
    ("4:memory:/\n", {"memory/memory.limit_in_bytes": f"{2**63 - 4096}\n"}, None), ("", {}, None),
], ids=["v2", "v2, the group above", "v1", "v1 without a limit", "none"])
def test_memory_is_the_least_that_any_group_allows(machine, group, files, gib):
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert memory_bytes(*machine(group, files)) == (gib * GIB if gib else physical)


def test_what_this_process_holds_is_about_what_it_holds():
    assert 10 * 1024**2 < resident_bytes() < memory_bytes() + GIB


@pytest.mark.parametrize(("cpus", "memory", "programs"), [
    (4, 24 * GIB, 4), (64, 24 * GIB, 40), (64, 4 * GIB + 3 * PROGRAM, 3), (8, GIB, 1), (0, 24 * GIB, 1)])
def test_as_many_programs_run_at_once_as_there_are_processors_and_memory_for(cpus, memory, programs):
    assert programs_at_once(cpus, memory) == programs


def test_trainers_of_one_pod_share_it():
    assert _at_once({"FINETUNE_CPUS": "1"}) == 1
    assert _at_once({}) <= HERE
    assert _at_once({"LOCAL_WORLD_SIZE": str(HERE)}) == 1
