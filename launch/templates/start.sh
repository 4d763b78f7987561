# Above: what this job is. Below: the same for every job.
#   start.sh attach ATTEMPT SEEN   starts the process of this machine unless it runs, shows its log from line SEEN + 1 on
#                                  (process 0's alone), and ends with its exit code. It may be called again at any time.
#   start.sh run ATTEMPT           the process itself: mounts, installs, runs, and writes down how it ended.
#   start.sh stop SECONDS          asks it to save and stop (SIGTERM); kills it after so many seconds.
# Exit codes are xtr's: 0 done, 1 crash, 2 wrong use or config, 42 preempted after a save.
set -euo pipefail

metadata() {
  curl --silent --fail --max-time 5 --header 'Metadata-Flavor: Google' \
    "http://metadata.google.internal/computeMetadata/v1/instance/attributes/$1" || true
}

# Which process of the run this machine's is: told, or known to Kubernetes Engine, or to the TPU's own machine.
process_number() {
  local worker slice
  if [ -n "${XTR_PROCESS_ID:-}" ]; then
    echo "$XTR_PROCESS_ID"
    return
  fi
  worker=${TPU_WORKER_ID:-} slice=${MEGASCALE_SLICE_ID:-}
  if [ -z "$worker" ] && [ "$MOUNT" = gcsfuse ]; then
    worker=$(metadata agent-worker-number)
    slice=$(metadata tpu-env | sed -n "s/^MEGASCALE_SLICE_ID: *'\{0,1\}\([0-9]*\).*/\1/p")
  fi
  echo $((${slice:-0} * PROCESSES_PER_SLICE + ${worker:-0}))
}

retry() {
  local tries
  for tries in 1 2 3 4 5; do
    "$@" && return 0
    sleep $((tries * 5))
  done
  "$@"
}

# ----------------------------------------------------------------------------------------------------------- places

home=$HOME/xtr-launch
case $MOUNT in
  gcsfuse) work=$home/bucket${FOLDER:+/$FOLDER} ;;
  csi) work=$VOLUME${FOLDER:+/$FOLDER} ;;
  *) work=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd) ;;
esac
if [ "$MOUNT" = none ]; then state=$work/jobs/$JOB/processes; else state=$home/jobs/$JOB; fi
self=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/$(basename "${BASH_SOURCE[0]}")
boot=$(cat /proc/sys/kernel/random/boot_id 2>/dev/null || echo none)
container=xtr-$JOB

# Whether a process runs here: sets `pid` and `attempt` to its own. A process of before the last boot does not.
running() {
  local own_pid own_boot own_attempt
  [ -e "$place/pid" ] || return 1
  read -r own_pid own_boot own_attempt <"$place/pid" || return 1
  [ "$own_boot" = "$boot" ] && kill -0 "$own_pid" 2>/dev/null || return 1
  pid=$own_pid attempt=$own_attempt
}

write_down() {
  echo "$2" >"$1.new.$$"
  mv "$1.new.$$" "$1"
}

# --------------------------------------------------------------------------------------------------------------- run

mount_bucket() {
  [ "$MOUNT" = gcsfuse ] || return 0
  if ! command -v gcsfuse >/dev/null; then
    local list=/etc/apt/sources.list.d/gcsfuse.list key=/usr/share/keyrings/cloud.google.asc
    curl --silent --fail https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee "$key" >/dev/null
    echo "deb [signed-by=$key] https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -c -s) main" |
      sudo tee "$list" >/dev/null
    retry sudo apt-get -o DPkg::Lock::Timeout=300 -q update
    retry sudo apt-get -o DPkg::Lock::Timeout=300 -q -y install gcsfuse
  fi
  mkdir -p "$home/bucket"
  # Hosts must see each other's files at once, so nothing is remembered of them. Root mounts for all: containers too.
  mountpoint -q "$home/bucket" ||
    sudo gcsfuse -o allow_other --uid "$(id -u)" --gid "$(id -g)" --implicit-dirs --metadata-cache-ttl-secs=0 \
      "$BUCKET" "$home/bucket"
  mkdir -p "$work"
}

install_wheel() {
  [ -n "$WHEEL" ] || return 0
  local venv=$home/venv-$JOB
  if [ "$(cat "$venv/.installed" 2>/dev/null)" != "$WHEEL" ]; then
    export PATH=$HOME/.local/bin:$PATH
    command -v uv >/dev/null || retry python3 -m pip install --user --quiet uv
    rm -rf "$venv"
    retry uv venv --quiet --python 3.12 "$venv"
    cp "$work/jobs/$JOB/$WHEEL" "$home/"
    retry uv pip install --quiet --python "$venv/bin/python" "$home/${WHEEL}[tpu]"
    write_down "$venv/.installed" "$WHEEL"
  fi
}

setup() {
  mount_bucket
  install_wheel
  [ -z "$DOCKER" ] || retry sudo docker pull --quiet "$DOCKER"
}

copy_log() {
  mkdir -p "$work/jobs/$JOB/log"
  cp "$log" "$work/jobs/$JOB/log/.$1.$$" && mv "$work/jobs/$JOB/log/.$1.$$" "$work/jobs/$JOB/log/$1"
}

ended() {
  local code=$?
  if [ "$phase" = setup ]; then # xtr has not begun: none of its codes, but that it is preempted
    if [ "$asked" = yes ]; then code=42; else code=1; fi
  fi
  trap - EXIT
  [ -z "${copier:-}" ] || kill "$copier" 2>/dev/null || true
  echo "xtr-launch: process $number ended $code"
  exec >/dev/null 2>&1 # the log is whole once `tee` has seen its end
  for _ in $(seq 20); do
    kill -0 "$tee" 2>/dev/null || break
    sleep 0.1
  done
  if [ "$number" = 0 ]; then
    copy_log "attempt-$attempt.txt" || true
  elif [ "$code" != 0 ] && [ "$code" != 42 ]; then
    copy_log "attempt-$attempt-process-$number.txt" || true
  fi
  write_down "$place/attempt-$attempt.exit" "$code"
  exit "$code"
}

# Hands SIGTERM on. A container's process is root's, as sudo is, and takes no signal of ours: docker hands it on.
ask() {
  asked=yes signalled=yes
  if [ "$phase" = work ] && [ -n "$DOCKER" ]; then
    for _ in 1 2 3 4 5; do # the container may be just beginning
      sudo docker kill --signal=TERM "$container" >/dev/null 2>&1 && break
      sleep 1
    done
  else
    kill -TERM "$child" 2>/dev/null || true
  fi
}

# Runs a command beside this script, so that a signal is dealt with at once; `code` is how it ended.
attend() {
  "$@" &
  child=$!
  [ "$asked" = no ] || ask # the signal came before there was a child
  while :; do # `wait` ends early when a signal comes
    signalled=no
    wait "$child" && code=0 || code=$?
    [ "$signalled" = yes ] || break
  done
}

run() {
  phase=setup asked=no child='' code=0
  trap ask TERM INT
  mkdir -p "$place"
  write_down "$place/pid" "$$ $boot $attempt"
  log=$place/attempt-$attempt.log
  exec > >(exec tee -a "$log") 2>&1 </dev/null
  tee=$!
  trap ended EXIT
  attend setup
  if [ "$asked" = yes ] || [ "$code" != 0 ]; then exit 1; fi
  [ -z "$WHEEL" ] || export PATH=$home/venv-$JOB/bin:$PATH
  cd "$work"
  export PYTHONUTF8=1 PYTHONUNBUFFERED=1 XTR_EXPECT_PROCESSES=$PROCESSES
  if [ "$MOUNT" != none ]; then
    export XTR_DATA_DIR=${XTR_DATA_DIR:-$work/data} XTR_CACHE_DIR=${XTR_CACHE_DIR:-$work/cache}
    export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$work/jax_cache}
  fi
  if [ -n "$DOCKER" ]; then
    sudo docker rm --force "$container" >/dev/null 2>&1 || true # of an earlier start
    COMMAND=(sudo docker run --rm --name="$container" --privileged --network=host
      --volume="$home:$home" --workdir="$work"
      --env=PYTHONUTF8 --env=PYTHONUNBUFFERED --env=XTR_EXPECT_PROCESSES="$PROCESSES"
      --env=XTR_DATA_DIR="$XTR_DATA_DIR" --env=XTR_CACHE_DIR="$XTR_CACHE_DIR"
      --env=JAX_COMPILATION_CACHE_DIR="$JAX_COMPILATION_CACHE_DIR" "$DOCKER" "${COMMAND[@]}")
  fi
  if [ "$number" = 0 ]; then
    (while sleep 60; do copy_log "attempt-$attempt.txt" || true; done) >/dev/null 2>&1 &
    copier=$!
  fi
  phase=work
  attend "${COMMAND[@]}"
  if [ "$asked" = yes ] && [ "$code" = 143 ]; then code=42; fi # xtr had not begun to listen
  exit "$code"
}

# ------------------------------------------------------------------------------------------------------------ attach

attach() {
  # The log is told from what the connection itself says, so that the launcher counts its lines alone.
  local seen=$1 code tail='' as_log="/^xtr-launch: process [0-9]* ended/d; s/^/[process $number] /"
  mkdir -p "$place"
  if ! running && [ ! -e "$place/attempt-$attempt.exit" ] && mkdir "$place/attempt-$attempt.started" 2>/dev/null; then
    touch "$place/attempt-$attempt.log"
    setsid bash "$self" run "$attempt" >/dev/null 2>&1 </dev/null &
    for _ in $(seq 100); do
      running || [ -e "$place/attempt-$attempt.exit" ] && break
      sleep 0.1
    done
  fi
  running || true
  touch "$place/attempt-$attempt.log"
  if [ "$number" = 0 ] && [ -n "$pid" ]; then
    tail --follow=name --lines="+$((seen + 1))" --pid="$pid" --sleep-interval=0.2 "$place/attempt-$attempt.log" |
      sed --unbuffered "$as_log" &
    tail=$!
    trap 'kill "$tail" 2>/dev/null || true' EXIT
  fi
  while [ ! -e "$place/attempt-$attempt.exit" ]; do
    if ! running; then
      sleep 2
      [ -e "$place/attempt-$attempt.exit" ] || lost
    fi
    sleep 0.3
  done
  code=$(cat "$place/attempt-$attempt.exit")
  if [ -n "$tail" ]; then
    wait "$tail" || true # it ends with the process, once it has shown all
  elif [ "$number" = 0 ]; then
    tail --lines="+$((seen + 1))" "$place/attempt-$attempt.log" | sed "$as_log"
  elif [ "$code" != 0 ] && [ "$code" != 42 ]; then
    tail --lines=20 "$place/attempt-$attempt.log" | sed "$as_log"
  fi
  echo "xtr-launch: process $number ended $code"
  exit "$code"
}

# It ended without a word: with its machine, which is a preemption, or alone, which is a crash.
lost() {
  local own_boot=$boot
  read -r _ own_boot _ <"$place/pid" || true
  local code=1
  [ "$own_boot" = "$boot" ] || code=42
  echo "xtr-launch: process $number ended $code" >>"$place/attempt-$attempt.log"
  write_down "$place/attempt-$attempt.exit" "$code"
}

# -------------------------------------------------------------------------------------------------------------- stop

stop() {
  local seconds=$1 waited=0 left
  while :; do
    left=0
    for place in "$state"/process-*; do
      running || continue
      left=$((left + 1))
      if [ "$waited" -ge "$seconds" ]; then
        kill -KILL -- "-$pid" 2>/dev/null || true
      elif [ "$waited" = 0 ]; then
        kill -TERM "$pid" 2>/dev/null || true
      fi
    done
    [ "$left" -gt 0 ] && [ "$waited" -le $((seconds + 10)) ] || break
    sleep 1
    waited=$((waited + 1))
  done
  [ -z "$DOCKER" ] || sudo docker kill "$container" >/dev/null 2>&1 || true # it outlives what started it
  [ "$left" = 0 ]
}

pid='' attempt=${2:-1}
case ${1:-} in
  stop) stop "${2:-0}" ;;
  run | attach)
    number=$(process_number)
    [ "$MOUNT" != csi ] || attempt=$((attempt + 1)) # JobSet counts restarts, from 0 on
    place=$state/process-$number
    if [ "$1" = run ]; then run; else attach "${3:-0}"; fi
    ;;
  *)
    echo 'usage: start.sh attach ATTEMPT SEEN | run ATTEMPT | stop SECONDS' >&2
    exit 2
    ;;
esac
