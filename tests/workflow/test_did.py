"""The DID proxy's pairs in Snakemake's own plan, by how they are decoded."""

import pytest


@pytest.mark.parametrize(
    ("decode", "stage", "sampled"),
    [("greedy", "did", False), ("sample", "did", True), ("greedy", "did_sampled", True)],
)
def test_pi_ref_draws_apart_from_pi_where_the_did_is_sampled(project_factory, decode, stage, sampled):
    """y_w and y_l are independent in the theory: with one stream they share their random numbers."""
    row = {"model": "micro-mistral", "dataset": "magpie-pro", "methods": ["dpo-b0.1", "dpo-pg"], "measures": [stage]}
    changes = {"did": {"decode": decode}, "grid": [row]}
    shown = project_factory().snakemake("-n", "-p", "--until", "did_completions", changes=changes)
    jobs = [line for line in shown.splitlines() if "diffinfo.sample.complete" in line and f"results/{stage}/" in line]
    assert len(jobs) == 3
    assert [sampled and "/ref/" in line for line in jobs] == ['"stream":"reference"' in line for line in jobs]
    assert any("/ref/" in line for line in jobs)
    assert all(f'"temperature":{float(sampled)}' in line for line in jobs)
