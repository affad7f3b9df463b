#!/bin/sh
# SIGINT, SIGTERM, SIGHUP and whatever else ends a program end a command wherever it
# is, by the signal itself, and leave no half file. Every signal is sent when something was
# seen to have happened; waiting is bounded.
set -u
here=$(dirname "$0")
. "$here/support/shell.sh"
# A shell starts its background jobs with SIGINT ignored.
env --default-signal=INT true 2>/dev/null ||
    { echo "skipped: env knows no --default-signal"; rm -rf "$dir"; exit 77; }
trap 'rm -rf "$dir"' EXIT
cd "$dir" && dir=$(pwd -P) || exit 1
mkfifo in || exit 1

# start ARGUMENTS...: in the background, from the pipe `in`, which descriptor 3 fills
start()
{
    env --default-signal "$sluice" "$@" <in >out 2>err &
    pid=$!
    exec 3>in
}
# await WORDS COMMAND...: until the command succeeds; false when the process is gone
# or it takes too long
await()
{
    what=$1
    shift
    for _ in $(seq 600); do
        "$@" && return 0
        alive || return 1
        sleep 0.05
    done
    no "$what never happened"
    return 1
}
# The number of a process that has ended may be another one's soon: ours runs here.
alive() { [ "$(readlink "/proc/$pid/cwd" 2>/dev/null)" = "$dir" ]; }
gone() { ! alive; }
# ends SIGNAL WORDS: the process ends by that signal
ends()
{
    alive && kill -s "$1" $pid 2>/dev/null
    gone || await "the end after SIG$1: $2" gone || { alive && kill -KILL $pid 2>/dev/null; }
    wait $pid
    got=$?
    exec 3>&-
    [ $got -eq 0 ] && return 1 # it was done before the signal came
    if [ $got -eq $((128 + $(number "$1"))) ]; then pass
    else no "$2, SIG$1: exit status $got"; fi
    if [ ! -s err ]; then pass; else no "$2, SIG$1: there is a message"; fi
}
number() { case $1 in INT) echo 2 ;; TERM) echo 15 ;; HUP) echo 1 ;; *) echo "$1" ;; esac; }
threads() { [ "$(ls /proc/$pid/task 2>/dev/null | wc -l)" -gt 1 ]; }
has_part() { ls ./*.sluice-part >/dev/null 2>&1; }
has_output() { [ -s out ]; }

for signal in INT TERM HUP; do
    # input that never ends: more was taken than the pipe holds, so it is being read
    for c in "run --raw -" "tokenize" "logits --ids -" chat; do
        # shellcheck disable=SC2086
        start $c
        (trap '' PIPE; while printf ' ' 2>/dev/null; do sleep 0.05; done) >&3 2>/dev/null &
        feeder=$!
        head -c 100000 /dev/zero | tr '\0' ' ' >&3 # more than a pipe holds: some was read
        ends $signal "reading: $c"
        wait $feeder 2>/dev/null
    done
    # input that does not come
    start run -
    head -c 200000 /dev/zero | tr '\0' ' ' >&3
    ends $signal "waiting for input"
    # measuring: the threads that read are there, and results come at the end
    for c in "probe --io pread" "plan --io pread" "plan --json --io pread"; do
        # shellcheck disable=SC2086
        start $c
        await "measuring" threads
        ends $signal "$c" || no "$c went on to its end"
        if [ ! -s out ]; then pass; else no "$c: there is a result"; fi
    done
    # loading and computing, with files that are not whole yet
    start logits --ids "$(seq -s , 1 1500)" --all -o logits.f32
    await "a file" has_part
    ends $signal "logits"
    if has_part || [ -e logits.f32 ]; then no "SIG$signal: logits left a file"; else pass; fi
    start pack packed.gguf
    await "a file" has_part
    if ends $signal "pack"; then
        if has_part || [ -e packed.gguf ]; then no "SIG$signal: pack left a file"; else pass; fi
    fi
    rm -f packed.gguf
    # answering: noise goes on until an ending token happens to be drawn
    for seed in 1 2 3 4 5 6 7 8; do
        start run --temp 100 --seed $seed --record-routing r.jsonl --timeline t.json x
        await "an answer" has_output
        ends $signal "run" && break
    done
    if has_part; then no "SIG$signal: run left a part"; else pass; fi
    if [ -f r.jsonl ] && { [ ! -s r.jsonl ] || [ "$(tail -c 4 r.jsonl)" = ']]}' ]; }; then pass
    else no "SIG$signal: the routing is torn"; fi
    if "$json_get" otherData.spans <t.json >/dev/null; then pass
    else no "SIG$signal: the timeline is torn"; fi
    rm -f r.jsonl t.json
done

# all others that end a program and can be caught, faults that are none too
ulimit -c 0
# QUIT ILL TRAP ABRT BUS FPE USR1 SEGV USR2 ALRM STKFLT XCPU VTALRM PROF IO PWR SYS RTMIN RTMAX
others="3 4 5 6 7 8 10 11 12 14 16 24 26 27 29 30 31 34 64"
[ -z "${SANITIZE:-}" ] || others="3 10 12 14 24 29 30 34" # sanitizers keep the rest for themselves
for signal in $others; do
    start pack packed.gguf
    await "a file" has_part
    if ends "$signal" "pack"; then
        if has_part || [ -e packed.gguf ]; then no "SIG$signal: pack left a file"; else pass; fi
    fi
    rm -f packed.gguf ./*.sluice-part
done
# one that comes again and again
start pack packed.gguf
await "a file" has_part
for _ in 1 2 3 4 5 6 7 8 9; do kill -s 24 $pid 2>/dev/null; done
ends 24 "pack, several times"
if has_part; then no "SIGXCPU several times: pack left a file"; else pass; fi
rm -f packed.gguf ./*.sluice-part
# a limit of the shell: bytes of a file
(ulimit -f 20000 && exec "$sluice" pack packed.gguf) >out 2>err </dev/null
got=$?
if [ $got -eq 1 ] && grep -q "File too large" err && ! has_part; then pass
else no "ulimit -f: exit status $got"; fi

# a hang-up that nohup has made ignored stays so
env --ignore-signal=HUP "$sluice" run <in >out 2>err &
pid=$!
exec 3>in
head -c 100000 /dev/zero | tr '\0' ' ' >&3
kill -HUP $pid
printf 'What does serendipity mean?' >&3
exec 3>&-
wait $pid
got=$?
# it read on to the end, and the text is too long
if [ $got -eq 1 ] && grep -q "the prompt has" err; then pass
else no "a hang-up that is ignored: exit status $got"; fi
finish
