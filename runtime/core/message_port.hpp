#pragma once
// Where small messages leave and arrive, whatever carries them. `mpi/mailbox` is the one on MPI; tests have their own.

#include <cstddef>
#include <optional>
#include <vector>

namespace supernode {

struct Message {
  int source = 0;
  int tag = 0;
  std::vector<std::byte> bytes;
  /// Wall seconds from when its announcement was here, and all of its source before it, until it was here whole; 0 for
  /// one that came at once. The receiver may have done something else meanwhile.
  double receiving_s = 0;
};

/// One rank's end. Not for two threads at once.
class MessagePort {
 public:
  virtual ~MessagePort() = default;

  /// Does not wait; the port keeps the bytes until they are gone.
  virtual void send(int to, int tag, std::vector<std::byte> bytes) = 0;
  /// The next message of anyone, if one is here whole; never waits. Messages of one rank come in the order of sending.
  virtual std::optional<Message> poll() = 0;
  /// Waits until all sends are gone. @throws TimeoutError naming a rank that does not receive.
  virtual void flush(double deadline_s) = 0;
};

}  // namespace supernode
