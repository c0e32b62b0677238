import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from project import Project
from slurm.cluster import Cluster, missing
from slurm.training import NANO, RUN, Training

# A shell lets what it starts in the background ignore SIGINT, and so would Snakemake.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slurm)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """What SLURM's daemons said is part of a failure."""
    report = yield
    one = item.funcargs.get("cluster") if report.failed else None
    for log in sorted(one.root.glob("log/slurm*.log")) if one else ():
        report.sections.append((log.name, log.read_text()[-6000:]))
    return report


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    lacking = missing()
    if lacking:
        pytest.skip(
            f"no SLURM here, {', '.join(lacking)} missing: apt-get install slurmctld slurmd slurm-client munge, as root"
        )
    one = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        one.start()
        yield one
    finally:
        one.stop()


@pytest.fixture(scope="session")
def prepared(cluster, tmp_path_factory, warm_server):
    """A project with everything that a training needs, and a profile for this cluster."""
    project = Project(tmp_path_factory.mktemp("prepared"))
    cluster.serve(project)
    calm, project.environment = project.environment, {**project.environment, "DIFFINFO_SERVER": warm_server}
    project.snakemake("--cores", "2", "results/reference_logps/micro-mistral/magpie-pro.parquet", changes=NANO)
    project.environment = calm
    return project


@pytest.fixture(scope="session")
def training(prepared, cluster, tmp_path_factory) -> Callable[[str], Training]:
    """Trainings in fresh copies of the prepared project, to be compared with one to which nothing happened."""
    folder = tmp_path_factory.mktemp("trainings")
    calm = prepared.copy(folder / "calm")
    calm.snakemake("--cores", "2", f"{RUN}/train_log.parquet", changes=NANO)
    return lambda name: Training(prepared.copy(folder / name), cluster, calm.folder / RUN)
