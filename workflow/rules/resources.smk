# What each job is given: GPUs, cores, memory and time by the model's and the data's size, from the costs of the plan.
# Needs: CONFIG, and gpu_type, gpu_partition, max_runtime and max_mem_mb of the SLURM profile's default-resources where it is used.
# Gives: cpus (for threads) and RESOURCES (for resources) of every rule.
from diffinfo.cli import UserError
from diffinfo.cost import Costs, read_assumptions


def profile(key):
    """A value of the SLURM profile's default-resources; None without that profile."""
    found = workflow.resource_settings.default_resources
    return found.get(key).raw if found is not None and key in found.keys() else None


try:
    COSTS = Costs(CONFIG, read_assumptions(), profile("gpu_type"))
except UserError as error:
    raise WorkflowError(str(error)) from None


def need(wildcards, rulename):
    """What the job at hand needs."""
    return COSTS.job(rulename, wildcards)


def cpus(wildcards, rulename):
    """Cores on one machine: one, or a GPU's share for each GPU."""
    return need(wildcards, rulename).cpus


def mem_mb(wildcards, rulename, attempt):
    """Megabytes on one machine; half as much again at each further attempt, up to what a machine has."""
    megabytes = int(1000 * need(wildcards, rulename).memory_gb * (1 + attempt) / 2)
    return min(megabytes, int(profile("max_mem_mb") or megabytes))


def runtime(wildcards, rulename, attempt):
    """Minutes: twice the estimate and some more at each attempt, up to what the partition allows."""
    minutes = (20 + int(120 * need(wildcards, rulename).hours)) * attempt
    return min(minutes, int(profile("max_runtime") or minutes))


def gpu(wildcards, rulename):
    """GPUs of a job on one machine; ``gres`` asks for those of several."""
    job = need(wildcards, rulename)
    return job.gpus if job.gpus and job.nodes == 1 else None


def gpu_model(wildcards, rulename):
    """Their type."""
    return need(wildcards, rulename).hardware if gpu(wildcards, rulename) else None


def gres(wildcards, rulename):
    """GPUs of each of several machines, with their type."""
    job = need(wildcards, rulename)
    return f"gpu:{job.hardware}:{job.gpus // job.nodes}" if job.gpus and job.nodes > 1 else None


def slurm_partition(wildcards, rulename):
    """The profile's partition for GPUs or the one for the rest."""
    return profile("gpu_partition" if need(wildcards, rulename).gpus else "slurm_partition")


def nodes(wildcards, rulename):
    """Machines: SLURM would spread the GPUs of one job over several unless it is told."""
    job = need(wildcards, rulename)
    return job.nodes if job.gpus or job.nodes > 1 else None


def on_several(value):
    """A resource that jobs on several machines alone have: one task each, started by srun inside the job."""

    def resource(wildcards, rulename):
        job = need(wildcards, rulename)
        return (job.nodes if value == "nodes" else value) if job.nodes > 1 else None

    return resource


RESOURCES = {
    **{f.__name__: f for f in (mem_mb, runtime, gpu, gpu_model, gres, nodes, slurm_partition)},
    "mpi": on_several("srun"),
    "tasks": on_several("nodes"),
    "tasks_per_gpu": on_several(0),
    "slurm_extra": on_several("--ntasks-per-node=1"),
}
