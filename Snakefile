# diffinfo: the experiments of "Differential Information: An Information-Theoretic Perspective on Preference Optimization".
#
#   snakemake --cores all                                        the micro world, every table, figure and claim
#   snakemake --cores all results/tables/table1.md               one target
#   snakemake -n --configfile workflow/presets/paper.yaml        the paper's grid
#   snakemake --profile slurm --configfile workflow/presets/paper.yaml
#
# Stages are plain programs (workflow/diffinfo); rules say what they read, write and need.
import os
import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.27")


def refuse(why):
    """End with one sentence, without Snakemake's file and line around it."""
    sys.exit(f"error: {why}")


if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    refuse(f"Python {sys.version_info[0]}.{sys.version_info[1]} is not supported: use 3.11 to 3.13.")
if len(workflow.included_stack) > 1:  # what follows a kill, and the profile, belong to a whole run
    refuse(
        "diffinfo cannot be part of another workflow (module or include): run it by itself, snakemake -s"
        f" {workflow.included_stack[-1].get_path_or_uri(secret_free=True)}, with --directory or run.name for results of its own,"
        " and use its results as input files."
    )

if braces := [path for path in (os.path.dirname(workflow.main_snakefile), os.getcwd()) if set(path) & set("{}")]:
    refuse(f"{braces[0]}: Snakemake takes braces in a path for wildcards; rename the folder.")

PACKAGE = os.path.join(workflow.basedir, "workflow")
sys.path.insert(0, PACKAGE)
from diffinfo.config.strict_yaml import ConfigError, read_yaml

# That of the working directory; the project's own where there is none (--directory, or -s from elsewhere).
OWN = "config.yaml" if os.path.exists("config.yaml") else os.path.join(workflow.basedir, "config.yaml")

try:
    read_yaml(Path(OWN))  # names file and line of a fault, which Snakemake does not
except ConfigError as error:
    refuse(error)


configfile: OWN


include: "workflow/rules/common.smk"
include: "workflow/rules/resources.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/shares.smk"
include: "workflow/rules/pairs.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/entropy.smk"
include: "workflow/rules/did.smk"
include: "workflow/rules/questions.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/judge.smk"
include: "workflow/rules/synthetic.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/laboratory.smk"
include: "workflow/rules/update.smk"
include: "workflow/rules/rejected.smk"
include: "workflow/rules/page.smk"
include: "workflow/rules/restart.smk"


rule all:
    """All that the grid lists, every table, figure and claim, and the page of them all."""
    default_target: True
    input:
        grid_targets(),
        SHOWN,
        "<results>/report.html",
