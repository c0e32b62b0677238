from collections.abc import Callable
from pathlib import Path

import pytest

from project import Project
from slurm.cluster import MAX_MINUTES, Cluster, missing
from slurm.training import NANO, RUN, Training


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slurm)


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
def prepared(cluster, tmp_path_factory):
    """A project with everything that a training needs, and the profile edited as a user of this cluster would."""
    project = Project(tmp_path_factory.mktemp("prepared"))
    profile = project.folder / "slurm/config.yaml"
    text = profile.read_text()
    for line, edited in {
        "max_runtime: 1440": f"max_runtime: {MAX_MINUTES}",
        "before-status-checks: 40": "before-status-checks: 1",
        "per-second: 0.2": "per-second: 1",
        "latency-wait: 120": "latency-wait: 30",
    }.items():
        assert line in text
        text = text.replace(line, edited)
    profile.write_text(text)
    project.environment["PATH"] = f"{cluster.root}/bin:{project.environment['PATH']}"
    quick = str(Path(__file__).parent / "quick")
    project.environment.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", PYTHONPATH=quick)
    project.snakemake("--cores", "2", "results/reference_logps/micro-mistral/magpie-pro.parquet", changes=NANO)
    return project


@pytest.fixture(scope="session")
def training(prepared, cluster, tmp_path_factory) -> Callable[[str], Training]:
    """Trainings in fresh copies of the prepared project, to be compared with one to which nothing happened."""
    folder = tmp_path_factory.mktemp("trainings")
    calm = prepared.copy(folder / "calm")
    calm.snakemake("--cores", "2", f"{RUN}/train_log.parquet", changes=NANO)
    return lambda name: Training(prepared.copy(folder / name), cluster, calm.folder / RUN)
