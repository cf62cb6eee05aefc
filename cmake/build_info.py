"""Writes _build_info.json: the name of a build, the CPU features that a library built with the given compiler flags may
use, and if it may use a GPU.

The names are those of /proc/cpuinfo ("flags" on x86-64, "Features" on aarch64), so that they can be compared
before the library is loaded: even its static initialisers may hold such instructions.
"""

import argparse
import json
import platform
import subprocess
from pathlib import Path

# Predefined macro of GCC and Clang -> name in /proc/cpuinfo; instructions that compilers or ggml's kernels emit.
X86_64 = {
    "__SSE3__": "pni",
    "__SSSE3__": "ssse3",
    "__SSE4_1__": "sse4_1",
    "__SSE4_2__": "sse4_2",
    "__POPCNT__": "popcnt",
    "__LZCNT__": "abm",
    "__MOVBE__": "movbe",
    "__BMI__": "bmi1",
    "__BMI2__": "bmi2",
    "__ADX__": "adx",
    "__AVX__": "avx",
    "__AVX2__": "avx2",
    "__FMA__": "fma",
    "__FMA4__": "fma4",
    "__XOP__": "xop",
    "__TBM__": "tbm",
    "__F16C__": "f16c",
    "__GFNI__": "gfni",
    "__VAES__": "vaes",
    "__VPCLMULQDQ__": "vpclmulqdq",
    "__AVXVNNI__": "avx_vnni",
    "__AVXIFMA__": "avx_ifma",
    "__AVX512F__": "avx512f",
    "__AVX512CD__": "avx512cd",
    "__AVX512BW__": "avx512bw",
    "__AVX512DQ__": "avx512dq",
    "__AVX512VL__": "avx512vl",
    "__AVX512IFMA__": "avx512ifma",
    "__AVX512VBMI__": "avx512vbmi",
    "__AVX512VBMI2__": "avx512_vbmi2",
    "__AVX512VNNI__": "avx512_vnni",
    "__AVX512BITALG__": "avx512_bitalg",
    "__AVX512VPOPCNTDQ__": "avx512_vpopcntdq",
    "__AVX512VP2INTERSECT__": "avx512_vp2intersect",
    "__AVX512BF16__": "avx512_bf16",
    "__AVX512FP16__": "avx512_fp16",
    "__AMX_TILE__": "amx_tile",
    "__AMX_INT8__": "amx_int8",
    "__AMX_BF16__": "amx_bf16",
    "__MOVDIRI__": "movdiri",
}
AARCH64 = {
    "__ARM_FEATURE_ATOMICS": "atomics",
    "__ARM_FEATURE_DOTPROD": "asimddp",
    "__ARM_FEATURE_FP16_VECTOR_ARITHMETIC": "asimdhp",
    "__ARM_FEATURE_QRDMX": "asimdrdm",
    "__ARM_FEATURE_MATMUL_INT8": "i8mm",
    "__ARM_FEATURE_BF16_VECTOR_ARITHMETIC": "bf16",
    "__ARM_FEATURE_SVE": "sve",
    "__ARM_FEATURE_SVE2": "sve2",
    "__ARM_FEATURE_SME": "sme",
}


def cpu_features(compiler: str, flags: list[str], machine: str) -> list[str]:
    """The features that `compiler` may use with `flags`, sorted."""
    command = [compiler, *flags, "-dM", "-E", "-x", "c++", "/dev/null"]
    listing = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    macros = {line.split()[1] for line in listing.splitlines()}
    table = {"x86_64": X86_64, "aarch64": AARCH64}[machine]
    return sorted(feature for macro, feature in table.items() if macro in macros)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--build", required=True, help="its name")
    parser.add_argument("--llama-build", type=int, required=True)
    parser.add_argument("--compiler", required=True)
    parser.add_argument("--flag", action="append", default=[])
    parser.add_argument("--cuda", action="store_true")
    args = parser.parse_args()
    machine = platform.machine()
    info = {
        "build": args.build,
        "machine": machine,
        "cpu_features": cpu_features(args.compiler, args.flag, machine),
        "flags": args.flag,
        "cuda": args.cuda,
        "llama_cpp_build": args.llama_build,
    }
    args.output.write_text(json.dumps(info, indent=1) + "\n")


if __name__ == "__main__":
    main()
