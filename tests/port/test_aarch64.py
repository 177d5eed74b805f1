"""aarch64 and big-endian: the cross-built client beside the native host, and its machine code."""
import functools
import os
import re
import shutil
import unittest
from typing import Dict, List, Tuple

from harness import ROOT, PortTest, build, need, record, run, suite, version_line

# What the emulated client runs: each of its ways in and out, not the host's own cases.
SUITES = {"port": ["smoke"], "pair": ["test_pair.Smoke", "test_pair.Checks", "test_pair.BothWays"],
          "fault": ["test_segment_faults.Shapes", "test_client_faults.Consumer"]}
GCC, OBJDUMP, QEMU = "aarch64-linux-gnu-gcc", "aarch64-linux-gnu-objdump", "qemu-aarch64-static"

# What each function must do, in this order, as letters: A load-acquire, L load, R store-release,
# S store, X compare-and-swap that acquires and releases, x one in any order, N add that releases,
# f "dmb ishld", F "dmb ish"; D P H B W a call of a function that has a rule itself and keeps it, c
# any other call. (The stack is left out, and other instructions.) LOAD and STORE: the ordered forms
# that ARMv8 knows. Functions are not inlined, so that each rule can be told from its neighbours'.
LOAD, STORE = "(A|L[fF])", "(R|FS)"
CALLS = {"lane_dropped": "D", "swap_place": "P", "begin_at_head": "H", "fence_both": "B",
         "lane_writable": "W"}
RULES = {  # callees before callers
    "swap_place": "X",
    "begin_at_head": LOAD,
    "lane_dropped": LOAD,
    "fence_both": "F",
    "lane_attach": "H.*N$",                       # head, then, as the last step, attached
    "lane_claim": "(?=(.*A){4})"                  # place, dropped, holder, holder to be swapped
                  ".*P.*A.*X[^P]*F[^P]*H.*P.*N.*D",
    "lane_leave": "P",
    "lapped": f"{LOAD}.*D",
    "lane_next": f"(?=.*D).*{LOAD}.*{LOAD}",      # head, seq
    "lane_confirm": "^[fF]L*D[Lc]*L",             # R4, dropped, the second look at seq
    "lane_release": "P",
    "lane_readable": f"{LOAD}.*D",
    "lane_writable": f"F[LS]*{LOAD}L*L",          # our head, then place and dropped
    "lane_reserve": "W.*cL*SF",                   # room, seq = 2n-1, F1
    "lane_commit": f"{STORE}[^FRX]*{STORE}FL*L",  # F2 with seq = 2n, head = n; wake
    "lane_unread": LOAD,
    "lane_has_consumer": LOAD,
    "sleep_for": "^L*[xX].*Bc?L",                   # wish, then head
}
ORDERED = "memory_order_(acquire|release|acq_rel|seq_cst)"


def letters(disassembly: str, calls: Dict[str, str]) -> str:
    """One function as a word over the alphabet of RULES."""
    word = ""
    for line in disassembly.split("\n"):
        part = line.split("\t")
        if len(part) < 2:
            continue
        name, operands = part[1].strip(), part[2] if len(part) > 2 else ""
        target = re.search(r"<(\w+)[.\w]*>$", operands.rstrip())
        called = target.group(1) if target else ""
        if name == "dmb":
            word += {"ishld": "f", "ish": "F"}.get(operands.split()[0], "")
        elif re.search(r"__aarch64_cas8_(acq_rel|sync)", operands) or name == "casal":
            word += "X"
        elif "__aarch64_cas8_" in operands or re.match(r"cas[al]?$", name):
            word += "x"
        elif re.search(r"__aarch64_ldadd4_(rel|acq_rel|sync)$", operands.rstrip(">")) or re.match(
                r"(ldaddl|ldaddal|staddl)$", name):
            word += "N"
        elif name in ("bl", "blr") or name == "b" and called in calls:  # a tail call
            word += calls.get(called, "c")
        elif "[sp" in operands or "[x29" in operands:
            continue  # the stack
        elif re.match(r"ldap?r|ldapur", name):
            word += "A"
        elif name.startswith("stlr"):
            word += "R"
        elif re.match(r"ld(p|r|ur)", name):
            word += "L"
        elif re.match(r"st(p|r|ur)", name):
            word += "S"
    return word


def broken_rules(disassembly: str) -> List[str]:
    """The functions whose order is not what the protocol needs, each with its word."""
    bodies = dict(re.findall(r"^[0-9a-f]+ <(\w+)[.\w]*>:\n(.*?)(?:\n\n|\Z)", disassembly,
                             re.M | re.S))
    broken, calls = [], {}
    for name, rule in RULES.items():
        word = letters(bodies.get(name, ""), calls)
        if not re.search(rule, word):
            broken.append(f"{name}: {word}")
        elif name in CALLS:
            calls[name] = CALLS[name]
    return broken


class Order(PortTest):
    """Does the machine code keep the order? Each rule is shown to fail where it is weakened."""

    @functools.lru_cache(maxsize=None)
    def disassemble(self, compiler: Tuple[str, ...], source: str) -> str:
        target = self.path("order.o")
        build(self, [*compiler, "-fno-inline", "-c"], target,
              [self.file("order.c", source.encode())])
        code, said = run([OBJDUMP, "-d", "--no-show-raw-insn", target])
        self.assertEqual(code, 0, said)
        return said + "\n\n"

    @staticmethod
    def source(name: str) -> str:
        with open(os.path.join(ROOT, "src", name)) as text:
            return text.read()

    def broken(self, compiler: List[str], lane: str, waiter: str) -> List[str]:
        return broken_rules("".join(self.disassemble(tuple(compiler), source)
                                    for source in (lane, waiter)))

    def test_every_ordered_access(self) -> None:
        need(GCC, OBJDUMP)
        compilers = [[GCC, "-std=c11", *options.split()] for options in (
            "-O0", "-O2", "-O3", "-O2 -march=armv8.1-a", "-O2 -march=armv8.3-a")]
        if shutil.which("clang"):
            compilers.append(["clang", "--target=aarch64-linux-gnu", "-std=c11", "-O2",
                              "-march=armv8.1-a"])
        lane, waiter = self.source("lane.c"), self.source("waiter.c")
        checked: Dict[str, List[str]] = {}
        for compiler in compilers:
            with self.subTest(compiler=compiler):
                self.assertEqual(self.broken(compiler, lane, waiter), [])
                checked.setdefault(compiler[0], []).append(" ".join(compiler[2:]))
        for name, options in checked.items():
            record("order in the machine code of lane.c, waiter.c; " + ", ".join(options),
                   "compiled and checked, not run", cpu="aarch64", python="",
                   compiler=version_line(name))

    def test_the_check_can_fail(self) -> None:
        """Each memory order, weakened by itself, and each fence, made too late, is found."""
        need(GCC, OBJDUMP)
        compiler = [GCC, "-std=c11", "-O2"]
        lane, waiter = self.source("lane.c"), self.source("waiter.c")
        everything = [re.sub(ORDERED, "memory_order_relaxed", text) for text in (lane, waiter)]
        self.assertEqual([line.split(":")[0] for line in self.broken(compiler, *everything)],
                         list(RULES))
        mutants = []
        for text, other in ((lane, waiter), (waiter, lane)):
            # Where a swap fails it has no instruction of its own: that order goes with the other.
            for match in re.finditer(ORDERED + r"(,\s*memory_order_\w+\))?", text):
                weaker = ["relaxed"] + ["acquire", "release"] * (match.group(1) == "acq_rel")
                failing = ", memory_order_relaxed)" if match.group(2) else ""
                mutants += [(text, other, match, f"memory_order_{order}{failing}")
                            for order in weaker]
            for match in re.finditer(r"( *atomic_thread_fence[^;]*;\n)([^;]*;.*\n)", text):
                if re.search("lane_dropped|begin_at_head|atomic_load", match.group(2)):
                    mutants.append((text, other, match, match.group(2) + match.group(1)))
        self.assertGreater(len(mutants), 25)
        for text, other, match, instead in mutants:
            with self.subTest(line=text.count("\n", 0, match.start()) + 1, instead=instead):
                mutant = text[:match.start()] + instead + text[match.end():]
                both = (mutant, other) if text is lane else (other, mutant)
                self.assertNotEqual(self.broken(compiler, *both), [])


class Emulated(PortTest):
    """The client runs under qemu-user, the host beside it natively: one segment, two machines."""

    def client_for(self, machine: str) -> str:
        compiler = f"{machine}-linux-gnu-gcc"
        need(compiler, f"qemu-{machine}-static")
        return build(self, [compiler, "-std=c11", "-O2", "-static"], self.path("client-" + machine))

    def test_aarch64(self) -> None:
        client = self.client_for("aarch64")
        self.check_layout(QEMU, client)
        environment = {"CLIENTE_C": client, "CLIENTE_C_WRAPPER": QEMU, "TEST_SLOWNESS": "4"}
        for folder, names in SUITES.items():
            with self.subTest(folder=folder):
                record(suite(self, folder, names, 900, **environment),
                       "ran (qemu-user, native host)", cpu="aarch64", compiler=version_line(GCC))

    def test_big_endian_refuses(self) -> None:
        client = self.client_for("s390x")
        self.check_layout("qemu-s390x-static", client)
        host = self.host("--rate", 100)
        self.wait_live()
        refused = self.start(["qemu-s390x-static", client, "-t", "5", self.name])
        out, err = self.finish(refused, 5)
        self.one_line(err, "cliente_c", self.name, "byte order")
        host.terminate()
        self.finish(host)
        record("big-endian client refuses the segment (exit 5)", "ran (qemu-user, native host)",
               cpu="s390x", compiler=version_line("s390x-linux-gnu-gcc"))


if __name__ == "__main__":
    unittest.main()
