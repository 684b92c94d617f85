#include "memory_pool/format/huge_pages.hpp"

#include <cinttypes>
#include <cstdio>
#include <fstream>
#include <string>

#include <sys/mman.h>
#include <unistd.h>

namespace supernode::pool::internal {

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
    if (std::sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR " ", &from, &to) == 2 && line.find('-') < line.find(' '))
      ours = from < end && begin < to;
    else if (ours && (std::sscanf(line.c_str(), "AnonHugePages: %llu", &kilobytes) == 1 ||
                      std::sscanf(line.c_str(), "ShmemPmdMapped: %llu", &kilobytes) == 1 ||
                      std::sscanf(line.c_str(), "FilePmdMapped: %llu", &kilobytes) == 1))
      sum += kilobytes * 1024;
  }
  return sum;
}

}  // namespace supernode::pool::internal
