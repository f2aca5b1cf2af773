#!/usr/bin/env bash
# A sweep as a Slurm job: a Ray cluster on the nodes of the job, for as long as the job lasts.
#   sbatch docs/cluster/slurm.sh sweeps/my-sweep.yaml /shared/runs/my-sweep
# Submitted again, or requeued, it resumes the sweep from its run folder. Lines marked EDIT are yours to fill in.
#SBATCH --job-name=scalesweep
#SBATCH --nodes=2                        # EDIT
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4                # EDIT
#SBATCH --cpus-per-task=32               # EDIT
#SBATCH --time=24:00:00                  # EDIT
#SBATCH --signal=B:TERM@180              # three minutes before the end this script stops the sweep cleanly
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

sweep=$1
run_dir=$2
source "${VENV:-.venv}/bin/activate"     # EDIT: an environment that all nodes see

# This script runs on the first node of the job, and so does the head. Ports are the job's own: another may run beside it.
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
ip=$(getent ahostsv4 "$head" | awk 'NR == 1 {print $1}')
port=$((20000 + SLURM_JOB_ID % 10000))

# Who can reach Ray's ports can run code there: all of it asks for a token, which lies in a file of this user.
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH="${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}"
if [[ ! -s $RAY_AUTH_TOKEN_PATH ]]; then
    mkdir -p "$(dirname "$RAY_AUTH_TOKEN_PATH")"
    (umask 077 && python -c 'import secrets; print(secrets.token_hex(32))' > "$RAY_AUTH_TOKEN_PATH")
fi
export RAY_USAGE_STATS_ENABLED=0

start=(ray start --block --num-cpus="${SLURM_CPUS_PER_TASK:-1}" --num-gpus="${SLURM_GPUS_ON_NODE:-0}"
    --object-store-memory=500000000)
step=(srun --ntasks-per-node=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}")
trap 'kill $(jobs -p) 2> /dev/null || true; wait' EXIT

"${step[@]}" --nodes=1 --ntasks=1 --nodelist="$head" "${start[@]}" --head --node-ip-address="$ip" --port="$port" \
    --temp-dir="/tmp/ray-$SLURM_JOB_ID" --include-dashboard=false --ray-client-server-port="$((port + 10000))" &
head_step=$!
until (exec 3<> "/dev/tcp/$ip/$port") 2> /dev/null; do
    kill -0 "$head_step"                 # ends this script where the head has ended
    sleep 2
done
others=$((SLURM_JOB_NUM_NODES - 1))
if ((others > 0)); then
    "${step[@]}" --nodes="$others" --ntasks="$others" --exclude="$head" "${start[@]}" --address="$ip:$port" &
fi

# The sweep counts the nodes that are there when it starts.
python - "$ip:$port" "$SLURM_JOB_NUM_NODES" << 'END'
import sys, time, ray
ray.init(address=sys.argv[1], log_to_driver=False)
for _ in range(150):
    if sum(node["Alive"] for node in ray.nodes()) >= int(sys.argv[2]):
        sys.exit()
    time.sleep(2)
sys.exit("not all nodes of the job came up within five minutes")
END

if [[ -e $run_dir/sweep.json ]]; then
    scalesweep resume "$run_dir" --address "$ip:$port" &
else
    scalesweep launch "$sweep" --address "$ip:$port" --run-dir "$run_dir" &
fi
driver=$!
trap 'kill -TERM "$driver"' TERM
code=0
wait "$driver" || code=$?
if kill -0 "$driver" 2> /dev/null; then  # a signal cut the wait short, and the sweep is about to end
    code=0
    wait "$driver" || code=$?
fi
exit "$code"
