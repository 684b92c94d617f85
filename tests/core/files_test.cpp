// Files: whole or not there, without locks.
#include "runtime/core/files.hpp"

#include <cerrno>
#include <csignal>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/core/array_file.hpp"
#include "runtime/core/result_file.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using Catch::Matchers::Contains;
namespace fs = std::filesystem;

namespace {

bool renameat2_works = true;

/// A folder of this test, empty at first.
struct Folder {
  fs::path path = fs::temp_directory_path() / ("supernode-files-test-" + std::to_string(::getpid()));
  Folder() {
    fs::remove_all(path);
    fs::create_directories(path);
  }
  ~Folder() { fs::remove_all(path); }
  std::string operator/(const std::string& name) const { return (path / name).string(); }
  std::size_t files() const { return static_cast<std::size_t>(std::distance(fs::directory_iterator(path), {})); }
};

std::string fresh_path(const std::string& name) {
  const auto path = fs::temp_directory_path() / ("supernode-core-test-" + name);
  fs::remove(path);
  return path.string();
}

ArrayInfo floats(std::int64_t rows) { return {ElementType::f32, {rows}}; }

}  // namespace

// These stand in for the system's functions in this program and all its libraries, as a file system has them that knows
// neither locks nor renaming without replacing.
extern "C" int flock(int, int) noexcept {
  errno = ENOLCK;
  return -1;
}
extern "C" int renameat2(int, const char* from, int, const char* to, unsigned) noexcept {
  if (renameat2_works && ::access(to, F_OK) != 0) return ::rename(from, to);
  errno = renameat2_works ? EEXIST : EINVAL;
  return -1;
}

TEST_CASE("files: errors name the path, and nothing is overwritten by accident") {
  CHECK_THROWS_WITH(read_file("/nowhere/at/all"), Contains("/nowhere/at/all") && Contains("No such file"));
  CHECK_THROWS_WITH(read_file("/"), Contains("directory"));
  const std::string path = fresh_path("text");
  write_file(path, "hello");
  CHECK(read_file(path) == "hello");
  CHECK_THROWS_WITH(write_file(path, "again"), Contains(path) && Contains("never overwritten"));
  CHECK(read_file(path) == "hello");
  CHECK_THROWS_AS(write_file("/dev/full/x", ""), EnvironmentError);
  write_file(path, "again", IfExists::replace);
  CHECK(read_file(path) == "again");
  write_file(path + "2", "new", IfExists::replace);
  CHECK(read_file(path + "2") == "new");
  CHECK_THROWS_WITH(write_file("/dev/full/x", "", IfExists::replace), Contains("/dev/full/x"));
  std::filesystem::remove(path);
}

TEST_CASE("HDF5 results hold samples and attributes") {
  const std::string path = fresh_path("results.h5");
  ResultFile file(path);
  const std::vector<double> values{1, 2, 3, 4, 5, 6};
  const std::vector<std::int64_t> counts{7, 8};
  file.dataset("samples/direct/8", values, {2, 3});
  file.dataset("counts", counts, {2});
  file.dataset("names", {"a", "bc"});
  file.attribute("/", "document", std::string(200000, 'x'));
  file.attribute("samples/direct/8", "unit", "us");
  file.close();
  CHECK(std::filesystem::file_size(path) > 200000);
  CHECK_THROWS_AS(ResultFile(path), UsageError);
  CHECK_THROWS_AS(ResultFile("/nowhere/results.h5"), EnvironmentError);
  std::filesystem::remove(path);
}

TEST_CASE("a file has its name when it is whole, and never takes another's place unasked") {
  for (const bool works : {true, false}) {
    renameat2_works = works;
    INFO("renameat2 " << works);
    const Folder folder;
    {
      NewFile file(folder / "a");
      file.write("half");
      CHECK_FALSE(fs::exists(folder / "a"));
      CHECK(folder.files() == 1);
    }
    CHECK(folder.files() == 0);
    NewFile first(folder / "a"), second(folder / "a");
    first.write("first");
    second.write("second");
    first.commit();
    CHECK_THROWS_WITH(second.commit(), Contains("never overwritten"));
    CHECK(read_file(folder / "a") == "first");
    CHECK(folder.files() == 1);
  }
  renameat2_works = true;
}

TEST_CASE("what is replaced is a regular file, also behind a link, and keeps its mode") {
  const Folder folder;
  write_file(folder / "site.rules", "old");
  ::chmod((folder / "site.rules").c_str(), 0640);
  fs::create_symlink("site.rules", folder / "link");
  write_file(folder / "link", "new", IfExists::replace);
  CHECK(fs::is_symlink(folder / "link"));
  CHECK(read_file(folder / "site.rules") == "new");
  CHECK((fs::status(folder / "site.rules").permissions() & fs::perms::mask) == static_cast<fs::perms>(0640));
  for (const char* odd : {"/dev/null", "/dev/stdout", "/tmp"})
    CHECK_THROWS_WITH(write_file(odd, "x", IfExists::replace), Contains("no regular file"));
  CHECK_THROWS_WITH(check_new_file("results/"), Contains("no name of a file"));
  CHECK_THROWS_AS(check_new_file(folder / "site.rules"), UsageError);
  CHECK_THROWS_AS(check_new_file(folder / "missing/x"), EnvironmentError);
  CHECK_NOTHROW(check_new_file(folder / std::string(255, 'n')));
  write_file(folder / std::string(255, 'n'), "a long name");
}

TEST_CASE("files are written and read where the file system has no locks") {
  const Folder folder;
  ArrayFileWriter writer(folder / "weights.h5");
  const std::vector<float> values{1, 2, 3};
  writer.create("a", floats(3));
  writer.write_rows("a", 0, std::as_bytes(std::span(values)));
  writer.close();
  std::vector<float> read(3);
  ArrayFile(folder / "weights.h5").read_rows("a", 0, std::as_writable_bytes(std::span(read)));
  CHECK(read == values);
  ResultFile results(folder / "results.h5");
  results.close();
  CHECK(fs::exists(folder / "results.h5"));
}

TEST_CASE("HDF5 ends well whatever write the disk refuses first") {
  std::signal(SIGXFSZ, SIG_IGN);
  const std::vector<float> values(1000, 1.5f);
  const std::string text(3000, 't');
  std::size_t failed = 0;
  for (rlim_t limit = 0; limit <= 40'000; limit += 500) {
    INFO(limit);
    const Folder folder;
    ArrayFileWriter file(folder / "x.h5");
    rlimit old{};
    ::getrlimit(RLIMIT_FSIZE, &old);
    const rlimit small{limit, old.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &small);
    try {
      for (int i = 0; i < 6; ++i) {
        const std::string name = "array" + std::to_string(i);
        file.create(name, floats(1000));
        file.write_rows(name, 0, std::as_bytes(std::span(values)));
        file.attribute(name, text);
      }
      file.close();
    } catch (const EnvironmentError& error) {
      ++failed;
      CHECK_THAT(error.what(), Contains("File too large") && Contains("x.h5"));
    }
    ::setrlimit(RLIMIT_FSIZE, &old);
  }
  CHECK(failed > 20);
}

TEST_CASE("texts in HDF5 are UTF-8") {
  const Folder folder;
  ArrayFileWriter file(folder / "t.h5");
  file.attribute("name", "caf\xe9");
  file.close();
  CHECK(ArrayFile(folder / "t.h5").attribute("name") == "caf\xef\xbf\xbd");
}

TEST_CASE("a draft is known by its name") {
  CHECK(is_draft_of("a.txt.0123abcd.part", "a.txt"));
  for (const char* other : {"a.txt", "a.txt.part", "a.txt.0123abc.part", "a.txt.0123abcg.part", "a.txt.0123abcd.par",
                            "b.txt.0123abcd.part", "a.txt-0123abcd.part", "xa.txt.0123abcd.part"})
    CHECK_FALSE(is_draft_of(other, "a.txt"));
  const Folder folder;
  const std::string name(220, 'n');
  const NewFile file((folder.path / name).string());
  CHECK(is_draft_of(fs::path(file.draft()).filename().string(), name));
}
