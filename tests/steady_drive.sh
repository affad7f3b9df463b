#!/bin/sh
# The drive of constant speed that bench/streaming -t measures on: it gives the
# files' bytes, and never faster than it was told to. (Lower bounds of time only:
# nothing here fails because a machine is slow.)
set -u
BUILD=${BUILD:-build}
tool=$BUILD/tools/steady_drive
if [ ! -x "$tool" ]; then echo "no steady_drive: libfuse3-dev was not there"; exit 77; fi
if [ ! -w /dev/fuse ] || [ "$(id -u)" != 0 ]; then echo "mounting is not allowed here"; exit 77; fi
work=$(mktemp -d) || exit 1
trap 'umount -l "$work/drive" 2>/dev/null; rm -rf "$work/files" "$work/copy" "$work/err"
      rmdir "$work/drive" "$work"' EXIT
fails=0
check() { if eval "$2"; then echo "ok   $1"; else echo "FAIL $1"; fails=1; fi; }
ms() { echo $(($(date +%s%N) / 1000000)); }

"$tool" "$work" "$work" 2>"$work/err"
check "without a rate: how to call it" '[ $? = 2 ] && grep -q usage "$work/err"'
"$tool" "$work/none" "$work" 10 2>"$work/err"
check "a folder that is not there is named" '[ $? = 1 ] && grep -q "none: No such file" "$work/err"'

mkdir "$work/files" "$work/drive"
head -c 9000001 /dev/urandom >"$work/files/a"
: >"$work/files/empty"
"$tool" "$work/files" "$work/drive" 20 2>"$work/err" &
pid=$!
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    [ -e "$work/drive/.bytes_read" ] && break
    kill -0 $pid 2>/dev/null || { echo "mounting is not allowed here: $(cat "$work/err")"
        exit 77; }
    sleep 0.5
done

begin=$(ms)
dd if="$work/drive/a" of="$work/copy" bs=1M iflag=direct 2>"$work/err"
took=$(($(ms) - begin))
check "the same bytes, past the page cache" 'cmp "$work/files/a" "$work/copy"'
check "9 MB at 20 MB/s in 450 ms or more ($took)" '[ $took -ge 449 ]'
check "the bytes are counted" '[ "$(cat "$work/drive/.bytes_read")" -ge 9000001 ]'
sleep 0.6
begin=$(ms)
dd if="$work/drive/a" of=/dev/null bs=1M count=4 iflag=direct 2>"$work/err"
took=$(($(ms) - begin))
check "time without work is not saved up: 4 MiB in 209 ms or more ($took)" '[ $took -ge 208 ]'
check "the same bytes through the page cache" 'cmp "$work/files/a" "$work/drive/a"'
check "an empty file is empty" '[ -f "$work/drive/empty" ] && [ -z "$(cat "$work/drive/empty")" ]'
check "no such file" '! [ -e "$work/drive/b" ]'
check "nothing can be written" '! (: >"$work/drive/a") 2>/dev/null &&
    ! (: >"$work/drive/b") 2>/dev/null && [ -s "$work/files/a" ]'
for i in 1 2 3 4 5 6 7 8 9 10; do # whoever looks through all files may be in it just now
    umount "$work/drive" 2>/dev/null && break
    sleep 0.5
done
[ ! -e "$work/drive/.bytes_read" ] || umount -l "$work/drive"
wait $pid
check "it ends when unmounted" '[ $? = 0 ]'
exit $fails
