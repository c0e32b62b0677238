# After a kill: jobs that still run, outputs that Snakemake has not recorded, temporary files.
# Needs: every output to appear whole or not at all, which diffinfo.tables.artifacts sees to; profiles/default therefore says
# ignore-incomplete. Gives: onstart, onsuccess and onerror.
import asyncio
import atexit
import gc
import threading
import time
from importlib.util import find_spec

import snakemake_executor_plugin_slurm
from snakemake.api import WorkflowApi
from snakemake.persistence import RECORD_FORMAT_VERSION, MetadataRecord
from snakemake.settings.types import DeploymentMethod

from diffinfo.operations import disk, preflight, slurm_plugin, warm
from diffinfo.operations.jobs import Job, expected
from diffinfo.operations.orphans import NoAnswer, settle
from diffinfo.operations.units import duration
from diffinfo.tables.provenance import made_by

WORKDIR = os.getcwd()  # of all paths of jobs; at exit Snakemake has left it


def started_from():
    """The folder that Snakemake was started in, which its command line speaks of; with --directory not WORKDIR."""
    if workflow.overwrite_workdir is None:
        return WORKDIR
    return next(found._workdir_handler.olddir for found in gc.get_objects() if isinstance(found, WorkflowApi))


STARTED_FROM = started_from()


async def unrecorded(job):
    """Whether an output is there and Snakemake's record of it is missing or of another time."""
    for output in job.output:
        if os.path.exists(output):
            record = workflow.persistence.metadata(output)
            changed = (await output.mtime()).local_or_storage()
            if record is None or record.endtime is None or abs(changed - record.endtime) > 1:
                return True
    return False


def look():
    """Jobs whose outputs Snakemake has not recorded: those that this configuration would make the same, and the others."""
    found = [job for job in workflow.dag.jobs if job.output and asyncio.run(unrecorded(job))]
    same = [job for job in found if made_by(job.shellcmd, job.output)]
    return same, [job for job in found if job not in same]


def set_times(jobs):
    """Make outputs younger than what they were made from: copied files have the times of the copy, in any order."""
    for job in (job for level in workflow.dag.toposorted() for job in level if job in jobs):
        for output in filter(os.path.exists, job.output):
            output.touch()
    workflow.iocache.clear()


def record(job):
    """Record the outputs of a job as finished."""
    assert job.resources is not None  # evaluated here, which cannot be done inside a coroutine
    asyncio.run(workflow.persistence.finished(job))
    if job.benchmark and os.path.exists(job.benchmark):
        os.remove(job.benchmark)  # of an earlier run: Snakemake would take its time for the outputs'


def record_as_stale(job):
    """Record outputs so that Snakemake makes them again, and sees them changed should they not be."""
    for output in job.output:
        there = os.path.exists(output)
        changed = asyncio.run(output.mtime()).local_or_storage() if there else time.time()
        params = ["'made by another command, or from other inputs'"]
        made = MetadataRecord(params=params, endtime=changed, record_format_version=RECORD_FORMAT_VERSION)
        workflow.persistence._write_record(str(output), made)
    workflow.persistence._clear_cache()


def adopt():
    """Take over or discard unrecorded outputs by their provenance; returns whether that changed what there is to do.

    A killed run's jobs may finish later, perhaps of another configuration; results may have been copied. What is
    settled is recorded and not found again, so this ends.
    """
    if not workflow.execution_settings.keep_metadata:
        return False
    same, others = look()
    check_shared(others)
    changes = any(map(workflow.dag.needrun, same)) or not all(map(workflow.dag.needrun, others))
    set_times([job for job in same if workflow.dag.needrun(job)])
    for job in same:
        record(job)
    for job in others:
        record_as_stale(job)
    if same:
        print(
            f"Took over {len(same)} job(s) that a killed run had finished, or whose results were copied.",
            file=sys.stderr,
        )
    if others:
        print(not_taken_over(others), file=sys.stderr, flush=True)
    for job in workflow.dag.jobs:
        if job.output and not workflow.dag.needrun(job) and job not in others:
            disk.forget(Path(CONFIG.results), job.output)
    return changes


def not_taken_over(jobs):
    """What is wrong with the outputs of ``jobs``, the first of them by name."""
    names = [str(output) for job in jobs for output in job.output if os.path.exists(output)]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (
        f"Not made by this configuration's command from these inputs, or without a record of it: {', '.join(names[:3])}{more};"
        " they are made again."
    )


def look_again():
    """Begin anew, since what is left to do has changed."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.chdir(STARTED_FROM)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def adopt_at_exit():
    """The same where there is nothing to be done, for Snakemake calls no handler then."""
    runs = workflow.executor_plugin is not None and workflow.is_main_process
    if not runs or workflow.touch or workflow.dag is None:
        return
    os.chdir(WORKDIR)
    if workflow.dryrun:
        try:
            planned = workflow.dag.needrun_jobs(exclude_finished=False)
            check_shared(job for job in planned if not workflow.dag.reason(job).forced)
        except SystemExit as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(1)  # all that is left to do at exit
        same, others = look()
        spared = [job for job in same if workflow.dag.needrun(job) and not workflow.dag.reason(job).forced]
        if spared:
            print(
                f"A run takes over {len(spared)} of these jobs: the same commands made their results from the same inputs."
            )
        if others:
            print(not_taken_over(others))
    elif not len(workflow.dag) and adopt():
        look_again()


atexit.register(adopt_at_exit)


def keep_progress_until_recorded():
    """Delete a job's progress once its outputs are recorded, not before: Snakemake deletes those of a job that dies."""
    finish = workflow.dag.finish

    async def finished(job, *arguments, **named):
        await finish(job, *arguments, **named)
        disk.forget(Path(CONFIG.results), job.output)

    workflow.dag.finish = finished


def lift_default_rate():
    """Lift Snakemake's own limit of 100 jobs a second, but none that was asked for.

    To keep it, each look at the jobs that are ready makes another look a second later, so that there are as many a second as
    jobs have run: hundreds of jobs later processors wait for the next one.
    """
    rate = workflow.scheduling_settings.max_jobs_per_timespan
    if rate and (rate.max_jobs, rate.timespan) == (100, 1):
        workflow.scheduler.job_rate_limiter = None


def check_shared(jobs):
    """Refuse to make ``jobs`` where a run that has a name would change outputs that other runs read."""
    outputs = [str(output) for job in jobs if CONFIG.results != CONFIG.shared for output in job.output]
    changed = [path for path in outputs if os.path.exists(path) and not path.startswith(f"{CONFIG.results}/")]
    if changed:
        refuse(
            f"Run '{CONFIG.run.name}' would change what it shares with other runs ({', '.join(changed)}): set run.shared to"
            " 'none', and it makes its own, or run the configuration that made it first, without run.name."
        )


def check_engine():
    """Refuse to begin what the engine's absence would end after days of training."""
    name = CONFIG.engine.environment
    made_here = DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method
    samples = any(str(job.rule.conda_env).endswith(f"{name}.yaml") for job in workflow.dag.needrun_jobs())
    if name != "base" and samples and not made_here and not find_spec(name):
        refuse(
            f"engine.name = {name}, and {name} is not in this environment: add --sdm conda (slurm/config.yaml has the line),"
            f" which makes one from envs/{name}.yaml, install envs/{name}.txt, or set engine.name to transformers."
        )
    if name == "vllm" and samples and workflow.local_exec and not has_gpu(os.environ):
        preflight.check_heads(CONFIG)


def say_how_long():
    """The plan's answer; on a cluster it depends on the queue."""
    if workflow.local_exec and len(workflow.dag):
        jobs = [
            Job(job.rule.name, dict(job.wildcards_dict), frozenset(job.input), frozenset(job.output), "")
            for job in workflow.dag.needrun_jobs()
        ]
        hours = expected(jobs, COSTS, workflow.cores)
        logger.info(
            f"{len(jobs)} jobs, about {duration(hours)} on {workflow.cores} core(s) by the plan; make status says how far"
        )


def check_before_hours():
    """Refuse to begin without what a later job would end for."""
    asked = [(job.rule.name, job.wildcards_dict) for job in workflow.dag.needrun_jobs()]
    try:
        check_engine()
        if workflow.executor_plugin.cli_prefix == "slurm":
            preflight.check_slurm(profile("slurm_account"))
        preflight.check_keys(CONFIG, asked)
        if DeploymentMethod.CONDA not in workflow.deployment_settings.deployment_method:
            preflight.check_servers(CONFIG, asked)
        preflight.check_hub(CONFIG, asked)
    except UserError as error:
        refuse(error)


BEGUN = threading.Event()


def end_at_once():
    """End a refused start before a cluster's executor, a thread that nobody stops, prints below the sentence.

    It does so once Python has shut down the pool that it waits with, which is before the handlers of ``atexit``.
    """
    if not BEGUN.is_set():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


onstart:
    threading._register_atexit(end_at_once)
    if not os.access(RESULTS if os.path.exists(RESULTS) else ".", os.W_OK):
        refuse(f"{os.path.abspath(RESULTS)} may not be written: make it writable and start again.")
    check_before_hours()
    say_how_long()
    names = ["_".join(["wildcards", *job.wildcards]) if job.wildcards else "" for job in workflow.dag.jobs]
    comments = {
        slurm_plugin.comment("_".join(filter(None, ["rule", job.rule.name, name])), CONFIG.run.name)
        for job, name in zip(workflow.dag.jobs, names)
    }
    try:
        settled = settle(comments, logger.info)
    except NoAnswer as error:
        refuse(error)
    if settled or adopt():
        workflow.persistence.unlock()
        look_again()
    check_shared(workflow.dag.needrun_jobs())
    BEGUN.set()
    slurm_plugin.patch(snakemake_executor_plugin_slurm, CONFIG.run.name)
    keep_progress_until_recorded()
    lift_default_rate()
    if os.environ.get("DIFFINFO_WARM"):
        warm.start()


onsuccess:
    disk.clean(Path(RESULTS))
    logger.info(disk.report(Path(CONFIG.results)))


onerror:
    logger.info("Nothing that was finished is lost: fix the cause and run the same command again.")
