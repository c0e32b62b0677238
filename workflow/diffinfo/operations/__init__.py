"""How a run is planned, watched and cleaned up: costs, disk, jobs, SLURM."""
