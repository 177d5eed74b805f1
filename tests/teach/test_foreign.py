"""Another project uses the library: as a folder of its own tree, and as it was installed."""
import os
import shutil
import unittest

from programs import ROOT, SRC, TEACH, TeachTest, require

NOT_HERE = ("cliente_c", "demo", "check", "check-all", "torn", "test_programs")


class Foreign(TeachTest):
    """A small CMake project, with reader.c of this folder. CMake 3.10 knows no -S and no -B."""

    def setUp(self) -> None:
        super().setUp()
        require(shutil.which("cmake"), "cmake is not installed")
        require("SANITIZED" not in os.environ, "it builds a library of its own")
        os.makedirs(self.path("a project/build"))
        shutil.copy(os.path.join(TEACH, "reader.c"), self.path("a project"))

    def run_in(self, folder: str, *words: str) -> str:
        process = self.start(list(words), cwd=self.path(folder))
        process.watchdog.cancel()  # a compiler may take minutes on a busy machine; ctest watches it
        return self.finish(process)[0]

    def build(self, lines: str, *options: str) -> str:
        """What cmake said about a project with these lines."""
        self.file("a project/CMakeLists.txt",
                  b"cmake_minimum_required(VERSION 3.10)\nproject(foreign C)\n" + lines.encode())
        said = self.run_in("a project/build", "cmake", *options, "..")
        self.run_in("a project/build", "cmake", "--build", ".")
        return said

    def reads(self, library: str = SRC) -> None:
        """The reader that was built reads what publish.py sends."""
        publisher = self.publisher(library=library)
        reader = self.program(self.path("a project/build/reader"))
        self.wait_attached()
        seen = self.head()
        self.until(lambda: self.head() > seen + 100, "100 more trades")
        self.interrupt(publisher)
        out, err = self.finish(reader)
        self.assertRegex(out, r"^[1-9][0-9]+ trades, \d+ shares, \d+ lost; its host has ended$")
        self.assertEqual(err, "")

    def test_add_subdirectory(self) -> None:
        """It gets one target. Its flags, its build type and its tests are what they were."""
        for name in ("src", "include", "tests"):
            shutil.copytree(os.path.join(ROOT, name), self.path("a project/shmprueba/" + name))
        for name in ("CMakeLists.txt", "host.py"):
            shutil.copy(os.path.join(ROOT, name), self.path("a project/shmprueba"))
        said = self.build("""
enable_testing()
add_compile_options(-Wall)
set(before "${CMAKE_C_FLAGS};${CMAKE_C_STANDARD};${CMAKE_C_EXTENSIONS};${CMAKE_BUILD_TYPE}")
add_subdirectory(shmprueba)
add_executable(reader reader.c)
target_link_libraries(reader shmprueba)
get_property(options DIRECTORY PROPERTY COMPILE_OPTIONS)
get_property(targets DIRECTORY shmprueba PROPERTY BUILDSYSTEM_TARGETS)
set(after "${CMAKE_C_FLAGS};${CMAKE_C_STANDARD};${CMAKE_C_EXTENSIONS};${CMAKE_BUILD_TYPE}")
if(before STREQUAL after)
  message(STATUS "as it was, options ${options}, targets ${targets}.")
endif()
""")
        self.assertIn("-- as it was, options -Wall, targets shmprueba.\n", said)
        targets = self.run_in("a project/build", "cmake", "--build", ".", "--target", "help")
        self.assertIn("shmprueba", targets)
        for name in NOT_HERE:
            self.assertNotRegex(targets, rf"(?m)^(\.\.\. )?{name}\b")
        self.assertIn("Total Tests: 0", self.run_in("a project/build", "ctest", "-N"))
        with open(self.path("a project/build/CMakeCache.txt"), encoding="utf-8") as cache:
            self.assertNotIn("SHMPRUEBA_", cache.read())
        self.reads()

    def test_make_install(self) -> None:
        """The client, the headers, the static library and shmprueba.py; nothing else is needed."""
        os.mkdir(self.path("build"))
        prefix = self.path("a prefix")
        self.run_in("build", "cmake", "-DCMAKE_INSTALL_PREFIX=" + prefix, ROOT)
        self.run_in("build", "cmake", "--build", ".", "--target", "install")
        shutil.rmtree(self.path("build"))
        self.build("""
find_path(SHM_HEADERS shm_waiter.h)
find_library(SHM_LIBRARY shmprueba)
include_directories(${SHM_HEADERS})
add_executable(reader reader.c)
target_link_libraries(reader ${SHM_LIBRARY} ${SHM_LIBS})
""", "-DCMAKE_PREFIX_PATH=" + prefix, "-DSHM_LIBS=" + os.environ.get("SHM_LIBS", ""))
        with open(self.path("a project/build/CMakeCache.txt"), encoding="utf-8") as cache:
            self.assertIn(f"SHM_HEADERS:PATH={prefix}/include\n", cache.read())
        self.reads(os.path.join(prefix, "share", "shmprueba"))
        self.assertEqual(os.listdir(os.path.join(prefix, "bin")), ["cliente_c"])
        self.run_in("a prefix/bin", "./cliente_c", "--version")


if __name__ == "__main__":
    unittest.main()
