#include "moe/checkpoint/mapped_file.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/core/error.hpp"

namespace supernode::moe {
namespace {
constexpr std::size_t piece_bytes = 64u << 10;
}

MappedFile::MappedFile(const std::string& path) {
  const auto refuse = [&](int code) { throw UsageError(fmt::format("{}: {}", path, std::strerror(code))); };
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) refuse(errno);
  struct stat status {};
  if (::fstat(file, &status) != 0 || !S_ISREG(status.st_mode)) {
    ::close(file);
    throw UsageError(fmt::format("{}: not a regular file", path));
  }
  size_ = static_cast<std::size_t>(status.st_size);
  if (size_ > 0) {
    void* address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
    const int code = errno;
    ::close(file);
    if (address == MAP_FAILED) refuse(code);
    data_ = static_cast<const std::byte*>(address);
  } else {
    ::close(file);
  }
}

MappedFile::MappedFile(std::shared_ptr<FileSource> source, const std::string& name)
    : source_(std::move(source)), name_(name) {
  const std::optional<std::uint64_t> bytes = source_->size(name);
  if (!bytes) throw UsageError(fmt::format("{}: no file '{}'", source_->place(), name));
  size_ = *bytes;
  if (size_ == 0) return;
  // Room for the whole file, of which only the pieces that are read will cost memory.
  void* address = ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (address == MAP_FAILED) throw EnvironmentError(fmt::format("{}: {}", name, std::strerror(errno)));
  data_ = static_cast<const std::byte*>(address);
  here_.resize((size_ + piece_bytes - 1) / piece_bytes);
}

void MappedFile::need(std::size_t offset, std::size_t length) const {
  if (!source_ || length == 0) return;
  const std::size_t last = (offset + length - 1) / piece_bytes;
  for (std::size_t first = offset / piece_bytes; first <= last; ++first) {
    std::size_t end = first;
    while (end <= last && !here_[end]) ++end;
    if (end == first) continue;
    const std::size_t start = first * piece_bytes, stop = std::min(end * piece_bytes, size_);
    source_->read(name_, start, {const_cast<std::byte*>(data_) + start, stop - start});
    std::fill(here_.begin() + static_cast<long>(first), here_.begin() + static_cast<long>(end), true);
    first = end - 1;
  }
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      source_(std::move(other.source_)),
      name_(std::move(other.name_)),
      here_(std::move(other.here_)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(source_, other.source_);
  std::swap(name_, other.name_);
  std::swap(here_, other.here_);
  return *this;
}

}  // namespace supernode::moe
