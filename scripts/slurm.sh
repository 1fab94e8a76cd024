#!/bin/bash
# One run on several machines under Slurm: sbatch scripts/slurm.sh backbone=ast task=multitask
# Requeued, by Slurm or at the end of its time, it goes on in the same folder after its last whole epoch.
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
# ntasks-per-node has to be gpus-per-node: a process for each GPU. The folder and the packs have to be on a disk that all
# machines see. Environment: TRAINER, an option of conf/trainer (ddp); PYTHON, of the environment that has etude.
set -u

folder=outputs/slurm-$SLURM_JOB_ID
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
if [ -f "$folder/checkpoints/last.ckpt" ]; then
    words=("resume=$folder")
else
    words=("trainer=${TRAINER:-ddp}" "trainer.num_nodes=$SLURM_NNODES" "hydra.run.dir=$folder" "$@")
fi

requeue() {
    echo "time is nearly over: queued again, to go on in $folder"
    scontrol requeue "$SLURM_JOB_ID"
}
trap requeue USR1

# in the background, because bash hears no signal while it waits for a command in the foreground
srun --kill-on-bad-exit=1 "${PYTHON:-python}" train.py "${words[@]}" &
step=$!
wait $step
status=$?
while kill -0 $step 2>/dev/null; do # the signal ended the wait, not the step
    wait $step
    status=$?
done
exit $status
