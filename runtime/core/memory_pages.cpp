#include "runtime/core/memory_pages.hpp"

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <fstream>
#include <string_view>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/core/file_descriptor.hpp"

namespace supernode {
namespace {

/// The address range at the head of a line of /proc/self/maps or smaps; false for other lines.
bool read_range(const std::string& line, std::uintptr_t& begin, std::uintptr_t& end) {
  return std::sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR " ", &begin, &end) == 2 && line.find('-') < line.find(' ');
}

}  // namespace

void ask_for_huge_pages(std::span<std::byte> memory) {
#ifdef MADV_HUGEPAGE
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto first = reinterpret_cast<std::uintptr_t>(memory.data());
  const std::uintptr_t begin = (first + page - 1) / page * page, end = (first + memory.size()) / page * page;
  if (begin < end) static_cast<void>(::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE));
#else
  static_cast<void>(memory);
#endif
}

std::uint64_t huge_page_bytes(std::span<const std::byte> memory) {
  const auto begin = reinterpret_cast<std::uintptr_t>(memory.data());
  const std::uintptr_t end = begin + memory.size();
  std::ifstream maps("/proc/self/smaps");
  std::string line;
  bool ours = false;
  std::uint64_t sum = 0;
  while (std::getline(maps, line)) {
    std::uintptr_t from = 0, to = 0;
    unsigned long long kilobytes = 0;
    if (read_range(line, from, to))
      ours = from < end && begin < to;
    else if (ours && (std::sscanf(line.c_str(), "AnonHugePages: %llu", &kilobytes) == 1 ||
                      std::sscanf(line.c_str(), "ShmemPmdMapped: %llu", &kilobytes) == 1 ||
                      std::sscanf(line.c_str(), "FilePmdMapped: %llu", &kilobytes) == 1))
      sum += kilobytes * 1024;
  }
  return sum;
}

bool take_pages(std::span<std::byte> memory) {
  if (memory.empty()) return true;
#ifdef MADV_POPULATE_WRITE
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const std::uintptr_t begin = reinterpret_cast<std::uintptr_t>(memory.data()) / page * page;
  const std::uintptr_t end = reinterpret_cast<std::uintptr_t>(memory.data()) + memory.size();
  if (::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_POPULATE_WRITE) == 0) return true;
  if (errno != EINVAL) return false;  // EINVAL: a kernel before 5.14
#endif
  // The kernel writes for us: where it finds no page, the call fails, and no signal comes.
  const FileDescriptor zeros(::open("/dev/zero", O_RDONLY | O_CLOEXEC));
  if (zeros.get() < 0) return false;
  constexpr std::size_t piece = std::size_t{16} << 20;
  while (!memory.empty()) {
    const ssize_t written = ::read(zeros.get(), memory.data(), std::min(piece, memory.size()));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    memory = memory.subspan(static_cast<std::size_t>(written));
  }
  return true;
}

std::string file_behind(const std::byte* place) {
  constexpr std::string_view unlinked = " (deleted)";
  const auto address = reinterpret_cast<std::uintptr_t>(place);
  std::ifstream maps("/proc/self/maps");
  std::string line;
  while (std::getline(maps, line)) {
    std::uintptr_t from = 0, to = 0;
    if (!read_range(line, from, to) || address < from || address >= to) continue;
    // range, rights, offset, device, inode, path
    const std::size_t start = line.find('/');
    if (start == std::string::npos) return {};
    std::string path = line.substr(start);
    if (path.ends_with(unlinked)) path.resize(path.size() - unlinked.size());
    return path;
  }
  return {};
}

}  // namespace supernode
