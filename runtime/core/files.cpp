#include "runtime/core/files.hpp"

#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/core/error.hpp"
#include "runtime/core/file_descriptor.hpp"

namespace supernode {

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

void write_file(const std::string& path, std::string_view text, IfExists if_exists) {
  NewFile file(path, if_exists);
  file.write(text);
  file.commit();
}

}  // namespace supernode
