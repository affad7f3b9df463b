# What the shell tests of the command line tool share. To be sourced with
# $here, the folder of tests, set; gives $sluice, $json_get, $model and an empty
# folder $dir, which goes at the end. Exit status 77: there is no program.
build=${BUILD:-build}
sluice=${SLUICE:-$build/sluice}
json_get=${JSON_GET:-$build/tools/json_get}
[ -x "$sluice" ] || { echo "skipped: $sluice is not there"; exit 77; }
[ -x "$json_get" ] || { echo "skipped: $json_get is not there"; exit 77; }
case $sluice in /*) ;; *) sluice=$PWD/$sluice ;; esac
case $json_get in /*) ;; *) json_get=$PWD/$json_get ;; esac
unset SLUICE_MEMORY SLUICE_THREADS
model=$(cd "$here/../models" && pwd)/pocket-dictionary.gguf
export SLUICE_MODEL="$model"
dir=$(mktemp -d) || exit 1
export XDG_STATE_HOME="$dir/state"

passed=0 failed=0
pass() { passed=$((passed + 1)); }
no()
{
    failed=$((failed + 1))
    echo "FAILED: $*"
    sed 's/^/    err: /' "$dir/err" 2>/dev/null | head -5
}
# run STATUS ARGUMENTS...: stdout in $dir/out, stderr in $dir/err; $input: stdin
run()
{
    want=$1
    shift
    "$sluice" "$@" >"$dir/out" 2>"$dir/err" <"${input:-/dev/null}"
    got=$?
    if [ $got -eq "$want" ]; then pass; else no "$*: exit status $got, expected $want"; fi
}
# refused STATUS WORDS ARGUMENTS...: one sentence with the words, nothing on stdout
refused()
{
    status=$1 words=$2
    shift 2
    run "$status" "$@"
    if grep -qF -e "$words" "$dir/err"; then pass; else no "$* does not say \"$words\""; fi
    if [ "$(wc -l <"$dir/err")" -eq 1 ] && [ ! -s "$dir/out" ]; then pass
    else no "$*: not one sentence"; fi
}
finish()
{
    echo "$passed checks passed, $failed failed"
    [ "$failed" -eq 0 ]
    exit
}
