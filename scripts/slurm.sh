#!/bin/bash
# One run on several machines under Slurm: sbatch scripts/slurm.sh backbone=ast task=multitask
# A job that is requeued resumes in the same folder from its last completed epoch.
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
# ntasks-per-node must equal gpus-per-node: one process per GPU. The run folder and the packs must be on a shared file
# system. Environment variables: TRAINER, an option of conf/trainer (default ddp); PYTHON, the interpreter with etude.
set -u

folder=outputs/slurm-$SLURM_JOB_ID
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
if [ -f "$folder/checkpoints/last.ckpt" ]; then
    arguments=("resume=$folder")
else
    arguments=("trainer=${TRAINER:-ddp}" "trainer.num_nodes=$SLURM_NNODES" "hydra.run.dir=$folder" "$@")
fi

requeue() {
    echo "time limit reached: requeued, to resume in $folder"
    scontrol requeue "$SLURM_JOB_ID"
}
trap requeue USR1

# in the background, because bash handles no signal while it waits for a foreground command
srun --kill-on-bad-exit=1 "${PYTHON:-python}" train.py "${arguments[@]}" &
step=$!
wait $step
status=$?
while kill -0 $step 2>/dev/null; do # the signal ended the wait and not the step
    wait $step
    status=$?
done
exit $status
