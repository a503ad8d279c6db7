#!/usr/bin/env bash
# slim-mkl.sh LIBDIR: removes the parts of MKL that no instance loads, and says how many bytes that was.
#
# MKL loads one file of kernels (and one of vector functions, vml) for the processor it meets, and falls back to `def`
# when that file is missing. Seen with mkl 2026.2 under emulated processors (docs/ami.md):
#   def     every AMD, however new, and the fallback of all others. Without it MKL ends the process on AMD:
#           "Cannot load libmkl_def.so.3". It must stay.
#   avx2    Intel from Haswell on (c4, m4); avx512: from Skylake on (c5, m5, ...); avx10: the newest. Without its own
#           file an Intel processor would run `def`, several times slower, and nobody would be told.
#   mc3     Intel before Haswell: `def` does.
# Of the threading layers, intel_thread is the default, and MKL_THREADING_LAYER=SEQUENTIAL is the one that people set.
# Not needed by numpy and its like: 64-bit integers (ilp64), clusters (scalapack, blacs, cdft), GPUs (sycl, libur,
# libomptarget).
set -euo pipefail
lib=${1:?the folder with libmkl_rt}

shopt -s nullglob extglob
keep='@(rt|core|intel_lp64|intel_thread|sequential|def|vml_def|avx2|vml_avx2|avx512|vml_avx512|avx10|vml_avx10)'

tally() {
    local files=("$lib"/libmkl_*.so* "$lib"/libur_*.so* "$lib"/libomptarget*.so*)
    [ ${#files[@]} -gt 0 ] || { echo 0 0; return; }
    # links are counted as the few bytes they are
    stat --printf '%s\n' "${files[@]}" | awk '{ bytes += $1 } END { print NR, bytes }'
}

[ -n "$(echo "$lib"/libmkl_rt.so*)" ] || { echo "slim-mkl: there is no libmkl_rt in $lib" >&2; exit 1; }
for part in core intel_lp64 intel_thread def vml_def avx2 avx512; do
    [ -n "$(echo "$lib/libmkl_$part".so*)" ] ||
        { echo "slim-mkl: libmkl_$part is missing; nothing was removed" >&2; exit 1; }
done

read -r files_before bytes_before < <(tally)
for file in "$lib"/libmkl_*.so* "$lib"/libur_*.so* "$lib"/libomptarget*.so*; do
    # the right side is a pattern on purpose
    # shellcheck disable=SC2053
    [[ ${file##*/} == libmkl_$keep.so* ]] || rm -f "$file"
done
read -r files_after bytes_after < <(tally)
echo "slim-mkl: before $files_before files $bytes_before bytes, after $files_after files $bytes_after bytes"
