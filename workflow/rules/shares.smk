# Several jobs that share the parts of one table (diffinfo.tables.parts): sampling.jobs, preference.reference_jobs, did.jobs.
# A rule's shares take its inputs and leave a folder that says that their parts are made; the job that makes the table is the
# same as without them, and finds the parts there.
from diffinfo.operations import disk
from snakemake.persistence import PersistenceBase


def shares(table, jobs):
    """What the jobs that share a table leave for the one that makes it; nothing where that one does it all."""
    numbers = range(1, jobs + 1) if jobs > 1 else []
    return [f"<results>/{disk.SHARES}/{table}-{number}-of-{jobs}" for number in numbers]


def a_share(table):
    """What one of them leaves, beside the parts: who deletes those deletes it too."""
    return temp(directory(f"<results>/{disk.SHARES}/{table}-{{share}}"))


def with_share(settings):
    """The same settings, and which share of a table's parts a job makes."""

    def shared(wildcards):
        return settings(wildcards) + arguments(share=[int(number) for number in wildcards.share.split("-of-")])

    return shared


def forget_shares(inputs):
    """Keep what shares leave out of Snakemake's records, so that a table is not stale when their number changes."""

    def recorded(self, job):
        return [path for path in inputs(self, job) if f"/{disk.SHARES}/" not in path]

    return recorded


PersistenceBase._input = forget_shares(PersistenceBase._input)
