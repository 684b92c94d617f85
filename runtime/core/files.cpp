#include "runtime/core/files.hpp"

#include <cerrno>
#include <cstring>
#include <filesystem>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/core/error.hpp"
#include "runtime/core/file_descriptor.hpp"

namespace supernode {
namespace {

/// False, with errno, when not everything reached the disk.
bool write_and_close(FileDescriptor& file, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(file.get(), text.data(), text.size());
    if (n < 0 && errno != EINTR) return false;
    if (n > 0) text.remove_prefix(static_cast<std::size_t>(n));
  }
  // Not every file can be synchronised (a pipe, /dev/stdout); then there is nothing to lose either.
  if (::fsync(file.get()) != 0 && errno != EINVAL && errno != EROFS) return false;
  return file.close();
}

}  // namespace

std::string read_file(const std::string& path) {
  const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat info {};
  if (file.get() < 0 || ::fstat(file.get(), &info) != 0)
    throw UsageError(fmt::format("cannot read '{}': {}", path, std::strerror(errno)));
  if (S_ISDIR(info.st_mode)) throw UsageError(fmt::format("cannot read '{}': it is a directory", path));
  std::string text;
  // Pipes have no size, and a file may grow while it is read: read until the end rather than trust st_size.
  text.reserve(static_cast<std::size_t>(info.st_size) + 1);
  char buffer[1 << 16];
  for (;;) {
    const ssize_t n = ::read(file.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw UsageError(fmt::format("cannot read '{}': {}", path, std::strerror(errno)));
    if (n == 0) return text;
    text.append(buffer, static_cast<std::size_t>(n));
  }
}

void check_new_file(const std::string& path) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) == 0)
    throw UsageError(fmt::format("cannot write '{}': it exists (results are never overwritten)", path));
  const std::string parent = std::filesystem::path(path).parent_path().string();
  if (::access(parent.empty() ? "." : parent.c_str(), W_OK | X_OK) != 0)
    throw EnvironmentError(fmt::format("cannot write '{}': {}", path, std::strerror(errno)));
}

void write_new_file(const std::string& path, std::string_view text) {
  FileDescriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  if (file.get() < 0) {
    const std::string why = fmt::format("cannot write '{}': {}", path, std::strerror(errno));
    if (errno == EEXIST) throw UsageError(why + " (results are never overwritten)");
    throw EnvironmentError(why);
  }
  if (!write_and_close(file, text)) {
    const int error = errno;
    ::unlink(path.c_str());
    throw EnvironmentError(fmt::format("cannot write '{}': {}", path, std::strerror(error)));
  }
}

void replace_file(const std::string& path, std::string_view text) {
  const std::string fresh = fmt::format("{}.{}.new", path, ::getpid());
  FileDescriptor file(::open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  const bool opened = file.get() >= 0;
  if (!opened || !write_and_close(file, text) || ::rename(fresh.c_str(), path.c_str()) != 0) {
    const int error = errno;
    if (opened) ::unlink(fresh.c_str());
    throw EnvironmentError(fmt::format("cannot write '{}': {}", path, std::strerror(error)));
  }
}

}  // namespace supernode
