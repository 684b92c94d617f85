#include "runtime/core/error.hpp"

#include <cstdio>
#include <cstdlib>

namespace supernode {

void panic(std::string_view message, std::source_location where) {
  std::fprintf(stderr, "supernode: internal error at %s:%u: %.*s\n", where.file_name(),
               static_cast<unsigned>(where.line()), static_cast<int>(message.size()), message.data());
  std::fflush(stderr);
  std::abort();
}

}  // namespace supernode
