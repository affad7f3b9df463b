#!/bin/bash
# Nothing beyond the baseline may be reached before the processor has been
# asked for it. Reads the built library and program and fails when code outside
# of the files of an instruction set (those that make a KERN_TABLE, but
# portable.c) holds VEX, EVEX or XOP code on x86-64, or products that ARMv8.0
# lacks on aarch64; when such a file holds code that runs by itself at start;
# and when the linker could merge a function of one file into another's.
set -u
cd "$(dirname "$0")/.." || exit 2
build=${BUILD:-build}
objdump=${OBJDUMP:-objdump}
readelf=${READELF:-readelf}
bad=0

complain()
{
    printf '%s\n' "$*"
    bad=1
}

if [ -n "${SANITIZE:-}" ]; then
    echo "sanitizers add code of their own to every file"
    exit 77
fi

guarded=$(grep -lE '= KERN_TABLE\(' src/kern/*.c | xargs -n 1 basename | tr '\n' ' ')
machine=$($readelf -hW "$build/libsluice.so" | sed -n 's/^ *Machine: *//p')
case $machine in
*X86-64*)
    # In 64-bit code a first byte C4 or C5 is VEX, 62 EVEX and 8F with a map of
    # 8 or more XOP, after nothing but segment and address-size prefixes.
    rule='{
        n = split($2, byte, " ")
        for (i = 1; i < n && byte[i] ~ /^(26|2e|36|3e|64|65|67)$/; i++)
            ;
        beyond = byte[i] ~ /^(c4|c5|62)$/ ||
            (byte[i] == "8f" && byte[i + 1] ~ /^[0-9a-f][89a-f]$/ && $3 !~ /^pop/)
    }'
    ;;
*AArch64*)
    rule='{ beyond = $3 ~ /^(sdot|udot|usdot|sudot|smmla|ummla|usmmla)/ ||
        $3 ~ /^(bfdot|bfmmla|ptrue|whilelo)/ }'
    ;;
*)
    # A rule is wanted where files of an instruction set compile to something.
    tables=
    for name in $guarded; do
        object=$build/obj/src/kern/${name%.c}.o
        [ -e "$object" ] || { complain "$object is missing"; continue; }
        nm --defined-only "$object" | grep -q " kern_${name%.c}\$" && tables="$tables $name"
    done
    [ -z "$tables" ] || complain "no rule for $machine, which has tables of its own:$tables"
    [ $bad -eq 0 ] || exit $bad
    echo "$machine has no instruction sets beyond the baseline"
    exit 77
    ;;
esac

# Local symbols follow the FILE symbol of their source in a symbol table.
for binary in "$build/libsluice.so" "$build/sluice"; do
    [ -e "$binary" ] || { complain "$binary is missing: run make first"; continue; }
    result=$({
        $readelf -sW "$binary" | awk -v guarded="$guarded" '
            BEGIN { n = split(guarded, g, " "); for (i = 1; i <= n; i++) is[g[i]] = 1 }
            $1 == "Symbol" { inside = 0 }
            $4 == "FILE" { inside = ($8 in is) }
            $4 == "FUNC" && inside && $5 == "LOCAL" { print "guarded\t" $2 }'
        $objdump -d -w "$binary"
    } | awk -F '\t' '
        $1 == "guarded" { is["" $2] = 1; next }
        /^[0-9a-f]+ <.*>:$/ {
            split($0, at, " ")
            inside = (at[1] in is)
            symbol = at[2]
            next
        }
        NF >= 3 '"$rule"'
        NF >= 3 && beyond {
            if (inside)
                n_inside++
            else if (seen[symbol]++ == 0)
                printf "%s %s: %s\n", symbol, $1, $3
        }
        END { printf "%d inside\n", n_inside }')
    printf '%s: %s\n' "$binary" "$(printf '%s\n' "$result" | tail -n 1)"
    outside=$(printf '%s\n' "$result" | sed '$d')
    [ -z "$outside" ] || complain "$binary: beyond the baseline, outside of $guarded:
$outside"
    [ "$(printf '%s\n' "$result" | tail -n 1 | cut -d ' ' -f 1)" -gt 100 ] ||
        complain "$binary: hardly any such code inside of $guarded:" \
            "is this test still looking at the right thing?"
done

for name in $guarded; do
    object=$build/obj/src/kern/${name%.c}.o
    [ -e "$object" ] || { complain "$object is missing"; continue; }
    starts=$($readelf -SW "$object" | grep -E '\.(init|init_array|ctors|preinit_array)')
    [ -z "$starts" ] || complain "$object has code that runs before the processor is asked: $starts"
done

merged=$(find "$build/obj/src" -name '*.o' -exec nm -A --defined-only {} + |
    awk '$(NF - 1) ~ /^[WVuw]$/')
[ -z "$merged" ] || complain "the linker may keep another file's copy of: $merged"
exit $bad
