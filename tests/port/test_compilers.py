"""GCC, Clang, musl, every dialect and optimisation: no warning, same layout, a lossless run."""
import concurrent.futures
import os
import re
import shutil
import unittest
from typing import List, Tuple

from harness import ROOT, PortTest, build, need, record, require, run, suite, version_line

DIALECTS = ["-std=c11", "-std=gnu11"]  # CMAKE_C_EXTENSIONS off and on
VARIANTS = ["-std=c11 -O0", "-std=c11 -O2", "-std=c11 -O3 -flto", "-std=gnu11 -O2"]


def installed(family: str) -> List[str]:
    """gcc, and every gcc-N beside it; one of each version."""
    found = {}
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
            if re.fullmatch(family + r"(-\d+)?", name) and shutil.which(name):
                found.setdefault(re.sub(r"^\S+ ", "", version_line(name)), name)
    return list(found.values())


class Compilers(PortTest):
    def usable(self, command: List[str]) -> Tuple[bool, str]:
        """Can this toolchain link anything with these options? (Clang's -flto needs a plug-in.)"""
        code, said = run([*command, self.file("empty.c", b"int main(void) { return 0; }\n"), "-o",
                          self.path("empty")])
        return code == 0, said.strip().split("\n")[-1]

    def variants(self, compiler: str, option_sets: List[str]) -> None:
        """Builds them two at a time, then runs each."""
        commands = [[compiler, *options.split()] for options in option_sets]
        missing = {}
        for options, command in zip(option_sets, commands):
            good, why = self.usable(command)
            if not good:
                missing[options] = why
        usable = [options for options in option_sets if options not in missing]
        self.assertTrue(usable, missing)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            jobs = [(options, pool.submit(build, self, [compiler, *options.split()],
                                          self.path(f"client{i}")))
                    for i, options in enumerate(usable)]
        ran = []
        for options, job in jobs:
            with self.subTest(compiler=compiler, options=options):
                client = job.result()
                self.check_layout(client)
                suite(self, "port", ["smoke.Smoke.test_default_run",
                                     "smoke.Smoke.test_lossless_copy"], 120, CLIENTE_C=client)
                ran.append(options)
        groups = {dialect: [o[len(dialect) + 1:] for o in ran if o.split()[0] == dialect]
                  for dialect in DIALECTS}
        for dialect, levels in groups.items():
            if levels:
                record(f"layout, lossless run; {dialect} {', '.join(levels)}", "ran",
                       compiler=version_line(compiler), **(
                           {"libc": "musl"} if "musl" in compiler else {}))
        for options, why in missing.items():
            print(f"{compiler} {options}: not here: {why}")

    def family(self, family: str) -> None:
        need(family)
        for compiler in installed(family):
            self.variants(compiler, VARIANTS)

    def test_gcc(self) -> None:
        self.family("gcc")

    def test_clang(self) -> None:
        self.family("clang")

    def test_static_musl(self) -> None:
        need("musl-gcc")
        good, why = self.usable(["musl-gcc", "-static"])
        require(good, f"musl-gcc cannot link: {why}")
        self.variants("musl-gcc", ["-std=c11 -O2 -static"])

    def test_32_bit_is_one_error(self) -> None:
        """Before any header of a libc, which need not be there for 32 bits."""
        need("gcc")
        code, said = run(["gcc", "-m32", "-std=c11", "-ffreestanding", "-fsyntax-only",
                          os.path.join(ROOT, "include", "shm_layout.h")])
        require("shmprueba" in said or code == 0, f"no 32-bit gcc: {said[-200:]}")
        self.assertNotEqual(code, 0)
        self.assertEqual(said.count("error:"), 1, said)
        self.assertIn("needs a 64-bit build", said)
        record("32-bit build: one #error", "refused, as it should", cpu="i686", python="",
               compiler=version_line("gcc"))


if __name__ == "__main__":
    unittest.main()
