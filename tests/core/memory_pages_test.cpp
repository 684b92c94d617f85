// Pages that exist, and pages that do not: a mapping beyond the end of its file behaves like a full file system.
#include "runtime/core/memory_pages.hpp"

#include <csignal>
#include <cstdio>
#include <filesystem>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/core/files.hpp"
#include "runtime/core/mpi/shared_window.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using Catch::Matchers::Contains;

namespace {

constexpr std::size_t page = 4096, pages = 8;

/// `pages` pages of memory, of which the file behind them has `in_file`.
class Mapping {
 public:
  explicit Mapping(std::size_t in_file)
      : path_((std::filesystem::temp_directory_path() /
               ("supernode-pages-" + std::to_string(::getpid()) + "-" + std::to_string(in_file)))
                  .string()) {
    const int file = ::open(path_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    REQUIRE(::ftruncate(file, static_cast<off_t>(in_file * page)) == 0);
    void* place = ::mmap(nullptr, pages * page, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    REQUIRE(place != MAP_FAILED);
    memory_ = {static_cast<std::byte*>(place), pages * page};
    ::close(file);
  }
  ~Mapping() {
    ::munmap(memory_.data(), memory_.size());
    ::unlink(path_.c_str());
  }
  std::span<std::byte> memory() const { return memory_; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  std::span<std::byte> memory_;
};

}  // namespace

TEST_CASE("pages are taken, or are missing, without a signal") {
  const Mapping whole(pages), half(pages / 2);
  CHECK(take_pages(whole.memory()));
  CHECK(take_pages(whole.memory().subspan(100, 5000)));
  CHECK(take_pages(half.memory().first(page * pages / 2)));
  CHECK_FALSE(take_pages(half.memory()));
  std::vector<std::byte> ordinary(page * pages);
  CHECK(take_pages(ordinary));
  CHECK(take_pages({}));
}

TEST_CASE("the file behind a mapping is known, also when it has been unlinked") {
  const Mapping mapping(pages);
  CHECK(file_behind(mapping.memory().data() + 5000) == mapping.path());
  ::unlink(mapping.path().c_str());
  CHECK(file_behind(mapping.memory().data()) == mapping.path());
  const int local = 0;
  CHECK(file_behind(reinterpret_cast<const std::byte*>(&local)).empty());
}

TEST_CASE("a page that cannot be had ends the process with its cause, where the folder is full") {
  // /proc is a file system without a free byte.
  for (const std::string folder : {"/proc", "/"}) {
    const Mapping half(pages / 2);
    const std::string errors = half.path() + ".err";
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      std::signal(SIGBUS, SIG_DFL);
      static_cast<void>(!std::freopen(errors.c_str(), "w", stderr));
      name_full_folder(folder, 3);
      half.memory().back() = std::byte{1};
      ::_exit(0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    const std::string text = read_file(errors);
    std::filesystem::remove(errors);
    if (folder == "/proc") {
      REQUIRE(WIFEXITED(status));
      CHECK(WEXITSTATUS(status) == 3);
      CHECK_THAT(text, Contains("supernode: rank 3: /proc is full") && Contains("enlarge it"));
    } else {  // another cause: whoever had the signal before gets it
      CHECK(WIFSIGNALED(status));
      CHECK(text.empty());
    }
  }
}
