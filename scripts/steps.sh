# Steps that are counted: what check and check-threads share. Sourced after common.sh, with `top` set.
# shellcheck shell=bash disable=SC2154

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 failed=0

count() { # PASSED FAILED
    passed=$((passed + $1))
    failed=$((failed + $2))
}

# The last line, and the exit status.
result() {
    printf '%d passed, %d failed\n' "$passed" "$failed"
    [ "$failed" -eq 0 ]
}

number_before() { # WORD LINE: the number in front of the word, 0 when it is not there
    grep -oE "[0-9]+ $1" <<<"$2" | cut -d' ' -f1 | grep . || echo 0
}

step() { # NAME COMMAND...
    local name=$1 log="$work/step.log"
    shift
    say "$name"
    if "$@" >"$log" 2>&1; then
        count 1 0
    else
        count 0 1
        tail -n 40 "$log"
        printf 'FAILED: %s\n' "$name"
    fi
}

# A copy without build products, in `source_tree`: a tree that was configured in place can't be built
# elsewhere.
copy_source_tree() {
    source_tree=$work/source
    mkdir "$source_tree"
    if git -C "$top" rev-parse --git-dir >/dev/null 2>&1; then
        (cd "$top" && git ls-files -z --cached --others --exclude-standard |
            tar --null --ignore-failed-read -cf - -T - 2>/dev/null) | tar -xf - -C "$source_tree"
    else
        cp -a "$top/." "$source_tree" && { [ ! -f "$source_tree/Makefile" ] ||
            make -C "$source_tree" distclean >/dev/null; }
    fi
    (cd "$source_tree" && { [ -x configure ] || ./bootstrap; }) >"$work/bootstrap.log" 2>&1 || {
        cat "$work/bootstrap.log"
        die "bootstrap failed"
    }
}

build_in() { # FOLDER OPTIONS...
    local folder=$1
    shift
    mkdir -p "$folder"
    (cd "$folder" && "$source_tree/configure" "$@" && make -j"$(nproc)")
}

# `make check` in a build folder; each test case counts.
unit_tests() { # NAME FOLDER
    local name=$1 folder=$2
    say "$name: unit tests"
    make -C "$folder" -j"$(nproc)" check >"$work/check.log" 2>&1
    local status=$? n_ok n_bad
    n_ok=$(cat "$folder"/tests/bin/*.log 2>/dev/null | grep -c '^\[       OK \]')
    n_bad=$(cat "$folder"/tests/bin/*.log 2>/dev/null | grep "^\[  FAILED  \] [a-z_0-9]*$" | sort -u | wc -l)
    if [ $status -ne 0 ]; then
        grep -hE '^(FAIL|ERROR)' "$work/check.log"
        for log in "$folder"/tests/bin/*.log; do
            grep -lE 'FAILED|ERROR|runtime error|WARNING: ThreadSanitizer' "$log" | xargs -r tail -n 60
        done
        tail -n 15 "$work/check.log"
        [ "$n_bad" -eq 0 ] && n_bad=1
    fi
    count "$n_ok" "$n_bad"
}

cluster_tests() { # NAME FOLDER [VARIABLE=VALUE...]: the variables are for pytest
    local name=$1 folder=$2 line status n_bad
    shift 2
    say "$name: cluster tests"
    env DIMFIT_BUILD="$folder" PYTHONDONTWRITEBYTECODE=1 "$@" \
        /usr/bin/python3 -m pytest -q -p no:cacheprovider "$source_tree/tests/cluster" \
        >"$work/cluster.log" 2>&1
    status=$?
    [ $status -eq 0 ] || tail -n 60 "$work/cluster.log"
    line=$(grep -E '[0-9]+ (passed|failed|error|skipped).* in [0-9.]+s' "$work/cluster.log" | tail -n 1)
    n_bad=$(($(number_before failed "$line") + $(number_before error "$line")))
    [ $status -ne 0 ] && [ "$n_bad" -eq 0 ] && n_bad=1
    count "$(number_before passed "$line")" "$n_bad"
}
