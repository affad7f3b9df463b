#!/bin/sh
# Systems have pages of 4, 16 or 64 KiB, and map a file only where its segments
# begin at multiples of theirs.
set -u
build=${BUILD:-build}
fail=0 seen=0
command -v readelf >/dev/null || { echo "SKIPPED: no readelf"; exit 77; }
for file in "$build/sluice" "$build/libsluice.so" "$build/sluice-static"; do
    [ -e "$file" ] || continue
    aligns=$(readelf -lW "$file" | awk '$1 == "LOAD" { print $NF }')
    [ -n "$aligns" ] || { echo "FAIL: $file has no segments"; fail=1; }
    for a in $aligns; do
        seen=$((seen + 1))
        [ $((a)) -ge 65536 ] && [ $((a % 65536)) -eq 0 ] ||
            { echo "FAIL: a segment of $file is aligned to $a, not 64 KiB"; fail=1; }
    done
done
[ $seen -gt 0 ] || { echo "FAIL: nothing is built in $build"; fail=1; }
exit $fail
