#!/bin/bash
# Train one run on several nodes with Slurm: sbatch scripts/slurm.sh backbone=ast task=multitask
# A job that is queued again, by Slurm or at its time limit, resumes in the same folder after its last complete epoch.
#SBATCH --job-name=etude
#SBATCH --nodes=2
#SBATCH --gpus-per-node=4
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
#SBATCH --output=slurm-%j.log
# ntasks-per-node must equal gpus-per-node, because each GPU has one process. The folder and the packs must be on a disk
# that all nodes can read. Environment variables: TRAINER, an option of conf/trainer (default: ddp); PYTHON, the Python
# interpreter of the environment with etude (default: python).
set -u

folder=outputs/slurm-$SLURM_JOB_ID
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
if [ -f "$folder/checkpoints/last.ckpt" ]; then
    arguments=("resume=$folder")
else
    arguments=("trainer=${TRAINER:-ddp}" "trainer.num_nodes=$SLURM_NNODES" "hydra.run.dir=$folder" "$@")
fi

requeue() {
    echo "the time limit is near: the job is queued again and resumes in $folder"
    scontrol requeue "$SLURM_JOB_ID"
}
trap requeue USR1

# in the background, because bash handles no signal while it waits for a command in the foreground
srun --kill-on-bad-exit=1 "${PYTHON:-python}" train.py "${arguments[@]}" &
step=$!
wait $step
status=$?
while kill -0 $step 2>/dev/null; do # the signal ended only the wait, not the step
    wait $step
    status=$?
done
exit $status
