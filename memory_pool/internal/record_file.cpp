#include "memory_pool/internal/record_file.hpp"

#include <cerrno>

#include <fcntl.h>
#include <unistd.h>

namespace supernode::pool::internal {

Descriptor::~Descriptor() {
  if (number_ >= 0) ::close(number_);
}

void sync_folder(const std::string& folder) {
  const Descriptor names(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (names) ::fsync(names.get());
}

RecordFile RecordFile::create(const std::string& path) {
  RecordFile file;
  file.file_ = Descriptor(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  return file;
}

RecordFile RecordFile::open(const std::string& path) {
  RecordFile file;
  file.file_ = Descriptor(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!file.file_) file.file_ = Descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  return file;
}

std::uint64_t RecordFile::size() const {
  const off_t end = ::lseek(file_.get(), 0, SEEK_END);
  return end < 0 ? 0 : static_cast<std::uint64_t>(end);
}

bool RecordFile::read(std::uint64_t offset, std::span<std::byte> to) const {
  while (!to.empty()) {
    const ssize_t got = ::pread(file_.get(), to.data(), to.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    to = to.subspan(static_cast<std::size_t>(got));
    offset += static_cast<std::uint64_t>(got);
  }
  return true;
}

bool RecordFile::write(std::uint64_t offset, std::span<const std::byte> from) {
  while (!from.empty()) {
    const ssize_t put = ::pwrite(file_.get(), from.data(), from.size(), static_cast<off_t>(offset));
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return false;
    from = from.subspan(static_cast<std::size_t>(put));
    offset += static_cast<std::uint64_t>(put);
  }
  return true;
}

bool RecordFile::cut(std::uint64_t bytes) { return ::ftruncate(file_.get(), static_cast<off_t>(bytes)) == 0; }

bool RecordFile::sync() { return ::fdatasync(file_.get()) == 0; }

}  // namespace supernode::pool::internal
