"""The sites that every engine's contract is checked at."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.engines.base import local_cpus
from experiments.store.store import Store
from tests.conformance.drivers import Driver, Site, wait_until
from tests.ray_cluster import RayCluster
from tests.slurm_cluster import OneMachine


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture(scope="package")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """A head without GPUs, and two nodes with GPUs of a type each."""
    with RayCluster(tmp_path_factory.mktemp("cluster")) as cluster:
        cluster.add(1)
        cluster.add(2, 2, "A6000")
        cluster.add(2, 1, "H100")
        yield cluster


@pytest.fixture(scope="module")
def one_machine() -> Iterator[OneMachine]:
    """The Slurm of this machine that `make slurm-up` started; other sessions of tests wait until it is free."""
    cluster = OneMachine()
    if (why := cluster.missing()) is not None:
        pytest.skip(why)
    with cluster.alone():
        yield cluster


@pytest.fixture
def whole(one_machine: OneMachine) -> Iterator[OneMachine]:
    """A cluster that a test may damage; it is mended and emptied afterwards."""
    yield one_machine
    for name in ("slurmctld", "node1", "node2"):
        if one_machine.lacks(name):
            one_machine.start_daemon(name)
    one_machine.ask("scontrol", "update", "PartitionName=gpu", "State=UP")
    one_machine.resume_nodes()
    one_machine.ask("scancel", f"--user={os.getuid()}")
    wait_until(lambda: not one_machine.jobs())


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest) -> Site:
    """Where an engine runs, by the name that a test is parametrised with."""
    if request.param == "ray cluster":
        cluster = request.getfixturevalue("ray_cluster")
        return Site(name=f"ray@{cluster.address}", environment=cluster.environment, cpus=2)
    if request.param == "slurm":
        return request.getfixturevalue("one_machine").site
    return Site(name=request.param, environment={}, cpus=local_cpus())


@pytest.fixture(scope="module")
def engine(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """A driver that runs what it is given on one engine."""
    driver = Driver(tmp_path_factory.mktemp("home"), site)
    yield driver
    driver.close()


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Callable[[Site, list[Any]], Driver]]:
    """Starts drivers of one home, which a test may stop and kill."""
    drivers: list[Driver] = []

    def start(site: Site, chains: list[Any]) -> Driver:
        drivers.append(Driver(tmp_path, site, chains))
        return drivers[-1]

    yield start
    for driver in drivers:
        driver.close()
