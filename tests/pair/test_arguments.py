"""What a user may type wrongly: one line, an exit code, nothing left behind."""
import ast
import os
import signal
import subprocess
import sys
import unittest

from support import CLIENT, HOST, STATE, PairTest
import host


class Arguments(PairTest):
    def refused(self, command, code: int, *words: str, **popen) -> None:
        with self.subTest(command=command):
            before = set(os.listdir("/dev/shm"))
            out, err = self.finish(self.start(command, **popen), code)
            self.assertEqual(out or "", "")
            self.one_line(err, *words)
            self.assertFalse([name for name in set(os.listdir("/dev/shm")) - before
                              if self.name in name])

    def host_refuses(self, words, *said: str) -> None:
        """In this process: a table of them is quicker so."""
        with self.subTest(words=words), self.assertRaises(host.Error) as end:
            host.parse_options(words)
        self.assertEqual(end.exception.kind, "usage")
        self.one_line(f"{end.exception}\n", *said)

    def test_host(self) -> None:
        command = ["--name", self.name]
        for words in (["--size", "0"], ["--slots", "1"], ["--slots", "131072"], ["--rate", "-1"],
                      ["--rate", "nan"], ["--count", "abc"], ["--count", "-1"], ["--count", "1x"],
                      ["--size", "1e3"], ["--stall-timeout", "0"], ["--rate", "1e-310"],
                      ["--input", ""], ["--sink", ""]):
            self.host_refuses(command + words, words[0])
        self.host_refuses(command + ["--wait", "yield"], "--wait", "choose from", "spin", "block")
        for gone in ("--cpu", "--frobnicate", "--siz=3"):  # no abbreviations
            self.host_refuses(command + [gone], gone)
        self.host_refuses(command + ["trailing"], "trailing")
        self.host_refuses(command + ["--"], "COMMAND")
        self.host_refuses(command + ["--echo", "--sink", "x"], "only one")
        self.host_refuses(command + ["--json", "--sink", "-"], "standard output")
        for name, why in (("", "empty"), ("/", "only a slash"), ("a/b", "slash inside"),
                          ("..", "folder"), ("a\nb", "ASCII"), ("x" * 256, "too long"),
                          ("a:b", "colon"), ("\u00f1and\u00fa", "ASCII"),
                          (os.fsdecode(b"\xff"), "ASCII")):
            self.host_refuses(["--name", name], why)
        for words in (["a\nb"], ["--size", "a\nb"], ["--wait", "a\rb"]):
            self.refused(HOST + command + words, 2, "host.py: ")
        for words in (["--rate", " 5"], ["--rate", "1_0"], ["--stall-timeout", "1 "]):
            self.host_refuses(command + words, words[0], "not a number")
        for words in (["--size", "0"], ["trailing"]):
            self.refused(HOST + command + words, 2, "host.py: ", words[0], "--help")
        self.refused(HOST + command + ["--slots", "3", "--quiet"], 2, f"/{self.name}: slots 3",
                     "power of two", "--help")
        self.refused(HOST + ["--name", b"\xff"], 2, "ASCII", "--help")

    def test_fifo_without_its_other_end(self) -> None:
        os.mkfifo(self.path("fifo"))
        live = self.host("--quiet")
        self.wait_live()
        for command in (HOST + ["--name", self.name + "x", "--input", self.path("fifo"), "--quiet"],
                        HOST + ["--name", self.name + "x", "--sink", self.path("fifo"), "--quiet"],
                        CLIENT + ["--output", self.path("fifo"), "--quiet", self.name]):
            with self.subTest(command=command):
                process = self.start(command)
                self.until(lambda: self.catches(process.pid, signal.SIGTERM), "it takes signals")
                with self.assertRaises(subprocess.TimeoutExpired):
                    process.wait(0.3)
                process.terminate()
                self.assertEqual(self.finish(process), ("", ""))
        live.terminate()
        self.finish(live)

    def test_refused_is_not_emptied(self) -> None:
        """Who may not run does not touch the file of who does."""
        sink, output = self.file("sink", b"sink"), self.file("output", b"output")
        host = self.host("--quiet")
        self.wait_live()
        client = self.client("--quiet", "--count", 0, "--lossless")
        self.wait_attached()
        self.refused(HOST + ["--name", self.name, "--sink", sink], 3, "is running")
        self.refused(CLIENT + ["-q", "--lossless", "--output", output, self.name], 5,
                     "refused", f"pid {client.pid} is the one consumer already")
        for path, content in ((sink, b"sink"), (output, b"output")):
            with open(path, "rb") as file:
                self.assertEqual(file.read(), content)
        host.terminate()
        self.finish(host)
        self.finish(client)
        self.finish(self.pair(["--count", 1, "--size", 1, "--wait-client", "--quiet"],
                              ["--quiet", "--output", output]))
        with open(output, "rb") as file:  # and who may begins anew
            self.assertEqual(file.read(), b"\1")

    def test_nobody_hears_the_warning(self) -> None:
        name = self.name + 20 * "x"
        for shell in ('exec "$0" "$@" 2>&-', 'exec "$0" "$@" 2>/dev/full'):
            out, _ = self.finish(self.start(["sh", "-c", shell, *HOST, "--name", name, "--json",
                                             "--count", "3"]))
            self.assertEqual((out[0], out.count("\n")), ("{", 1))

    def test_host_files(self) -> None:
        command = HOST + ["--name", self.name, "--quiet"]
        self.refused(command + ["--input", self.path("missing")], 1, "missing", "No such file")
        self.refused(command + ["--input", self.folder.name], 1, "directory")
        self.refused(command + ["--sink", self.path("no/such")], 1, "No such file")
        self.refused(command + ["--input", "/a\nb"], 1, "/a?b", "No such file")
        self.refused(command + ["--", self.path("no-program")], 1, "cannot use", "no-program")
        if os.geteuid():
            secret = self.file("secret", b"x")
            os.chmod(secret, 0)
            self.refused(command + ["--input", secret], 1, "Permission denied")

    def test_client(self) -> None:
        command = CLIENT + ["--timeout", "0.05", "--quiet"]
        for words in (["--count", "abc"], ["--count", "-1"], ["--count", " 1"], ["--count", "1x"],
                      ["--count", "99999999999999999999"], ["--timeout", "soon"],
                      ["--timeout", "0x5"], ["--timeout", " 5"], ["--timeout", "-1"],
                      ["--timeout", "nan"], ["--wait", "yield"], ["--format", "xml"]):
            self.refused(command + words + [self.name], 2, "cliente_c: ", words[0])
        self.refused(command + ["--wait", "x", self.name], 2, "adaptive spin block")
        self.refused(command + ["--format", "x", self.name], 2, "raw ndjson")
        for words in (["--newest", "--lossless"], ["--newest", "--echo"], ["--reconnect", "--echo"],
                      ["--newest", "--source", "x"], ["--reconnect", "--source", "x"]):
            self.refused(command + words + [self.name], 2, "--")
        self.refused(command + ["--frobnicate", self.name], 2, "--frobnicate", "--help")
        self.refused(command + ["-Z", self.name], 2, "-Z")
        self.refused(command + ["-jZq", self.name], 2, "-Z")
        for gone in ("--peek", "--observe", "--reattach", "--cpu"):
            self.refused(command + [gone, self.name], 2, gone, "unknown")
        self.refused(command + [self.name, "trailing"], 2, "trailing")
        self.refused(command + ["--count"], 2, "--count", "missing")
        self.refused(command + ["--source", "x", "--lossless", self.name], 2, "--source")
        self.refused(command + ["--format", "ndjson", self.name], 2, "--format", "--output")
        self.refused(command + ["--source", "x", "--output", "y", self.name], 2, "--source")
        self.refused(command + ["--json", "--output", "-", self.name], 2, "--json")
        for option in ("--output", "--source"):
            self.refused(command + [option, "", self.name], 2, option, "FILE is empty")
        for name, why in (("", "empty"), ("/", "only a slash"), ("a/b", "slash inside"),
                          ("..", "folder"), ("a\nb", "ASCII"), ("a:b", "colon"),
                          ("x" * 256, "too long")):
            self.refused(command + [name], 2, why)

    def test_client_without_host(self) -> None:
        self.refused(CLIENT + ["--timeout", "0.05", self.name], 3, "no host", "/" + self.name,
                     "start host.py", "--ipc=host")
        self.refused(CLIENT + ["--output", self.path("no/such"), self.name], 1, "No such file")
        self.refused(CLIENT + ["--source", self.path("missing"), self.name], 1, "No such file")

    def test_full_disk_and_closed_output(self) -> None:
        _, err = self.finish(self.pair(["--count", "10", "--wait-client", "--quiet"],
                                       ["--quiet", "--lossless", "--output", "/dev/full"]), 1)
        self.one_line(err, "/dev/full", "No space left")
        shell = 'exec "$0" "$@" >&-'
        self.refused(["sh", "-c", shell, *CLIENT, "--quiet", "--json", self.name], 1,
                     "standard output is closed")
        self.refused(["sh", "-c", shell, *CLIENT, "--timeout", "0.05", self.name], 1,
                     "standard output is closed")
        for command, option in ((CLIENT, "--source"), (HOST + ["--name"], "--input")):
            self.refused(["sh", "-c", 'exec "$0" "$@" <&-', *command, self.name, "--quiet", option,
                          "-"], 1)
        for option in ("--json", "--wait-client"):
            self.refused(["sh", "-c", shell, *HOST, "--name", self.name, "--count", "1", option] +
                         (["--quiet"] if option == "--json" else []), 1,
                         "standard output: closed")
        with open("/dev/full", "w") as full:
            self.refused(HOST + ["--name", self.name, "--count", "1"], 1, "No space left",
                         stdout=full)

    def test_foreign_segments(self) -> None:
        path = f"/dev/shm/{self.name}"
        client = CLIENT + ["--timeout", "0.1", "--quiet", self.name]
        old = bytearray(8192)  # the version before
        old[:12] = b"SHMPRUEB" + (1).to_bytes(4, sys.byteorder)
        old[STATE:STATE + 4] = (1).to_bytes(4, sys.byteorder)
        for content, word in ((b"x" * 8192, "not made by host.py"), (b"x" * 10, "10 bytes"),
                              (bytes(old), "version 1")):
            with open(path, "wb") as segment:
                segment.write(content)
            self.refused(client, 5, "refused", word)
            self.refused(HOST + ["--name", self.name, "--quiet"], 5, "refused")
            with open(path, "rb") as segment:  # and left as it was
                self.assertEqual(segment.read(), content)
            os.unlink(path)
        with open(path, "wb") as segment:  # zeros where our magic would be
            segment.write(bytes(64) + b"somebody's" + bytes(4000))
        self.refused(HOST + ["--name", self.name, "--quiet"], 5, "refused")
        with open(path, "wb"):  # empty: its host may be about to size it
            pass
        self.refused(client, 3, "not finished starting")

    def test_unfit_pythons(self) -> None:
        """Each gets one line; so the file must parse there."""
        with open(HOST[1]) as source:
            ast.parse(source.read(), feature_version=(3, 6))
        for change, words in (("version_info = (3, 6, 9)", ("3.8 or newer", "this is 3.6")),
                              ("implementation.name = 'pypy'", ("CPython", "pypy")),
                              ("maxsize = 2 ** 31 - 1", ("64-bit",))):
            self.refused([HOST[0], "-c", f"import runpy, sys; sys.{change}; "
                          f"runpy.run_path({HOST[1]!r}, run_name='__main__')"],
                         1, "host.py: needs ", *words)
        with open(HOST[1], "rb") as source:  # it was copied alone
            alone = self.file("host.py", source.read())
        self.refused([HOST[0], alone], 1, "shmprueba", "beside it")

    def test_no_room_for_the_segment(self) -> None:
        self.refused(["sh", "-c", 'ulimit -f 100; exec "$0" "$@"', *HOST, "--name", self.name,
                      "--size", "1000000"], 1, f"/{self.name}: ", "cannot create", "bytes")

    def test_help_and_version(self) -> None:
        for command in (HOST + ["--help"], CLIENT + ["--help"], CLIENT + ["--version"]):
            out, err = self.finish(self.start(command))
            self.assertTrue(out and not err)


if __name__ == "__main__":
    unittest.main()
