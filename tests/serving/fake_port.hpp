#pragma once
// A message port in memory: what is to arrive is put in beforehand, what is sent is kept.

#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include "runtime/core/message_port.hpp"

namespace supernode::serving::test {

class FakePort : public MessagePort {
 public:
  struct Sent {
    int to = 0;
    int tag = 0;
    std::vector<std::byte> bytes;
  };

  void send(int to, int tag, std::vector<std::byte> bytes) override { sent.push_back({to, tag, std::move(bytes)}); }
  std::optional<Message> poll() override {
    if (arriving.empty()) return std::nullopt;
    const Arriving next = std::move(arriving.front());
    arriving.pop_front();
    if (next.pause) return std::nullopt;
    return Message{next.source, 0, next.bytes};
  }
  void flush(double) override { ++flushes; }

  void arrive(int source, std::vector<std::byte> bytes) { arriving.push_back({source, std::move(bytes)}); }
  /// One poll then finds nothing, so that whoever polls does something else first.
  void pause() { arriving.push_back({.pause = true}); }

  struct Arriving {
    int source = 0;
    std::vector<std::byte> bytes = {};
    bool pause = false;
  };
  std::deque<Arriving> arriving;
  std::vector<Sent> sent;
  int flushes = 0;
};

}  // namespace supernode::serving::test
