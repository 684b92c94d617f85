// The mailbox of one rank that writes to itself: needs MPI, but no launcher.
#include "runtime/core/mpi/mailbox.hpp"

#include <cstring>

#include "runtime/core/error.hpp"
#include "tests/support/mpi_fixture.hpp"

using namespace supernode;
using namespace supernode::test;

namespace {

std::vector<std::byte> bytes_of(std::size_t size, int seed) {
  std::vector<std::byte> bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 31 + static_cast<std::size_t>(seed));
  return bytes;
}

Message next(Mailbox& mailbox) {
  for (;;)
    if (std::optional<Message> message = mailbox.poll()) return std::move(*message);
}

}  // namespace

TEST_CASE("messages come whole, with source and tag, in the order of sending, whatever their sizes") {
  const Communicator comm = world().duplicate();
  Mailbox mailbox(comm);
  CHECK_FALSE(mailbox.poll());
  // Small ones after a large one must not overtake it.
  const std::size_t sizes[] = {0, 1, 3u << 20, 16, 4096, 4097, 1u << 20, 5};
  int tag = 0;
  for (const std::size_t size : sizes) {
    ++tag;
    mailbox.send(comm.rank(), tag, bytes_of(size, tag));
  }
  tag = 0;
  for (const std::size_t size : sizes) {
    const Message message = next(mailbox);
    CHECK(message.source == comm.rank());
    CHECK(message.tag == ++tag);
    CHECK(message.bytes == bytes_of(size, tag));
  }
  mailbox.flush(10);
  CHECK(mailbox.unsent() == 0);
  CHECK_FALSE(mailbox.poll());
}

TEST_CASE("many sends wait for their receiver, and none is lost") {
  const Communicator comm = world().duplicate();
  Mailbox mailbox(comm);
  for (int i = 0; i < 1000; ++i) mailbox.send(comm.rank(), i % 100, bytes_of(100, i));
  for (int i = 0; i < 1000; ++i) CHECK(next(mailbox).bytes == bytes_of(100, i));
  mailbox.flush(10);
}

TEST_CASE("a flush that nobody takes ends at its deadline, naming the rank") {
  const Communicator comm = world().duplicate();
  Mailbox sender(comm);
  sender.send(comm.rank(), 1, bytes_of(8u << 20, 1));  // too large for MPI to take before its receiver asks
  CHECK_THROWS_WITH(sender.flush(0.05), Catch::Contains("did not take a message"));
  CHECK(next(sender).bytes == bytes_of(8u << 20, 1));
  sender.flush(10);
}
