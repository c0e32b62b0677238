# What each job is given: GPUs, cores, memory and time by the model's and the data's size, from the costs of the plan.
# Needs: CONFIG, and of the SLURM profile's default-resources, where it is used, gpu_type, gpu_partition, slurm_partition,
# max_runtime, max_mem_mb, mem_mb, gres, slurm_extra, mpi, tasks and tasks_per_gpu, which are stated here and so would be
# overridden; what no job states (qos, constraint, ...) Snakemake itself passes on.
# Gives: cpus (for threads) and RESOURCES (for resources) of every rule, a pool for this machine's GPUs, the environment of jobs.
import ast
from types import SimpleNamespace

from diffinfo.cli import UserError
from diffinfo.operations.assumptions import read_assumptions
from diffinfo.operations.cost import Costs
from diffinfo.operations.gpus import has_gpu
from diffinfo.operations.limits import megabytes, minutes
from snakemake_executor_plugin_slurm.validation import validate_slurm_extra

os.environ.update(
    PYTHONPATH=os.pathsep.join(filter(None, [PACKAGE, os.getenv("PYTHONPATH")])),
    TOKENIZERS_PARALLELISM="false",
    TRANSFORMERS_VERBOSITY="error",
    # Keep freed memory: giving it back to the system and faulting it in again costs a tenth of a training step.
    MALLOC_MMAP_THRESHOLD_="2000000000",
    MALLOC_TRIM_THRESHOLD_="8000000000",
    # And hold it in huge pages where the kernel has them (glibc 2.35): another tenth, and the same bytes.
    GLIBC_TUNABLES=":".join(filter(None, [os.getenv("GLIBC_TUNABLES"), "glibc.malloc.hugetlb=1"])),
)


def profile(key):
    """A value of the SLURM profile's default-resources, quoted or not; None without that profile."""
    found = workflow.resource_settings.default_resources
    raw = found.get(key).raw if found is not None else None
    try:
        return ast.literal_eval(raw) if isinstance(raw, str) else raw
    except (ValueError, SyntaxError):
        return raw


try:
    COSTS = Costs(CONFIG, read_assumptions(), profile("gpu_type"))
    LONGEST, LARGEST = minutes(profile("max_runtime")), megabytes(profile("max_mem_mb"))
    EXTRA, GRES = profile("slurm_extra"), profile("gres")
    validate_slurm_extra(SimpleNamespace(resources=SimpleNamespace(slurm_extra=EXTRA)))
except UserError as error:
    refuse(error)


# Jobs that run on this machine do not know which of its GPUs others use, so whatever number they need, one has them at a time.
# No line of profiles/default: that is read beside a cluster's profile too, whose jobs have GPUs of their own.
POOL = workflow.global_resources
HERE = POOL["_nodes"].value is None  # jobs run on this machine
if HERE and "gpu" not in workflow.resource_settings.resources and has_gpu(os.environ):
    POOL["gpu"] = 1


def need(wildcards, rulename):
    """Resources of this job."""
    return COSTS.job(rulename, wildcards)


def cpus(wildcards, rulename):
    """Cores on one machine: one, or a GPU's share for each GPU."""
    return need(wildcards, rulename).cpus


def mem_mb(wildcards, rulename, attempt):
    """Megabytes on one machine; half as much again at each further attempt, up to what a machine has; 0: all it has."""
    if profile("mem_mb") == 0:
        return 0
    return int(min(1000 * need(wildcards, rulename).memory_gb * (1 + attempt) / 2, LARGEST))


def runtime(wildcards, rulename, attempt):
    """Minutes: twice the estimate and some more at each attempt, up to what the partition allows."""
    return max(1, int(min((20 + int(120 * need(wildcards, rulename).hours)) * attempt, LONGEST)))


def each(job):
    """GPUs on one machine, as SLURM writes them: type and number, or the number alone."""
    return f"{job.gpu_type}:{job.gpus // job.nodes}".lstrip(":")


def by_plugin(job, several):
    """Whether the SLURM plugin asks for the GPUs of a job, on several machines or on one.

    It refuses types with hyphens, and a second entry in ``gres``.
    """
    return job.gpus and (job.nodes > 1) == several and "-" not in job.gpu_type and not (several and GRES)


def gpu(wildcards, rulename):
    """GPUs of a job on one machine; ``gres`` asks for those of several."""
    job = need(wildcards, rulename)
    return job.gpus if by_plugin(job, several=False) else None


def gpu_model(wildcards, rulename):
    """Their type; whichever there is where gpu_type is empty."""
    job = need(wildcards, rulename)
    return job.gpu_type or None if by_plugin(job, several=False) else None


def gres(wildcards, rulename):
    """GPUs of each of several machines, with their type; else what the profile asks for."""
    job = need(wildcards, rulename)
    return f"gpu:{each(job)}" if by_plugin(job, several=True) else GRES


def slurm_extra(wildcards, rulename):
    """The profile's own, one task a machine where there are several, and GPUs that the plugin would not ask for."""
    job = need(wildcards, rulename)
    parts = [
        EXTRA,
        "--ntasks-per-node=1" if job.nodes > 1 else None,
        f"--gpus-per-node={each(job)}" if job.gpus and not by_plugin(job, several=job.nodes > 1) else None,
    ]
    return " ".join(filter(None, parts)) or None


def slurm_partition(wildcards, rulename):
    """The profile's partition for GPUs, where it has one, or the one for the rest."""
    with_gpus = profile("gpu_partition") if need(wildcards, rulename).gpus else None
    return with_gpus or profile("slurm_partition")


def nodes(wildcards, rulename):
    """Machines: SLURM would spread the GPUs of one job over several otherwise."""
    job = need(wildcards, rulename)
    return job.nodes if job.gpus or job.nodes > 1 else None


def on_several(key, value):
    """A resource of jobs on several machines: one task each, started by srun inside the job; else the profile's."""

    def resource(wildcards, rulename):
        job = need(wildcards, rulename)
        return (job.nodes if value == "nodes" else value) if job.nodes > 1 else profile(key)

    return resource


RESOURCES = {f.__name__: f for f in (mem_mb, runtime, gpu)}
if not HERE:  # Snakemake evaluates each of them for every job, also in a dry run
    RESOURCES |= {
        **{f.__name__: f for f in (gpu_model, gres, nodes, slurm_partition, slurm_extra)},
        "mpi": on_several("mpi", "srun"),
        "tasks": on_several("tasks", "nodes"),
        "tasks_per_gpu": on_several("tasks_per_gpu", 0),
    }
