"""Which epochs are trained, and by which jobs, where some were trained before."""

import re
from collections import Counter

# a few cells, which are planned as many are
GRID = [{"model": "micro-mistral", "dataset": "magpie-pro", "methods": ["dpo", "dpo-pg"], "measures": ["did"]}]
CELLS = 5  # four betas and DPO-PG


def trainings(project, changes):
    """The spans that are trained, and those taken from longer ones, each with how many cells."""
    found = {True: Counter(), False: Counter()}
    for command in re.findall(r"diffinfo\.train\.preference .*", project.snakemake("-n", "-p", changes=changes)):
        if '"method":"logpi-b1"' not in command:  # the DID proxies
            span = "-".join(re.search(r'"first_epoch":(\d+),"last_epoch":(\d+)', command).groups())
            found["--longer=" in command][span] += 1
    return found[False], found[True]


def test_no_epoch_is_trained_twice_whatever_epochs_per_job_is(project_factory):
    project = project_factory()

    def few(**changes):
        return {"grid": GRID, **changes}

    def per_job(epochs, count):
        return few(epochs=epochs, preference={"epochs_per_job": count})

    project.touch_everything(few())
    assert {rule for rule, _ in project.plan(changes=per_job(3, 1))} <= {"page"}  # which shows the configuration
    assert trainings(project, per_job(5, 3)) == ({"4-5": CELLS}, {})
    assert trainings(project, per_job(5, 1)) == ({"4-4": CELLS, "5-5": CELLS}, {})
    assert trainings(project, per_job(2, 1)) == ({}, {"1-2": CELLS})
    project.touch_everything(few(epochs=4))
    assert trainings(project, per_job(5, 3)) == ({"5-5": CELLS}, {})
    assert trainings(project, few(epochs=6)) == ({"5-6": CELLS}, {})
    assert trainings(project, few(epochs=2)) == ({}, {"1-2": CELLS})
    project.touch_everything(few(epochs=2))
    assert "Nothing to be done" in project.snakemake("-n", changes=few(epochs=2))
