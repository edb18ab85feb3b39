#!/bin/bash
#SBATCH --job-name=raykd
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --requeue
# Ray on all nodes of this job, then one raykd command on the first of them; submitted again, a run goes on.
# `sbatch slurm.sh train dafl_cifar10 seed=1` runs another command; `RAYKD_DRY_RUN=1 bash slurm.sh` only tells what it would do.
set -euo pipefail

if [ "$#" -eq 0 ]; then
    set -- train lsgdfd_imagenet_resnet18
fi
cluster=${RAYKD_CLUSTER:-slurm}   # `raykd cluster up NAME` tells it; CHANGE where your own cluster file has another name
nodes=${SLURM_NNODES:-4}
gpus=${SLURM_GPUS_ON_NODE:-4}
cpus=${SLURM_CPUS_PER_TASK:-32}
port=$((20000 + ${SLURM_JOB_ID:-0} % 10000))
if [ -n "${RAYKD_DRY_RUN:-}" ]; then
    head=HEAD
else
    . "$HOME/venv/bin/activate"
    head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    # One token for this job, which no other user's process can read.
    RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
    export RAY_AUTH_TOKEN
fi
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=600
command=(srun --nodes="$nodes" --ntasks="$nodes" --cpus-per-task="$cpus" --export=ALL
    ray symmetric-run --address "$head:$port" --min-nodes "$nodes" --num-cpus "$cpus" --num-gpus "$gpus"
    -- python -m raykd "$@" --cluster "$cluster")
if [ -n "${RAYKD_DRY_RUN:-}" ]; then
    echo "nodes $nodes, GPUs $((nodes * gpus)), CPUs $((nodes * cpus))"
    printf '%q ' "${command[@]}"
    echo
    exit 0
fi
"${command[@]}"
