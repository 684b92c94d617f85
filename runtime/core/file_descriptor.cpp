#include "runtime/core/file_descriptor.hpp"

#include <unistd.h>

namespace supernode {

FileDescriptor::~FileDescriptor() {
  if (number_ >= 0) ::close(number_);
}

bool FileDescriptor::close() { return ::close(std::exchange(number_, -1)) == 0; }

}  // namespace supernode
