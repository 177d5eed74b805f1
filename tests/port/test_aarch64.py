"""aarch64 and big-endian: the client beside a native host, under an emulator; its machine code."""
import functools
import os
import re
import shutil
import unittest
from typing import Dict, List, Tuple

from harness import NATIVE_CLIENT, ROOT, PortTest, build, need, record, run, suite, version_line

# What the emulated client is tested with: its own cases, not those of the host.
SUITES = {"port": ["smoke"], "pair": ["test_pair.Smoke", "test_pair.Checks", "test_pair.BothWays"],
          "fault": ["test_segment_faults.Shapes", "test_client_faults.Consumer"]}
SOURCES = ["segment.c", "lane.c"]  # all that has memory orders; the test checks that
GCC, OBJDUMP, QEMU = "aarch64-linux-gnu-gcc", "aarch64-linux-gnu-objdump", "qemu-aarch64-static"

# What each function must do, in this order, as letters: A load-acquire, L load, R store-release,
# S store, x compare-and-swap, N add that releases, f "dmb ishld", F "dmb ish"; a letter of CALLS:
# a call of that function, c any other call. (The stack and other instructions are left out.)
# Functions are not inlined, so each rule is about one of them. A call has its letter only if the
# function that is called keeps its own rule.
CALLS = {"begin_at_head": "H", "is_held": "I", "take_place": "P", "load_head": "G",
         "shm_lane_dropped": "D", "shm_lane_next": "E", "shm_lane_writable": "W",
         "shm_role_take": "T", "shm_role_leave": "V", "shm_role_is_held": "Q"}
WITHOUT_A_RULE = {name: CALLS[name] for name in CALLS if name.startswith("shm_role_")}  # role.c
RULES = {  # callees before callers
    # segment.c
    "shm_segment_check": "^L*A",              # live: state before the header
    "ask": "Q[^A]*A",                         # is the host's role held, then state
    # lane.c, reading
    "begin_at_head": "A",
    "shm_lane_open": "H",
    "shm_lane_attach": "H.*N$",               # head, then, as the last step, attached
    "is_held": "A",
    "take_place": "^[^H]*A[^H]*I[^H]*SFH.*R.*N",  # place, dropped; claim; head; place, attached
    "shm_lane_claim": "A[^T]*I.*T.*P",        # place, the role, place once more
    "shm_lane_leave": "R[^V]*V",              # place, then the role
    "shm_lane_dropped": "A",
    "load_head": "A.*D",
    "shm_lane_confirm": "^[^D]*[fF]D[^f]*L",  # R4, dropped, seq again
    "shm_lane_next": "(?=.*G).*A.*L",         # head, seq, then the rest of the slot
    "shm_lane_release": "R",
    "shm_lane_sleep": "x[^F]*F[^cL]*L[^cL]*L",  # wish, then head
    # lane.c, writing
    "shm_lane_produce": "A.*I",
    "shm_lane_writable": "^[^A]*F[^A]*A.*I",  # room: our head, then place and dropped
    "shm_lane_reserve": "W[^S]*SF",           # room, seq = 2n-1, F1
    "shm_lane_commit": "S[^R]*R[^FS]*RFL*L",  # F2 with seq = 2n, head = n; wake
    "shm_lane_unread": "A",
    "shm_crc32": "(?=.*A).*R",                # its table
}
ORDERED = re.compile(r"\bmemory_order_(acquire|release|seq_cst)\b|(?<=, )(acquire|release)(?=\))")


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
        elif "__aarch64_cas8_" in operands or re.match(r"casa?l?$", name):
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
    broken, calls = [], dict(WITHOUT_A_RULE)
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

    def broken(self, compiler: List[str], *sources: str) -> List[str]:
        return broken_rules("".join(self.disassemble(tuple(compiler), text) for text in sources))

    def test_every_ordered_access(self) -> None:
        need(GCC, OBJDUMP)
        compilers = [[GCC, "-std=c11", *options.split()] for options in (
            "-O0", "-O2", "-O3", "-O2 -march=armv8.1-a", "-O2 -march=armv8.3-a")]
        if shutil.which("clang"):
            compilers.append(["clang", "--target=aarch64-linux-gnu", "-std=c11", "-O2",
                              "-march=armv8.1-a"])
        sources = [self.source(name) for name in SOURCES]
        checked: Dict[str, List[str]] = {}
        for compiler in compilers:
            with self.subTest(compiler=compiler):
                self.assertEqual(self.broken(compiler, *sources), [])
                checked.setdefault(compiler[0], []).append(" ".join(
                    word for word in compiler if word.startswith(("-O", "-march="))))
        for name, options in checked.items():
            record(f"order in the machine code of {', '.join(SOURCES)}; " + ", ".join(options),
                   "compiled and checked, not run", cpu="aarch64", python="",
                   compiler=version_line(name))

    def test_every_file_with_an_order_is_read(self) -> None:
        for name in sorted(os.listdir(os.path.join(ROOT, "src"))):
            if name.endswith(".c") and name not in SOURCES:
                self.assertIsNone(ORDERED.search(self.source(name)), name)

    @staticmethod
    def mutants(text: str) -> List[Tuple[str, int, int, str]]:
        """(what, begin, end, what to put there instead): each memory order, weakened by itself;
        each fence, made one statement too late; those after a STORE or the CRC, too early."""
        found = []
        for match in ORDERED.finditer(text):
            prefix = "memory_order_" if match.group(1) else ""
            for order in ["relaxed"] + ["acquire"] * (match.group(1) == "seq_cst"):
                found.append(("weaker", match.start(), match.end(), prefix + order))
        fence = r"( *atomic_thread_fence[^;]*;\n)"
        between = r"\s*?(?: */\*(?:[^*]|\*[^/])*\*/\n)?"  # a comment
        for match in re.finditer(fence + between + r"([^;]*;.*\n)", text):
            found.append(("late", match.start(), match.end(), match.group(2) + match.group(1)))
        before = r"(\n[^;{}*]*(?:STORE|matches)[^;{}]*;\n)"
        for match in re.finditer(before + between + fence, text):
            found.append(("early", match.start(), match.end(), "\n" + match.group(2)
                          + match.group(1)))
        return found

    def test_the_check_can_fail(self) -> None:
        """It finds each mutant of the source."""
        need(GCC, OBJDUMP)
        compiler = [GCC, "-std=c11", "-O2"]
        sources = {name: self.source(name) for name in SOURCES}
        relaxed = [ORDERED.sub(lambda match: "memory_order_" * bool(match.group(1)) + "relaxed",
                               text) for text in sources.values()]
        self.assertEqual([line.split(":")[0] for line in self.broken(compiler, *relaxed)],
                         list(RULES))
        for name, text in sources.items():
            mutants = self.mutants(text)
            kinds = [what for what, *_ in mutants]
            self.assertEqual(kinds.count("late"), text.count("atomic_thread_fence("))
            self.assertGreaterEqual(2 * kinds.count("early"), kinds.count("late"))
            for what, begin, end, instead in mutants:
                with self.subTest(file=name, line=text.count("\n", 0, begin) + 1, what=what,
                                  instead=instead):
                    self.assertNotEqual(self.broken(compiler, *(
                        text[:begin] + instead + text[end:] if other == name else sources[other]
                        for other in SOURCES)), [])


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
        layout = self.layout(["qemu-s390x-static", client])
        self.assertEqual(layout.replace("; big e", "; little e"), self.layout([NATIVE_CLIENT]))
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
