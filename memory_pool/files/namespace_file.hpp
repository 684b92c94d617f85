#pragma once
// The file that remembers an owner's namespaces, beside its segments. No MPI.

#include <cstdint>
#include <string>
#include <vector>

namespace supernode::pool::internal {

/// A namespace that was created, as a restart must find it again.
struct NamespaceTerms {
  std::string name;
  std::uint64_t quota = 0;  ///< bytes
  friend bool operator==(const NamespaceTerms&, const NamespaceTerms&) = default;
};

constexpr const char* namespace_file_name = "namespaces";

/// In place of what was there, as a whole, synced. False when the system refuses; then the old file stays.
bool write_namespaces(const std::string& directory, const std::vector<NamespaceTerms>& terms);
/// Empty when there is no such file. @throws UsageError when it is damaged, naming it.
std::vector<NamespaceTerms> read_namespaces(const std::string& directory);

}  // namespace supernode::pool::internal
