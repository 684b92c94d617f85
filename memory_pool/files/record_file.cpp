#include "memory_pool/files/record_file.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

#include <fcntl.h>
#include <unistd.h>

#include "memory_pool/files/record.hpp"
#include "runtime/core/memory_pages.hpp"

namespace supernode::pool::internal {
namespace {

bool read_at(const FileDescriptor& file, std::uint64_t offset, std::span<std::byte> to) {
  while (!to.empty()) {
    const ssize_t got = ::pread(file.get(), to.data(), to.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got == 0) errno = ENODATA;
    if (got <= 0) return false;
    to = to.subspan(static_cast<std::size_t>(got));
    offset += static_cast<std::uint64_t>(got);
  }
  return true;
}

bool write_at(const FileDescriptor& file, std::uint64_t offset, std::span<const std::byte> from) {
  while (!from.empty()) {
    const ssize_t put = ::pwrite(file.get(), from.data(), from.size(), static_cast<off_t>(offset));
    if (put < 0 && errno == EINTR) continue;
    if (put == 0) errno = ENOSPC;
    if (put <= 0) return false;
    from = from.subspan(static_cast<std::size_t>(put));
    offset += static_cast<std::uint64_t>(put);
  }
  return true;
}

/// Whether a transfer past the page cache failed for what it is, not for what the disk is.
bool refused(int error) { return error == EINVAL || error == EOPNOTSUPP; }

}  // namespace

bool sync_folder(const std::string& folder) {
  const FileDescriptor names(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  return names && ::fsync(names.get()) == 0;
}

std::span<std::byte> DirectBuffer::bytes() {
  if (!memory_) {
    memory_.reset(static_cast<std::byte*>(std::aligned_alloc(size_bytes, size_bytes)));
    if (!memory_) throw std::bad_alloc();
    ask_for_huge_pages({memory_.get(), size_bytes});
  }
  return {memory_.get(), size_bytes};
}

bool allows_direct(const std::string& path) {
  return static_cast<bool>(FileDescriptor(::open(path.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC)));
}

RecordFile RecordFile::create(const std::string& path, Direct direct) {
  RecordFile file;
  file.file_ = FileDescriptor(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  if (file.file_ && direct == Direct::if_possible)
    file.direct_ = FileDescriptor(::open(path.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
  return file;
}

RecordFile RecordFile::open(const std::string& path, Direct direct) {
  RecordFile file;
  int access = O_RDWR;
  file.file_ = FileDescriptor(::open(path.c_str(), access | O_CLOEXEC));
  if (!file.file_) file.file_ = FileDescriptor(::open(path.c_str(), (access = O_RDONLY) | O_CLOEXEC));
  if (file.file_ && direct == Direct::if_possible)
    file.direct_ = FileDescriptor(::open(path.c_str(), access | O_DIRECT | O_CLOEXEC));
  return file;
}

std::uint64_t RecordFile::size() const {
  const off_t end = ::lseek(file_.get(), 0, SEEK_END);
  return end < 0 ? 0 : static_cast<std::uint64_t>(end);
}

bool RecordFile::read(std::uint64_t offset, std::span<std::byte> to) const { return read_at(file_, offset, to); }

bool RecordFile::write(std::uint64_t offset, std::span<const std::byte> from) { return write_at(file_, offset, from); }

bool RecordFile::read_direct(std::uint64_t offset, std::span<std::byte> to, DirectBuffer& buffer) {
  while (direct_ && !to.empty()) {
    const std::uint64_t skipped = offset % record_alignment;
    const std::uint64_t wanted = (skipped + to.size() + record_alignment - 1) / record_alignment * record_alignment;
    const std::span<std::byte> pages = buffer.bytes().first(std::min<std::uint64_t>(wanted, DirectBuffer::size_bytes));
    if (!read_at(direct_, offset - skipped, pages)) {
      if (!refused(errno)) return false;
      direct_ = {};
      break;
    }
    const std::size_t count = std::min(to.size(), pages.size() - skipped);
    std::memcpy(to.data(), pages.data() + skipped, count);
    to = to.subspan(count);
    offset += count;
  }
  return read(offset, to);
}

bool RecordFile::write_direct(std::uint64_t offset, std::span<const std::byte> head, std::span<const std::byte> body,
                              DirectBuffer& buffer) {
  while (!head.empty() || !body.empty()) {
    const std::span<std::byte> all = buffer.bytes();
    const std::size_t from_body = std::min(body.size(), all.size() - head.size());
    const std::size_t filled = head.size() + from_body;
    const std::span<std::byte> pages = all.first((filled + record_alignment - 1) / record_alignment * record_alignment);
    std::copy(head.begin(), head.end(), pages.begin());
    std::memcpy(pages.data() + head.size(), body.data(), from_body);
    std::fill(pages.begin() + static_cast<std::ptrdiff_t>(filled), pages.end(), std::byte{});
    if (direct_ && !write_at(direct_, offset, pages)) {
      if (!refused(errno)) return false;
      direct_ = {};
    }
    if (!direct_ && !write(offset, pages)) return false;
    head = {};
    body = body.subspan(from_body);
    offset += pages.size();
  }
  return true;
}

bool RecordFile::cut(std::uint64_t bytes) { return ::ftruncate(file_.get(), static_cast<off_t>(bytes)) == 0; }

bool RecordFile::sync() { return ::fdatasync(file_.get()) == 0; }

}  // namespace supernode::pool::internal
