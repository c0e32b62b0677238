# What a killed Snakemake left behind: jobs that still run, outputs that nobody recorded, temporary files.
# Needs: every output to appear whole or not at all, which diffinfo.artifacts sees to; profiles/default therefore says
# ignore-incomplete. Gives: onstart, onsuccess and onerror.
import asyncio
import atexit
import hashlib
from importlib.util import find_spec

import snakemake_executor_plugin_slurm
from snakemake.settings.types import DeploymentMethod

from diffinfo import disk, slurm_plugin
from diffinfo.orphans import NoAnswer, settle

CONFIGURATION = Path("results/.progress/configuration")  # the digest of the last run's
DIGEST = hashlib.sha256(CONFIG.model_dump_json().encode()).hexdigest()


async def newer(job):
    """Whether Snakemake's record of an output is missing or older than the output."""
    for output in job.output:
        record = workflow.persistence.metadata(output)
        changed = (await output.mtime()).local_or_storage()
        if record is None or record.endtime is None or changed > record.endtime + 1:
            return True
    return False


def adopt():
    """Record what was finished behind a killed Snakemake's back, so that later changes of its parameters are seen."""
    there = [job for job in workflow.dag.jobs if job.output and not workflow.dag.needrun(job)]
    found = [job for job in there if all(map(os.path.exists, job.output)) and asyncio.run(newer(job))]
    if found and CONFIGURATION.exists() and CONFIGURATION.read_text() != DIGEST:
        raise WorkflowError(
            f"{len(found)} job(s) were finished by a run that was killed and that had another configuration, so nobody"
            " knows whether this one would make the same. Run that configuration once more, or delete these outputs: "
            + ", ".join(str(output) for job in found for output in job.output)
        )
    for job in found:
        assert job.resources is not None  # evaluated here, which cannot be done inside a coroutine
        asyncio.run(workflow.persistence.finished(job))
    if found:
        print(f"Took over {len(found)} job(s) that a killed run had finished.", file=sys.stderr)


def adopt_at_exit():
    """The same where there is nothing to be done, for Snakemake calls no handler then."""
    runs = workflow.executor_plugin is not None and workflow.is_main_process
    if runs and not workflow.dryrun and not workflow.touch and workflow.dag is not None and not len(workflow.dag):
        try:
            adopt()
        except WorkflowError as error:
            print(error, file=sys.stderr)


atexit.register(adopt_at_exit)


def check_engine():
    """Refuse to begin what vLLM's absence would end after days of training."""
    made_here = DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method
    samples = any(str(job.rule.conda_env).endswith("vllm.yaml") for job in workflow.dag.needrun_jobs())
    if samples and not made_here and not find_spec("vllm"):
        raise WorkflowError(
            "engine.name = vllm, and vLLM is not in this environment: add --sdm conda (slurm/config.yaml has the line), which"
            " makes one from envs/vllm.yaml, install envs/vllm.txt, or set engine.name to transformers."
        )


onstart:
    check_engine()
    if not os.access("results" if os.path.exists("results") else ".", os.W_OK):
        raise WorkflowError(f"{os.path.abspath('results')} may not be written: make it writable and start again.")
    names = ["_".join(["wildcards", *job.wildcards]) if job.wildcards else "" for job in workflow.dag.jobs]
    comments = {
        "_".join(filter(None, ["rule", job.rule.name, name])) for job, name in zip(workflow.dag.jobs, names)
    }
    try:
        settled = settle(comments, logger.info)
    except NoAnswer as error:
        raise WorkflowError(str(error)) from None
    if settled:  # what is left to do has changed: look again
        workflow.persistence.unlock()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    adopt()
    slurm_plugin.mend(snakemake_executor_plugin_slurm)
    CONFIGURATION.parent.mkdir(parents=True, exist_ok=True)
    CONFIGURATION.write_text(DIGEST)


onsuccess:
    disk.clean(Path("results"))
    logger.info(disk.report(Path("results")))


onerror:
    logger.info("Nothing that was finished is lost: mend the cause and run the same command again.")
