#include "memory_pool/files/namespace_file.hpp"

#include <charconv>
#include <fstream>
#include <iterator>
#include <span>

#include <fmt/format.h>

#include "memory_pool/files/record_file.hpp"
#include "memory_pool/format/checksum.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/files.hpp"

namespace supernode::pool::internal {
namespace {

constexpr std::string_view first_line = "supernode pool namespaces 1\n";

std::string sum_line(std::string_view text) {
  return fmt::format("sum {:016x}\n", checksum_of(std::as_bytes(std::span(text))));
}

}  // namespace

// A line for each: quota, length of the name, the name, which may hold any byte. The last line is the sum of all above.
bool write_namespaces(const std::string& directory, const std::vector<NamespaceTerms>& terms) {
  std::string text(first_line);
  for (const NamespaceTerms& each : terms) text += fmt::format("{} {} {}\n", each.quota, each.name.size(), each.name);
  text += sum_line(text);
  try {
    write_file(directory + "/" + namespace_file_name, text, IfExists::replace);
  } catch (const Error&) {
    return false;
  }
  return sync_folder(directory);
}

std::vector<NamespaceTerms> read_namespaces(const std::string& directory) {
  const std::string path = directory + "/" + namespace_file_name;
  std::ifstream file(path, std::ios::binary);
  if (!file) return {};
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const auto check = [&](bool good) {
    if (!good) throw UsageError("pool.directory: " + path + ": damaged");
  };
  const std::size_t last = sum_line({}).size();
  check(text.size() >= first_line.size() + last && text.starts_with(first_line));
  const std::string_view body = std::string_view(text).substr(0, text.size() - last);
  check(sum_line(body) == text.substr(body.size()));
  std::vector<NamespaceTerms> terms;
  std::size_t at = first_line.size();
  const auto number = [&] {
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(body.data() + at, body.data() + body.size(), value);
    check(error == std::errc() && end != body.data() + body.size());
    at = static_cast<std::size_t>(end - body.data()) + 1;
    return value;
  };
  while (at < body.size()) {
    NamespaceTerms& each = terms.emplace_back();
    each.quota = number();
    const std::uint64_t length = number();
    check(length < body.size() - at);
    each.name = body.substr(at, length);
    at += length + 1;
  }
  return terms;
}

}  // namespace supernode::pool::internal
