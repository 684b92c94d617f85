#include "collectives/benchmark/measuring/injected_fault.hpp"

#include <chrono>
#include <thread>

namespace supernode::collectives {

Injection fault_in(int iteration, const Injection& injection) {
  return iteration == injection.iteration ? injection : Injection{};
}

void delay_rank(const Injection& fault, int rank) {
  if (fault.rank != rank) return;
  if (fault.kind == Injection::Kind::stall)
    std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(fault.ms));
  while (fault.kind == Injection::Kind::stop) std::this_thread::sleep_for(std::chrono::seconds(1));
}

}  // namespace supernode::collectives
