# Shell functions that demo, check and bench share. Sourced, with `top` set to the source tree.
# shellcheck shell=bash

# Where the programs are: the source tree, unless DIMFIT_BUILD names another build.
programs=${DIMFIT_BUILD:-$top}

say() {
    printf '== %s\n' "$*" >&2
}

die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# Install what is missing of scripts/packages and of further ones: as root, or through sudo.
install_packages() { # PACKAGE...
    local missing=() name
    while read -r name; do
        dpkg-query -W -f='${Status}' "$name" 2>/dev/null | grep -q 'install ok installed' ||
            missing+=("$name")
    done < <(
        sed 's/#.*//; /^[[:space:]]*$/d' "$top/scripts/packages"
        [ $# -gt 0 ] && printf '%s\n' "$@"
    )
    [ ${#missing[@]} -eq 0 ] && return
    say "installing ${missing[*]}"
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || die "run as root or install sudo, to install: ${missing[*]}"
        as_root=(sudo)
    fi
    "${as_root[@]}" apt-get update -qq >/dev/null || say "apt-get update failed; trying what is cached"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
        die "apt-get could not install: ${missing[*]}"
}

# Configure once and build. Arguments go to configure.
build() {
    (
        cd "$top" || exit 1
        [ -x configure ] || ./bootstrap
        [ -f Makefile ] || ./configure "$@"
        make -j"$(nproc)"
    ) >"$build_log" 2>&1 || {
        tail -n 30 "$build_log" >&2
        die "the build failed; the whole log is $build_log"
    }
}

# A local cluster of real processes: one coordinator, N shards. Sets `coordinator` to its endpoint and
# `cluster_pids`.
cluster_start() { # FOLDER SHARDS [CONFIG]
    local folder=$1 shards=$2 config=${3:-} i
    local options=(--auto-slots)
    [ -n "$config" ] && options=(--config "$config")
    cluster_pids=() coordinator=''
    mkdir -p "$folder"
    : >"$folder/coordinator.out"
    "$programs/dimfitd" coordinator --bind 'tcp://127.0.0.1:*' --shards "$shards" "${options[@]}" \
        >"$folder/coordinator.out" 2>"$folder/coordinator.log" &
    cluster_pids+=($!)
    for ((i = 0; i < 100; i++)); do
        coordinator=$(sed -n 's/^dimfitd: coordinator at \([^,]*\),.*/\1/p' "$folder/coordinator.out")
        [ -n "$coordinator" ] && break
        kill -0 "${cluster_pids[0]}" 2>/dev/null || break
        sleep 0.1
    done
    [ -n "$coordinator" ] || {
        cat "$folder/coordinator.log" >&2
        die "the coordinator did not start"
    }
    for ((i = 0; i < shards; i++)); do
        "$programs/dimfitd" shard --coordinator "$coordinator" \
            >"$folder/shard$i.out" 2>"$folder/shard$i.log" &
        cluster_pids+=($!)
    done
}

# Stop in order; whoever does not end within the time is killed, by pid.
cluster_stop() {
    "$programs/dimfitctl" --coordinator "$coordinator" shutdown >/dev/null 2>&1 || true
    local pid i
    for pid in "${cluster_pids[@]}"; do
        for ((i = 0; i < 100; i++)); do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.1
        done
        kill -9 "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    cluster_pids=()
}

# One run of the trainer on a fresh cluster of two shards, which stays up: call cluster_stop.
train_run() { # FOLDER TRAINER-OPTION...
    local folder=$1
    shift
    cluster_start "$folder" 2
    "$programs/dimfit-train" --coordinator "$coordinator" "$@" >"$folder/train.log" 2>&1 || {
        tail -n 20 "$folder"/*.log >&2
        return 1
    }
}

# One job for each line of standard input, so many at a time, each in a shell of its own whose cluster
# is stopped whatever happens.
run_jobs() { # JOBS FUNCTION
    local jobs=$1 function=$2 running=0 line
    while read -r line; do
        # shellcheck disable=SC2086
        ( trap '[ ${#cluster_pids[@]} -eq 0 ] || cluster_stop' EXIT; cluster_pids=(); $function $line ) \
            </dev/null &
        if [ $((++running)) -ge "$jobs" ]; then
            wait -n || return 1
            running=$((running - 1))
        fi
    done
    while [ $running -gt 0 ]; do
        wait -n || return 1
        running=$((running - 1))
    done
}
