"""aarch64 and big-endian: the cross-built client beside the native host, and its machine code."""
import glob
import os
import re
import shutil
import unittest
from typing import Dict, List

from harness import HERE, ROOT, PortTest, build, need, record, run, suite, version_line

GCC, OBJDUMP, QEMU = "aarch64-linux-gnu-gcc", "aarch64-linux-gnu-objdump", "qemu-aarch64-static"

# What each function must do, in this order, as letters: A load-acquire, L load, R store-release,
# S store, X compare-and-swap (acquire and release), f "dmb ishld", F "dmb ish", c a call. (The
# stack is left out, and other instructions.) LOAD and STORE: the ordered forms that ARMv8 knows.
# Functions are not inlined, so that each rule can be told from its neighbours'.
LOAD, STORE = "(A|L[fF])", "(R|FS)"
RULES = {
    "begin_at_head": LOAD,
    "lapped": LOAD,
    "lane_claim": f"X.*{STORE}.*X.*F.*c.*{STORE}",
    "lane_leave": "X",
    "lane_next": f"{LOAD}.*{LOAD}",               # head, seq
    "lane_confirm": "^[^c]*c[LS]*[fF]L*cL",       # R4 between the use and the second look at seq
    "lane_release": f"{STORE}$",                  # cursor
    "lane_restore": f"{STORE}$",
    "lane_readable": LOAD,
    "lane_writable": f"F.*L.*{LOAD}",             # our head, then flags and cursor
    "lane_reserve": "cL*SF",                     # seq = 2n-1, then F1
    "lane_commit": f"{STORE}[^RX]*{STORE}.*FL*L",  # F2 with seq = 2n, head = n; wake
    "lane_unread": LOAD,
    "waiter_block": "SFL",                        # waiting, then head
}
ORDERED = "memory_order_(acquire|release|acq_rel|seq_cst)"


def letters(disassembly: str) -> str:
    """One function as a word over the alphabet of RULES."""
    word = ""
    for line in disassembly.split("\n"):
        part = line.split("\t")
        if len(part) < 2:
            continue
        name, operands = part[1].strip(), part[2] if len(part) > 2 else ""
        if name == "dmb":
            word += {"ishld": "f", "ish": "F"}.get(operands.split()[0], "")
        elif re.search(r"__aarch64_cas8_acq_rel|__aarch64_cas8_sync", operands) or name == "casal":
            word += "X"
        elif name == "bl" or name == "blr":
            word += "c"
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


def broken_rules(disassembly: str, swaps: int) -> List[str]:
    """The functions whose order is not what the protocol needs, each with its word. swaps: how many
    compare-and-swaps the source has; every one is ordered both ways."""
    bodies = re.findall(r"^[0-9a-f]+ <(\w+)>:\n(.*?)(?:\n\n|\Z)", disassembly, re.M | re.S)
    words = {name: letters(body) for name, body in bodies}
    broken = [f"{name}: {words.get(name)}" for name, rule in RULES.items()
              if not re.search(rule, words.get(name, ""))]
    return broken + ["swaps: too few"] * ("".join(words.values()).count("X") < swaps)


class Order(PortTest):
    """Does the machine code keep the order? Each rule is shown to fail where it is weakened."""

    def disassemble(self, compiler: List[str], sources: List[str]) -> str:
        text = ""
        for source in sources:
            target = self.path("order.o")
            build(self, [*compiler, "-fno-inline", "-c"], target, [source])
            code, said = run([OBJDUMP, "-d", "--no-show-raw-insn", target])
            self.assertEqual(code, 0, said)
            text += said + "\n\n"
        return text

    @staticmethod
    def source(name: str) -> str:
        with open(os.path.join(ROOT, "src", name)) as text:
            return text.read()

    def broken(self, compiler: List[str], lane: str, waiter: str) -> List[str]:
        text = self.disassemble(compiler, [self.file("lane.c", lane.encode()),
                                           self.file("waiter.c", waiter.encode())])
        return broken_rules(text, lane.count("compare_exchange"))

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
        """Each memory order of lane.c, weakened by itself, is found in the machine code."""
        need(GCC, OBJDUMP)
        compiler = [GCC, "-std=c11", "-O2"]
        lane, waiter = self.source("lane.c"), self.source("waiter.c")
        everything = [re.sub(ORDERED, "memory_order_relaxed", text) for text in (lane, waiter)]
        self.assertEqual(sorted(line.split(":")[0] for line in self.broken(compiler, *everything)),
                         sorted([*RULES, "swaps"]))
        found = list(re.finditer(ORDERED, lane))
        self.assertGreater(len(found), 15)
        for match in found:
            weaker = lane[:match.start()] + "memory_order_relaxed" + lane[match.end():]
            line = lane.count("\n", 0, match.start()) + 1
            with self.subTest(line=line):
                self.assertNotEqual(self.broken(compiler, weaker, waiter), [])
        fence = "    atomic_thread_fence(memory_order_acquire);\n"
        look = "    if (atomic_load_explicit(&slot->seq, memory_order_relaxed) == 2 * message->n)\n"
        for old, new in [(fence, ""), (look, look + "    " + fence + "    if (lane->next)\n")]:
            with self.subTest(mutant=new):  # R4 is missing; R4 comes after the second look
                self.assertEqual(lane.count(old), 1)
                late = lane.replace(fence, "").replace(old, new)
                self.assertNotEqual(self.broken(compiler, late, waiter), [])


class Emulated(PortTest):
    """The client runs under qemu-user, the host beside it natively: one segment, two machines."""

    def client_for(self, machine: str) -> str:
        compiler = f"{machine}-linux-gnu-gcc"
        need(compiler, f"qemu-{machine}-static")
        return build(self, [compiler, "-std=c11", "-O2", "-static"], self.path("client-" + machine))

    def test_aarch64(self) -> None:
        client = self.client_for("aarch64")
        self.check_layout(QEMU, client)
        elsewhere = ("test_readme.py",)  # runs the commands of the README, on the native client
        environment = {"CLIENTE_C": client, "CLIENTE_C_WRAPPER": QEMU, "TEST_SLOWNESS": "4"}
        for folder in ("port", "pair", "fault"):
            names = ["smoke"] if folder == "port" else sorted(
                os.path.basename(path)[:-3] for path in
                glob.glob(os.path.join(os.path.dirname(HERE), folder, "test_*.py"))
                if os.path.basename(path) not in elsewhere)
            if names:
                with self.subTest(folder=folder):
                    record(suite(self, folder, names, 900, **environment),
                           "ran (qemu-user, native host)", cpu="aarch64",
                           compiler=version_line(GCC))

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
