import re
from collections import Counter

import pytest

from project import Project

REPORT = re.compile(
    r"grid|costs|wb_reward|arena_hard_v2|table\d|figure\d+|claims|updates|matched|target|did_smc|rejected|laboratory.*|page"
)


def beyond_report(jobs):
    """The jobs that are no tables or figures."""
    return [(rule, wildcards) for rule, wildcards in jobs if not REPORT.fullmatch(rule)]


def rules(jobs):
    """How often each rule runs."""
    return Counter(rule for rule, _ in jobs)


@pytest.fixture(scope="session")
def project_factory(tmp_path_factory):
    def make() -> Project:
        return Project(tmp_path_factory.mktemp("project"))

    return make


@pytest.fixture(scope="session")
def touched(project_factory) -> Project:
    """A project of whose outputs all have been made, as Snakemake sees it; to be copied."""
    project = project_factory()
    project.touch_everything()
    return project


@pytest.fixture(scope="session")
def jobs_tools():
    return beyond_report, rules
